"""Tables and sentences for the notebooks. It computes nothing: every number comes from a file that a run left."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd

from swaplib.metrics import Track, core_metrics
from swaplib.rows import STATUSES, LedgerLine, Row

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

    from swaplib.evaluate import Run

NAMES = {"azure": "azure (hosted)", "slm": "slm (local)", "slm_ft": "slm_ft (local, adapter)"}

# control characters, text that turns its direction, halves of surrogate pairs; and how much of a text is shown
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
SHOWN = 20_000


def _style(frame: pd.DataFrame, caption: str = "") -> "Styler":
    """A small table that reads well as HTML: text on the left, escaped."""
    cell = [("text-align", "left"), ("vertical-align", "top"), ("white-space", "nowrap")]
    head = [("text-align", "left"), ("border-bottom", "1px solid #888")]
    title = [("text-align", "left"), ("font-weight", "bold"), ("padding", "0.4em 0")]
    selectors = {"td": cell, "th": head, "caption": title}
    styles = [{"selector": selector, "props": props} for selector, props in selectors.items()]
    return frame.style.format(escape="html", na_rep="").set_table_styles(styles).set_caption(caption).hide(axis="index")


def _style_texts(frame: pd.DataFrame, caption: str = "") -> "Styler":
    """A table of long texts, of dtype object: escaped, lines kept, each cell scrolling when it is long."""
    box = "max-height:18em;max-width:27em;overflow:auto;white-space:pre-wrap;overflow-wrap:anywhere;font-size:0.85em"
    return _style(frame, caption).format(
        lambda text: f'<div class="tex2jax_ignore" style="{box}">{escape(_make_visible(str(text)))}</div>'
    )


def _make_visible(text: str) -> str:
    """A text as it is, but for what no page can show or what shows as something else; the rest of a very long one is cut."""
    shown = text[:SHOWN] + (f" … (cut: {len(text):,} characters)" if len(text) > SHOWN else "")
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), shown)


def show_manifest(manifest: dict[str, Any]) -> "Styler":
    """Rows of each track and split, asked for and made, with the sha256 of each file."""
    asked = manifest.get("sizes_asked", {})
    records = [
        {
            "track": track,
            "split": split,
            "rows": n,
            "rows asked for": str(asked.get(track, {}).get(split, "as given")),
            "sha256": manifest["sha256"][f"{track}/{split}.jsonl"][:12],
        }
        for track, splits in manifest["rows"].items()
        for split, n in splits.items()
    ]
    return _style(pd.DataFrame(records))


def show_left_out(manifest: dict[str, Any]) -> "Styler":
    """Why source rows did not become rows, with counts; own rows are all kept."""
    left_out = manifest.get("left_out", {"(own rows: all kept)": 0})
    return _style(pd.DataFrame({"reason": left_out.keys(), "rows": left_out.values()}))


def show_records(records: list[dict[str, Any]]) -> "Styler":
    """Flat records as a table; underscores in the heads become spaces."""
    return _style(pd.DataFrame(records).rename(columns=lambda name: name.replace("_", " ")))


def show_answerability(manifest: dict[str, Any]) -> "Styler":
    """How many gold argument names and values the prompts tell; nothing to count for own rows."""
    counts = manifest.get("answerability", {})
    return show_records([{"track": track, **numbers} for track, numbers in counts.items()] or [{"track": "own rows"}])


def show_rows(rows: dict[str, dict[str, list[Row]]], track: Track, n: int = 3) -> "Styler":
    """The first n test rows of a track, prompt beside completion; an empty table when the dataset lacks the track."""
    found = rows.get(track, {}).get("test", [])
    table = pd.DataFrame([{"prompt": r.prompt, "completion": r.completion} for r in found[:n]], dtype=object)
    return _style_texts(table, f"{track}: {min(n, len(found))} of {len(found)} test rows")


def format_rate(rate: float, interval: list[float]) -> str:
    """A rate with its 95% interval, for example `0.76 [0.67, 0.83]`."""
    return f"{rate:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"


def show_metrics(track: Track, metrics: Iterable[dict[str, Any]]) -> "Styler":
    """Core metrics with Wilson 95% intervals side by side, and how the rows ended."""
    metrics, records = list(metrics), []
    statuses = [s for s in STATUSES if s == "ok" or any(m["n_by_status"][s] for m in metrics)]
    for m in metrics:
        record = {"model": NAMES[m["run"]["model"]], "rows": m["n_rows"]}
        record |= {name: format_rate(m[name], m["intervals"][name]) for name in core_metrics(track)}
        record |= {status: m["n_by_status"][status] for status in statuses}
        records.append(record | {"tokens out": m["extra"]["completion_tokens"]})
    return _style(pd.DataFrame(records))


def show_answered(track: Track, diagnoses: dict[str, dict[str, Any]]) -> "Styler":
    """Core metrics over all rows, which count, beside those over the rows that a model answered, which flatter it."""
    records = []
    for model, d in diagnoses.items():
        record = {"model": NAMES[model], "all rows": d["n_rows"], "answered": d["answered"]["n_rows"]}
        for name in core_metrics(track):
            record[name] = f"{d['all_rows'][name]:.3f}"
            flattering = d["answered"].get(name)
            record[f"{name.removesuffix('_rate')}, answered only"] = "" if flattering is None else f"{flattering:.3f}"
        records.append(record)
    return _style(pd.DataFrame(records))


def show_diagnosis(diagnoses: dict[str, dict[str, Any]]) -> "Styler":
    """Right rows and reasons of the others, counted; then how often the answer was there all the same, by model."""
    reasons = next(iter(diagnoses.values()))["reasons"]
    seen = [reason for reason in reasons if any(d["reasons"][reason] for d in diagnoses.values())]
    records = []
    for model, d in diagnoses.items():
        record = {"model": NAMES[model], "rows": d["n_rows"], "right": d["right"]}
        record |= {reason: d["reasons"][reason] for reason in seen}
        rates = ("found_rate", "lenient_rate", "args_precision", "args_recall", "args_f1")
        records.append(record | {name: f"{d[name]:.2f}" for name in rates if name in d})
    return _style(pd.DataFrame(records))


def show_failures(run: "Run", rows: list[Row], n: int = 5) -> "Styler":
    """Rows for a person to read, failures first: prompt, gold and output side by side."""
    ordered = sorted(run.ledger, key=lambda line: (all(line.scores.values()), line.index))
    records = [_make_failure(line, rows[line.index]) for line in ordered[:n]]
    caption = f"{NAMES[run.metrics['run']['model']]}: {len(records)} of {len(ordered)} rows"
    return _style_texts(pd.DataFrame(records, dtype=object), caption)


def _make_failure(line: LedgerLine, row: Row) -> dict[str, Any]:
    record = {"row": line.index, "verdict": _describe_verdict(line), "prompt": row.prompt, "gold": row.completion}
    return record | {"output": _show_output(line)}


def _describe_verdict(line: LedgerLine) -> str:
    missed = ", ".join(name for name, is_right in line.scores.items() if not is_right)
    return f"{f'wrong: {missed}' if missed else 'right'}\n({line.generation.status})"


def _show_output(line: LedgerLine) -> str:
    return line.generation.output or f"(nothing: {line.generation.error or line.generation.finish_reason})"


def show_differences(
    ledgers: dict[str, Sequence[LedgerLine]], models: tuple[str, str], rows: list[Row], n: int = 5
) -> "Styler":
    """Rows for a person to read: those that the second model did worse, then those it did better, then the others.

    Args:
        ledgers: Ledgers over the same rows, in row order, by model.
        models: The two to compare.
        rows: The rows of the split.
        n: How many to show.
    """

    def order(pair: tuple[LedgerLine, LedgerLine]) -> tuple[bool, bool, bool, int]:
        first, second = (line.scores for line in pair)
        is_worse, is_better = (any(a[name] > b[name] for name in a) for a, b in ((first, second), (second, first)))
        return not is_worse, not is_better, all(second.values()), pair[0].index

    pairs = sorted(zip(*(ledgers[model] for model in models), strict=True), key=order)
    records = []
    for pair in pairs[:n]:
        row = rows[pair[0].index]
        record = {"row": pair[0].index, "prompt": row.prompt, "gold": row.completion}
        outputs = (f"{_describe_verdict(line)}\n\n{_show_output(line)}" for line in pair)
        records.append(record | dict(zip(models, outputs, strict=True)))
    return _style_texts(
        pd.DataFrame(records, dtype=object),
        f"{len(records)} of {len(pairs)} rows: worse first, then better, then as good",
    )


def show_decision(decision: dict[str, Any]) -> "Styler":
    """The rule's numbers: all rates, the gap, and on how many rows only one of the two models was right."""
    model, records = decision["model"], []
    for name, gap in decision["gaps"].items():
        pairs = decision["evidence"]["pairs"][name]
        record = {"metric": name}
        record |= {
            m: format_rate(r[name]["rate"], r[name]["interval"]) for m, r in decision["evidence"]["rates"].items()
        }
        record |= {
            f"gap to {model}": f"{gap:+.2f}",
            "worse than delta": "yes" if name in decision["worse_on"] else "no",
        }
        record |= {"only azure right": pairs["first_only"], f"only {model} right": pairs["second_only"]}
        records.append(record)
    return _style(pd.DataFrame(records))


def show_evidence(decision: dict[str, Any]) -> "Styler":
    """How sure the gap is, metric by metric: intervals, exact McNemar with Holm's correction, a verdict, rows needed."""
    records = []
    for name, found in decision["evidence"]["pairs"].items():
        record = {"metric": name, f"gap to {decision['model']}, 95%": _format_gap(found["gap"], found["interval"])}
        record |= {"bootstrap 95%": "[{:+.2f}, {:+.2f}]".format(*found["bootstrap"])}
        record |= {"only azure right": found["first_only"], f"only {decision['model']} right": found["second_only"]}
        record |= {"McNemar p": f"{found['p_value']:.3g}", "after Holm": f"{found['p_adjusted']:.3g}"}
        record |= {f"verdict (margin {decision['margin']:g})": found["verdict"]}
        records.append(record | {"rows needed": found["rows_needed"] or ""})
    return _style(pd.DataFrame(records))


def _format_gap(gap: float, interval: list[float]) -> str:
    return f"{gap:+.2f} [{interval[0]:+.2f}, {interval[1]:+.2f}]"


def show_changes(decision: dict[str, Any]) -> "Styler":
    """What the adapter changed against the SLM without it, in rows, both ways; from a post-decision."""
    records = [
        {"metric": name, "gained": n["second_only"], "lost": n["first_only"], "right in both": n["both"]}
        | {"wrong in both": n["neither"]}
        for name, n in decision["evidence"]["changes"].items()
    ]
    return _style(pd.DataFrame(records))


def describe_decision(decision: dict[str, Any]) -> str:
    """The rule's bit as one sentence for a manager."""
    n, delta = decision["n_rows"], decision["delta"]
    if not _is_any_right(decision):
        return f"FINE_TUNE={decision['FINE_TUNE']}, but on {n} rows no model got one right: this says nothing yet."
    note = (
        f" One row is {1 / n:.3g} of the rate, more than delta={delta:g}: a single row decides."
        if 1 / n > delta
        else ""
    )
    if decision["FINE_TUNE"]:
        where = ", ".join(decision["worse_on"])
        return f"FINE_TUNE=1: on {n} rows the SLM is worse by more than {delta:g} on {where}.{note}"
    good = f"the SLM is not worse than the hosted LLM by more than {delta:g} on any core metric"
    return f"FINE_TUNE=0: on {n} rows {good}.{note}"


def describe_verdict(decision: dict[str, Any]) -> str:
    """A post-decision's verdict as one sentence for a manager."""
    n, delta, where = decision["n_rows"], decision["delta"], ", ".join(decision["worse_on"])
    if not _is_any_right(decision):
        return f"Verdict: {decision['verdict']}, but on {n} rows no model got one right: this says nothing yet."
    good = f"is not worse than the hosted LLM by more than {delta:g} on any core metric"
    who = "the SLM with its adapter" if decision["model"] == "slm_ft" else "the SLM without an adapter"
    reason = {
        "swap": f"the SLM without an adapter {good}",
        "swap with the adapter": f"{who} {good}",
        "stay": f"{who} is still worse than the hosted LLM by more than {delta:g} on {where}",
    }
    return f"Verdict: {decision['verdict']}. On {n} rows, {reason[decision['verdict']]}."


def _is_any_right(decision: dict[str, Any]) -> bool:
    return any(metric["rate"] for model in decision["evidence"]["rates"].values() for metric in model.values())


def show_run_card(card: dict[str, Any] | None) -> "Styler":
    """What a training did, from its run card; an empty table when none was needed."""
    if card is None:
        return _style(pd.DataFrame({"training": ["none was needed"]}))
    rows = [f"{track}: {n['train']} train, {n['val']} val" for track, n in card["rows"].items()]
    losses = {name.replace("_", " "): f"{loss:.3f}" for name, loss in card["final"].items()}
    facts = {"base": card["base"], "rows": "; ".join(rows), "steps": card["steps"], **losses}
    facts |= {name.replace("_", " "): value for name, value in card["recipe"].items()}
    facts |= {"seconds": card["seconds"] or "(unknown)", "resumed from": card["resumed_from"] or "(not killed)"}
    facts |= {
        "device": card["run"]["device"],
        "departures from the fixed settings": "; ".join(card["departures"]) or "none",
    }
    return _style(pd.DataFrame({"what": facts.keys(), "value": [str(value) for value in facts.values()]}))


def show_labels(records: list[dict[str, Any]]) -> "Styler":
    """The label proof's records: what would be trained of each row, its end of turn made visible."""
    return _style_texts(pd.DataFrame(records, dtype=object).rename(columns=lambda name: name.replace("_", " ")))


def show_parity(parity: dict[str, Any]) -> "Styler":
    """The share of equal outputs in each comparison."""
    records = [
        {"compared": c["compared"], "rows": c["rows"], "equal": c["equal"], "share": f"{c['share']:.2f}"}
        for c in parity["comparisons"]
    ]
    return _style(pd.DataFrame(records))


def show_unequal(parity: dict[str, Any], n: int = 3) -> "Styler":
    """The first n rows of each comparison whose outputs differ, side by side."""
    records = [{"compared": c["compared"], **row} for c in parity["comparisons"] for row in c["differing"][:n]]
    total = sum(len(c["differing"]) for c in parity["comparisons"])
    caption = f"{len(records)} of {total} differing outputs" if records else "no output differs"
    return _style_texts(pd.DataFrame(records, columns=["compared", "row", "first", "second"], dtype=object), caption)
