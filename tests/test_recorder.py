import asyncio
import json
import os
import warnings

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import as_json, completion, refusal, serving

from swaplib.agents import capture, exchanges
from swaplib.agents.grades import grade
from swaplib.agents.trajectory import Trajectory, read_trajectories

KEY = "sk-a-key-that-must-stay-secret"
MESSAGES = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Say hi"}]
CHUNKS = [
    {
        "choices": [
            {"index": 0, "delta": {"role": "assistant", "content": "H"}, "finish_reason": None}
        ]
    },
    {"choices": [{"index": 0, "delta": {"content": "i"}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}},
]


def answer(exchange):
    if not exchange.json().get("stream"):
        body = json.loads(completion(f"Hi, {KEY}")[2])
        return as_json(body | {"created": 1})  # the same bytes a second later, too
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    text = "".join(f"data: {json.dumps(head | chunk)}\n\n" for chunk in CHUNKS) + "data: [DONE]\n\n"
    return 200, {"content-type": "text/event-stream"}, text.encode()


def make_client(root, kind=openai.OpenAI, **options):
    return kind(base_url=f"{root}/v1", api_key=KEY, max_retries=0, **options)


def read_one(path):
    (trajectory,) = read_trajectories(path).values()
    return trajectory


def test_the_caller_and_the_server_see_the_same_bytes_with_and_without_it(tmp_path):
    with serving(answer) as (root, exchanges):
        plain, recorded = make_client(root), capture.record(make_client(root), tmp_path / "t.jsonl")
        raws = [
            c.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
            for c in (plain, recorded)
        ]
        parsed = [
            c.chat.completions.create(model="m", messages=MESSAGES, temperature=0)
            for c in (plain, recorded)
        ]
    assert raws[0].content == raws[1].content
    assert raws[0].parse() == raws[1].parse()
    assert type(parsed[0]) is type(parsed[1])
    assert parsed[0].to_json() == parsed[1].to_json()
    assert [e.body for e in exchanges[::2]] == [e.body for e in exchanges[1::2]]
    headers = [{k: v for k, v in e.headers.items() if k != "host"} for e in exchanges]
    assert headers[::2] == headers[1::2]
    assert len(read_trajectories(tmp_path / "t.jsonl")) == 2


def test_a_line_holds_the_exchange_and_no_key(tmp_path):
    path = tmp_path / "deep" / "t.jsonl"
    with serving(answer) as (root, _):
        client = capture.record(make_client(root), path)
        client.chat.completions.create(
            model="m", messages=MESSAGES, extra_headers={"x-secret": "another-secret"}
        )
    line = read_one(path)
    assert (line.outcome, line.task, line.final_answer) == ("exchange", "Say hi", "Hi, ***")
    assert line.usage == {"calls": 1, "prompt_tokens": 11, "completion_tokens": 7}
    assert line.exchange["request"] == {"model": "m", "messages": MESSAGES}
    assert line.exchange["response"]["choices"][0]["message"]["content"] == "Hi, ***"
    assert line.id.startswith("req-")
    assert line.model["model"] == "m"
    assert grade(line, None).reason == "no gold to check it against"
    text = path.read_text()
    assert KEY not in text
    assert "another-secret" not in text


def test_tool_calls_of_an_answer_are_kept_as_calls(tmp_path):
    function = {"name": "circle_area", "arguments": '{"radius": 5}'}
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": function}],
    }
    body = json.loads(completion("")[2])
    body["choices"][0] |= {"message": message, "finish_reason": "tool_calls"}
    tools = [{"type": "function", "function": {"name": "circle_area", "parameters": {}}}]
    with serving(lambda _: as_json(body)) as (root, _):
        client = capture.record(make_client(root), tmp_path / "t.jsonl")
        client.chat.completions.create(model="m", messages=MESSAGES, tools=tools)
    line = read_one(tmp_path / "t.jsonl")
    assert line.steps[0].calls == ({"name": "circle_area", "arguments": {"radius": 5}},)
    assert line.tools == ("circle_area",)


def test_a_stream_passes_through_and_is_recorded_at_its_end(tmp_path):
    ask = {
        "model": "m",
        "messages": MESSAGES,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    with serving(answer) as (root, _):
        plain, recorded = make_client(root), capture.record(make_client(root), tmp_path / "t.jsonl")
        expected = list(plain.chat.completions.create(**ask))
        stream = recorded.chat.completions.create(**ask)
        assert type(stream) is openai.Stream
        assert not (tmp_path / "t.jsonl").exists()
        assert list(stream) == expected
    line = read_one(tmp_path / "t.jsonl")
    assert (line.final_answer, line.usage["completion_tokens"]) == ("Hi", 2)


def test_an_async_client_is_recorded_too(tmp_path):
    async def ask(root):
        async with make_client(root, openai.AsyncOpenAI) as client:
            capture.record(client, tmp_path / "t.jsonl")
            await client.chat.completions.create(model="m", messages=MESSAGES)
            stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
            return [chunk async for chunk in stream]

    with serving(answer) as (root, _):
        chunks = asyncio.run(ask(root))
    assert len(chunks) == len(CHUNKS)
    lines = read_trajectories(tmp_path / "t.jsonl").values()
    assert [line.final_answer for line in lines] == ["Hi, ***", "Hi"]


def test_a_failed_call_fails_as_before_and_is_recorded(tmp_path):
    with serving(lambda _: refusal(429, "rate_limit_exceeded")) as (root, _):
        client = capture.record(make_client(root), tmp_path / "t.jsonl")
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(model="m", messages=MESSAGES)
    line = read_one(tmp_path / "t.jsonl")
    assert (line.error, line.exchange["response"]) == ("RateLimitError", None)


def test_when_recording_fails_the_calls_do_not_and_each_failure_is_counted_and_told(tmp_path):
    (tmp_path / "t.jsonl").mkdir()  # nothing can be appended there
    with serving(answer) as (root, _):
        client = capture.record(make_client(root), tmp_path / "t.jsonl")
        answers = []
        for n in (1, 2):
            with pytest.warns(UserWarning, match=rf"capture: {n} exchange.* \(IsADirectoryError\)"):
                answers.append(client.chat.completions.create(model="m", messages=MESSAGES))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            answers.append(client.chat.completions.create(model="m", messages=MESSAGES))
    assert answers[0].choices == answers[1].choices == answers[2].choices


def stream_of(*chunks):
    text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    return 200, {"content-type": "text/event-stream"}, text.encode()


def record_stream(path, chunks):
    """The chunks as the caller got them without and with the shim; the line that was written."""
    ask = {"model": "m", "messages": MESSAGES, "stream": True}
    with serving(lambda _: stream_of(*chunks)) as (root, _), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        plain = list(make_client(root).chat.completions.create(**ask))
        recorded = list(capture.record(make_client(root), path).chat.completions.create(**ask))
    assert list(map(repr, recorded)) == list(map(repr, plain))
    return read_one(path)


def call(arguments, **fields):
    return {
        "tool_calls": [{"index": 0, "function": {"name": "area", "arguments": arguments}, **fields}]
    }


@pytest.mark.parametrize(
    ("choices", "text", "calls"),
    [
        ([[{"index": 0}], [{"index": 0, "delta": {"content": "Hi"}}]], "Hi", ()),
        ([[{"index": 0, "delta": None}], [{"index": 0, "delta": {"content": "Hi"}}]], "Hi", ()),
        ([None, [{"index": 0, "delta": {"content": "Hi"}}], None], "Hi", ()),
        ([[{"delta": {"content": text}, "finish_reason": None}] for text in "Hi"], "Hi", ()),
        (
            [[{"index": 0, "delta": {"content": [{"type": "text", "text": t}]}}] for t in "Hi"],
            "Hi",
            (),
        ),
        (
            [[{"index": 0, "delta": call({"radius": 5})}]],
            "",
            ({"name": "area", "arguments": {"radius": 5}},),
        ),
        ([[{"index": 0, "delta": call(None)}]], "", ({"name": "area", "arguments": None},)),
        (
            [
                [{"index": 0, "delta": call('{"radius"', id="c1")}],
                [
                    {
                        "index": 0,
                        "delta": {"tool_calls": [{"index": 0, "function": {"arguments": ": 5}"}}]},
                    }
                ],
            ],
            "",
            ({"name": "area", "arguments": {"radius": 5}},),
        ),
        ([[{"index": 0, "message": {"role": "assistant", "content": "Hi"}}]], "Hi", ()),
    ],
)
def test_chunks_of_an_odd_shape_are_recorded_whole(tmp_path, choices, text, calls):
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    line = record_stream(tmp_path / "t.jsonl", [head | {"choices": found} for found in choices])
    assert (line.final_answer, line.steps[0].calls, line.error) == (text, calls, None)
    assert line.exchange["request"]["messages"] == MESSAGES


def test_what_a_stream_holds_besides_its_first_text_is_recorded(tmp_path):
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    image = {"type": "image_url", "image_url": {"url": "data:,x"}}
    deltas = [{"reasoning_content": "Let me "}, {"reasoning_content": "think.", "content": [image]}]
    choices = [
        [{"index": 0, "delta": deltas[0]}, {"index": 1, "delta": {"content": "second"}}],
        [{"index": 0, "delta": deltas[1]}],
    ]
    line = record_stream(tmp_path / "t.jsonl", [head | {"choices": found} for found in choices])
    messages = [choice["message"] for choice in line.exchange["response"]["choices"]]
    assert (messages[0]["reasoning_content"], messages[0]["content"]) == ("Let me think.", [image])
    assert messages[1]["content"] == "second"


@pytest.mark.parametrize(
    "answered",
    [
        {"choices": None},
        {"choices": [{"index": 0}]},
        {"choices": [{"message": None}]},
        {
            "choices": [
                {"message": {"content": [{"type": "text", "text": "Hi"}], "tool_calls": None}}
            ]
        },
        {
            "choices": [
                {
                    "message": {
                        "tool_calls": [
                            None,
                            {"function": None},
                            {"function": {"arguments": {"a": 1}}},
                        ]
                    }
                }
            ]
        },
        {
            "choices": [{"message": {"content": "half \ud83d a pair"}}],
            "usage": {"prompt_tokens": "many"},
        },
        {"choices": {"0": "no list"}, "usage": 3},
    ],
)
def test_answers_of_an_odd_shape_are_recorded_whole(tmp_path, answered):
    odd = [{"role": "user"}, {"role": "user", "content": "half \\ud83d a pair"}]
    with serving(lambda _: as_json(answered)) as (root, _), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        client = capture.record(make_client(root), tmp_path / "t.jsonl")
        client.chat.completions.create(
            model="m", messages=odd, tools=[{"function": {}}, {"type": "function"}]
        )
    line = read_one(tmp_path / "t.jsonl")
    assert line.error is None
    assert line.exchange["response"] == answered


def test_an_exchange_that_cannot_be_read_leaves_a_line_that_says_so(tmp_path):
    deep = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}}]}
    for _ in range(800):
        deep = {"choices": deep["choices"], "more": deep}
    with serving(lambda _: as_json(deep)) as (root, _):
        client = capture.record(make_client(root), tmp_path / "t.jsonl")
        with pytest.warns(UserWarning, match="capture: 1 exchange"):
            answered = client.chat.completions.create(model="m", messages=MESSAGES)
    assert answered.choices[0].message.content == "Hi"
    assert read_one(tmp_path / "t.jsonl").error.startswith("not recorded (")


NAMES = [
    "choices",
    "index",
    "delta",
    "message",
    "content",
    "tool_calls",
    "function",
    "arguments",
    "usage",
    "text",
    "role",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(
    st.lists(JSON, max_size=4),
    st.dictionaries(st.sampled_from(["messages", "tools", "model"]), JSON),
    JSON,
)
def test_no_json_keeps_an_exchange_from_being_a_line(chunks, request, answered):
    for response in (exchanges.join_chunks(chunks), answered):
        line = exchanges.make_trajectory(
            "req-1", request, response, None, "2026-11-26T00:00:00+00:00"
        ).to_json()
        assert Trajectory.from_json(line).exchange == json.loads(
            json.dumps({"request": request, "response": response})
        )


def test_an_azure_client_in_many_threads_loses_no_line(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    with serving(answer) as (root, _):
        options = {
            "azure_endpoint": root,
            "api_key": KEY,
            "api_version": "2024-10-21",
            "max_retries": 0,
        }
        client = capture.record(openai.AzureOpenAI(**options), tmp_path / "t.jsonl")
        with ThreadPoolExecutor(8) as pool:
            list(
                pool.map(
                    lambda _: client.chat.completions.create(model="m", messages=MESSAGES),
                    range(40),
                )
            )
    assert len(read_trajectories(tmp_path / "t.jsonl")) == 40
    assert os.path.getsize(tmp_path / "t.jsonl") > 0
