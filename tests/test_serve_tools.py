"""Tools and formats of answers against a real `swap serve`, through the official client."""

import asyncio
import json
import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import jsonschema
import openai
import pytest
from pydantic import BaseModel
from test_tool_api import AREA, CALLING, CHAT, NOW, RESULT, as_schema, tool

from swaplib.data.facts import read_facts
from swaplib.prompts import build_messages
from swaplib.rows import Generation, read_rows
from swaplib.serving.batcher import Batcher
from swaplib.settings import ROOT

pytestmark = pytest.mark.stand_in

NAMED = {"type": "function", "function": {"name": "area"}}
SWITCH = {
    "type": "object",
    "properties": {"is_on": {"enum": [True, False]}},
    "required": ["is_on"],
    "additionalProperties": False,
}


@pytest.fixture
def root() -> str:
    return os.environ["AZURE_ENDPOINT"].partition("/openai")[0]


@pytest.fixture
def client(root) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{root}/v1", api_key="any", max_retries=0)


def ask(client, messages=CHAT, **body):
    return client.chat.completions.create(
        **{"model": "stand-in", "messages": messages, "max_tokens": 48, **body}
    )


def test_the_tool_loop_of_the_official_client(root, client):
    azure = openai.AzureOpenAI(
        base_url=os.environ["AZURE_ENDPOINT"],
        api_key="any",
        api_version=os.environ["AZURE_API_VERSION"],
    )
    for one in (client, azure):
        choice = ask(one, tools=[AREA, NOW], tool_choice=NAMED, parallel_tool_calls=False).choices[
            0
        ]
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        [call] = choice.message.tool_calls
        assert (call.type, call.function.name, call.id[:5]) == ("function", "area", "call_")
        jsonschema.validate(json.loads(call.function.arguments), AREA["function"]["parameters"])
    result = {"role": "tool", "tool_call_id": call.id, "content": "78.5"}
    after = ask(
        client, [*CHAT, choice.message, result], tools=[AREA, NOW], tool_choice="none", max_tokens=8
    )
    assert after.choices[0].message.content
    assert after.choices[0].message.tool_calls is None
    plain = [
        *CHAT,
        {"role": "assistant", "content": call_text(call)},
        {"role": "user", "content": "Result of area: 78.5"},
    ]
    assert after == ask(client, plain, max_tokens=8).model_copy(
        update={"id": after.id, "created": after.created}
    )


def call_text(call) -> str:
    return json.dumps(
        {"name": call.function.name, "arguments": json.loads(call.function.arguments)}
    )


def test_a_call_is_streamed_as_the_official_client_reads_it(client):
    whole = ask(client, tools=[AREA], tool_choice="required").choices[0]
    chunks = list(ask(client, tools=[AREA], tool_choice="required", stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    heads = [call for delta in deltas for call in delta.tool_calls or [] if call.id]
    assert [
        (call.index, call.type, call.function.name, call.function.arguments) for call in heads
    ] == [(0, "function", "area", "")]
    assert [delta.role for delta in deltas if delta.role] == ["assistant"]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    with client.chat.completions.stream(
        model="stand-in", messages=CHAT, tools=[AREA], tool_choice="required", max_tokens=48
    ) as stream:
        final = stream.get_final_completion().choices[0]
    assert final.message.role == "assistant"
    assert (
        final.message.tool_calls[0].function.arguments
        == whole.message.tool_calls[0].function.arguments
    )


def test_a_call_that_is_cut_off_goes_out_as_text_whole_and_streamed(client):
    choice = ask(client, tools=[AREA], tool_choice="required", max_tokens=3).choices[0]
    assert (choice.finish_reason, choice.message.tool_calls) == ("length", None)
    chunks = list(ask(client, tools=[AREA], tool_choice="required", max_tokens=3, stream=True))
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == choice.message.content
    )
    assert chunks[-1].choices[0].finish_reason == "length"


def test_auto_calls_where_the_model_writes_a_call_and_speaks_where_it_does_not(client):
    path = ROOT / "slm_swap" / "02_dataset" / "toolcall" / "train.jsonl"
    rows = read_rows(path, "toolcall")
    row, fact = rows[3], read_facts(path, rows)[3]
    body = {
        "messages": build_messages("toolcall", row.prompt),
        "tools": fact.tools,
        "max_tokens": 64,
    }
    choice = ask(client, **body).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls[0].function.name == fact.tools[0]["function"]["name"]
    chunks = list(ask(client, **body, stream=True))
    # Nothing of the call came as text.
    assert not any(chunk.choices[0].delta.content for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    asked = {
        "messages": [{"role": "user", "content": "Say hello to me."}],
        "tools": [NOW],
        "max_tokens": 6,
    }
    spoken, parts = ask(client, **asked).choices[0], list(ask(client, **asked, stream=True))
    assert spoken.message.tool_calls is None
    assert "".join(part.choices[0].delta.content or "" for part in parts) == spoken.message.content


def test_formats_give_json_that_fits_whole_streamed_and_parsed(client):
    format_ = as_schema(SWITCH)["response_format"]
    text = ask(client, response_format=format_).choices[0].message.content
    jsonschema.validate(json.loads(text), SWITCH)
    chunks = list(ask(client, response_format=format_, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text

    class Switch(BaseModel):
        is_on: bool

    parsed = client.chat.completions.parse(
        model="stand-in", messages=CHAT, response_format=Switch, max_tokens=32
    )
    assert isinstance(parsed.choices[0].message.parsed, Switch)
    begun = (
        ask(client, response_format={"type": "json_object"}, max_tokens=4)
        .choices[0]
        .message.content
    )
    assert begun.startswith("{")


def test_parts_of_text_are_the_text(client):
    parts = [
        {"type": "text", "text": "Area of a circle "},
        {"type": "text", "text": "with radius 5?"},
    ]
    found = [
        ask(client, [{"role": "user", "content": c}], max_tokens=4)
        for c in (parts, CHAT[0]["content"])
    ]
    assert found[0].choices == found[1].choices
    assert found[0].usage == found[1].usage


NEVER = {"type": "object", "properties": {"a": False}, "required": ["a"]}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (
            {
                "tools": [NOW, *tool(name="never", parameters=NEVER)["tools"]],
                "tool_choice": "required",
            },
            "tools.1.function.parameters",
        ),
        (as_schema(NEVER), "response_format.json_schema.schema"),
        (as_schema({"type": "array"}), "response_format.json_schema.schema"),
        (as_schema({"type": "object", "$ref": "#/nowhere"}), "response_format.json_schema.schema"),
        (tool(name="f", parameters={"type": "no such"}), "tools.0.function.parameters"),
        ({"messages": [*CHAT, RESULT]}, "messages.1.tool_call_id"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content",
        ),
        ({"tools": [AREA], "response_format": {"type": "json_object"}}, "response_format"),
        (
            as_schema({"type": "object", "properties": {"\ud800": 5}}),
            "response_format.json_schema.schema",
        ),
        ({"\ud800": 5}, None),
    ],
    ids=range(10),
)
def test_what_cannot_be_is_refused_before_it_is_queued(root, body, param):
    before = httpx.get(f"{root}/health").json()["requests"]
    content = json.dumps({"messages": CHAT, "max_tokens": 4, **body}).encode()
    answer = httpx.post(
        f"{root}/v1/chat/completions", content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    if param:
        assert error["param"] == param
        assert error["message"].startswith(param)
    assert httpx.get(f"{root}/health").json()["requests"] == before


def test_bound_free_and_refused_requests_arrive_together_and_each_gets_its_own(client):
    bodies = [
        {"response_format": as_schema(SWITCH)["response_format"]},
        {},
        {"tools": [AREA], "tool_choice": "required"},
        {"messages": [CHAT[0], CALLING, RESULT]},
        as_schema(NEVER),
    ]

    def ask_one(body):
        try:
            return ask(client, **{"max_tokens": 24, **body}).choices[0]
        except openai.BadRequestError as error:
            return error

    with ThreadPoolExecutor(len(bodies)) as pool:
        switch, free, called, after, refused = pool.map(ask_one, bodies)
    jsonschema.validate(json.loads(switch.message.content), SWITCH)
    assert free.message.content
    assert called.message.tool_calls[0].function.name == "area"
    assert after.message.content
    assert isinstance(refused, openai.BadRequestError)


def test_a_grammar_that_fails_while_it_is_decoded_fails_its_request_alone():
    class Scripted:
        def __init__(self):
            self.bound = []

        def constrain(self, schemas):
            hook = SimpleNamespace(
                problems={1: "the grammar cannot follow the answer"}, drop=lambda index: None
            )
            hook.add = lambda index, schema: self.bound.append((index, schema))
            return hook

        def follow(self, feed, batch_size, on_token, logits_hook):
            prompts = [text for text, _ in feed.take(batch_size)]
            assert self.bound == [(0, None), (1, SWITCH), (2, SWITCH)]
            yield from (
                (i, Generation(prompt, "ok", "stop", 1, 1, 1.0)) for i, prompt in enumerate(prompts)
            )

    async def collect() -> list:
        batcher = Batcher(SimpleNamespace(batch_size=3, model=Scripted()))
        worker = asyncio.create_task(batcher.run())
        asked = [
            batcher.ask(text, 9, schema)
            for text, schema in (("a", None), ("b", SWITCH), ("c", SWITCH))
        ]
        found = await asyncio.gather(*asked, return_exceptions=True)
        worker.cancel()
        return found

    free, failed, bound = asyncio.run(collect())
    assert (free.output, bound.output) == ("a", "c")
    assert isinstance(failed, RuntimeError)
