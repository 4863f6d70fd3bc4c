"""The splits of your own tasks: by tool where enough tools are called, else by request. Seeded.

The unit that goes whole to one split is a group of tools that are called together, or a cluster of
requests that are nearly equal. `fold` says which fifth is test; over the folds each task is test
once, but for those of units so large that they stay in train.
"""

import random
from collections.abc import Sequence
from typing import Any

from swaplib.agents.tasks import FOLDS, Task
from swaplib.data.near_duplicates import cluster_prompts
from swaplib.data.tool_split import group_tools

FEWEST_TOOLS = 10
HELD_OUT = (
    "units are shuffled with the seed, a fifth of the tasks is test and the tenth behind it val; a "
    "unit of more than a fifth of all tasks is train"
)
BY_TOOL = f"by tool: tools that one task calls together are a unit, with their tasks; {HELD_OUT}"
BY_REQUEST = (
    "by request, since not every task states its calls, or these call fewer than "
    f"{FEWEST_TOOLS} different tools: nearly equal requests are a unit (Jaccard similarity of "
    f"their words of at least 0.8); {HELD_OUT}"
)


def split_tasks(
    tasks: Sequence[Task], seed: int, fold: int
) -> tuple[dict[str, str], dict[str, Any]]:
    """The split of each task by its id, and `split_rule`, `units` and `largest_unit`.

    Args:
        tasks: All of them.
        seed: Seeds the order of the units.
        fold: Which fifth is test, 0 to 4.

    Raises:
        ValueError: There is no such fold.
    """
    if not 0 <= fold < FOLDS:
        raise ValueError(f"fold={fold}: expected 0 to {FOLDS - 1}")
    by_tool = is_split_by_tool(tasks)
    units = _group_by_tool(tasks) if by_tool else cluster_prompts([t.request for t in tasks])
    largest = max(len(unit) for unit in units)
    facts = {"split_rule": BY_TOOL if by_tool else BY_REQUEST, "units": len(units)}
    splits = _hold_out(units, seed, fold)
    split_of = {tasks[i].id: split for i, split in splits.items()}
    return split_of, facts | {"largest_unit": largest}


def is_split_by_tool(tasks: Sequence[Task]) -> bool:
    """Whether every task states its calls, and these call at least ten different tools."""
    names = {name for task in tasks for name in task.called}
    return all(task.called for task in tasks) and len(names) >= FEWEST_TOOLS


def _group_by_tool(tasks: Sequence[Task]) -> list[list[int]]:
    """The indices of tasks whose tools hang together."""
    called = [task.called for task in tasks]
    groups = [set(group) for group in group_tools(called)]
    return [[i for i, names in enumerate(called) if names[0] in group] for group in groups]


def _hold_out(units: list[list[int]], seed: int, fold: int) -> dict[int, str]:
    """The split of each index: by where its unit begins when all are laid side by side."""
    n = sum(map(len, units))
    small = [unit for unit in units if len(unit) * FOLDS <= max(n, FOLDS)]
    splits = {i: "train" for unit in units for i in unit}
    random.Random(seed).shuffle(small)  # noqa: S311 - a seeded order, no secret
    n, start = sum(map(len, small)), 0
    for unit in small:
        if start * FOLDS // n == fold:
            splits |= dict.fromkeys(unit, "test")
        elif start * 2 * FOLDS // n == (2 * fold + 2) % (2 * FOLDS):
            splits |= dict.fromkeys(unit, "val")
        start += len(unit)
    return splits
