"""Tables, sentences and the figure of 06 and 07. It computes nothing: every number comes from a capture or a build."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from swaplib.agents.agent_prompt import format_observation, format_turn
from swaplib.agents.sandbox.session import describe_walls
from swaplib.agents.tasks import TaskSet
from swaplib.agents.trajectory import Grade, Trajectory
from swaplib.report.tables import show_records, show_texts

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas.io.formats.style import Styler


def describe_tasks(found: TaskSet) -> str:
    """How many raw rows are tasks, and how many tools these call."""
    tools = {name for task in found.tasks for name in task.example.called}
    return f"{len(found.tasks)} of {found.facts['source_rows']} rows are tasks; they call {len(tools)} tools."


def show_capture(facts: dict[str, Any]) -> "Styler":
    """What a capture came to: tasks, outcomes, steps, tokens; and how long the prompts of first turns are."""
    outcomes = "; ".join(
        f"{n} {outcome.replace('_', ' ')}" for outcome, n in facts["outcomes"].items()
    )
    record = {"model": facts["identity"]["model"], "tasks": facts["n_tasks"], "outcomes": outcomes}
    record |= {"steps": facts["steps"], "failed_steps": facts["failed_steps"], **facts["usage"]}
    if lengths := facts.get("first_prompt_tokens"):  # captures of old do not say
        record["tokens of a first prompt"] = (
            f"{lengths['median']}, at most {lengths['max']} ({lengths['tokenizer']})"
        )
    if contained := facts.get("contained"):
        record["the code was contained by"] = describe_walls(contained)
    return show_records([record])


def show_trajectories(trajectories: Sequence[Trajectory], n: int = 4) -> "Styler":
    """Trajectories for a person to read, those without an answer first, then those with failed steps."""

    def order(trajectory: Trajectory) -> tuple[bool, bool]:
        return trajectory.outcome == "answered", not any(step.error for step in trajectory.steps)

    shown = sorted(trajectories, key=order)[:n]
    records = [
        {"task": t.task, "what it did": _format_steps(t), "answer": _format_answer(t)}
        for t in shown
    ]
    return show_texts(records, f"{len(shown)} of {len(trajectories)} trajectories")


def _format_steps(trajectory: Trajectory) -> str:
    turns = [
        (format_turn(step), "" if step.is_final else format_observation(step))
        for step in trajectory.steps
    ]
    return "\n\n".join(part for turn in turns for part in turn if part)


def _format_answer(trajectory: Trajectory) -> str:
    if trajectory.outcome == "answered":
        return repr(trajectory.final_answer)
    return f"({trajectory.outcome.replace('_', ' ')}{f': {trajectory.error}' if trajectory.error else ''})"


def describe_filter(counts: dict[str, Any]) -> str:
    """The filter's outcome as one sentence."""
    if not counts["kept"]:
        return f"Nothing was kept: none of {counts['captured']} trajectories is right, so there is nothing to train on."
    share = f"{counts['kept']} of {counts['captured']} trajectories are right ({counts['kept_share']:.0%})"
    return f"{share}; {counts['recovered']} of them after a failed step."


def show_filter(counts: dict[str, Any]) -> "Styler":
    """Kept trajectories, and the dropped ones by reason, with shares of all."""
    n = {
        "kept": counts["kept"] - counts["recovered"],
        "kept, after a failed step": counts["recovered"],
    }
    n |= {f"dropped: {reason}": number for reason, number in counts["dropped"].items()}
    return show_records(
        [
            {"grade": name, "trajectories": k, "share": f"{k / counts['captured']:.2f}"}
            for name, k in n.items()
        ]
    )


def show_grades(grades: Sequence[Grade], n: int = 4) -> "Styler":
    """Trajectories with their grades for a person to read: dropped ones first, then those that recovered."""
    shown = sorted(grades, key=lambda v: (v.is_kept, not v.is_recovered))[:n]
    records = [
        {"grade": grade.reason or ("kept, after a failed step" if grade.is_recovered else "kept")}
        | {"task": grade.trajectory.task, "what it did": _format_steps(grade.trajectory)}
        | {"answer": _format_answer(grade.trajectory)}
        for grade in shown
    ]
    return show_texts(records, f"{len(shown)} of {len(grades)} trajectories")


def show_build(manifest: dict[str, Any]) -> "Styler":
    """Rows of each track and step-wise texts, by split, and the tools they call."""
    records = [{"made": f"{track} rows", **n} for track, n in manifest["rows"].items()]
    records.append(
        {
            "made": "step-wise texts",
            **{split: manifest["chats"].get(split, 0) for split in manifest["tools"]},
        }
    )
    return show_records([*records, {"made": "tools called", **manifest["tools"]}])


def show_chat(chats: Sequence[dict[str, Any]]) -> "Styler":
    """The longest chat, message by message, and which messages may carry loss; an empty table when there is none."""
    chat = max(
        chats, key=lambda chat: len(chat["messages"]), default={"messages": [], "is_trained": []}
    )
    pairs = zip(chat["messages"], chat["is_trained"], strict=True)
    records = [
        {
            "role": message["role"],
            "trained": "yes" if is_trained else "no",
            "text": message["content"],
        }
        for message, is_trained in pairs
    ]
    return show_texts(records or [{"role": "(nothing was kept)"}])


def plot_filter(counts: dict[str, Any]) -> "Figure":
    """Kept and dropped trajectories as bars."""
    import matplotlib.pyplot as plt

    bars = {"kept": counts["kept"], **counts["dropped"]}
    figure, axes = plt.subplots(figsize=(7.5, 0.6 + 0.45 * len(bars)), layout="constrained")
    colours = ["#009E73"] + ["#E69F00"] * len(counts["dropped"])
    drawn = axes.barh(range(len(bars)), list(bars.values()), color=colours, edgecolor="white")
    axes.bar_label(drawn, padding=3)
    axes.set_yticks(range(len(bars)), list(bars))
    axes.invert_yaxis()
    axes.set_xlabel("trajectories")
    axes.set_title(f"{counts['captured']} trajectories", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    plt.close(figure)
    return figure
