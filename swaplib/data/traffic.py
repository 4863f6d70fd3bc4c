"""Own traffic: what an application asked the hosted LLM becomes rows whose gold is its own answer.

    one tool call                                   a toolcall row
    several tool calls                              a structured row: the array of calls
    JSON where `response_format` asks for it        a structured row, with its schema
    anything else                                   no row; it is counted under its reason

The prompt shows every tool that was offered, and the last request with the conversation before it.
Only complete answers become rows, with arguments that fit the schema which the request sent along.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from swaplib.data.conversation import NoRowError, format_conversation, read_text
from swaplib.data.exchange_files import Exchange, Json
from swaplib.data.private_values import Placeholders
from swaplib.data.stream_chunks import as_dict, as_list, read_function
from swaplib.data.tool_schemas import Tool, format_signature, parse_tool
from swaplib.metrics import Track, canonical_json, format_tool_call, parse_json
from swaplib.prompts import LOGGED_PROMPTS
from swaplib.rows import Row

COMPLETE = (None, "stop", "tool_calls", "function_call", "end_turn", "eos")
REPEATED = "repeats a call that the conversation has answered already"
CUT_OFF = ("length", "max_tokens", "model_length")


@dataclass(frozen=True, slots=True)
class LoggedRow:
    """A row out of a log: what is asked, the tools as they were sent, the schema of its answer."""

    track: Track
    row: Row
    request: str
    tools: list[Json]
    schema: Json | None
    n_private: int = 0


def make_row(exchange: Exchange) -> LoggedRow:
    """The row of an exchange.

    Raises:
        NoRowError: It becomes none; says why.
    """
    check_complete(exchange)
    tools = read_offered(exchange)
    calls = read_calls(exchange, tools)
    if any(_is_answered(call, exchange.messages) for call in calls):
        raise NoRowError(REPEATED)
    schema = None if calls else _read_schema(exchange.response_format)
    answer: Any = calls or _read_document(exchange, schema)
    hidden = Placeholders()
    conversation = hidden.replace(exchange.messages)
    answer = hidden.replace(answer)
    request = format_conversation(conversation)
    track: Track = "toolcall" if len(calls) == 1 else "structured"
    kind = track if calls else "json"
    shown = [format_signature(tool) for tool in tools.values()]
    if kind == "json":
        shown = [json.dumps(schema, ensure_ascii=False)] if schema is not None else []
    prompt = LOGGED_PROMPTS[kind].format(signatures="\n\n".join(shown), request=request)
    completion = (
        format_tool_call(**answer[0])
        if track == "toolcall"
        else json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
    )
    offered = exchange.tools if calls else []
    return LoggedRow(track, Row(prompt, completion), request, offered, schema, hidden.count)


def check_complete(exchange: Exchange) -> None:
    """Raise NoRowError for an exchange without a whole answer, or that cannot be read as text."""
    reason, answer = exchange.finish_reason, exchange.answer
    if exchange.error:
        raise NoRowError("the call failed")
    if exchange.is_filtered or reason == "content_filter":
        raise NoRowError("a content filter has taken the answer or a part of it")
    if answer is None or exchange.n_choices == 0:
        raise NoRowError("no answer")
    if exchange.n_choices > 1:
        raise NoRowError("several answers to one request")
    if reason in CUT_OFF:
        raise NoRowError("cut off at the token limit")
    if reason not in COMPLETE:
        raise NoRowError("ended for a reason that is not known here")
    if answer.get("refusal"):
        raise NoRowError("refused by the model")
    if not any(message.get("role") == "user" for message in exchange.messages):
        raise NoRowError("no message of a user")
    for message in exchange.messages:
        read_text(message)


def read_calls(exchange: Exchange, tools: dict[str, Tool]) -> list[Json]:
    """The calls of an answer as `{"name", "arguments"}`; none where it is a text.

    Args:
        exchange: A complete exchange.
        tools: The offered tools by name.

    Raises:
        NoRowError: A call names no offered tool, or its arguments do not fit.
    """
    calls = []
    for item in as_list(as_dict(exchange.answer).get("tool_calls")):
        function = as_dict(as_dict(item).get("function"))
        name = function.get("name")
        if not isinstance(name, str) or name not in tools:
            raise NoRowError("a tool is called that was not offered")
        if any(character in name for character in '"<>'):
            raise NoRowError("a tool's name does not fit the wrapper")
        arguments = _parse_arguments(function.get("arguments"))
        index = list(tools).index(name)
        if not _fits(
            json.dumps(exchange.tools[index]["function"].get("parameters") or {}), arguments
        ):
            raise NoRowError("arguments do not fit the schema of their tool")
        calls.append({"name": name, "arguments": arguments})
    return calls


def identify_call(call: Json) -> tuple[Any, str]:
    """A call's name and its arguments as canonical JSON: clients write them in their own spaces."""
    made = read_function(as_dict(call.get("function")))
    return made["name"], canonical_json(made["arguments"])


def _is_answered(call: Json, messages: list[Json]) -> bool:
    """Whether the conversation holds the same call already: a loop that does not end repeats it."""
    made = [item for message in messages for item in as_list(message.get("tool_calls"))]
    known = {identify_call(as_dict(item)) for item in made}
    return (call["name"], canonical_json(call["arguments"])) in known


def _parse_arguments(text: Any) -> Json:
    try:
        arguments = parse_json(text) if isinstance(text, str) and text.strip() else text or {}
    except (ValueError, RecursionError):
        raise NoRowError("arguments that are no JSON") from None
    if not isinstance(arguments, dict):
        raise NoRowError("arguments that are no JSON object")
    return arguments


def _read_document(exchange: Exchange, schema: Json | None) -> Any:
    """The JSON of an answer, where the request asked for JSON."""
    if exchange.response_format.get("type") not in ("json_object", "json_schema"):
        raise NoRowError("a text, where neither a call nor JSON was asked for")
    try:
        value = parse_json(read_text(as_dict(exchange.answer)))
    except (ValueError, RecursionError):
        raise NoRowError("an answer that is no JSON") from None
    if schema is not None and not _fits(json.dumps(schema), value):
        raise NoRowError("an answer that does not fit its schema")
    return value


def _read_schema(response_format: Json) -> Json | None:
    schema = as_dict(response_format.get("json_schema")).get("schema")
    return schema if isinstance(schema, dict) else None


def read_offered(exchange: Exchange) -> dict[str, Tool]:
    """The offered tools by name, in the order offered.

    Raises:
        NoRowError: They are not as the API has them.
    """
    return _read_tools(json.dumps(exchange.tools))


@lru_cache(maxsize=512)
def _read_tools(text: str) -> dict[str, Tool]:
    """The same for their JSON text: an application sends the same tools with every request."""
    try:
        tools = [parse_tool(item) for item in json.loads(text)]
    except ValueError:
        raise NoRowError("tools that are not as the API has them") from None
    by_name = {tool["name"]: tool for tool in tools}
    if len(by_name) < len(tools):
        raise NoRowError("two offered tools have one name")
    return by_name


@lru_cache(maxsize=512)
def _make_validator(text: str) -> Any:
    import jsonschema
    from referencing import Registry

    schema = json.loads(text)
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError:
        return None
    return kind(schema, registry=Registry())


def _fits(schema: str, value: Any) -> bool:
    """Whether a value fits a JSON Schema, as its text; references are resolved in it."""
    from referencing import exceptions

    if (validator := _make_validator(schema)) is None:
        raise NoRowError("a schema that is no JSON Schema")
    try:
        return bool(validator.is_valid(value))
    except (exceptions.Unresolvable, RecursionError):
        raise NoRowError("a schema that refers to what it does not hold") from None
