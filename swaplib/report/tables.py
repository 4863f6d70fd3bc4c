"""Tables of runs, rows and parity. It computes nothing: every number comes from a file."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from swaplib import runs
from swaplib.formats.metrics_file import MetricsFile
from swaplib.metrics import Track, core_metrics
from swaplib.models.names import ModelName
from swaplib.report.styles import format_rate, style, style_texts
from swaplib.rows import STATUSES, LedgerLine, Row
from swaplib.settings import Settings

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

    from swaplib.evaluation.evaluate import Run

Diagnoses = Mapping[str, Mapping[str, Any]]  # by model, as error_analysis makes them
DIAGNOSED_RATES = ("found_rate", "lenient_rate", "args_precision", "args_recall", "args_f1")


def show_records(records: Sequence[Mapping[str, Any]]) -> "Styler":
    """Flat records as a table; underscores in the heads become spaces."""
    return style(_make_frame(records))


def show_texts(records: Sequence[Mapping[str, Any]], caption: str = "") -> "Styler":
    """Records with long texts as a table; underscores in the heads become spaces."""
    return style_texts(_make_frame(records), caption)


def _make_frame(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(records).rename(columns=lambda name: name.replace("_", " "))


def show_metrics(track: Track, metrics: Iterable[MetricsFile]) -> "Styler":
    """Core metrics with Wilson 95% intervals side by side, and how the rows ended."""
    files = list(metrics)
    statuses = [s for s in STATUSES if s == "ok" or any(m["n_by_status"][s] for m in files)]
    records = [
        {
            "model": ModelName.parse(m["run"]["model"]).label,
            "rows": m["n_rows"],
            **{name: format_rate(m[name], m["intervals"][name]) for name in core_metrics(track)},
            **{status: m["n_by_status"][status] for status in statuses},
            "tokens out": m["extra"]["completion_tokens"],
        }
        for m in files
    ]
    return style(pd.DataFrame(records))


def list_runs(settings: Settings, track: Track) -> "Styler":
    """Every run of a track, the newest first, with those that have not ended."""
    records = []
    for run in runs.list_runs(settings, track):
        record = {"run id": run["run_id"]}
        if metrics := run.get("metrics"):
            record |= _describe_ended(track, metrics)
        elif "problem" in run:
            record["state"] = run["problem"]
        else:
            record["state"] = f"not ended, {run['answered']} rows answered"
        records.append(record)
    return style(pd.DataFrame(records))


def _describe_ended(track: Track, metrics: MetricsFile) -> dict[str, Any]:
    run = metrics["run"]
    n_errors = metrics["n_by_status"]["error"]
    return {
        "ended": run["ended"][:16].replace("T", " "),
        "model": run["model"],
        "deployment": run["identity"].get("endpoint") or run["identity"]["model"],
        "split": run["split"],
        "rows": metrics["n_rows"],
        **{name: f"{metrics[name]:.2f}" for name in core_metrics(track)},
        "state": "complete" if metrics["complete"] else f"{n_errors} errors",
    }


def show_answered(track: Track, diagnoses: Diagnoses) -> "Styler":
    """Core metrics over all rows, over those that a model answered, and over given ones.

    Those over all rows count; those over answered rows flatter a model. A row is given when the
    request or a default holds every value of its gold.
    """
    records = []
    for model, d in diagnoses.items():
        parts = {"all": d["all_rows"], "answered": d["answered"], "given": d["given"]}
        for kind, rates in parts.items():
            if rates is not None:
                record = {
                    "model": ModelName.parse(model).label,
                    "rows that are": kind,
                    "n": rates["n_rows"],
                }
                record |= {name: _format_rate(rates.get(name)) for name in core_metrics(track)}
                records.append(record)
    return style(pd.DataFrame(records))


def _format_rate(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.3f}"


def show_fields(diagnoses: Diagnoses, n: int = 12) -> "Styler":
    """The keys of golds that were wrong most often: times wanted, right and missing, by model."""
    by_model = {model: {f["field"]: f for f in d["fields"]} for model, d in diagnoses.items()}
    wanted = {
        field: counts["wanted"]
        for of_model in by_model.values()
        for field, counts in of_model.items()
    }
    wrong = {
        field: sum(d[field]["wanted"] - d[field]["right"] for d in by_model.values())
        for field in wanted
    }
    missed = [field for field in wanted if wrong[field]]
    missed.sort(key=lambda field: (-wrong[field], field))
    records = []
    for field in missed[:n]:
        record = {"key": field, "wanted": wanted[field]}
        for model, of_model in by_model.items():
            counts = of_model[field]
            share = counts["right"] / counts["wanted"]
            record[f"{model}: right"] = f"{counts['right']} ({share:.2f})"
            record[f"{model}: missing"] = counts["missing"] or ""
        records.append(record)
    caption = f"{len(records)} of {len(missed)} keys that were wrong, of {len(wanted)}"
    return style(pd.DataFrame(records), caption)


def show_diagnosis(diagnoses: Diagnoses) -> "Styler":
    """By model: right rows, reasons of the others, and how often the answer was there anyway."""
    reasons = next(iter(diagnoses.values()))["reasons"]
    seen = [reason for reason in reasons if any(d["reasons"][reason] for d in diagnoses.values())]
    records = [
        {
            "model": ModelName.parse(model).label,
            "rows": d["n_rows"],
            "right": d["right"],
            **{reason: d["reasons"][reason] for reason in seen},
            **{name: f"{d[name]:.2f}" for name in DIAGNOSED_RATES if name in d},
        }
        for model, d in diagnoses.items()
    ]
    return style(pd.DataFrame(records))


def show_failures(run: "Run", rows: Sequence[Row], n: int = 5) -> "Styler":
    """Rows to read, failures first: prompt, gold and output side by side."""
    ordered = sorted(run.ledger, key=lambda line: (all(line.scores.values()), line.index))
    records = [_make_failure(line, rows[line.index]) for line in ordered[:n]]
    model = ModelName.parse(run.metrics["run"]["model"])
    caption = f"{model.label}: {len(records)} of {len(ordered)} rows"
    return style_texts(pd.DataFrame(records, dtype=object), caption)


def _make_failure(line: LedgerLine, row: Row) -> dict[str, Any]:
    return {
        "row": line.index,
        "verdict": _describe_verdict(line),
        "prompt": row.prompt,
        "gold": row.completion,
        "output": _show_output(line),
    }


def _describe_verdict(line: LedgerLine) -> str:
    missed = ", ".join(name for name, is_right in line.scores.items() if not is_right)
    verdict = f"wrong: {missed}" if missed else "right"
    return f"{verdict}\n({line.generation.status})"


def _show_output(line: LedgerLine) -> str:
    generation = line.generation
    return generation.output or f"(nothing: {generation.error or generation.finish_reason})"


def show_differences(
    ledgers: Mapping[str, Sequence[LedgerLine]],
    models: tuple[str, str],
    rows: Sequence[Row],
    n: int = 5,
) -> "Styler":
    """Rows to read: those that the second model did worse, then those it did better, then others.

    Args:
        ledgers: Ledgers over the same rows, in row order, by model.
        models: The two to compare.
        rows: The rows of the split.
        n: How many rows to show.
    """

    def order(pair: tuple[LedgerLine, LedgerLine]) -> tuple[bool, bool, bool, int]:
        first, second = (line.scores for line in pair)
        is_worse = any(first[name] > second[name] for name in first)
        is_better = any(second[name] > first[name] for name in first)
        return not is_worse, not is_better, all(second.values()), pair[0].index

    pairs = sorted(zip(*(ledgers[model] for model in models), strict=True), key=order)
    records = []
    for pair in pairs[:n]:
        row = rows[pair[0].index]
        record = {"row": pair[0].index, "prompt": row.prompt, "gold": row.completion}
        outputs = (f"{_describe_verdict(line)}\n\n{_show_output(line)}" for line in pair)
        records.append(record | dict(zip(models, outputs, strict=True)))
    caption = f"{len(records)} of {len(pairs)} rows: worse first, then better, then as good"
    return style_texts(pd.DataFrame(records, dtype=object), caption)


def show_parity(parity: Mapping[str, Any]) -> "Styler":
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


def show_unequal(parity: Mapping[str, Any], n: int = 3) -> "Styler":
    """The first n rows of each comparison whose outputs differ, side by side."""
    records = [
        {"compared": c["compared"], **row}
        for c in parity["comparisons"]
        for row in c["differing"][:n]
    ]
    total = sum(len(c["differing"]) for c in parity["comparisons"])
    caption = f"{len(records)} of {total} differing outputs" if records else "no output differs"
    columns = ["compared", "row", "first", "second"]
    return style_texts(pd.DataFrame(records, columns=columns, dtype=object), caption)
