"""Trajectories: what an agent did for one request, as one JSON line. It asks no model.

A line, for example (one line in the file):

    {"id": "98", "outcome": "answered",
     "task": "What is the area of a triangle with base 9.3 and height 6.7?",
     "tools": ["triangle_area"],
     "steps": [{"thought": "I call the tool.",
                "code": "print(triangle_area(base=9.3, height=6.7))",
                "observation": "31.155", "error": null,
                "calls": [{"name": "triangle_area", "arguments": {"base": 9.3, "height": 6.7}}],
                "is_final": false}, …],
     "final_answer": 31.155, "usage": {…}, "model": {…}, "timing": {…}, "error": null,
     "exchange": null}
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from swaplib.files import parse_appended
from swaplib.masking import mask_secrets

Outcome = Literal["answered", "step_limit", "error", "exchange"]


@dataclass(frozen=True, slots=True)
class Step:
    """One turn of an agent.

    `thought` is the text before the code, or the whole output where no code was found (`code` is
    None then). `observation` is what the code printed; `error` says why the step failed. `calls`
    are the tool calls made, in order, each `{"name", "arguments"}` with the arguments as given.
    `is_final` marks the step that gave the answer.
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

    `outcome`:

    - `answered`: it gave a final answer.
    - `step_limit`: it gave none within its steps, or failed too often in a row.
    - `error`: a call got no answer from the model. This is our fault; the task is asked again.
    - `exchange`: one call of your own client, recorded by recorder.py, is in `exchange`.

    `usage` holds `calls`, `prompt_tokens` and `completion_tokens`; `model` is the client's
    identity; `timing` is `started` (UTC) and `latency_ms`. `verdict` is what your own check said of
    the outcome: True, or why not. A line has it only where a check was asked.
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
    verdict: bool | str | None = None

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The tool calls of the steps that did not fail, in order."""
        return list_calls(self.steps)

    def to_json(self, secrets: Sequence[str] = ()) -> str:
        """The line of the file, without the newline; secrets, and what looks like one, are masked.

        An agent's steps are masked already when they are made, so that what was sent is written.
        """
        flat = asdict(self)
        if self.verdict is None:
            del flat["verdict"]
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


def list_calls(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """The tool calls of the steps that did not fail, in order."""
    return [call for step in steps if step.error is None for call in step.calls]


def read_trajectories(path: Path) -> dict[str, Trajectory]:
    """Read a file of trajectories: the last line of each id. Empty when there is no file.

    A line that a kill cut off counts as never written: its request is asked again.

    Raises:
        ValueError: A line parses but is no trajectory; file:line is named.
    """
    lines = parse_appended(path, Trajectory.from_json, "a trajectory")
    return {trajectory.id: trajectory for trajectory in lines}


def count_outcomes(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """`complete`, `outcomes`, `steps`, `failed_steps` and `usage` of some trajectories."""
    outcomes = Counter(trajectory.outcome for trajectory in trajectories)
    usage = Counter[str]()
    for trajectory in trajectories:
        usage.update(trajectory.usage)
    steps = [step for trajectory in trajectories for step in trajectory.steps]
    return {
        "complete": outcomes["error"] == 0,
        "outcomes": dict(outcomes),
        "steps": len(steps),
        "failed_steps": sum(step.error is not None for step in steps),
        "usage": dict(usage),
    }
