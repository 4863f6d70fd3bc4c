"""What 06 to 08 say of tasks and tools of your own, beside the tables shared with xLAM's."""

import html
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from swaplib.agents.own_tasks import OwnFiles
from swaplib.agents.sandbox.session import describe_walls
from swaplib.agents.tasks import TaskSet

if TYPE_CHECKING:
    from IPython.display import HTML

KINDS = {"calls": "their calls", "answer": "their answer", "check": "a check"}


def show_trust(own: OwnFiles | None) -> "HTML | None":
    """A red line where tools of your own run in this process; nothing else."""
    if own is None or not own.is_trusted:
        return None
    from IPython.display import HTML

    return HTML(
        '<p style="color:#b00020;font-weight:bold">trusted: the functions of '
        f"{html.escape(own.tools)} run in this notebook's own process, with its files, its network "
        "and its keys, called with whatever the model's code passes to them.</p>"
    )


def describe_tasks(found: TaskSet) -> str:
    """How many tasks there are, of what kind, and how many tools they call."""
    tools = {name for task in found.tasks for name in task.called}
    n = len(found.tasks)
    if "own" not in found.facts:
        return f"{n} of {found.facts['source_rows']} rows are tasks; they call {len(tools)} tools."
    kinds = Counter[str](task.gold.kind for task in found.tasks)
    judged = ", ".join(f"{kinds[kind]} by {what}" for kind, what in KINDS.items() if kinds[kind])
    offered = {tool["name"] for task in found.tasks for tool in task.offered}
    splits = Counter(found.split_of.values())
    held_out = f"{splits['test']} are held out for testing and {splits['val']} for validating"
    return (
        f"{n} tasks of your own, judged {judged}; {len(offered)} tools are offered. {held_out}, "
        f"{found.facts['split_rule']}."
    )


def describe_tool_walls(facts: Mapping[str, Any]) -> str | None:
    """What contained your own tools in a capture; None where it had none of these."""
    if "tools_contained" not in facts:
        return None
    contained = facts["tools_contained"]
    return describe_walls(contained) if contained else "nothing: trusted, in the notebook's process"


def describe_split(manifest: Mapping[str, Any]) -> str:
    """By which rule a build's rows were split, and which kept trajectories are no rows."""
    if "own" not in manifest["made_from"]:
        return "Split by tool, by 01's map: a tool that is called stands in one split."
    left_out = "; ".join(f"{n}: {reason}" for reason, n in manifest["rows_left_out"].items())
    return (
        f"Split {manifest['split_rule']}. {manifest['units']} unit(s), the largest of "
        f"{manifest['largest_unit']}; {manifest['tools_in_several_splits']} tool(s) are called in "
        f"several splits. Kept, but no row: {left_out or 'none'}."
    )


def name_held_out(loop: Mapping[str, Any]) -> str:
    """What the agent was evaluated on; tasks that are split by request share their tools."""
    if loop.get("split_rule", "by tool").startswith("by tool"):
        return "tasks with tools that it was not taught to call"
    return "tasks whose requests it was not taught"
