"""One exchange of your own client as a trajectory, whatever shape its server gives to answers."""

import json
from typing import Any

from swaplib.agents.trajectory import Step, Trajectory
from swaplib.data.stream_chunks import as_dict, as_list, read_function


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
    calls = tuple(read_function(function) for function in called if function)
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
