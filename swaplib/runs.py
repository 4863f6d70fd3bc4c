"""Reads what runs have left: metrics files, ledgers, and the history of all runs. It asks no model and writes nothing."""

import json
from typing import Any

from swaplib.metrics import Track
from swaplib.rows import LedgerLine, read_ledger
from swaplib.settings import Settings


def read_metrics(settings: Settings, track: Track, model: str, split: str = "test") -> dict[str, Any]:
    """Read the metrics file of a model's last run on a split.

    Raises:
        FileNotFoundError: It is not there; names the notebook that makes it.
    """
    path = settings.evaluation / f"{track}_{model}_{split}.json"
    if not path.is_file():
        raise FileNotFoundError(f"no metrics at {path}. Run notebooks/02_eval.ipynb with track={track!r} first.")
    return json.loads(path.read_text(encoding="utf-8"))


def read_run(settings: Settings, run_id: str) -> dict[str, Any]:
    """Read the metrics of one run by its id.

    Raises:
        FileNotFoundError: There is no such run, or it has not ended; says where the ids are listed.
    """
    path = settings.runs / run_id / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"no finished run {run_id!r} in {settings.runs}. 02_eval lists the runs with their ids."
        )
    return json.loads(path.read_text(encoding="utf-8"))


def read_ledgers(settings: Settings, metrics: dict[str, dict[str, Any]]) -> dict[str, tuple[LedgerLine, ...]]:
    """The ledgers behind several metrics files, in row order, by the same names.

    Raises:
        FileNotFoundError: A run's folder is gone.
    """
    ledgers = {}
    for name, content in metrics.items():
        path = settings.runs / content["run"]["run_id"] / "ledger.jsonl"
        if not path.is_file():
            raise FileNotFoundError(f"no ledger at {path}. Run notebooks/02_eval.ipynb again.")
        ledgers[name] = tuple(line for _, line in sorted(read_ledger(path).items()))
    return ledgers


def list_runs(settings: Settings, track: Track) -> list[dict[str, Any]]:
    """Every evaluation run of a track, the newest first; runs that have not ended are in it, with their answered rows.

    Returns:
        One dict for each run: `run_id`, and `metrics` (its metrics file) or, while there is none, `answered` (ledger lines).
    """
    found = []
    for ledger in sorted(settings.runs.glob(f"2*Z-{track}-*/ledger.jsonl"), reverse=True):
        record, metrics = {"run_id": ledger.parent.name}, ledger.parent / "metrics.json"
        if metrics.is_file():
            found.append(record | {"metrics": json.loads(metrics.read_text(encoding="utf-8"))})
        else:
            found.append(record | {"answered": len(read_ledger(ledger))})
    return found
