import asyncio
import json
import os
import warnings

import openai
import pytest
from servers import as_json, completion, refusal, serving

from swaplib import capture
from swaplib.trajectory import judge, read_trajectories

KEY = "sk-a-key-that-must-stay-secret"
MESSAGES = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Say hi"}]
CHUNKS = [
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "H"}, "finish_reason": None}]},
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
        raws = [c.chat.completions.with_raw_response.create(model="m", messages=MESSAGES) for c in (plain, recorded)]
        parsed = [c.chat.completions.create(model="m", messages=MESSAGES, temperature=0) for c in (plain, recorded)]
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
        client.chat.completions.create(model="m", messages=MESSAGES, extra_headers={"x-secret": "another-secret"})
    line = read_one(path)
    assert (line.outcome, line.task, line.final_answer) == ("exchange", "Say hi", "Hi, ***")
    assert line.usage == {"calls": 1, "prompt_tokens": 11, "completion_tokens": 7}
    assert line.exchange["request"] == {"model": "m", "messages": MESSAGES}
    assert line.exchange["response"]["choices"][0]["message"]["content"] == "Hi, ***"
    assert line.id.startswith("req-")
    assert line.model["model"] == "m"
    assert judge(line, None).reason == "no gold to check it against"
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
    ask = {"model": "m", "messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}}
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


def test_when_recording_fails_the_calls_do_not_and_there_is_one_warning(tmp_path):
    (tmp_path / "t.jsonl").mkdir()  # nothing can be appended there
    with serving(answer) as (root, _):
        client = capture.record(make_client(root), tmp_path / "t.jsonl")
        with pytest.warns(UserWarning, match="is not being written"):
            first = client.chat.completions.create(model="m", messages=MESSAGES)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            second = client.chat.completions.create(model="m", messages=MESSAGES)
    assert first.choices == second.choices


def test_an_azure_client_in_many_threads_loses_no_line(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    with serving(answer) as (root, _):
        options = {"azure_endpoint": root, "api_key": KEY, "api_version": "2024-10-21", "max_retries": 0}
        client = capture.record(openai.AzureOpenAI(**options), tmp_path / "t.jsonl")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: client.chat.completions.create(model="m", messages=MESSAGES), range(40)))
    assert len(read_trajectories(tmp_path / "t.jsonl")) == 40
    assert os.path.getsize(tmp_path / "t.jsonl") > 0
