"""Builds rows of both tracks and training chats from captured trajectories, or from a log.

Every trajectory is graded first. Those kept become what 01 makes of a raw row, through its audit
and its map of tools, with the calls made in place of the gold's; build_files.py says what is
written. A chat's messages are exactly those that the agent was asked with, then its last turn; only
the agent's turns that did not fail carry loss.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swaplib.agents.build_files import Build, folder_of, write_files
from swaplib.agents.capture import read_capture
from swaplib.agents.capture_run import Capture
from swaplib.agents.captured_rows import make_chat, make_source_rows
from swaplib.agents.grades import Grade, count_grades, filter_trajectories
from swaplib.agents.logged_build import build_logged
from swaplib.agents.task_sources import find_tasks_again
from swaplib.agents.tasks import TaskSet
from swaplib.data import dataset, tool_split
from swaplib.data.audit import check_leaks
from swaplib.data.traffic_rows import is_traffic
from swaplib.files import hash_file, hash_text
from swaplib.metrics import canonical_json
from swaplib.rows import SPLITS
from swaplib.runs import lock_run, new_folder, open_run
from swaplib.settings import ROOT, Settings, show_path
from swaplib.tracing.outbox import check_tracing
from swaplib.training.chats import Chat


def build_captured(settings: Settings, source: str = "sample", fold: int = 0) -> Build:
    """Make, audit and write the rows and chats of the last capture.

    The same capture gives the same bytes.

    Args:
        settings: Its home holds the capture and 01's dataset.
        source: What 01's dataset was made from: raw rows, or a log (logged_build.py); not used for
            a capture of your own tasks.
        fold: Which fifth of the tools, or of your own requests, is held out, 0 to 4; 08 evaluates
            the agent on these.

    Raises:
        FileNotFoundError, ValueError: There is no capture or no dataset, they are not of this
            source, or a leak was found. Nothing was written then.
    """
    check_tracing(settings)
    if is_traffic(log := ROOT / Path(source).expanduser()):
        return build_logged(settings, log)
    capture = read_capture(settings)
    allow_unwalled = capture.facts["options"]["allow_unwalled"]
    known = capture.facts["tasks"]
    tasks = find_tasks_again(settings, source, fold, known, allow_unwalled)
    made_from = {
        "capture": capture.folder.name,
        "fold": fold,
        "trajectories_sha256": hash_file(capture.folder / "trajectories.jsonl"),
    }
    if "own" in known:
        made_from["own"] = known["own"]
    else:
        made_from["dataset_manifest_sha256"] = hash_file(settings.dataset / "manifest.json")
    key = hash_text(canonical_json(made_from))[:12]
    with lock_run(settings, key, new_folder(settings, "build", key)) as folder:
        return _build_and_write(settings, folder, tasks, capture, made_from)


def _build_and_write(
    settings: Settings, folder: Path, tasks: TaskSet, capture: Capture, made_from: dict[str, Any]
) -> Build:
    """Filter and build as two spans of one trace, in the session of the capture.

    The manifest is written last.
    """
    session = capture.folder.name
    with open_run(settings, folder, "build", made_from, ["build"], session) as run:
        golds = {task.id: task.gold for task in tasks.tasks}
        grades = filter_trajectories(capture.trajectories, golds)
        counts = count_grades(grades)
        run.trace.add_span("filter", "filter", {"input": made_from["capture"], "output": counts})
        splits, chats, facts = _make_splits(tasks, grades)
        called = [
            example.called
            for by_split in splits.values()
            for examples in by_split.values()
            for example in examples
        ]
        made = dataset.collect(splits, tool_split.name_groups(called))
        shared = check_leaks(made.rows, tasks.may_share_tools)
        if "own" in made_from:
            facts["tools_in_several_splits"] = shared
        facts |= {"answerability": dataset.count_answers(made.facts)}
        hashes = write_files(folder_of(settings), dataset.format_files(made), chats, grades)
        run.trace.add_span("build", "build", {"input": counts["kept"], "output": facts})
        output = {**counts, **facts, "folder": show_path(folder_of(settings))}
        run.trace.finish(output, {"kept_share": counts["kept_share"]})
        manifest = {
            "made_from": made_from,
            "filter": counts,
            **facts,
            "sha256": hashes,
            "run": {"session_id": session},
        }
        run.record("build.json", manifest, folder_of(settings) / "manifest.json")
    return Build(made.rows, tuple(chats), tuple(grades), manifest)


def _make_splits(
    tasks: TaskSet, grades: Sequence[Grade]
) -> tuple[tool_split.Splits, list[Chat], dict[str, Any]]:
    """Source rows by track and split, the chats, and their counts; in the order of the tasks."""
    kept = {grade.trajectory.id: grade for grade in grades if grade.is_kept}
    done = [(task, kept[task.id]) for task in tasks.tasks if task.id in kept]
    chats = [make_chat(task, grade, tasks.split_of[task.id]) for task, grade in done]
    splits, left_out = make_source_rows(tasks, done)
    n_chats = Counter(chat.split for chat in chats)
    facts: dict[str, Any] = {
        "rows": {
            track: {split: len(of_split) for split, of_split in by.items()}
            for track, by in splits.items()
        },
        "chats": {split: n_chats[split] for split in SPLITS if n_chats[split]},
        "tools": {
            split: len({n for by in splits.values() for e in by[split] for n in e.called})
            for split in SPLITS
        },
    }
    if "own" in tasks.facts:  # each of xLAM's tasks is a row of a track
        names = ("split_rule", "units", "largest_unit")
        facts |= {"rows_left_out": dict(left_out)} | {name: tasks.facts[name] for name in names}
    return splits, chats, facts
