"""Tables and figures for the notebooks. It computes nothing: every number comes from a metrics file or a ledger."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd

from swaplib.metrics import Track, core_metrics
from swaplib.rows import LedgerLine, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas.io.formats.style import Styler

    from swaplib.evaluate import Run

# Okabe-Ito colours, which colour-blind readers can tell apart; the hatches survive greyscale.
STYLES = {"azure": ("#0072B2", ""), "slm": ("#E69F00", "//"), "slm_ft": ("#009E73", "..")}
NAMES = {"azure": "azure (hosted)", "slm": "slm (local)", "slm_ft": "slm_ft (local, adapter)"}


def _style(frame: pd.DataFrame, caption: str = "") -> "Styler":
    """A small table that reads well as HTML: text on the left, escaped."""
    cell = [("text-align", "left"), ("vertical-align", "top"), ("white-space", "nowrap")]
    head = [("text-align", "left"), ("border-bottom", "1px solid #888")]
    title = [("text-align", "left"), ("font-weight", "bold"), ("padding", "0.4em 0")]
    selectors = {"td": cell, "th": head, "caption": title}
    styles = [{"selector": selector, "props": props} for selector, props in selectors.items()]
    return frame.style.format(escape="html", na_rep="").set_table_styles(styles).set_caption(caption).hide(axis="index")


def _style_texts(frame: pd.DataFrame, caption: str = "") -> "Styler":
    """A table of long texts: escaped, lines kept, each cell scrolling when it is long."""
    box = "max-height:18em;max-width:27em;overflow:auto;white-space:pre-wrap;overflow-wrap:anywhere;font-size:0.85em"
    return _style(frame, caption).format(
        lambda text: f'<div class="tex2jax_ignore" style="{box}">{escape(str(text))}</div>'
    )


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
    table = pd.DataFrame([{"prompt": r.prompt, "completion": r.completion} for r in found[:n]])
    return _style_texts(table, f"{track}: {min(n, len(found))} of {len(found)} test rows")


def format_rate(rate: float, interval: list[float]) -> str:
    """A rate with its 95% interval, for example `0.76 [0.67, 0.83]`."""
    return f"{rate:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"


def show_metrics(track: Track, runs: "list[Run]") -> "Styler":
    """Core metrics with Wilson 95% intervals side by side, and how the rows ended."""
    records = []
    for run in runs:
        m = run.metrics
        record = {"model": NAMES[m["run"]["model"]], "rows": m["n_rows"]}
        record |= {name: format_rate(m[name], m["intervals"][name]) for name in core_metrics(track)}
        record |= {status: n for status, n in m["n_by_status"].items() if status == "ok" or n}
        record |= {"tokens out": m["extra"]["completion_tokens"]}
        records.append(record)
    return _style(pd.DataFrame(records).astype(object).where(lambda frame: frame.notna(), 0))


def plot_metrics(track: Track, metrics: list[dict[str, Any]]) -> "Figure":
    """Core metrics as bars with Wilson 95% intervals, one colour and hatch for each model."""
    import matplotlib.pyplot as plt

    names = core_metrics(track)
    figure, axes = plt.subplots(figsize=(7.5, 3.2), layout="constrained")
    width = 0.8 / len(metrics)
    for offset, content in enumerate(metrics):
        model = content["run"]["model"]
        rates = [content[name] for name in names]
        # a rate of 0 or 1 lies on its interval's end; rounding must not make an error bar negative
        errors = [
            [max(0.0, rate - content["intervals"][n][0]) for n, rate in zip(names, rates, strict=True)],
            [max(0.0, content["intervals"][n][1] - rate) for n, rate in zip(names, rates, strict=True)],
        ]
        places = [i + (offset - (len(metrics) - 1) / 2) * width for i in range(len(names))]
        colour, hatch = STYLES[model]
        style = {"color": colour, "hatch": hatch, "edgecolor": "white", "error_kw": {"ecolor": "#333333", "capsize": 4}}
        axes.bar(places, rates, width * 0.92, yerr=errors, label=NAMES[model], **style)
        for place, rate, top in zip(places, rates, errors[1], strict=True):
            axes.annotate(f"{rate:.2f}", (place, rate + top), (0, 3), textcoords="offset points", ha="center")
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(0, 1.12)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_ylabel("rate over all rows")
    axes.set_title(f"{track}, {metrics[0]['n_rows']} rows, 95% Wilson intervals", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    plt.close(figure)
    return figure


def show_failures(run: "Run", rows: list[Row], n: int = 5) -> "Styler":
    """Rows for a person to read, failures first: prompt, gold and output side by side."""
    ordered = sorted(run.ledger, key=lambda line: (all(line.scores.values()), line.index))
    records = [_make_failure(line, rows[line.index]) for line in ordered[:n]]
    caption = f"{NAMES[run.metrics['run']['model']]}: {len(records)} of {len(ordered)} rows"
    return _style_texts(pd.DataFrame(records), caption)


def _make_failure(line: LedgerLine, row: Row) -> dict[str, Any]:
    record = {"row": line.index, "verdict": _describe_verdict(line), "prompt": row.prompt, "gold": row.completion}
    return record | {"output": _show_output(line)}


def _describe_verdict(line: LedgerLine) -> str:
    missed = ", ".join(name for name, is_right in line.scores.items() if not is_right)
    return f"{f'wrong: {missed}' if missed else 'right'}\n({line.generation.status})"


def _show_output(line: LedgerLine) -> str:
    return line.generation.output or f"(nothing: {line.generation.error or line.generation.finish_reason})"


def show_differences(azure: Sequence[LedgerLine], slm: Sequence[LedgerLine], rows: list[Row], n: int = 5) -> "Styler":
    """Rows for a person to read: first those on which only Azure was right, then only the SLM, none, and both."""

    def order(pair: tuple[LedgerLine, LedgerLine]) -> tuple[bool, bool, int]:
        azure_right, slm_right = (all(line.scores.values()) for line in pair)
        return azure_right == slm_right, slm_right, pair[0].index

    pairs = sorted(zip(azure, slm, strict=True), key=order)
    records = [
        {
            "row": a.index,
            "prompt": rows[a.index].prompt,
            "gold": rows[a.index].completion,
            "azure": f"{_describe_verdict(a)}\n\n{_show_output(a)}",
            "slm": f"{_describe_verdict(s)}\n\n{_show_output(s)}",
        }
        for a, s in pairs[:n]
    ]
    return _style_texts(pd.DataFrame(records), f"{len(records)} of {len(pairs)} rows, those that differ first")


def show_decision(decision: dict[str, Any]) -> "Styler":
    """The rule's numbers: both rates, the gap, and on how many rows only one of the two models was right."""
    records = []
    for name, gap in decision["gaps"].items():
        pairs = decision["evidence"]["pairs"][name]
        record = {"metric": name}
        record |= {
            m: format_rate(r[name]["rate"], r[name]["interval"]) for m, r in decision["evidence"]["rates"].items()
        }
        record |= {"gap": f"{gap:+.2f}", "worse than delta": "yes" if name in decision["worse_on"] else "no"}
        record |= {"only azure right": pairs["first_only"], "only slm right": pairs["second_only"]}
        records.append(record)
    return _style(pd.DataFrame(records))


def describe_decision(decision: dict[str, Any]) -> str:
    """The rule's bit as one sentence for a manager."""
    n, delta = decision["n_rows"], decision["delta"]
    rates = [metric["rate"] for model in decision["evidence"]["rates"].values() for metric in model.values()]
    if not any(rates):
        return f"FINE_TUNE={decision['FINE_TUNE']}, but on {n} rows neither model got one right: this says nothing yet."
    if decision["FINE_TUNE"]:
        return f"FINE_TUNE=1: on {n} rows the SLM is worse by more than {delta:g} on {', '.join(decision['worse_on'])}."
    return (
        f"FINE_TUNE=0: on {n} rows the SLM is not worse than the hosted LLM by more than {delta:g} on any core metric."
    )
