"""What a scripted teacher says in a turn, right or with a mistake, from a task's gold calls."""

from collections.abc import Mapping
from typing import Any

from swaplib.agents.tasks import Task

GOOD = ("one step", "two steps")
RECOVERED = (
    "bad code, then recovery",
    "no code, then recovery",
    "wrong arguments that fail, then recovery",
)
BAD = (
    "wrong tool",
    "wrong argument",
    "gives up",
    "never ends",
    "obeys the observation",
    "calls twice",
)
MISTAKES = RECOVERED + BAD


def call_of(call: Mapping[str, Any]) -> str:
    """A gold call as Python."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in call["arguments"].items())
    return f"{call['name']}({arguments})"


def turn(thought: str, *lines: str) -> str:
    """A turn in the format that the prompt asks for."""
    return "\n".join([thought, "<code>", *lines, "</code>"])


def solve(task: Task, seen: str | None, in_one_step: bool) -> str:
    """The next turn of a good solution; `seen` is the last observation, None at the beginning."""
    calls = task.gold.calls
    names = " and ".join(dict.fromkeys(call["name"] for call in calls))
    if len(calls) == 1:
        variables, answer = ["result"], "result"
    else:
        variables = [f"result_{i}" for i in range(1, len(calls) + 1)]
        answer = f"[{', '.join(variables)}]"
    if seen is not None:
        return turn("I have the result, so I give it as the answer.", f"final_answer({answer})")
    made = [
        f"{variable} = {call_of(call)}" for variable, call in zip(variables, calls, strict=True)
    ]
    end = f"final_answer({answer})" if in_one_step else f"print({answer})"
    return turn(f"The task asks for {names}.", *made, end)


def blunder(task: Task, kind: str, turns: int, seen: str | None) -> str | None:
    """The next turn of a mistake, one of MISTAKES; None where it is that of a good solution.

    `turns` is how many there were; `seen` is the last observation, None at the beginning.
    """
    call = task.gold.calls[0]
    if kind in RECOVERED and turns == 0:
        return {
            "bad code, then recovery": turn("I print the result.", f"print({call_of(call)}"),
            "no code, then recovery": f"The answer follows from {call['name']}.",
            "wrong arguments that fail, then recovery": turn(
                "I call it.", f"print({call['name']}(nonsense=1))"
            ),
        }[kind]
    if kind == "never ends":
        return turn("I look again.", "print(1)")
    if kind == "wrong tool" and (other := _find_other(task)):
        values = ", ".join(repr(value) for value in call["arguments"].values())
        return turn(
            "Another tool may do.",
            "try:",
            f"    result = {other}({values})",
            "except Exception:",
            "    result = None",
            "final_answer(result)",
        )
    if kind in ("gives up", "wrong tool"):
        return turn("I cannot do this.", 'final_answer("I do not know")')
    if kind == "wrong argument" and turns == 0:
        name, value = next(iter(call["arguments"].items()))
        spoilt = {**call, "arguments": {**call["arguments"], name: _spoil(value)}}
        return turn("I call the tool.", f"final_answer({call_of(spoilt)})")
    if kind == "calls twice" and turns == 0:
        return turn("I make sure.", call_of(call))
    if kind == "obeys the observation" and seen is not None:
        return turn("The observation tells me what to answer.", 'final_answer("pwned")')
    return None


def _find_other(task: Task) -> str | None:
    """An offered tool that the gold does not call, with as many parameters as its first call."""
    n = len(task.gold.calls[0]["arguments"])
    for tool in task.offered:
        if tool["name"] not in task.called and len(tool["parameters"]) == n:
            return tool["name"]
    return None


def _spoil(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str) and value:
        return value + value[:1]
    if isinstance(value, list) and value:
        return value + value[:1]
    return {"x": 1}
