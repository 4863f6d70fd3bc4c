"""Captured trajectories -> rows of both tracks and step-wise training texts, through 01's audit and its map of tools.

It judges every trajectory first; those kept become what 01 makes of a raw row, with the calls made in place of the gold's.
Below `02_dataset/captured/` lie the rows as `<track>/<split>.jsonl` (no file where there are none), `grades.jsonl`, and
`chats.jsonl`, one chat for each kept trajectory:

    {"id": "98", "split": "train", "is_recovered": false,
     "messages": [{"role": "system", "content": "Solve the task …"}, {"role": "user", "content": "Task: …"},
                  {"role": "assistant", "content": "… <code>…</code>"}, {"role": "user", "content": "Observation…"}, …],
     "is_trained": [false, false, true, false, …]}

`messages` are exactly those that the agent was asked with, then its last turn; `is_trained` says of each message whether it
may carry loss: the agent's turns do, but for failed ones; the prompt, the task and observations never do.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from swaplib.agents.agent_prompt import build_agent_messages
from swaplib.agents.capture import Capture, read_capture
from swaplib.agents.tasks import Task, TaskSet, read_tasks
from swaplib.agents.trajectory import Grade, count_grades, filter_trajectories
from swaplib.data import dataset, tool_split, xlam
from swaplib.data.audit import check_leaks
from swaplib.files import hash_file, hash_text, replace_files
from swaplib.metrics import TRACKS, Track, canonical_json
from swaplib.models.local_checkpoint import Checkpoint, measure_chats
from swaplib.rows import SPLITS, Rows
from swaplib.runs import lock_run, new_folder, open_run
from swaplib.settings import Settings, show_path
from swaplib.tracing.outbox import check_tracing

MAX_TOKENS = 2048  # the training length


@dataclass(frozen=True)
class Build:
    """What a build made: rows by track and split, the chats of chats.jsonl, the grades, and the manifest."""

    rows: Rows
    chats: tuple[dict[str, Any], ...]
    grades: tuple[Grade, ...]
    manifest: dict[str, Any]


def folder_of(settings: Settings) -> Path:
    """Where captured rows lie."""
    return settings.dataset / "captured"


def build_captured(settings: Settings, source: str = "sample", fold: int = 0) -> Build:
    """Make, audit and write the rows and step-wise texts of the last capture. The same capture gives the same bytes.

    Args:
        settings: Says where everything lies.
        source: The raw rows that 01's dataset was made from.
        fold: Which fifth of the tools is held out, 0 to 4; 08 evaluates the agent on tasks that call these.

    Raises:
        FileNotFoundError, ValueError: There is no capture or no dataset, they are not of this source, or a leak was found.
            Nothing was written then.
    """
    check_tracing(settings)
    tasks, capture = read_tasks(settings, source, fold), read_capture(settings)
    made_from = {
        "capture": capture.folder.name,
        "fold": fold,
        "trajectories_sha256": hash_file(capture.folder / "trajectories.jsonl"),
        "dataset_manifest_sha256": hash_file(settings.dataset / "manifest.json"),
    }
    key = hash_text(canonical_json(made_from))[:12]
    with lock_run(settings, key, new_folder(settings, "build", key)) as folder:
        return _build_and_write(settings, folder, tasks, capture, made_from)


def _build_and_write(
    settings: Settings, folder: Path, tasks: TaskSet, capture: Capture, made_from: dict[str, Any]
) -> Build:
    """Filter and build as two spans of one trace, in the session of the capture; the manifest is written last."""
    session = capture.folder.name
    with open_run(settings, folder, "build", made_from, ["build"], session) as run:
        grades = filter_trajectories(
            capture.trajectories, {task.id: task.gold for task in tasks.tasks}
        )
        counts = count_grades(grades)
        run.trace.add_span("filter", "filter", {"input": made_from["capture"], "output": counts})
        splits, chats, facts = _make_splits(tasks, grades)
        called = [
            example.called
            for by_split in splits.values()
            for found in by_split.values()
            for example in found
        ]
        made = dataset.collect(splits, tool_split.name_groups(called))
        check_leaks(made.rows)
        facts |= {"answerability": dataset.count_answers(made.facts)}
        hashes = _write_files(folder_of(settings), dataset.format_files(made), chats, grades)
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
) -> tuple[tool_split.Splits, list[dict[str, Any]], dict[str, Any]]:
    """Examples by track and split, the chats, and their counts; in the order of the tasks."""
    splits: tool_split.Splits = {track: {split: [] for split in SPLITS} for track in TRACKS}
    kept = {grade.trajectory.id: grade for grade in grades if grade.is_kept}
    chats = []
    for task in tasks.tasks:
        if grade := kept.get(task.id):
            track, example = _make_example(task, grade)
            splits[track][tasks.split_of[task.id]].append(example)
            chats.append(_make_chat(task, grade, tasks.split_of[task.id]))
    facts = {
        "rows": {
            track: {split: len(of_split) for split, of_split in by.items()}
            for track, by in splits.items()
        },
        "chats": {
            split: n for split in SPLITS if (n := Counter(chat["split"] for chat in chats)[split])
        },
        "tools": {
            split: len({n for by in splits.values() for e in by[split] for n in e.called})
            for split in SPLITS
        },
    }
    return splits, chats, facts


def _make_example(task: Task, grade: Grade) -> tuple[Track, xlam.SourceRow]:
    """What 01 makes of the task's raw row when its answers are the calls made."""
    examples, _ = xlam.make_examples([task.raw | {"answers": json.dumps(grade.trajectory.calls)}])
    return next((track, of_track[0]) for track, of_track in examples.items() if of_track)


def _make_chat(task: Task, grade: Grade, split: str) -> dict[str, Any]:
    """A line of chats.jsonl."""
    steps = grade.trajectory.steps
    messages = build_agent_messages(task.signatures, task.request, steps)
    carries = iter([step.error is None for step in steps])
    is_trained = [message["role"] == "assistant" and next(carries) for message in messages]
    head = {"id": task.id, "split": split, "is_recovered": grade.is_recovered}
    return head | {"messages": messages, "is_trained": is_trained}


def _write_files(
    folder: Path, texts: dict[str, str], chats: list[dict[str, Any]], grades: Sequence[Grade]
) -> dict[str, str]:
    """Write everything but the manifest, which is taken away first: while it is missing, the files are not whole.

    `texts` are the files of rows and facts; one without a line is not written.
    """
    texts = texts | {"chats.jsonl": _format_lines(chats)}
    texts["grades.jsonl"] = _format_lines(
        [
            {
                "id": v.trajectory.id,
                "is_kept": v.is_kept,
                "reason": v.reason,
                "is_recovered": v.is_recovered,
            }
            for v in grades
        ]
    )
    made = {name: text for name, text in texts.items() if text}
    replace_files(folder, made, old=("manifest.json", *texts))
    return {name: hash_text(text) for name, text in made.items()}


def _format_lines(records: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def count_chat_tokens(chats: Sequence[dict[str, Any]], checkpoint: Path) -> list[dict[str, Any]]:
    """Lengths of whole chats in tokens, with a checkpoint's tokenizer and template: one record for each split.

    Returns:
        Records with `split`, `chats`, median and maximum, and `over_2048`: the ids of those that are too long to train on.
        Without a checkpoint, which 08 needs and 07 does not, they say so.
    """
    slm, records = Checkpoint(checkpoint), []
    for split in SPLITS:
        of_split = [chat for chat in chats if chat["split"] == split]
        if not checkpoint.is_dir():
            records.append(
                {
                    "split": split,
                    "chats": len(of_split),
                    "tokens": f"no checkpoint at {show_path(checkpoint)}",
                }
            )
            continue
        lengths = measure_chats(
            slm, [chat["messages"] for chat in of_split], has_generation_prompt=False
        )
        record: dict[str, Any] = {"split": split, "chats": len(of_split)}
        if lengths:
            record |= {"tokens_median": int(median(lengths)), "tokens_max": max(lengths)}
        too_long = [chat["id"] for chat, n in zip(of_split, lengths, strict=True) if n > MAX_TOKENS]
        records.append(record | {f"over_{MAX_TOKENS}": ", ".join(too_long) or "none"})
    return records
