"""Tables and sentences for the notebooks. It computes nothing: every number comes from a file that a run left."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd

from swaplib import runs
from swaplib.masking import make_visible
from swaplib.metrics import Track, core_metrics
from swaplib.models.names import ModelName
from swaplib.rows import STATUSES, LedgerLine, Row
from swaplib.settings import Settings

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

    from swaplib.evaluation.evaluate import Run

SHOWN = 20_000  # characters of a text


def style(frame: pd.DataFrame, caption: str = "") -> "Styler":
    """A small table that reads well as HTML: text on the left, escaped."""
    cell = [("text-align", "left"), ("vertical-align", "top"), ("white-space", "nowrap")]
    head = [("text-align", "left"), ("border-bottom", "1px solid #888")]
    title = [("text-align", "left"), ("font-weight", "bold"), ("padding", "0.4em 0")]
    selectors = {"td": cell, "th": head, "caption": title}
    styles = [{"selector": selector, "props": props} for selector, props in selectors.items()]
    return (
        frame.style.format(escape="html", na_rep="")
        .set_table_styles(styles)
        .set_caption(caption)
        .hide(axis="index")
    )


def style_texts(frame: pd.DataFrame, caption: str = "") -> "Styler":
    """A table of long texts, of dtype object: escaped, lines kept, each cell scrolling when it is long."""
    box = "max-height:18em;max-width:27em;overflow:auto;white-space:pre-wrap;overflow-wrap:anywhere;font-size:0.85em"
    return style(frame, caption).format(
        lambda text: (
            f'<div class="tex2jax_ignore" style="{box}">{escape(_show_text(str(text)))}</div>'
        )
    )


def _show_text(text: str) -> str:
    """A text made visible; the rest of a very long one is cut."""
    return make_visible(text[:SHOWN]) + (
        f" … (cut: {len(text):,} characters)" if len(text) > SHOWN else ""
    )


def show_records(records: list[dict[str, Any]]) -> "Styler":
    """Flat records as a table; underscores in the heads become spaces."""
    return style(pd.DataFrame(records).rename(columns=lambda name: name.replace("_", " ")))


def show_texts(records: list[dict[str, Any]], caption: str = "") -> "Styler":
    """Records with long texts as a table; underscores in the heads become spaces."""
    return style_texts(
        pd.DataFrame(records).rename(columns=lambda name: name.replace("_", " ")), caption
    )


def format_rate(rate: float, interval: list[float]) -> str:
    """A rate with its 95% interval, for example `0.76 [0.67, 0.83]`."""
    return f"{rate:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"


def show_metrics(track: Track, metrics: Iterable[dict[str, Any]]) -> "Styler":
    """Core metrics with Wilson 95% intervals side by side, and how the rows ended."""
    metrics, records = list(metrics), []
    statuses = [s for s in STATUSES if s == "ok" or any(m["n_by_status"][s] for m in metrics)]
    for m in metrics:
        record = {"model": ModelName.parse(m["run"]["model"]).label, "rows": m["n_rows"]}
        record |= {name: format_rate(m[name], m["intervals"][name]) for name in core_metrics(track)}
        record |= {status: m["n_by_status"][status] for status in statuses}
        records.append(record | {"tokens out": m["extra"]["completion_tokens"]})
    return style(pd.DataFrame(records))


def list_runs(settings: Settings, track: Track) -> "Styler":
    """Every run of a track, the newest first, those that have not ended among them."""
    records = []
    for found in runs.list_runs(settings, track):
        record = {"run id": found["run_id"]}
        if metrics := found.get("metrics"):
            run = metrics["run"]
            where = run["identity"].get("endpoint") or run["identity"]["model"]
            record |= {
                "ended": run["ended"][:16].replace("T", " "),
                "model": run["model"],
                "deployment": where,
            }
            record |= {"split": run["split"], "rows": metrics["n_rows"]}
            record |= {name: f"{metrics[name]:.2f}" for name in core_metrics(track)}
            record["state"] = (
                "complete" if metrics["complete"] else f"{metrics['n_by_status']['error']} errors"
            )
        elif "problem" in found:
            record["state"] = found["problem"]
        else:
            record["state"] = f"not ended, {found['answered']} rows answered"
        records.append(record)
    return style(pd.DataFrame(records))


def show_answered(track: Track, diagnoses: dict[str, dict[str, Any]]) -> "Styler":
    """Core metrics over all rows, which count; over those that a model answered, which flatter it; over given ones.

    A row is given when the request or a default holds every value of its gold.
    """
    records = []
    for model, d in diagnoses.items():
        for rows, found in (
            ("all", d["all_rows"]),
            ("answered", d["answered"]),
            ("given", d["given"]),
        ):
            if found is not None:
                record = {
                    "model": ModelName.parse(model).label,
                    "rows that are": rows,
                    "n": found["n_rows"],
                }
                records.append(
                    record | {name: _format_rate(found.get(name)) for name in core_metrics(track)}
                )
    return style(pd.DataFrame(records))


def _format_rate(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.3f}"


def show_fields(diagnoses: dict[str, dict[str, Any]], n: int = 12) -> "Styler":
    """The keys of the golds that models got wrong most often: how often each was wanted, right and missing, by model."""
    by_model = {model: {f["field"]: f for f in d["fields"]} for model, d in diagnoses.items()}
    wanted = {
        field: found["wanted"]
        for of_model in by_model.values()
        for field, found in of_model.items()
    }
    wrong = {
        field: sum(d[field]["wanted"] - d[field]["right"] for d in by_model.values())
        for field in wanted
    }
    records = []
    missed = sorted(
        (field for field in wanted if wrong[field]), key=lambda field: (-wrong[field], field)
    )
    for field in missed[:n]:
        record = {"key": field, "wanted": wanted[field]}
        for model, of_model in by_model.items():
            found = of_model[field]
            record[f"{model}: right"] = f"{found['right']} ({found['right'] / found['wanted']:.2f})"
            record[f"{model}: missing"] = found["missing"] or ""
        records.append(record)
    return style(
        pd.DataFrame(records),
        f"{len(records)} of {len(missed)} keys that were wrong, of {len(wanted)}",
    )


def show_diagnosis(diagnoses: dict[str, dict[str, Any]]) -> "Styler":
    """Right rows and reasons of the others, counted; then how often the answer was there all the same, by model."""
    reasons = next(iter(diagnoses.values()))["reasons"]
    seen = [reason for reason in reasons if any(d["reasons"][reason] for d in diagnoses.values())]
    records = []
    for model, d in diagnoses.items():
        record = {"model": ModelName.parse(model).label, "rows": d["n_rows"], "right": d["right"]}
        record |= {reason: d["reasons"][reason] for reason in seen}
        rates = ("found_rate", "lenient_rate", "args_precision", "args_recall", "args_f1")
        records.append(record | {name: f"{d[name]:.2f}" for name in rates if name in d})
    return style(pd.DataFrame(records))


def show_failures(run: "Run", rows: list[Row], n: int = 5) -> "Styler":
    """Rows for a person to read, failures first: prompt, gold and output side by side."""
    ordered = sorted(run.ledger, key=lambda line: (all(line.scores.values()), line.index))
    records = [_make_failure(line, rows[line.index]) for line in ordered[:n]]
    caption = f"{ModelName.parse(run.metrics['run']['model']).label}: {len(records)} of {len(ordered)} rows"
    return style_texts(pd.DataFrame(records, dtype=object), caption)


def _make_failure(line: LedgerLine, row: Row) -> dict[str, Any]:
    record = {
        "row": line.index,
        "verdict": _describe_verdict(line),
        "prompt": row.prompt,
        "gold": row.completion,
    }
    return record | {"output": _show_output(line)}


def _describe_verdict(line: LedgerLine) -> str:
    missed = ", ".join(name for name, is_right in line.scores.items() if not is_right)
    return f"{f'wrong: {missed}' if missed else 'right'}\n({line.generation.status})"


def _show_output(line: LedgerLine) -> str:
    return (
        line.generation.output
        or f"(nothing: {line.generation.error or line.generation.finish_reason})"
    )


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
        is_worse, is_better = (
            any(a[name] > b[name] for name in a) for a, b in ((first, second), (second, first))
        )
        return not is_worse, not is_better, all(second.values()), pair[0].index

    pairs = sorted(zip(*(ledgers[model] for model in models), strict=True), key=order)
    records = []
    for pair in pairs[:n]:
        row = rows[pair[0].index]
        record = {"row": pair[0].index, "prompt": row.prompt, "gold": row.completion}
        outputs = (f"{_describe_verdict(line)}\n\n{_show_output(line)}" for line in pair)
        records.append(record | dict(zip(models, outputs, strict=True)))
    return style_texts(
        pd.DataFrame(records, dtype=object),
        f"{len(records)} of {len(pairs)} rows: worse first, then better, then as good",
    )


def show_run_card(card: dict[str, Any] | None) -> "Styler":
    """What a training did, from its run card; an empty table when none was needed."""
    if card is None:
        return style(
            pd.DataFrame({"training": ["none: nothing had to be trained, or nothing was kept"]})
        )
    rows = [f"{track}: {n['train']} train, {n['val']} val" for track, n in card["rows"].items()]
    losses = {name.replace("_", " "): f"{loss:.3f}" for name, loss in card["final"].items()}
    facts = {"base": card["base"], "rows": "; ".join(rows), "steps": card["steps"], **losses}
    facts |= {name.replace("_", " "): value for name, value in card["recipe"].items()}
    facts |= {
        "seconds": card["seconds"] or "(unknown)",
        "resumed from": card["resumed_from"] or "(not killed)",
    }
    facts |= {
        "device": card["run"]["device"],
        "departures from the fixed settings": "; ".join(card["departures"]) or "none",
    }
    return style(
        pd.DataFrame({"what": facts.keys(), "value": [str(value) for value in facts.values()]})
    )


def show_labels(records: list[dict[str, Any]]) -> "Styler":
    """The label proof's records: what would be trained of each row, its end of turn made visible."""
    return style_texts(
        pd.DataFrame(records, dtype=object).rename(columns=lambda name: name.replace("_", " "))
    )


def show_parity(parity: dict[str, Any]) -> "Styler":
    """The share of equal outputs in each comparison."""
    records = [
        {
            "compared": c["compared"],
            "rows": c["rows"],
            "equal": c["equal"],
            "share": f"{c['share']:.2f}",
        }
        for c in parity["comparisons"]
    ]
    return style(pd.DataFrame(records))


def show_unequal(parity: dict[str, Any], n: int = 3) -> "Styler":
    """The first n rows of each comparison whose outputs differ, side by side."""
    records = [
        {"compared": c["compared"], **row}
        for c in parity["comparisons"]
        for row in c["differing"][:n]
    ]
    total = sum(len(c["differing"]) for c in parity["comparisons"])
    caption = f"{len(records)} of {total} differing outputs" if records else "no output differs"
    return style_texts(
        pd.DataFrame(records, columns=["compared", "row", "first", "second"], dtype=object), caption
    )
