"""What a request's tools and formats ask, and what becomes of a model's text, without a model."""

import json

import pytest
from pydantic import ValidationError

from swaplib.metrics import ToolCall
from swaplib.rows import Generation
from swaplib.serving.openai_format import ChatRequest, ChunkMaker, make_answer
from swaplib.serving.tool_api import Asked, Refused, read_request

AREA = {
    "type": "function",
    "function": {
        "name": "area",
        "description": "Area of a circle.",
        "parameters": {
            "type": "object",
            "properties": {"radius": {"type": "integer"}},
            "required": ["radius"],
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
CHAT = [{"role": "user", "content": "Area of a circle with radius 5?"}]
CALL = {"id": "c1", "type": "function", "function": {"name": "area", "arguments": '{"radius": 5}'}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "78.5"}


def read(**body) -> Asked:
    return read_request(ChatRequest.model_validate({"messages": CHAT, **body}))


def make_generation(output: str, reason: str = "stop") -> Generation:
    return Generation(output, "ok", reason, 1, 1, 1.0)


@pytest.mark.parametrize(
    ("choice", "n_shown", "callable_names", "n_bound"),
    [
        (None, 2, {"area", "now"}, 0),
        ("auto", 2, {"area", "now"}, 0),
        ("none", 0, set(), 0),
        ("required", 2, {"area", "now"}, 2),
        ({"type": "function", "function": {"name": "now"}}, 2, {"now"}, 1),
    ],
)
def test_a_choice_says_what_is_shown_callable_and_bound(choice, n_shown, callable_names, n_bound):
    asked = read(tools=[AREA, NOW], tool_choice=choice, parallel_tool_calls=True)
    assert len(asked.tools) == n_shown
    assert asked.callable_names == callable_names
    assert len(asked.form.tools if asked.form else ()) == n_bound


def test_tools_are_shown_as_they_came_without_what_is_said_to_the_server():
    strict = {
        "type": "function",
        "function": {**AREA["function"], "strict": True, "description": None},
    }
    [shown] = read(tools=[strict]).tools
    assert list(shown["function"]) == ["name", "parameters"]
    assert read(tools=[AREA]).tools == (AREA,)


def test_formats_bind_to_what_was_asked_for_and_to_no_wrapping():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    named = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    assert read(response_format=named).schema == schema
    assert read(response_format={"type": "json_object"}).schema == {"type": "object"}
    assert read(response_format={"type": "text"}, tools=[AREA]).schema is None
    assert read(response_format=named, tools=[AREA], tool_choice="none").schema == schema


def test_messages_become_what_templates_take():
    parts = [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]
    bad = {**CALL, "id": "c2", "function": {"name": "now", "arguments": "{oops"}}
    messages = [
        {"role": "developer", "content": parts},
        *CHAT,
        {**CALLING, "tool_calls": [CALL, bad]},
        RESULT,
    ]
    read_messages = read(messages=messages).messages
    assert read_messages[:2] == [{"role": "system", "content": "Be brief."}, *CHAT]
    calls = [call["function"]["arguments"] for call in read_messages[2]["tool_calls"]]
    assert calls == [{"radius": 5}, "{oops"]
    assert read_messages[3] == {
        "role": "tool",
        "content": "78.5",
        "tool_call_id": "c1",
        "name": "area",
    }


@pytest.mark.parametrize(
    ("output", "call"),
    [
        ('{"name": "area", "arguments": {"radius": 5}}', ToolCall("area", {"radius": 5})),
        ('\n<tool_call>\n{"name": "area", "arguments": {}}\n</tool_call>', ToolCall("area", {})),
        ('<tool_call name="now">{}</tool_call>', ToolCall("now", {})),
        ('<tool_call name="other">{}</tool_call>', None),
        ('Sure: <tool_call name="now">{}</tool_call>', None),
        ('{"area": 5}', None),
        ("", None),
    ],
)
def test_a_text_is_a_call_only_as_a_whole_and_of_an_offered_tool(output, call):
    asked = read(tools=[AREA, NOW])
    assert asked.find_call(make_generation(output)) == call
    assert asked.find_call(make_generation(output, "length")) is None
    assert read().find_call(make_generation(output)) is None
    if call:
        assert all(asked.may_be_call(output[:n]) for n in range(len(output)))


def test_a_text_that_can_be_no_call_is_known_as_such():
    asked = read(tools=[AREA])
    assert [
        text
        for text in ("", " ", "<tool", "{", "T", "<b", "<tool_box")
        if not asked.may_be_call(text)
    ] == ["T", "<b", "<tool_box"]
    assert not read().may_be_call("")


def test_half_a_surrogate_pair_in_arguments_can_be_sent():
    call = ToolCall("area", {"a": "\ud800"})
    arguments = make_answer(make_generation("x"), "slm", call)["choices"][0]["message"][
        "tool_calls"
    ][0]["function"]
    assert json.loads(arguments["arguments"]) == {"a": "\ud800"}
    assert arguments["arguments"].isascii()
    assert ChunkMaker("slm", False).make_call(ToolCall("area", {"a": "é"})).count("data: ") == 2


def as_schema(schema) -> dict:
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    }


def tool(**function) -> dict:
    return {"tools": [{"type": "function", "function": function}]}


REFUSALS = [
    (tool(), "tools.0.function.name", "Field required"),
    (tool(name=""), "tools.0.function.name", "at least 1 character"),
    (tool(name="f", parameters=[]), "tools.0.function.parameters", "valid dictionary"),
    (
        tool(name="f", parameters={"type": "no such"}),
        "tools.0.function.parameters",
        "not a valid JSON Schema",
    ),
    (
        tool(name="f", parameters={"type": "array"}),
        "tools.0.function.parameters",
        "the schema of an object",
    ),
    (tool(name="f", temper=1), "tools.0.function.temper", "not permitted"),
    ({"tools": [{"type": "custom", "custom": {}}]}, "tools.0.type", "'function'"),
    ({"tools": [AREA], "tool_choice": "any"}, "tool_choice", "expected none, auto, required"),
    (
        {"tools": [AREA], "tool_choice": {"type": "function"}},
        "tool_choice",
        "expected none, auto, required",
    ),
    (
        {"tools": [AREA], "tool_choice": {"type": "function", "function": {"name": "x"}}},
        "tool_choice.function.name",
        "no tool 'x'",
    ),
    ({"tool_choice": "required"}, "tool_choice", "no tools"),
    (
        {"tools": [AREA], "response_format": {"type": "json_object"}},
        "response_format",
        "tool_choice none",
    ),
    ({"response_format": {"type": "xml"}}, "response_format.type", "'json_schema'"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "with a schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        "response_format.json_schema.schema",
        "Field required",
    ),
    (as_schema({"type": "array"}), "response_format.json_schema.schema", "object at the root"),
    (
        as_schema({"anyOf": [{"type": "object"}]}),
        "response_format.json_schema.schema",
        "object at the root",
    ),
    (
        as_schema({"type": "object", "required": 5}),
        "response_format.json_schema.schema",
        "not a valid JSON Schema",
    ),
    ({"messages": [{"role": "user"}]}, "messages.0.content", "expected a text"),
    (
        {"messages": [{"role": "assistant", "content": None}]},
        "messages.0.content",
        "expected a text",
    ),
    ({"messages": [*CHAT, RESULT]}, "messages.1.tool_call_id", "the id of a call"),
    (
        {"messages": [CALLING, {**RESULT, "tool_call_id": None}]},
        "messages.1.tool_call_id",
        "the id of a call",
    ),
    (
        {"messages": [{**CHAT[0], "tool_calls": [CALL]}]},
        "messages.0.tool_calls",
        "only an assistant's",
    ),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}
            ]
        },
        "messages.0.content",
        "part 1 is not text (type 'image_url')",
    ),
]


@pytest.mark.parametrize(("body", "param", "words"), REFUSALS, ids=range(len(REFUSALS)))
def test_what_is_malformed_is_refused_by_its_field(body, param, words):
    with pytest.raises((Refused, ValidationError)) as caught:
        read(**body)
    if isinstance(caught.value, Refused):
        assert (caught.value.param, words in str(caught.value)) == (param, True), caught.value
    else:
        first = caught.value.errors()[0]
        assert (".".join(map(str, first["loc"])), words in first["msg"]) == (param, True), first
