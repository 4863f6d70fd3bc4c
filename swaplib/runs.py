"""A run on disk: opened, locked, traced, written and delivered in one way; and what runs have left, read again.

A run is a folder named by its run id. Where a question can be asked again, the end of the name is the hash of all that makes
it the same question, so the same call finds the run of a process that was killed and goes on with it.

    with lock_run(settings, key, new_folder(settings, "build", key)) as folder:
        with open_run(settings, folder, "build", inputs, tags) as run:
            …                                       # work, told to run.trace
            run.trace.finish(output, scores)
            run.record("build.json", content)       # written when the trace is whole, and once more with its delivery
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from swaplib import provenance
from swaplib.files import read_json, write_json
from swaplib.metrics import TRACKS, Track, aggregate, core_metrics, rates_of
from swaplib.rows import LedgerLine, read_ledger
from swaplib.settings import Settings, show_path
from swaplib.tracing import run_trace
from swaplib.tracing.delivery import describe_delivery


class OpenRun:
    """A run at work: its folder, its trace, and the records that it will leave."""

    def __init__(self, settings: Settings, trace: run_trace.RunTrace, folder: Path):
        self.folder, self.trace = folder, trace
        self._settings = settings
        self._records: list[tuple[dict[str, Any], list[Path]]] = []

    def record(self, name: str, content: dict[str, Any], *copies: Path) -> dict[str, Any]:
        """Say what the run is to leave in its folder under a name, and in copies elsewhere.

        Nothing is written before the trace is whole. Run id, times, commit, machine and the trace's counts come to what the
        content has under `run`, now and once more when the trace is delivered.

        Args:
            name: The file's name.
            content: What the file is to hold; changed in place, and returned.
            *copies: Files that hold the same.
        """
        content["run"] = self._describe() | content.get("run", {}) | provenance.describe_machine()
        content["run"]["trace"] = asdict(self.trace.count())
        self._records.append((content, [self.folder / name, *copies]))
        return content

    def _describe(self) -> dict[str, Any]:
        run_id = self.folder.name
        return {
            "run_id": run_id,
            "started": provenance.read_start(run_id),
            "ended": provenance.now_utc(),
        }

    def write(self) -> None:
        """Write every record, deliver the trace, and write them with what was delivered; says so in a line."""
        self._write_all(self.trace.count())
        delivery = self.trace.deliver()  # may take its time, and now everything else is on disk
        self._write_all(delivery)
        print(describe_delivery(delivery, self._settings))

    def _write_all(self, delivery: Any) -> None:
        for content, files in self._records:
            content["run"]["trace"] = asdict(delivery)
            for file in files:
                write_json(file, content)


@contextlib.contextmanager
def open_run(
    settings: Settings,
    folder: Path,
    name: str,
    inputs: dict[str, Any],
    tags: list[str],
    session_id: str | None = None,
) -> Iterator[OpenRun]:
    """Trace a run while it is at work; when it has ended well, write its records and deliver the trace.

    Args:
        settings: Says whether traces go to a server.
        folder: The run's folder, as lock_run or new_folder names it.
        name: The trace's name.
        inputs: The root span's input.
        tags: At most a few words to find the trace by.
        session_id: Joins the traces of several runs in one Langfuse session.
    """
    with run_trace.RunTrace(settings, folder.name, folder, name, inputs, tags, session_id) as trace:
        run = OpenRun(settings, trace, folder)
        yield run
    run.write()


def new_folder(settings: Settings, *words: str) -> Path:
    """The folder of a new run; nothing is made yet. Its id sorts behind all others, though the clock was set back."""
    newest = max((path.name for path in settings.runs.glob("2*Z-*")), default="")
    return settings.runs / provenance.make_run_id(*words, after=newest)


def find_run(
    settings: Settings,
    key: str,
    planned: Path,
    is_fresh: bool = False,
    is_wanted: Callable[[Path], bool] = Path.is_dir,
) -> Path:
    """The folder of a question's newest run that is wanted; the planned one where there is none, or for a fresh run."""
    # run ids begin with the year, so a lock is none
    known = (
        folder for folder in settings.runs.glob(f"2*-{key}") if not is_fresh and is_wanted(folder)
    )
    return max(known, default=planned)


@contextlib.contextmanager
def lock_run(
    settings: Settings,
    key: str,
    planned: Path,
    is_fresh: bool = False,
    is_wanted: Callable[[Path], bool] = Path.is_dir,
) -> Iterator[Path]:
    """Keep other processes from a question, and give the folder of its run.

    Args:
        settings: Says where runs lie.
        key: The hash of the question.
        planned: The folder that the run was to have when it was planned.
        is_fresh: The run must be a new one: the planned folder is its folder.
        is_wanted: Whether a run may be gone on with.

    Yields:
        The newest wanted run, looked up under the lock, since another process may have begun or ended it just now; the
        planned folder where there is none.

    Raises:
        RuntimeError: Another process has the lock.
    """
    with provenance.locked(settings.runs, key):
        yield find_run(settings, key, planned, is_fresh, is_wanted)


def read_metrics(
    settings: Settings, track: Track, model: str, split: str = "test"
) -> dict[str, Any]:
    """Read the metrics file of a model's last run on a split.

    Raises:
        FileNotFoundError: It is not there; names the notebook that makes it.
    """
    path = settings.evaluation / f"{track}_{model}_{split}.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"no metrics at {path}. Run notebooks/02_eval.ipynb with track={track!r} first."
        )
    return _read_metrics_file(path)


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
    return _read_metrics_file(path)


def _read_metrics_file(path: Path) -> dict[str, Any]:
    """A metrics file, of which everything is there that others read; raises ValueError naming the file and what is wrong."""
    advice = "Delete it and run notebooks/02_eval.ipynb again: it is made of the ledger, and nothing is asked."
    content = read_json(path, advice)
    run = content.get("run")
    kinds = {
        "n_rows": int,
        "complete": bool,
        "n_by_status": dict,
        "intervals": dict,
        "extra": dict,
        "run": dict,
    }
    kinds |= (
        dict.fromkeys(core_metrics(run["track"]), float)
        if isinstance(run, dict) and run.get("track") in TRACKS
        else {}
    )
    wrong = [name for name, kind in kinds.items() if not isinstance(content.get(name), kind)]
    names = (
        "run_id",
        "track",
        "model",
        "split",
        "identity",
        "ended",
        "rows_sha256",
        "dataset_sha256",
    )
    wrong += [f"run.{name}" for name in names if name not in (run if isinstance(run, dict) else {})]
    if wrong:
        raise ValueError(
            f"{path}: no metrics of a run (missing or of another type: {', '.join(wrong)}). {advice}"
        )
    return content


def read_ledgers(
    settings: Settings, metrics: dict[str, dict[str, Any]]
) -> dict[str, tuple[LedgerLine, ...]]:
    """The ledgers behind several metrics files, in row order, by the same names.

    Raises:
        FileNotFoundError: A run's folder is gone.
        ValueError: A ledger lacks rows, or says something else than the metrics file.
    """
    ledgers = {}
    for name, content in metrics.items():
        path = settings.runs / content["run"]["run_id"] / "ledger.jsonl"
        if not path.is_file():
            raise FileNotFoundError(f"no ledger at {path}. Run notebooks/02_eval.ipynb again.")
        ledgers[name] = tuple(line for _, line in sorted(read_ledger(path).items()))
        _check_ledger(path, content, ledgers[name])
    return ledgers


def _check_ledger(path: Path, metrics: dict[str, Any], ledger: tuple[LedgerLine, ...]) -> None:
    """Raise ValueError unless a ledger holds each row once and its score bits give the rates of the metrics file."""
    n, track = metrics["n_rows"], metrics["run"]["track"]
    if lost := sorted(set(range(n)) ^ {line.index for line in ledger}):
        raise ValueError(
            f"{show_path(path)}: expected the rows 0 to {n - 1}, each once; these are missing or too many: "
            f"{', '.join(map(str, lost[:10]))}. Run notebooks/02_eval.ipynb again: it asks the missing ones."
        )
    rates = rates_of(aggregate(track, [line.scores for line in ledger]))
    if differing := [name for name, rate in rates.items() if metrics[name] != rate]:
        name = differing[0]
        raise ValueError(
            f"{show_path(path)} gives {name}={rates[name]:.4f}, and {show_path(path.parent / 'metrics.json')} says "
            f"{metrics[name]:.4f}: one of them was changed. Delete that metrics.json and run notebooks/02_eval.ipynb again: "
            "it is made of the ledger, and nothing is asked."
        )


def list_runs(settings: Settings, track: Track) -> list[dict[str, Any]]:
    """Every evaluation run of a track, the newest first; runs that have not ended are in it, with their answered rows.

    Returns:
        One dict for each run: `run_id`, and `metrics` (its metrics file) or, while there is none, `answered` (ledger lines);
        `problem` where a file of it cannot be read.
    """
    found = []
    for ledger in sorted(settings.runs.glob(f"2*Z-{track}-*/ledger.jsonl"), reverse=True):
        record, metrics = {"run_id": ledger.parent.name}, ledger.parent / "metrics.json"
        try:
            is_done = metrics.is_file()
            record |= (
                {"metrics": _read_metrics_file(metrics)}
                if is_done
                else {"answered": len(read_ledger(ledger))}
            )
        except ValueError as error:
            record["problem"] = str(error)
        found.append(record)
    return found
