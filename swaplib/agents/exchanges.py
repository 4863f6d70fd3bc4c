"""One exchange of somebody's own client as a trajectory, whatever shape its server gives to answers. It asks nothing.

A stream's chunks are joined to the answer that they are the pieces of: texts are joined, lists of numbered parts by their
number, and what cannot be joined stands side by side. Nothing that was sent is left out.
"""

import contextlib
import json
from collections.abc import Sequence
from typing import Any

from swaplib.agents.trajectory import Step, Trajectory

WHOLE = {
    "role",
    "id",
    "type",
    "index",
    "object",
    "model",
    "created",
    "finish_reason",
}  # never a piece of a longer text


def as_dict(value: Any) -> dict[str, Any]:
    """The value where it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """The value where it is an array; nothing of null, and one item of anything else."""
    return value if isinstance(value, list) else [] if value is None else [value]


def join_chunks(chunks: Sequence[Any]) -> dict[str, Any]:
    """One response out of a stream's chunks.

    Args:
        chunks: The chunks as JSON values: objects with `choices` of `delta`s, as a rule.
    """
    response: dict[str, Any] = {"choices": [], "usage": None}
    for chunk in chunks:
        if not isinstance(chunk, dict):
            response.setdefault("other_chunks", []).append(chunk)
            continue
        response |= {
            name: value for name, value in chunk.items() if name != "choices" and value is not None
        }
        choices = [
            {"index": 0} | choice if isinstance(choice, dict) else choice
            for choice in as_list(chunk.get("choices"))
        ]
        response["choices"] = _join_lists(response["choices"], choices)
    for choice in response["choices"]:
        if isinstance(choice, dict) and "message" not in choice:
            choice["message"] = {"role": "assistant", "content": ""} | as_dict(
                choice.pop("delta", None)
            )
    return response


def _join(old: Any, new: Any) -> Any:
    """Two pieces of one value."""
    if new is None or old is None:
        return old if new is None else new
    if isinstance(old, dict) and isinstance(new, dict):
        joined = {
            name: value if name in WHOLE else _join(old.get(name), value)
            for name, value in new.items()
        }
        return old | {name: value for name, value in joined.items() if value is not None}
    if isinstance(old, str) and isinstance(new, str):
        return old + new
    if isinstance(old, list) and isinstance(new, list):
        return _join_lists(old, new)
    if not old or not new:  # an empty text beside an object
        return old or new
    return [*as_list(old), *as_list(new)]


def _join_lists(old: list[Any], new: list[Any]) -> list[Any]:
    """Parts that bear the same number are one part; others follow each other."""
    joined = list(old)
    for part in new:
        number = as_dict(part).get("index")
        same = (
            i
            for i, known in enumerate(joined)
            if number is not None and as_dict(known).get("index") == number
        )
        if (place := next(same, None)) is None:
            joined.append(part)
        else:
            joined[place] = _join(joined[place], part)
    return joined


def make_trajectory(
    exchange_id: str,
    request: dict[str, Any],
    response: dict[str, Any] | None,
    error: str | None,
    started: str,
) -> Trajectory:
    """An exchange as a trajectory of one step, with the whole of it beside; model and time are left to who knows them.

    Args:
        exchange_id: The line's id.
        request: What was asked, as JSON.
        response: What came, as JSON, a stream joined; None where nothing did.
        error: The kind of error that the call ended in.
        started: When the call began, in UTC.
    """
    users = [
        m.get("content")
        for m in map(as_dict, as_list(request.get("messages")))
        if m.get("role") == "user"
    ]
    task = users[-1] if users and isinstance(users[-1], str) else json.dumps(users[-1:])
    choice = next(map(as_dict, as_list(as_dict(response).get("choices"))), {})
    message, usage = as_dict(choice.get("message")), as_dict(as_dict(response).get("usage"))
    text = _read_text(message.get("content"))
    functions = [
        as_dict(as_dict(call).get("function")) for call in as_list(message.get("tool_calls"))
    ]
    offered = [
        as_dict(as_dict(tool).get("function")).get("name") for tool in as_list(request.get("tools"))
    ]
    counts = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
    calls = tuple(_read_call(function) for function in functions if function)
    return Trajectory(
        id=exchange_id,
        outcome="exchange",
        task=task,
        tools=tuple(name for name in offered if isinstance(name, str)),
        steps=(Step(text, None, "", error, calls, is_final=error is None),),
        final_answer=text,
        usage={"calls": 1}
        | {name: count if type(count) is int else 0 for name, count in counts.items()},
        model={"model": request.get("model")},
        timing={"started": started},
        error=error,
        exchange={"request": request, "response": response},
    )


def _read_text(content: Any) -> str:
    """The text of a message's content: itself, or that of its parts."""
    parts = (
        part if isinstance(part, str) else as_dict(part).get("text") for part in as_list(content)
    )
    return "".join(part for part in parts if isinstance(part, str))


def _read_call(function: dict[str, Any]) -> dict[str, Any]:
    """A call's name and arguments; arguments that are no JSON text stay as they came."""
    arguments = function.get("arguments")
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        arguments = json.loads(arguments)
    return {"name": function.get("name"), "arguments": arguments}
