"""The answers of both models to one request, parsed alike, so that they can be compared.

A call counts in the API's form, in a model's own and in that of the toolcall track; a structured
answer is the whole text as JSON. What is none of these is None.
"""

from collections.abc import Iterator
from typing import Any

from swaplib.metrics import Prediction, Track, parse_output
from swaplib.models.completions import Completion
from swaplib.models.native import read_call, write_call
from swaplib.routing.validators import Known
from swaplib.rows import Generation
from swaplib.serving.routed import RoutedRequest


def read_known(track: Track, request: RoutedRequest) -> Known:
    """What a request itself says: its tools or the schema of its answer, and its words.

    The words are those of the user and of tools' results; where there are none, no value is named.
    Tools count also where none may be called (`tool_choice: none`): then the model is asked in
    words, and the validators know the tools all the same. With neither tools nor a schema, nothing
    but form and confidence can be checked.
    """
    said = [m.content for m in request.body.messages if m.role in ("user", "tool") and m.content]
    words = "\n\n".join(said)
    form = request.asked.form
    if track == "structured" and form is not None and form.schema is not None:
        return Known(track, words, (), form.schema)
    tools = tuple(_list_offered(request))
    return Known(track, words, tools) if tools else Known(track)


def _list_offered(request: RoutedRequest) -> Iterator[dict[str, Any]]:
    """The offered tools; of those that may be called, where some may."""
    names = request.asked.callable_names
    for tool in request.body.tools or ():
        if not names or tool.function.name in names:
            yield {"type": "function", "function": tool.function.model_dump(exclude_none=True)}


def is_native(request: RoutedRequest) -> bool:
    """Whether a request asks by tools that may be called, or by a format; not in words alone."""
    return bool(request.asked.callable_names) or request.asked.form is not None


def read_slm(track: Track, request: RoutedRequest, generation: Generation) -> Prediction | None:
    """What the SLM said, parsed."""
    if track == "toolcall":
        call = request.asked.find_call(generation)
        return call or parse_output(track, generation.output)
    return parse_output(track, generation.output)


def read_hosted(track: Track, completion: Completion) -> Prediction | None:
    """What the hosted LLM said, parsed; several calls are no answer of the toolcall track."""
    if track == "toolcall":
        text = "".join(write_call(*call) for call in completion.calls) or completion.text
        return parse_output(track, text) or read_call(text)
    return None if completion.calls else parse_output(track, completion.text)
