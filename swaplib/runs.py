"""A run on disk: opened, locked, traced, written and delivered in one way, and read again.

A run is a folder named by its run id. Where a question can be asked again, the end of the name is
the hash of all that makes it the same question, so the same call finds the run of a process that
was killed and resumes it.

    with lock_run(settings, key, new_folder(settings, "build", key)) as folder:
        with open_run(settings, folder, "build", inputs, tags) as run:
            …                                   # the work, added to run.trace
            run.trace.finish(output, scores)
            run.record("build.json", content)   # written when the trace is whole, and delivered
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from swaplib import provenance
from swaplib.files import write_json
from swaplib.formats.metrics_file import MetricsFile
from swaplib.metrics import Track
from swaplib.metrics_files import check_ledger, read_metrics_file
from swaplib.rows import LedgerLine, read_ledger
from swaplib.settings import Settings
from swaplib.tracing import run_trace
from swaplib.tracing.delivery import Delivery, describe_delivery


class OpenRun:
    """A run in progress: its folder, its trace, and the records that it will leave."""

    def __init__(self, settings: Settings, trace: run_trace.RunTrace, folder: Path):
        self.folder, self.trace = folder, trace
        self._settings = settings
        self._records: list[tuple[dict[str, Any], list[Path]]] = []

    def record(self, name: str, content: dict[str, Any], *copies: Path) -> dict[str, Any]:
        """Set a file that the run is to leave in its folder, and copies of it elsewhere.

        Nothing is written before the trace is whole. Run id, times, commit, machine and the trace's
        counts are added to what the content has under `run`, now and again when the trace is
        delivered.

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
        """Write every record, deliver the trace, and write them again with its delivery."""
        self._write_all(self.trace.count())
        delivery = self.trace.deliver()  # may take long, but now everything else is on disk
        self._write_all(delivery)
        print(describe_delivery(delivery, self._settings))

    def _write_all(self, delivery: Delivery) -> None:
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
    """Trace a run; when it has ended well, write its records and deliver the trace.

    Args:
        settings: As RunTrace takes them.
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
    """The folder of a new run, which is not made yet.

    Its id sorts after all others, even where the clock was set back.
    """
    newest = max((path.name for path in settings.runs.glob("2*Z-*")), default="")
    return settings.runs / provenance.make_run_id(*words, after=newest)


def find_run(
    settings: Settings,
    key: str,
    planned: Path,
    is_fresh: bool = False,
    is_wanted: Callable[[Path], bool] = Path.is_dir,
) -> Path:
    """The folder of a question's newest wanted run; the planned one if fresh, or if none is."""
    if is_fresh:
        return planned
    # run ids begin with the year, so no lock is found
    runs = [folder for folder in settings.runs.glob(f"2*-{key}") if is_wanted(folder)]
    return max(runs, default=planned)


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
        settings: Where runs are.
        key: The hash of the question.
        planned: The folder that the run was to have when it was planned.
        is_fresh: The run must be a new one: the planned folder is its folder.
        is_wanted: Whether a run may be resumed.

    Yields:
        The newest wanted run, looked up under the lock, since another process may have begun or
        ended it just now; the planned folder where there is none.

    Raises:
        RuntimeError: Another process has the lock.
    """
    with provenance.locked(settings.runs, key):
        yield find_run(settings, key, planned, is_fresh, is_wanted)


def read_metrics(settings: Settings, track: Track, model: str, split: str = "test") -> MetricsFile:
    """Read the metrics file of a model's last run on a split.

    Raises:
        FileNotFoundError: There is none; names the notebook that makes it.
        ValueError: As read_metrics_file.
    """
    path = settings.evaluation / f"{track}_{model}_{split}.json"
    if not path.is_file():
        of_split = "" if split == "test" else f", split={split!r} and models={model!r}"
        or_named = "" if of_split else f", and with models={model!r} if that has not made them"
        raise FileNotFoundError(
            f"no metrics at {path}. Run notebooks/02_eval.ipynb with track={track!r}{of_split} "
            f"first{or_named}."
        )
    return read_metrics_file(path)


def read_run(settings: Settings, run_id: str) -> MetricsFile:
    """Read the metrics of one run by its id.

    Raises:
        FileNotFoundError: There is no such run, or it has not ended; says where the ids are listed.
        ValueError: As read_metrics_file.
    """
    path = settings.runs / run_id / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"no finished run {run_id!r} in {settings.runs}. 02_eval lists the runs with their ids."
        )
    return read_metrics_file(path)


def read_ledgers(
    settings: Settings, metrics: Mapping[str, MetricsFile]
) -> dict[str, tuple[LedgerLine, ...]]:
    """The ledgers behind several metrics files, in row order, by the same names.

    Raises:
        FileNotFoundError: A run's folder is gone.
        ValueError: As check_ledger.
    """
    ledgers = {}
    for name, content in metrics.items():
        path = settings.runs / content["run"]["run_id"] / "ledger.jsonl"
        if not path.is_file():
            raise FileNotFoundError(f"no ledger at {path}. Run notebooks/02_eval.ipynb again.")
        ledgers[name] = tuple(line for _, line in sorted(read_ledger(path).items()))
        check_ledger(path, content, ledgers[name])
    return ledgers


def list_runs(settings: Settings, track: Track) -> list[dict[str, Any]]:
    """Every evaluation run of a track, ended or not, the newest first.

    Returns:
        One dict for each run: `run_id`, and `metrics` (its metrics file) or, while there is none,
        `answered` (ledger lines); `problem` where a file of it cannot be read.
    """
    records = []
    for ledger in sorted(settings.runs.glob(f"2*Z-{track}-*/ledger.jsonl"), reverse=True):
        metrics = ledger.parent / "metrics.json"
        record: dict[str, Any] = {"run_id": ledger.parent.name}
        try:
            if metrics.is_file():
                record["metrics"] = read_metrics_file(metrics)
            else:
                record["answered"] = len(read_ledger(ledger))
        except ValueError as error:
            record["problem"] = str(error)
        records.append(record)
    return records
