"""Tables, sentences and the figure of 06, 07 and 08: a capture, a build, and what was distilled.

It computes nothing.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from swaplib.agents.agent_prompt import format_observation, format_turn
from swaplib.agents.grades import Grade
from swaplib.agents.sandbox.session import describe_walls
from swaplib.agents.trajectory import Trajectory
from swaplib.formats.evidence import Pair
from swaplib.models.names import ModelName
from swaplib.report import own_agent
from swaplib.report.headlines import show_pairs
from swaplib.report.styles import format_rate, make_box, style
from swaplib.report.tables import show_records, show_texts

if TYPE_CHECKING:
    from IPython.display import HTML
    from matplotlib.figure import Figure
    from pandas.io.formats.style import Styler


def show_capture(facts: Mapping[str, Any]) -> "Styler":
    """A capture's tasks, outcomes, steps and tokens, and how long the first prompts are."""
    outcomes = "; ".join(
        f"{n} {outcome.replace('_', ' ')}" for outcome, n in facts["outcomes"].items()
    )
    record = {
        "model": facts["identity"]["model"],
        "tasks": facts["n_tasks"],
        "outcomes": outcomes,
        "steps": facts["steps"],
        "failed_steps": facts["failed_steps"],
        **facts["usage"],
    }
    if lengths := facts.get("first_prompt_tokens"):  # older captures do not say
        record["tokens of a first prompt"] = (
            f"{lengths['median']}, at most {lengths['max']} ({lengths['tokenizer']})"
        )
    if contained := facts.get("contained"):
        record["the code was contained by"] = describe_walls(contained)
    if tools_contained := own_agent.describe_tool_walls(facts):
        record["your tools were contained by"] = tools_contained
    return show_records([record])


def show_trajectories(trajectories: Sequence[Trajectory], n: int = 4) -> "Styler":
    """Trajectories to read, those without an answer first, then those with failed steps."""

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
    outcome = trajectory.outcome.replace("_", " ")
    return f"({outcome}: {trajectory.error})" if trajectory.error else f"({outcome})"


def describe_filter(counts: Mapping[str, Any]) -> str:
    """The filter's outcome as one sentence."""
    if "conversations" in counts:
        return (
            f"{counts['kept']} of the log's {counts['conversations']} conversations are whole tool "
            "loops, which an agent can learn from."
        )
    if not counts["kept"]:
        return (
            f"Nothing was kept: none of {counts['captured']} trajectories is right, "
            "so there is nothing to train on."
        )
    return (
        f"{counts['kept']} of {counts['captured']} trajectories are right "
        f"({counts['kept_share']:.0%}); {counts['recovered']} of them after a failed step."
    )


def show_filter(counts: Mapping[str, Any]) -> "Styler":
    """Kept trajectories, and the dropped ones by reason, with shares of all."""
    by_grade = {
        "kept": counts["kept"] - counts["recovered"],
        "kept, after a failed step": counts["recovered"],
        **{f"dropped: {reason}": n for reason, n in counts["dropped"].items()},
    }
    captured = counts["captured"] or 1
    records = [
        {"grade": grade, "trajectories": n, "share": f"{n / captured:.2f}"}
        for grade, n in by_grade.items()
    ]
    return show_records(records)


def show_grades(grades: Sequence[Grade], n: int = 4) -> "Styler":
    """Trajectories to read with their grades: dropped ones first, then those that recovered."""
    shown = sorted(grades, key=lambda grade: (grade.is_kept, not grade.is_recovered))[:n]
    records = [
        {
            "grade": grade.reason
            or ("kept, after a failed step" if grade.is_recovered else "kept"),
            "task": grade.trajectory.task,
            "what it did": _format_steps(grade.trajectory),
            "answer": _format_answer(grade.trajectory),
        }
        for grade in shown
    ]
    return show_texts(records, f"{len(shown)} of {len(grades)} trajectories")


def show_build(manifest: Mapping[str, Any]) -> "Styler":
    """Rows of each track and step-wise texts, by split, and the tools they call."""
    chats = {split: manifest["chats"].get(split, 0) for split in manifest["tools"]}
    return show_records(
        [
            *({"made": f"{track} rows", **n} for track, n in manifest["rows"].items()),
            {"made": "step-wise texts", **chats},
            {"made": "tools called", **manifest["tools"]},
        ]
    )


def plot_filter(counts: Mapping[str, Any]) -> "Figure":
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


def describe_loop(loop: Mapping[str, Any]) -> list[str]:
    """What a turn of the loop captured, kept, trained and gained, a sentence each."""
    kept = loop["filter"]
    lines = [
        f"Captured {kept['captured']} trajectories; {kept['kept']} are right and were kept "
        f"({kept['kept_share']:.0%}).",
        _describe_training("the agent's adapter", loop["trained"]["agent"], "chats"),
        _describe_training(
            f"the adapter of captured {loop['track']} rows", loop["trained"]["rows"], "rows"
        ),
    ]
    if agents := loop["agent_eval"]:
        base, distilled = (agents["models"][m] for m in ("slm", "slm_ft"))
        pair = agents["pairs"]["solved_rate"]
        lines.append(
            f"As an agent, on {base['n_tasks']} {own_agent.name_held_out(loop)}: "
            f"solved {format_rate(base['solved_rate'], base['interval'])} to "
            f"{format_rate(distilled['solved_rate'], distilled['interval'])} "
            f"({pair['second_only']} gained, {pair['first_only']} lost, "
            f"McNemar p {pair['p_value']:.3g})."
        )
    if evaluated := loop["track_eval"]:
        pair = evaluated["comparisons"][0]  # of the base SLM and the adapter of captured rows
        slm, captured = (evaluated["rates"][pair[side]] for side in ("first", "second"))
        gains = [f"{name} {slm[name]['rate']:.2f} to {captured[name]['rate']:.2f}" for name in slm]
        lines.append(f"On the {loop['track']} test rows: {', '.join(gains)}.")
    if reason := loop.get("track_not_asked"):
        lines.append(f"The adapter of captured rows was asked no test rows: {reason}.")
    return lines


def _describe_training(adapter: str, card: Mapping[str, Any] | None, unit: str) -> str:
    """What an adapter was trained on, from its entry in the summary of the loop."""
    if card is None:
        return f"Trained: {adapter}, not trained."
    n = sum(of_split["train"] for of_split in card["rows"].values())
    return f"Trained: {adapter}, on {n} {unit}, {card['steps']} steps."


def show_loop(loop: Mapping[str, Any]) -> "HTML":
    """A turn of the loop in a box."""
    head = "No agent was distilled"
    if agents := loop["agent_eval"]:
        base, distilled = (agents["models"][m]["solved_rate"] for m in ("slm", "slm_ft"))
        head = f"Tasks solved: {base:.0%} to {distilled:.0%}"
    return make_box(head, [("", sentence) for sentence in describe_loop(loop)])


def show_agents(loop: Mapping[str, Any]) -> "Styler":
    """The agents side by side: tasks solved and steps."""
    agents = loop["agent_eval"] or {"models": {}}
    return style(
        pd.DataFrame(
            [
                {
                    "agent": ModelName.parse(model).label,
                    "tasks": run["n_tasks"],
                    "solved": run["solved"],
                    "solved rate": format_rate(run["solved_rate"], run["interval"]),
                    "steps a task": f"{run['steps']:.2f}",
                }
                for model, run in agents["models"].items()
            ]
        )
    )


def show_loop_pairs(loop: Mapping[str, Any]) -> "Styler":
    """Paired evidence: the distilled agent, then the adapter of captured rows and every model."""
    pairs: list[Pair] = []
    if agents := loop["agent_eval"]:
        pairs.append({"first": "slm (agent)", "second": "slm_ft (agent)", "pairs": agents["pairs"]})
    if evaluated := loop["track_eval"]:
        pairs += evaluated["comparisons"]
    return show_pairs(pairs, loop["margin"])
