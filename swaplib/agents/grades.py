"""Grades trajectories against their golds: which are kept, and why others are dropped.

A trajectory is kept when it makes the gold's calls, in the order asked, and gives the computed
answer. A task of your own may instead have an answer alone, or a check of your own, as its gold. It
asks no model.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from swaplib.agents.sandbox.code_rules import find_private
from swaplib.agents.trajectory import Trajectory
from swaplib.metrics import canonical_json, same_json
from swaplib.models.templates import CONTROL_TOKENS


@dataclass(frozen=True, slots=True)
class Gold:
    """What is right for a request.

    `kind` says what counts: the `calls` in the order asked with their `results` as computed, the
    `expected` answer whatever was called, or what the function named `check` says.
    """

    calls: tuple[dict[str, Any], ...]
    results: tuple[Any, ...]
    kind: Literal["calls", "answer", "check"] = "calls"
    expected: Any = None
    check: str | None = None

    @property
    def answer(self) -> Any:
        """The right final answer: the one result, or the list of results; or the expected one."""
        if self.kind != "calls":
            return self.expected
        return self.results[0] if len(self.results) == 1 else list(self.results)


@dataclass(frozen=True, slots=True)
class Grade:
    """Whether a trajectory is kept, and why not. `is_recovered` marks one with failed steps."""

    trajectory: Trajectory
    is_kept: bool
    reason: str | None
    is_recovered: bool


def grade(trajectory: Trajectory, gold: Gold | None) -> Grade:
    """Check a trajectory against its request's gold; without one it cannot be kept."""
    reason = _find_reason(trajectory, gold)
    return Grade(trajectory, reason is None, reason, any(step.error for step in trajectory.steps))


def _find_reason(trajectory: Trajectory, gold: Gold | None) -> str | None:
    """The first reason to drop a trajectory, or None."""
    if trajectory.outcome == "error":
        return "the model gave no answer"
    if trajectory.outcome == "step_limit":
        return "the last step failed" if _failed_last(trajectory) else "step limit reached"
    if gold is None:
        return "no gold to check it against"
    if reason := _find_fault(trajectory, gold):
        return reason
    if any(step.code and find_private(step.code) for step in trajectory.steps):
        return "code reaches for what is not public"
    texts = [
        text
        for step in trajectory.steps
        for text in (step.thought, step.code, step.observation, step.error)
    ]
    if any(CONTROL_TOKENS.search(text) for text in texts if text):
        return "a text holds a chat template's control token"
    return None


def _find_fault(trajectory: Trajectory, gold: Gold) -> str | None:
    """Why calls and answer are not right by the gold; None where they are."""
    if gold.kind == "check":
        if trajectory.verdict is None:
            return f"{gold.check} was not asked"
        return None if trajectory.verdict is True else str(trajectory.verdict)
    if gold.kind == "calls" and (reason := _compare_calls(trajectory.calls, gold.calls)):
        return reason
    if not same_json(trajectory.final_answer, gold.answer):
        known = "computed" if gold.kind == "calls" else "expected"
        return f"another final answer than the {known} one"
    return None


def _failed_last(trajectory: Trajectory) -> bool:
    return bool(trajectory.steps) and trajectory.steps[-1].error is not None


def _compare_calls(
    actual: Sequence[dict[str, Any]], expected: Sequence[dict[str, Any]]
) -> str | None:
    """How the calls differ from those expected; None when they are the same, in the same order."""
    if not actual:
        return "no call made"
    if [canonical_json(call) for call in actual] == [canonical_json(call) for call in expected]:
        return None
    if Counter(map(canonical_json, actual)) == Counter(map(canonical_json, expected)):
        return "the calls asked for, in another order"
    if Counter(call["name"] for call in actual) != Counter(call["name"] for call in expected):
        return "other tools called, or another number of times"
    return "other arguments"


def filter_trajectories(
    trajectories: Iterable[Trajectory], golds: Mapping[str, Gold]
) -> list[Grade]:
    """Grade every trajectory; the dropped ones stay in the list, with their reason."""
    return [grade(trajectory, golds.get(trajectory.id)) for trajectory in trajectories]


def _name_reason(reason: str) -> str:
    """A reason to count by: without what your own check says of one outcome, which it may quote."""
    return reason.partition(":")[0] if reason.startswith("check_") else reason


def count_grades(grades: Sequence[Grade]) -> dict[str, Any]:
    """Counts: `captured`, `kept`, its share, `recovered` (of the kept), `dropped` by reason."""
    kept = [grade for grade in grades if grade.is_kept]
    dropped = Counter(_name_reason(grade.reason) for grade in grades if grade.reason)
    return {
        "captured": len(grades),
        "kept": len(kept),
        "kept_share": round(len(kept) / len(grades), 4) if grades else 0.0,
        "recovered": sum(grade.is_recovered for grade in kept),
        "dropped": dict(dropped.most_common()),
    }
