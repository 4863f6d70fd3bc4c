"""Joins the chunks of a stream to one answer, whatever shape a server gives to them.

Texts are joined, lists of numbered parts by their number, and what cannot be joined is put side by
side. Nothing that was sent is left out.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

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


def read_function(function: dict[str, Any]) -> dict[str, Any]:
    """A call's name and arguments; arguments that are no JSON text stay as they came."""
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with suppress(ValueError, RecursionError):
            arguments = json.loads(arguments)
    return {"name": function.get("name"), "arguments": arguments}
