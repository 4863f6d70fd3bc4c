"""Trajectories: what an agent did for one request, as one JSON line, and whether it did it right. It asks no model.

A line, for example (one line in the file):

    {"id": "98", "outcome": "answered", "task": "What is the area of a triangle with base 9.3 and height 6.7?",
     "tools": ["triangle_area"],
     "steps": [{"thought": "I call the tool.", "code": "print(triangle_area(base=9.3, height=6.7))", "observation": "31.155",
                "error": null, "calls": [{"name": "triangle_area", "arguments": {"base": 9.3, "height": 6.7}}],
                "is_final": false}, …],
     "final_answer": 31.155, "usage": {…}, "model": {…}, "timing": {…}, "error": null, "exchange": null}
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from swaplib.agents.sandbox.code_rules import find_private
from swaplib.files import parse_appended
from swaplib.masking import mask_secrets
from swaplib.metrics import canonical_json, same_json
from swaplib.models.templates import CONTROL_TOKENS

Outcome = Literal["answered", "step_limit", "error", "exchange"]


@dataclass(frozen=True, slots=True)
class Step:
    """One turn of an agent.

    `thought` is the text before the code, or the whole output where no code was found (`code` is None then).
    `observation` is what the code printed; `error` says why the step failed. `calls` are the tool calls made, in order,
    each `{"name", "arguments"}` with the arguments as they were given. `is_final` marks the step that gave the answer.
    """

    thought: str
    code: str | None
    observation: str
    error: str | None
    calls: tuple[dict[str, Any], ...] = ()
    is_final: bool = False


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What an agent did for one request.

    `outcome`: `answered` (it gave a final answer), `step_limit` (it did not within its steps, or failed too often
    in a row), `error` (the model gave no answer to a call: ours, asked
    again on resume), or `exchange` (one call of somebody's own client, recorded by the shim; the whole of it is in
    `exchange`). `usage` holds `calls`, `prompt_tokens` and `completion_tokens`; `model` is the client's identity; `timing`
    is `started` (UTC) and `latency_ms`.
    """

    id: str
    outcome: Outcome
    task: str
    tools: tuple[str, ...]
    steps: tuple[Step, ...]
    final_answer: Any
    usage: dict[str, int]
    model: dict[str, Any]
    timing: dict[str, Any]
    error: str | None = None
    exchange: dict[str, Any] | None = None

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The tool calls of the steps that did not fail, in order."""
        return [call for step in self.steps if step.error is None for call in step.calls]

    def to_json(self, secrets: Sequence[str] = ()) -> str:
        """The line as it stands in the file, without the newline; secrets and what looks like one become `***`.

        An agent's own are masked already when they enter a step, so that what was sent is what is written.
        """
        flat = asdict(self)
        flat["steps"] = [
            {name: mask_secrets(value, secrets) for name, value in step.items()}
            for step in flat["steps"]
        ]
        masked = {
            name: value if name == "steps" else mask_secrets(value, secrets)
            for name, value in flat.items()
        }
        return json.dumps(masked)

    @classmethod
    def from_json(cls, text: str) -> "Trajectory":
        """Parse a line; raises ValueError, KeyError or TypeError when it is not one."""
        flat = json.loads(text)
        steps = tuple(Step(**{**step, "calls": tuple(step["calls"])}) for step in flat.pop("steps"))
        return cls(**{**flat, "tools": tuple(flat["tools"])}, steps=steps)


def read_trajectories(path: Path) -> dict[str, Trajectory]:
    """Read a file of trajectories: the last line of each id. Empty when there is no file.

    A line that a kill left torn counts as never written: its request is asked again.

    Raises:
        ValueError: A line parses but is no trajectory; file:line is named.
    """
    return {found.id: found for found in parse_appended(path, Trajectory.from_json, "a trajectory")}


@dataclass(frozen=True, slots=True)
class Gold:
    """What is right for a request: the calls in the order asked, and their results as computed."""

    calls: tuple[dict[str, Any], ...]
    results: tuple[Any, ...]

    @property
    def answer(self) -> Any:
        """The right final answer: the one result, or the list of results."""
        return self.results[0] if len(self.results) == 1 else list(self.results)


@dataclass(frozen=True, slots=True)
class Grade:
    """Whether a trajectory is kept; `reason` says why not. `is_recovered` marks one with failed steps."""

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
    if reason := _compare_calls(trajectory.calls, gold.calls):
        return reason
    if not same_json(trajectory.final_answer, gold.answer):
        return "another final answer than the computed one"
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


def _failed_last(trajectory: Trajectory) -> bool:
    return bool(trajectory.steps) and trajectory.steps[-1].error is not None


def _compare_calls(made: Sequence[dict[str, Any]], asked: Sequence[dict[str, Any]]) -> str | None:
    """How the calls made differ from those asked, or None when they are the same, in the same order."""
    if not made:
        return "no call made"
    if [canonical_json(call) for call in made] == [canonical_json(call) for call in asked]:
        return None
    if Counter(map(canonical_json, made)) == Counter(map(canonical_json, asked)):
        return "the calls asked for, in another order"
    if Counter(call["name"] for call in made) != Counter(call["name"] for call in asked):
        return "other tools called, or another number of times"
    return "other arguments"


def filter_trajectories(
    trajectories: Iterable[Trajectory], golds: Mapping[str, Gold]
) -> list[Grade]:
    """Judge every trajectory; none is lost: the dropped ones carry their reason."""
    return [grade(trajectory, golds.get(trajectory.id)) for trajectory in trajectories]


def count_grades(grades: Sequence[Grade]) -> dict[str, Any]:
    """Counts and shares: `captured`, `kept`, `kept_share`, `recovered` (among the kept), and `dropped` by reason."""
    kept = [grade for grade in grades if grade.is_kept]
    dropped = Counter(grade.reason for grade in grades if not grade.is_kept)
    return {
        "captured": len(grades),
        "kept": len(kept),
        "kept_share": round(len(kept) / len(grades), 4) if grades else 0.0,
        "recovered": sum(grade.is_recovered for grade in kept),
        "dropped": dict(dropped.most_common()),
    }
