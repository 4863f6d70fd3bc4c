"""Tools and formats of a request: what the model is shown, what binds its answer, what it called.

    tool_choice "none"               no tool is shown
    "auto" (the default with tools)  the answer is free; a text that is one call of an offered tool,
                                     and nothing else, becomes that call
    "required", or a function        the answer is bound to one call
    response_format json_object      the answer is bound to any JSON object
    response_format json_schema      the answer is bound to the schema

One call is made at most. An answer that was cut off at its limit is no call and is sent as text.

    {"name": "area", "arguments": {"radius": 5}}
    -> tool_calls [{"id": "call_…", "type": "function",
                    "function": {"name": "area", "arguments": "{\\"radius\\": 5}"}}]
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import jsonschema

from swaplib.metrics import ToolCall, parse_output
from swaplib.models.native import NativeForm, read_call
from swaplib.rows import Generation
from swaplib.serving.chat_messages import ChatMessage, MadeCall
from swaplib.serving.openai_format import ChatRequest, NamedTool, OfferedTool, ResponseFormat


class Refused(ValueError):  # noqa: N818 - named for what happened
    """A request that cannot be answered; `param` and `code` are those of OpenAI's errors."""

    def __init__(self, param: str, message: str, code: str | None = None):
        super().__init__(f"{param}: {message}")
        self.param, self.code = param, code


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Attributes:
        messages: The turns as chat templates take them.
        tools: The tools that the model is shown, as the OpenAI API has them.
        callable_names: The names of those that it may call.
        form: What the answer is bound to; None for a free answer.
    """

    messages: list[dict[str, Any]]
    tools: tuple[dict[str, Any], ...] = ()
    callable_names: frozenset[str] = frozenset()
    form: NativeForm | None = None

    @property
    def schema(self) -> dict[str, Any] | None:
        """The JSON Schema that the whole answer is bound to."""
        return self.form.to_grammar() if self.form else None

    def may_be_call(self, text: str) -> bool:
        """Whether a text with this beginning may still become a call."""
        head, tag = text.lstrip(), "<tool_call"
        return bool(self.callable_names) and (head.startswith(("{", tag)) or tag.startswith(head))

    def find_call(self, generation: Generation) -> ToolCall | None:
        """The call that a whole answer is, in a model's own form or that of the toolcall track."""
        if generation.finish_reason != "stop" or not self.may_be_call(generation.output):
            return None
        call = read_call(generation.output) or parse_output("toolcall", generation.output)
        return call if isinstance(call, ToolCall) and call.name in self.callable_names else None

    def list_grammars(self) -> list[tuple[str, dict[str, Any]]]:
        """The JSON Schemas that bind the answer, each with the field that it comes from.

        Of several tools each has its own beside that of the whole answer, since one that cannot be
        called would be dropped silently.
        """
        if not self.form:
            return []
        whole = self.form.to_grammar()
        if not self.form.tools:
            return [("response_format.json_schema.schema", whole)]
        grammars = [
            (f"tools.{i}.function.parameters", NativeForm((tool,)).to_grammar())
            for i, tool in enumerate(self.tools)
            if tool in self.form.tools
        ]
        return [*grammars, ("tools", whole)]


def read_request(body: ChatRequest) -> Asked:
    """What a request asks for, checked as far as it can be without a model.

    Raises:
        Refused: A message, a tool or a format is malformed, or two of them exclude each other.
    """
    messages = read_messages(body.messages)
    form = _read_format(body.response_format)
    tools = tuple(_read_tool(i, tool) for i, tool in enumerate(body.tools or ()))
    choice = body.tool_choice or ("auto" if tools else "none")
    if not tools and choice not in ("none", "auto"):
        raise Refused("tool_choice", "there are no tools to choose from")
    if not tools or choice == "none":
        return Asked(messages, form=form)
    if form:
        raise Refused(
            "response_format",
            "an answer cannot be both a call and of a format: leave tools out, or send "
            "tool_choice none",
        )
    called = tools
    if isinstance(choice, NamedTool):
        called = tuple(tool for tool in tools if tool["function"]["name"] == choice.name)
        if not called:
            raise Refused("tool_choice.function.name", f"no tool {choice.name!r} is offered")
    names = frozenset(tool["function"]["name"] for tool in called)
    return Asked(messages, tools, names, None if choice == "auto" else NativeForm(called))


def read_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Messages as chat templates take them.

    Arguments of calls become objects where they parse; a result gets the name of its tool.

    Raises:
        Refused: A message lacks its text, or names a call or a speaker that it may not name.
    """
    turns: list[dict[str, Any]] = []
    names: dict[str, str] = {}  # of the tools that were called, by the call's id
    for i, message in enumerate(messages):
        turn = _read_message(f"messages.{i}", message, names)
        names |= {call.id: call.function.name for call in message.tool_calls or ()}
        turns.append(turn)
    return turns


def _read_message(place: str, message: ChatMessage, names: Mapping[str, str]) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    calls = message.tool_calls or []
    if calls and role != "assistant":
        raise Refused(f"{place}.tool_calls", "only an assistant's message holds calls")
    if message.content is None and not calls:
        raise Refused(f"{place}.content", "expected a text")
    turn: dict[str, Any] = {"role": role, "content": message.content}
    if calls:
        turn["tool_calls"] = [_read_made_call(call) for call in calls]
    if role == "tool":
        if message.tool_call_id is None or message.tool_call_id not in names:
            expected = "expected the id of a call in an assistant's message before it"
            raise Refused(f"{place}.tool_call_id", expected)
        turn |= {"tool_call_id": message.tool_call_id, "name": names[message.tool_call_id]}
    if message.name not in (None, turn.get("name")):
        problem = "speakers have no names here"
        if "name" in turn:
            problem = f"expected {turn['name']!r}, which was called"
        raise Refused(f"{place}.name", f"{problem}: leave it out, or write it into the content")
    return turn


def _read_made_call(call: MadeCall) -> dict[str, Any]:
    arguments: Any = None
    with suppress(ValueError, RecursionError):
        arguments = json.loads(call.function.arguments)
    if not isinstance(arguments, dict):
        arguments = call.function.arguments
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}


def _read_tool(i: int, tool: OfferedTool) -> dict[str, Any]:
    """A tool as templates and grammars take it."""
    parameters = tool.function.parameters
    if parameters is not None:
        place = f"tools.{i}.function.parameters"
        _check_schema(place, parameters)
        if parameters.get("type", "object") not in ("object", ["object"]):
            raise Refused(place, "expected the schema of an object")
    function: dict[str, Any] = {"name": tool.function.name}
    if tool.function.description is not None:
        function["description"] = tool.function.description
    if parameters is not None:
        function["parameters"] = parameters
    return {"type": "function", "function": function}


def _read_format(response_format: ResponseFormat | None) -> NativeForm | None:
    """What a format binds the answer to; None for free text."""
    if response_format is None or response_format.type == "text":
        return None
    if response_format.type == "json_object":
        return NativeForm()
    if response_format.json_schema is None:
        raise Refused("response_format.json_schema", "expected an object with a schema")
    place = "response_format.json_schema.schema"
    schema = response_format.json_schema.schema_
    _check_schema(place, schema)
    if schema.get("type", "object" if "properties" in schema else None) != "object":
        raise Refused(
            place,
            'expected an object at the root: "type": "object" (an array can be a property of it)',
        )
    return NativeForm((), schema)


def _check_schema(place: str, schema: Mapping[str, Any]) -> None:
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        problem = f"{error.json_path}: {error.message[:120]}"
        raise Refused(place, f"this is not a valid JSON Schema ({problem})") from None
    except RecursionError:
        raise Refused(place, "this JSON Schema is nested too deeply") from None
