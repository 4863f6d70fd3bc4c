"""A row asked as applications ask: by tools or a response format of the API, not by words.

What comes back is written in the track's form, and then scored as every other output is:

    tools, tool_choice "required"
        tool_calls [{"function": {"name": "area", "arguments": "{\\"radius\\":5}"}}]
        -> <tool_call name="area">{"radius":5}</tool_call>
    response_format json_schema
        {"calls": [{"name": "area", "arguments": {"radius": 5}}]}
        -> [{"name":"area","arguments":{"radius":5}}]

An endpoint takes only objects as the root of an answer, so an array goes as `{"calls": […]}`, for
both models alike. Nothing is mended: a text without a call is no call, two calls are two wrappers,
arguments that are no JSON stay as they came.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from swaplib.data.facts import RowFacts, list_parts
from swaplib.data.tool_schemas import format_signature, parse_tool
from swaplib.metrics import JsonDocument, ToolCall, Track, parse_gold, parse_json
from swaplib.prompts import VALUES, Message
from swaplib.rows import Row

WRAPPED = "calls"
TASKS: dict[Track, str] = {
    "toolcall": "Answer the request with one call of a tool.",
    "structured": "Answer the request with calls of the tools below, in the order asked.",
}
_REQUEST = re.compile(r"(?s).*\n\nRequest: (.*)")


@dataclass(frozen=True)
class NativeForm:
    """How a row is asked natively, and how its answer is read.

    `tools` as the OpenAI API has them, where a tool is to be called. Else `schema` is that of the
    answer, an object at its root (None: any object), and `is_wrapped` says that an array is
    under `calls` in it.
    """

    tools: tuple[dict[str, Any], ...] = ()
    schema: dict[str, Any] | None = None
    is_wrapped: bool = False

    def to_request(self) -> dict[str, Any]:
        """The fields of a chat completion request that ask for it."""
        if self.tools:
            return {"tools": list(self.tools), "tool_choice": "required"}
        if self.schema is None:
            return {"response_format": {"type": "json_object"}}
        named = {"name": "answer", "schema": self.schema, "strict": is_strict(self.schema)}
        return {"response_format": {"type": "json_schema", "json_schema": named}}

    def to_grammar(self) -> dict[str, Any]:
        """The JSON Schema of the whole output of a model that is decoded under a grammar."""
        if self.tools:
            return call_schema(self.tools)
        return {"type": "object"} if self.schema is None else self.schema

    def read_message(self, content: str, calls: Sequence[tuple[str, str]]) -> str:
        """What an endpoint said, in the track's form.

        Args:
            content: The message's text.
            calls: The message's tool calls: name and arguments, each as it came.
        """
        if self.tools:
            return "".join(write_call(name, arguments) for name, arguments in calls) or content
        return self._unwrap(content)

    def read_output(self, output: str) -> str:
        """What a model wrote under the grammar, in the track's form; a cut off one as it is."""
        if not self.tools:
            return self._unwrap(output)
        try:
            call = parse_json(output)
            return write_call(call["name"], json.dumps(call["arguments"], ensure_ascii=False))
        except (ValueError, KeyError, TypeError, RecursionError):
            return output

    def _unwrap(self, text: str) -> str:
        """The array that a wrapped answer holds; any other text as it is."""
        try:
            value = parse_json(text) if self.is_wrapped else None
        except (ValueError, RecursionError):
            return text
        if not isinstance(value, dict) or set(value) != {WRAPPED}:
            return text
        return json.dumps(value[WRAPPED], ensure_ascii=False, separators=(",", ":"))


def write_call(name: str, arguments: str) -> str:
    """A call in the track's form."""
    return f'<tool_call name="{name}">{arguments}</tool_call>'


def call_schema(tools: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The JSON Schema of one call of one of these tools: `{"name": …, "arguments": {…}}`."""
    calls = [_make_call(i, tool["function"]) for i, tool in enumerate(tools)]
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


def _make_call(i: int, function: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema of a call of one tool, the i-th."""
    empty = {"type": "object", "properties": {}, "additionalProperties": False}
    parameters = empty | (function.get("parameters") or {})
    if '"$ref"' in json.dumps(parameters):  # references begin at their own root, not at the call's
        parameters = {"$id": f"urn:tool:{i}"} | parameters
    properties = {"name": {"const": function["name"]}, "arguments": parameters}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def is_strict(schema: Any) -> bool:
    """Whether OpenAI's strict mode takes a schema: objects require and allow what they list."""
    if isinstance(schema, list):
        return all(map(is_strict, schema))
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object" or "properties" in schema:
        requires_all = set(schema.get("properties", {})) == set(schema.get("required", []))
        if schema.get("additionalProperties") is not False or not requires_all:
            return False
    return all(is_strict(part) for part in schema.values())


def ask_natively(
    track: Track, row: Row, fact: RowFacts | None, schema: dict[str, Any] | None
) -> tuple[list[Message], NativeForm]:
    """The messages of a row that is asked natively, and how its answer is read.

    Of a prompt that is made by this workbook, or ends as those do (`Request: …`), the request is
    taken, and what the instruction says of values; any other prompt is sent as it is.

    Args:
        track: Which of the API's two ways asks for it.
        row: What is asked.
        fact: The row's facts, which hold the tools; None for own rows without tools.json and
            schema.json.
        schema: The JSON Schema of own structured answers, where one was brought.

    Raises:
        ValueError: Nobody knows the tools that a call is to choose from.
    """
    tools = fact.tools if fact else []
    schema = fact.schema if fact and fact.schema is not None else schema
    if track == "toolcall" and not tools:
        raise ValueError(
            "these rows come without tools.json, so no tool can be offered: bring one, or leave "
            "-native out"
        )
    has_calls = track == "structured" and schema is None and bool(tools) and _is_calls(track, row)
    request = _read_request(row, fact) if tools else None
    if request is None:
        messages = [{"role": "user", "content": row.prompt}]
    else:
        signatures = [format_signature(parse_tool(tool)) for tool in tools]
        shown = [] if track == "toolcall" else signatures
        instruction = {"role": "system", "content": f"{TASKS[track]} {VALUES}"}
        messages = [instruction, {"role": "user", "content": "\n\n".join([*shown, request])}]
    if track == "toolcall":
        return messages, NativeForm(tuple(tools))
    if has_calls:
        schema = {"type": "array", "items": call_schema(tools)}
    return messages, NativeForm((), *wrap_schema(schema))


def _is_calls(track: Track, row: Row) -> bool:
    """Whether a structured gold is an array of calls."""
    gold = parse_gold(track, row.completion)
    return (
        isinstance(gold, JsonDocument)
        and isinstance(gold.value, list)
        and all(name for name, _ in list_parts(gold))
    )


def _read_request(row: Row, fact: RowFacts | None) -> str | None:
    """The request alone, where it can be told from the rest of the prompt."""
    if fact and fact.request != row.prompt:
        return fact.request
    match = _REQUEST.fullmatch(row.prompt)
    return match[1] if match else None


def wrap_schema(schema: dict[str, Any] | None) -> tuple[dict[str, Any] | None, bool]:
    """A schema with an object at its root, and whether the answer had to be wrapped for that."""
    if schema is None or schema.get("type") == "object" or "properties" in schema:
        return schema, False
    definitions = {key: schema[key] for key in ("$defs", "definitions", "$schema") if key in schema}
    inner = {key: part for key, part in schema.items() if key not in definitions}
    root = {
        "type": "object",
        "properties": {WRAPPED: inner},
        "required": [WRAPPED],
        "additionalProperties": False,
    }
    return definitions | root, True


def read_call(output: str) -> ToolCall | None:
    """A call written as `{"name": …, "arguments": {…}}`, perhaps between tags; None for more."""
    tagged = re.fullmatch(r"(?s)\s*<tool_call>(.*)</tool_call>\s*", output)
    try:
        value = parse_json(tagged[1] if tagged else output)
    except (ValueError, RecursionError):
        return None
    parts = list_parts(JsonDocument(value))
    if len(parts) != 1 or not isinstance(value, dict):
        return None
    name, arguments = parts[0]
    return None if name is None else ToolCall(name, arguments)
