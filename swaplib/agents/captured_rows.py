"""What a kept trajectory becomes: a row of a track where it fits one, and always a chat.

A row has the calls made in place of a gold's; a trajectory that is none is counted with its reason.
It writes nothing (build.py does).
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from swaplib.agents.grades import Grade
from swaplib.agents.tasks import Task, TaskSet
from swaplib.data import tool_split, xlam
from swaplib.data.answerability import find_origin
from swaplib.metrics import TRACKS, Track
from swaplib.rows import SPLITS
from swaplib.training.chats import Chat


def make_source_rows(
    tasks: TaskSet, done: Sequence[tuple[Task, Grade]]
) -> tuple[tool_split.Splits, Counter[str]]:
    """Source rows by track and split, and how many trajectories are none, by reason."""
    splits: tool_split.Splits = {track: {split: [] for split in SPLITS} for track in TRACKS}
    left_out: Counter[str] = Counter()
    prompts: set[str] = set()
    for task, grade in done:
        example = _make_row(task, grade.trajectory.calls)
        if not isinstance(example, str) and example.row.prompt in prompts:
            example = "same prompt as an earlier row"
        if isinstance(example, str):
            left_out[example] += 1
            continue
        prompts.add(example.row.prompt)
        track: Track = "toolcall" if len(example.calls) == 1 else "structured"
        splits[track][tasks.split_of[task.id]].append(example)
    return splits, left_out


def _make_row(task: Task, calls: Sequence[Mapping[str, Any]]) -> xlam.SourceRow | str:
    """What 01 makes of the task's raw row when its answers are the calls made, or why nothing.

    Of a task of your own the row must be sound (xlam.find_flaw). Where its gold states no calls,
    the request must name every value of them: a row has no observations to learn them from.
    """
    examples, left_out = xlam.make_examples([task.raw | {"answers": json.dumps(calls)}])
    if left_out:
        return next(iter(left_out))
    example = next(example for of_track in examples.values() for example in of_track)
    if task.own and (flaw := xlam.find_flaw(example)):
        return flaw
    origins = (find_origin(value, p or {}, example.query) for p, value in example.values)
    if task.is_free and "neither" in origins:
        return "a call holds a value that the request does not name"
    return example


def make_chat(task: Task, grade: Grade, split: str) -> Chat:
    """The chat of a kept trajectory."""
    steps = grade.trajectory.steps
    messages = task.build_messages(steps)
    carries_loss = iter([step.error is None for step in steps])
    is_trained = (message["role"] == "assistant" and next(carries_loss) for message in messages)
    return Chat(task.id, split, tuple(messages), tuple(is_trained), grade.is_recovered)
