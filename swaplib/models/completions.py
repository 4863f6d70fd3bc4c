"""Reads the body of a chat completion: plain JSON of any shape, and the reader cannot raise.

It makes no call and scores nothing. What an end means is in endpoints.py.

    read_completion({"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}).text
    -> "Hi"
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from swaplib.models.endpoints import ENDS, End, Refusal, make_printable, read_refusal, to_text

MOST_TOKENS = 10**9  # a count beyond it is none


@dataclass(frozen=True)
class Completion:
    """A chat completion: its text, its tool calls, how it ended, and its tokens.

    `calls` are name and arguments as they came. `end` is None where it ended by itself. `failure`
    is an error that came in place of a whole answer, or beside it.
    """

    text: str
    calls: tuple[tuple[str, str], ...] = ()
    finish_reason: str | None = None
    end: End | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    failure: Refusal | None = None


def read_completion(body: Any) -> Completion | Refusal | None:
    """What a body with status 200 says.

    Args:
        body: The body's JSON, of any shape; None where it was none.

    Returns:
        A completion; a refusal where an error is in its place; None for what is neither.
    """
    if not isinstance(body, Mapping):
        return None
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, Mapping):
        is_error = body.get("error") or body.get("object") == "error"
        return read_refusal(200, body) if is_error else None
    failure = next((read_refusal(200, part) for part in (choice, body) if part.get("error")), None)
    return _read_choice(choice, body.get("usage"), failure)


def _read_choice(
    choice: Mapping[str, Any], usage: Any, failure: Refusal | None
) -> Completion | None:
    message, reason = choice.get("message"), choice.get("finish_reason")
    reason = reason if isinstance(reason, str) else None
    end = "error" if failure else ENDS.get((reason or "").lower(), (None, ""))[0]
    text = message.get("content") if isinstance(message, Mapping) else None
    is_whole = isinstance(message, Mapping) and isinstance(text, str | None)
    if not is_whole and end not in ("filtered", "error"):
        return None
    usage = usage if isinstance(usage, Mapping) else {}
    return Completion(
        text=text if isinstance(text, str) else "",
        calls=_list_calls(message) if isinstance(message, Mapping) else (),
        finish_reason=reason,
        end=end,
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        failure=failure,
    )


def _list_calls(message: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Name and arguments of a message's tool calls; some servers send arguments as an object."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return ()
    functions = [call.get("function") for call in calls if isinstance(call, Mapping)]
    return tuple(
        (to_text(function.get("name")), to_text(function.get("arguments")))
        for function in functions
        if isinstance(function, Mapping)
    )


def list_models(body: Any) -> list[str] | None:
    """The names that an answer of `/models` lists, printable; None for what is no such answer."""
    data = body.get("data") if isinstance(body, Mapping) else None
    if not isinstance(data, list):
        return None
    entries = [entry for entry in data if isinstance(entry, Mapping)]
    return [make_printable(to_text(entry.get("id"))) for entry in entries]


def _count(value: Any) -> int | None:
    """A number of tokens, where a value may be one."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS
    return value if is_count else None
