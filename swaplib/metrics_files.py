"""Metrics files, checked as they are read, and against the ledgers that they were made of."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from swaplib.files import read_json
from swaplib.formats.metrics_file import MetricsFile
from swaplib.metrics import TRACKS, aggregate, core_metrics, rates_of
from swaplib.rows import LedgerLine
from swaplib.settings import show_path

_KINDS: dict[str, type] = {
    "n_rows": int,
    "complete": bool,
    "n_by_status": dict,
    "intervals": dict,
    "extra": dict,
    "run": dict,
}
_RUN_KEYS = (
    *("run_id", "track", "model", "split", "identity"),
    *("ended", "rows_sha256", "dataset_sha256"),
)


def read_metrics_file(path: Path) -> MetricsFile:
    """Read a metrics file that has everything that others read of it.

    Raises:
        ValueError: It does not; names the file and what is wrong.
    """
    advice = (
        "Delete it and run notebooks/02_eval.ipynb again: it is made of the ledger, and nothing is "
        "asked."
    )
    content = read_json(path, advice)
    if wrong := _find_wrong(content):
        raise ValueError(
            f"{path}: no metrics of a run (missing or of another type: {', '.join(wrong)}). "
            f"{advice}"
        )
    return cast(MetricsFile, content)


def _find_wrong(content: dict[str, Any]) -> list[str]:
    """The keys that are missing or of another type."""
    run = content.get("run")
    if not isinstance(run, dict):
        run = {}
    kinds = dict(_KINDS)
    if run.get("track") in TRACKS:
        kinds |= dict.fromkeys(core_metrics(run["track"]), float)
    wrong = [name for name, kind in kinds.items() if not isinstance(content.get(name), kind)]
    return wrong + [f"run.{name}" for name in _RUN_KEYS if name not in run]


def check_ledger(path: Path, metrics: MetricsFile, ledger: Sequence[LedgerLine]) -> None:
    """Check that a ledger gives what its metrics file says.

    Raises:
        ValueError: It does not hold each row once, or its score bits give other rates.
    """
    n = metrics["n_rows"]
    if lost := sorted(set(range(n)) ^ {line.index for line in ledger}):
        raise ValueError(
            f"{show_path(path)}: expected the rows 0 to {n - 1}, each once; these are missing or "
            f"too many: {', '.join(map(str, lost[:10]))}. Run notebooks/02_eval.ipynb again: it "
            "asks the missing ones."
        )
    track = metrics["run"]["track"]
    rates = rates_of(aggregate(track, [line.scores for line in ledger]))
    for name in core_metrics(track):
        if metrics[name] != rates[name]:
            raise ValueError(
                f"{show_path(path)} gives {name}={rates[name]:.4f}, and "
                f"{show_path(path.parent / 'metrics.json')} says {metrics[name]:.4f}: one of them "
                "was changed. Delete that metrics.json and run notebooks/02_eval.ipynb again: it "
                "is made of the ledger, and nothing is asked."
            )
