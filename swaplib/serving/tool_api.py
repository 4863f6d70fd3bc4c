"""Tools and formats of a chat completion request: what the model is shown, what binds its answer, what it has called.

    tool_choice "none"                       no tool is shown
    "auto" (the default with tools)          the answer is free; a text that is one call of an offered tool becomes that call
    "required", or a function by its name    the answer is bound to one call
    response_format json_object/json_schema  the answer is bound to any object, or to what fits the schema

At most one call is made. An answer that was cut off at its limit is no call: it goes out as the text that it is.

    {"name": "area", "arguments": {"radius": 5}}
    -> tool_calls [{"id": "call_…", "type": "function", "function": {"name": "area", "arguments": "{\\"radius\\": 5}"}}]
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from swaplib.metrics import ToolCall, parse_output
from swaplib.models.native import NativeForm, read_call
from swaplib.rows import Generation
from swaplib.serving.chat_messages import ChatMessage, MadeCall
from swaplib.serving.openai_format import ChatRequest, NamedTool, OfferedTool, ResponseFormat


class Refused(ValueError):  # noqa: N818 - reads as what happened
    """A request that cannot be answered as it stands; `param` names the field, `code` is OpenAI's word where it has one."""

    def __init__(self, param: str, message: str, code: str | None = None):
        super().__init__(f"{param}: {message}")
        self.param, self.code = param, code


@dataclass(frozen=True)
class Asked:
    """What a request asks.

    Attributes:
        messages: The turns as chat templates take them.
        tools: Those that the model is shown, as the OpenAI API has them.
        callable_names: The names of those that it may call.
        form: What the answer is bound to; None for a free one.
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
        """Whether a text that has begun so may still become a call."""
        head, tag = text.lstrip(), "<tool_call"
        return bool(self.callable_names) and (head.startswith(("{", tag)) or tag.startswith(head))

    def find_call(self, generation: Generation) -> ToolCall | None:
        """The call that a whole answer is, as models write one of their own, or in the wrapper of the toolcall track."""
        if generation.finish_reason != "stop" or not self.may_be_call(generation.output):
            return None
        call = read_call(generation.output) or parse_output("toolcall", generation.output)
        return call if isinstance(call, ToolCall) and call.name in self.callable_names else None

    def list_grammars(self) -> list[tuple[str, dict[str, Any]]]:
        """The JSON Schemas that bind the answer, with their fields: of each tool, since one that cannot be called would be
        dropped in silence, then of the whole answer.
        """
        if not self.form:
            return []
        if not self.form.tools:
            return [("response_format.json_schema.schema", self.schema)]
        places = [(i, tool) for i, tool in enumerate(self.tools) if tool in self.form.tools]
        of_each = [
            (f"tools.{i}.function.parameters", NativeForm((tool,)).to_grammar())
            for i, tool in places
        ]
        return [*of_each, ("tools", self.schema)]


def read_request(body: ChatRequest) -> Asked:
    """What a request asks, checked as far as it can be without a model.

    Raises:
        Refused: A message, a tool or a format is malformed, or two of them exclude each other.
    """
    messages, form = read_messages(body.messages), _read_format(body.response_format)
    tools = tuple(_read_tool(i, tool) for i, tool in enumerate(body.tools or ()))
    choice = body.tool_choice or ("auto" if tools else "none")
    if not tools and choice not in ("none", "auto"):
        raise Refused("tool_choice", "there are no tools to choose from")
    if not tools or choice == "none":
        return Asked(messages, form=form)
    if form:
        raise Refused(
            "response_format",
            "an answer cannot be a call and of a format: leave tools out, or tool_choice none",
        )
    called = tools
    if isinstance(choice, NamedTool):
        called = tuple(tool for tool in tools if tool["function"]["name"] == choice.name)
        if not called:
            raise Refused("tool_choice.function.name", f"no tool {choice.name!r} is offered")
    names = frozenset(tool["function"]["name"] for tool in called)
    return Asked(messages, tools, names, None if choice == "auto" else NativeForm(called))


def read_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Messages as chat templates take them: arguments of calls as objects where they parse, a tool's name at its result."""
    read, names = [], {}
    for i, message in enumerate(messages):
        place, role = f"messages.{i}", "system" if message.role == "developer" else message.role
        calls = message.tool_calls or []
        if calls and role != "assistant":
            raise Refused(f"{place}.tool_calls", "only an assistant's message holds calls")
        if message.content is None and not calls:
            raise Refused(f"{place}.content", "expected a text")
        turn: dict[str, Any] = {"role": role, "content": message.content}
        if calls:
            turn["tool_calls"] = [_read_made_call(call) for call in calls]
            names |= {call.id: call.function.name for call in calls}
        if role == "tool":
            if message.tool_call_id not in names:
                raise Refused(
                    f"{place}.tool_call_id",
                    "expected the id of a call in an assistant's message before it",
                )
            turn |= {"tool_call_id": message.tool_call_id, "name": names[message.tool_call_id]}
        if message.name not in (None, turn.get("name")):
            expected = (
                f"expected {turn['name']!r}, which was called"
                if "name" in turn
                else "speakers have no names here"
            )
            raise Refused(
                f"{place}.name", f"{expected}: leave it out, or write it into the content"
            )
        read.append(turn)
    return read


def _read_made_call(call: MadeCall) -> dict[str, Any]:
    try:
        arguments = json.loads(call.function.arguments)
    except (ValueError, RecursionError):
        arguments = None
    arguments = arguments if isinstance(arguments, dict) else call.function.arguments
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.function.name, "arguments": arguments},
    }


def _read_tool(i: int, tool: OfferedTool) -> dict[str, Any]:
    """A tool as templates and grammars take it."""
    place, parameters = f"tools.{i}.function.parameters", tool.function.parameters
    if parameters is not None:
        _check_schema(place, parameters)
        if parameters.get("type", "object") not in ("object", ["object"]):
            raise Refused(place, "expected the schema of an object")
    given = {
        "name": tool.function.name,
        "description": tool.function.description,
        "parameters": parameters,
    }
    return {
        "type": "function",
        "function": {key: value for key, value in given.items() if value is not None},
    }


def _read_format(response_format: ResponseFormat | None) -> NativeForm | None:
    """What a format binds the answer to; None for a free text."""
    if response_format is None or response_format.type == "text":
        return None
    if response_format.type == "json_object":
        return NativeForm()
    if response_format.json_schema is None:
        raise Refused("response_format.json_schema", "expected an object with a schema")
    place, schema = "response_format.json_schema.schema", response_format.json_schema.schema_
    _check_schema(place, schema)
    if schema.get("type", "object" if "properties" in schema else None) != "object":
        raise Refused(
            place,
            'expected an object at the root: "type": "object" (an array can stand under a property of it)',
        )
    return NativeForm((), schema)


def _check_schema(place: str, schema: dict[str, Any]) -> None:
    import jsonschema

    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise Refused(
            place, f"this is no JSON Schema ({error.json_path}: {error.message[:120]})"
        ) from None
    except RecursionError:
        raise Refused(place, "this JSON Schema is nested too deeply") from None
