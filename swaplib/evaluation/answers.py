"""Finds the answers in an output, whatever is around them: fences, prose, calls in other forms.

The strict metrics read an output as it is (metrics.py). Here the answer is looked for leniently, so
that a model that knows the answer and not the form can be told from one that knows neither:

    output   Sure! ```json {"name": "t3ma", "arguments": {"symbol": "ETH/BTC"}}```
    answer   ToolCall("t3ma", {"symbol": "ETH/BTC"})
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from swaplib.data.facts import list_parts
from swaplib.metrics import (
    JsonDocument,
    Prediction,
    ToolCall,
    Track,
    parse_gold,
    parse_output,
    same_json,
)

# Limits, so that hostile text costs little: characters, and places where a JSON value may begin.
LENGTH, OPENINGS = 100_000, 50
_OPENING, _CLOSING = re.compile(r'<tool_call name="[^"<>]{1,1000}">'), "</tool_call>"


def find_answer(track: Track, output: str) -> Prediction | None:
    """The first answer in an output; None when there is none. Never raises for any text."""
    return next(list_answers(track, output), None)


def list_answers(track: Track, output: str) -> Iterator[Prediction]:
    """The answers in an output, in order.

    For toolcall these are wrappers or, without any, objects that hold a name and arguments, as
    models write calls in other forms; for structured JSON arrays and objects.
    """
    if (answer := parse_output(track, output)) is not None:
        yield answer
    elif track == "toolcall":
        parsed = [parse_output(track, wrapper) for wrapper in find_wrappers(output)]
        yield from [call for call in parsed if call is not None] or _find_calls(output)
    else:
        yield from map(JsonDocument, _find_json(output[:LENGTH]))


def _find_calls(output: str) -> Iterator[ToolCall]:
    """Calls written as `{"name": "X", "arguments": {…}}`, alone or in a list."""
    for value in _find_json(output[:LENGTH]):
        for name, arguments in list_parts(JsonDocument(value)):
            if name is not None:
                yield ToolCall(name, arguments)


def find_wrappers(output: str) -> list[str]:
    """Texts from the last opening before a closing up to that closing.

    It is one pass over the text, however many wrappers are never closed.
    """
    wrappers = []
    for part in output[:LENGTH].split(_CLOSING)[:-1]:
        start = part.rfind("<tool_call ")
        if start >= 0 and _OPENING.match(part, start):
            wrappers.append(part[start:] + _CLOSING)
    return wrappers


def _find_json(text: str) -> Iterator[Any]:
    """JSON arrays and objects in a text; one inside of another is not listed by itself."""
    decoder, end = json.JSONDecoder(), 0
    for match, _ in zip(re.finditer(r"[\[{]", text), range(OPENINGS), strict=False):
        if match.start() < end:
            continue
        try:
            value, end = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        yield value


def has_right_answer(track: Track, completion: str, output: str) -> bool:
    """Whether the right answer is anywhere in an output."""
    gold = parse_gold(track, completion)
    return any(is_right(gold, answer) for answer in list_answers(track, output))


def is_same(first: Prediction | None, second: Prediction | None) -> bool:
    """Whether two models gave the same answer; what has not the form of one is none."""
    return first is not None and second is not None and is_right(first, second)


def is_right(gold: Prediction, answer: Prediction) -> bool:
    """Whether an answer equals the gold as canonical JSON."""
    if isinstance(gold, ToolCall):
        return (
            isinstance(answer, ToolCall)
            and gold.name == answer.name
            and same_json(gold.arguments, answer.arguments)
        )
    return isinstance(answer, JsonDocument) and same_json(gold.value, answer.value)
