"""The answers of both models to one request, parsed alike, so that they can be compared.

A call counts in the API's form, in a model's own and in that of the toolcall track; a structured
answer is the whole text as JSON. What is none of these is None.
"""

from swaplib.metrics import JsonDocument, Prediction, ToolCall, Track, parse_output, same_json
from swaplib.models.completions import Completion
from swaplib.models.native import read_call, write_call
from swaplib.routing.validators import Known
from swaplib.rows import Generation
from swaplib.serving.routed import RoutedRequest


def read_known(track: Track, request: RoutedRequest) -> Known:
    """What a request itself says: the tools that may be called or the answer's schema, its words.

    The words are those of the last user message. A request with neither tools nor a schema may hold
    more in it than what is asked, so nothing but form and confidence is checked then.
    """
    asked = request.asked
    texts = [message.content for message in request.body.messages if message.role == "user"]
    words = texts[-1] if texts else None
    if track == "toolcall":
        names = asked.callable_names
        tools = tuple(tool for tool in asked.tools if tool["function"]["name"] in names)
        return Known(track, words, tools) if tools else Known(track)
    if asked.form is None or asked.form.tools or asked.form.schema is None:
        return Known(track)
    return Known(track, words, (), asked.form.schema)


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


def is_same(first: Prediction | None, second: Prediction | None) -> bool:
    """Whether two answers are the same call, or the same JSON, as canonical JSON."""
    match first, second:
        case ToolCall(), ToolCall():
            return first.name == second.name and same_json(first.arguments, second.arguments)
        case JsonDocument(), JsonDocument():
            return same_json(first.value, second.value)
    return False
