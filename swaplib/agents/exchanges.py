"""One exchange of your own client as a trajectory, whatever shape its server gives to answers.

A stream's chunks are joined to the answer that they are the pieces of: texts are joined, lists of
numbered parts by their number, and what cannot be joined is put side by side. Nothing that was sent
is left out. It asks nothing.
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
    """An exchange as a trajectory of one step, which also holds the whole exchange.

    The caller completes `model` and `timing`.

    Args:
        exchange_id: The line's id.
        request: What was asked, as JSON.
        response: What came, as JSON, a stream joined; None where nothing did.
        error: The kind of error that the call ended in.
        started: When the call began, in UTC.
    """
    choice = next(map(as_dict, as_list(as_dict(response).get("choices"))), {})
    message = as_dict(choice.get("message"))
    text = _read_text(message.get("content"))
    called = _list_functions(message.get("tool_calls"))
    offered = [function.get("name") for function in _list_functions(request.get("tools"))]
    calls = tuple(_read_call(function) for function in called if function)
    return Trajectory(
        id=exchange_id,
        outcome="exchange",
        task=_read_task(request),
        tools=tuple(name for name in offered if isinstance(name, str)),
        steps=(Step(text, None, "", error, calls, is_final=error is None),),
        final_answer=text,
        usage=_read_usage(as_dict(as_dict(response).get("usage"))),
        model={"model": request.get("model")},
        timing={"started": started},
        error=error,
        exchange={"request": request, "response": response},
    )


def _read_task(request: dict[str, Any]) -> str:
    """The last user message; where that is no text, its content as JSON."""
    contents = [
        message.get("content")
        for message in map(as_dict, as_list(request.get("messages")))
        if message.get("role") == "user"
    ]
    if contents and isinstance(contents[-1], str):
        return contents[-1]
    return json.dumps(contents[-1:])


def _list_functions(items: Any) -> list[dict[str, Any]]:
    """The `function` of each offered tool or of each call; empty where an item has none."""
    return [as_dict(as_dict(item).get("function")) for item in as_list(items)]


def _read_usage(usage: dict[str, Any]) -> dict[str, int]:
    counts = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
    return {
        "calls": 1,
        **{name: count if type(count) is int else 0 for name, count in counts.items()},
    }


def _read_text(content: Any) -> str:
    """The text of a message's content: itself, or that of its parts."""
    parts = (
        part if isinstance(part, str) else as_dict(part).get("text") for part in as_list(content)
    )
    return "".join(part for part in parts if isinstance(part, str))


def _read_call(function: dict[str, Any]) -> dict[str, Any]:
    """A call's name and arguments; arguments that are no JSON text stay as they came."""
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError, RecursionError):
            arguments = json.loads(arguments)
    return {"name": function.get("name"), "arguments": arguments}
