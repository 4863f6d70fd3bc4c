"""One exchange of somebody's own client as a trajectory, whatever shape its server gives to answers. It asks nothing."""

import contextlib
import json
from typing import Any

from swaplib.agents.trajectory import Step, Trajectory
from swaplib.data.stream_chunks import as_dict, as_list


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
