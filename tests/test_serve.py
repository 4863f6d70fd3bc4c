import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import openai
import pytest

from swaplib.demo.stand_in import STAND_IN
from swaplib.metrics import score_row
from swaplib.models.local_model import LoadedModel
from swaplib.prompts import build_messages
from swaplib.rows import Generation, read_rows
from swaplib.serving.batcher import Batcher
from swaplib.serving.server_process import find_free_port
from swaplib.settings import ROOT

pytestmark = pytest.mark.stand_in
ROW = read_rows(ROOT / "slm_swap" / "02_dataset" / "toolcall" / "train.jsonl", "toolcall")[0]


@pytest.fixture
def root() -> str:
    return os.environ["AZURE_ENDPOINT"].partition("/openai")[0]


def test_official_clients_work_unchanged_on_both_paths(root):
    azure = openai.AzureOpenAI(
        base_url=os.environ["AZURE_ENDPOINT"],
        api_key="any",
        api_version=os.environ["AZURE_API_VERSION"],
    )
    plain = openai.OpenAI(base_url=f"{root}/v1", api_key="any")
    messages = build_messages("toolcall", ROW.prompt)
    answers = [
        c.chat.completions.create(model="stand-in", messages=messages, max_tokens=4)
        for c in (azure, plain)
    ]
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content
    assert answers[0].choices[0].finish_reason == "length"
    assert answers[0].usage.completion_tokens == 4
    assert answers[0].usage.total_tokens == answers[0].usage.prompt_tokens + 4
    assert [model.id for model in plain.models.list()] == ["stand-in"]


def test_requests_that_arrive_together_are_answered_together_each_its_own(root, slm):
    prompts = [f"Count from {i} to {i + 3}." for i in range(6)]
    in_process = STAND_IN

    def ask(prompt: str) -> str:
        body = {"messages": build_messages("structured", prompt), "max_tokens": 8}
        return httpx.post(f"{root}/v1/chat/completions", json=body, timeout=120).json()["choices"][
            0
        ]["message"]["content"]

    with ThreadPoolExecutor(6) as pool:
        served = list(pool.map(ask, prompts))
    chats = [build_messages("structured", prompt) for prompt in prompts]
    alone = [dict(in_process.generate([chat], 8))[0].output for chat in chats]
    # Rounding may differ between compositions.
    assert sum(a == b for a, b in zip(served, alone, strict=True)) >= 5


def test_health_counts_requests(root):
    before = httpx.get(f"{root}/health").json()["requests"]
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    httpx.post(f"{root}/v1/chat/completions", json=body, timeout=60)
    assert httpx.get(f"{root}/health").json()["requests"] == before + 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "x"}], "temperature": 0.7}, "temperature"),
        ({"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "x"}], "stream": "often"}, "stream"),
        (
            {"messages": [{"role": "user", "content": "x"}], "stream_options": {"x": 1}},
            "stream_options.x",
        ),
        ({"messages": [{"role": "user", "content": "x"}], "max_tokens": 5000}, "max_tokens"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "x"}], "n": 2}, "n"),
        ({"messages": [{"role": "user", "content": "x"}], "stop": ["x"]}, "stop"),
        (
            {"messages": [{"role": "user", "content": "word " * 8000}], "max_tokens": 4000},
            "messages",
        ),
    ],
)
def test_a_wrong_body_gets_the_openai_error_shape(root, body, param):
    answer = httpx.post(f"{root}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_client_may_fill_in_every_field_with_what_is_done_anyway(root):
    client = openai.OpenAI(base_url=f"{root}/v1", api_key="any")
    asked, messages = {"model": "stand-in", "max_tokens": 6}, build_messages("toolcall", ROW.prompt)
    plain = client.chat.completions.create(**asked, messages=messages)
    filled = client.chat.completions.create(
        **asked,
        messages=[{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages],
        temperature=0.0,
        top_p=1,
        frequency_penalty=0,
        presence_penalty=0.0,
        stop=None,
        tools=[],
        tool_choice="auto",
        parallel_tool_calls=False,
        response_format={"type": "text"},
        logprobs=False,
        logit_bias={},
        n=1,
        stream=False,
        seed=7,
        user="me",
        store=False,
        metadata={"run": "7"},
        extra_body={
            "chat_template_kwargs": {"enable_thinking": False},
            "stream_options": None,
            "top_logprobs": None,
        },
    )
    assert filled.choices[0].message.content == plain.choices[0].message.content
    assert filled.usage == plain.usage


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        (
            {"frequency_penalty": 0.5},
            "frequency_penalty",
            "decoded greedily here: send 0 or leave it out",
        ),
        ({"max_tokens": True}, "max_tokens", "valid integer"),
        ({"max_tokens": "5"}, "max_tokens", "valid integer"),
        ({"top_p": -5}, "top_p", "greater than 0"),
        ({"temperature": "0"}, "temperature", "send 0"),
        ({"mirostat": 2}, "mirostat", "this field is not known here: leave it out"),
        (
            {"messages": [{"role": "user", "content": "x", "name": "Ann"}]},
            "messages.0.name",
            "speakers have no names",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_in_words(root, fields, param, words):
    body = {"messages": [{"role": "user", "content": "x"}], **fields}
    answer = httpx.post(f"{root}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert words in answer.json()["error"]["message"]


def test_a_body_that_is_no_json_and_a_path_that_is_not_there(root):
    assert httpx.post(f"{root}/v1/chat/completions", content=b"{").status_code == 400
    answer = httpx.get(f"{root}/v1/nothing")
    assert answer.status_code == 404
    assert "GET /v1/nothing" in answer.json()["error"]["message"]


def test_a_port_that_is_taken_is_named(root, slm):
    from swaplib.serving.server import serve

    with pytest.raises(OSError, match=r"port \d+ \("):
        serve(slm, "second", int(root.rpartition(":")[2]))


def test_another_server_at_the_port_is_not_taken_for_the_stand_in(root):
    from swaplib.demo.stand_in import running_stand_in

    with pytest.raises(RuntimeError, match="cannot serve at"), running_stand_in(f"{root}/v1"):
        pass


def test_one_long_prompt_does_not_fail_the_others_of_its_batch(root):
    def ask(prompt: str) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 2}
        return httpx.post(f"{root}/v1/chat/completions", json=body, timeout=120)

    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(ask, ["word " * 9000, "hi", "hello"]))
    assert [answer.status_code for answer in answers] == [400, 200, 200]
    assert answers[0].json()["error"]["code"] == "context_length_exceeded"


def test_half_a_surrogate_pair_is_a_wrong_body(root):
    body = b'{"messages": [{"role": "user", "content": "\\ud800"}]}'
    answer = httpx.post(
        f"{root}/v1/chat/completions", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_the_stand_in_knows_the_task_and_the_base_model_does_not(root, slm):
    messages = build_messages("toolcall", ROW.prompt)
    body = {"messages": messages, "max_tokens": 96}
    served = httpx.post(f"{root}/v1/chat/completions", json=body, timeout=120).json()["choices"][0][
        "message"
    ]["content"]
    [(_, alone)] = slm.generate([messages], 32)
    assert score_row("toolcall", ROW.completion, served)["valid_call"]
    assert not score_row("toolcall", ROW.completion, alone.output)["valid_call"]


def test_an_address_of_ipv6_is_told_as_a_url_has_it(checkpoint):
    command = [
        sys.executable,
        "-m",
        "swaplib.cli",
        "serve",
        "--model",
        checkpoint.path,
        "--host",
        "::1",
        "--port",
        "0",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        said = process.stdout.readline()
        process.kill()
    assert re.search(r"answers at http://\[::1\]:\d+/v1$", said), said


CHAT = [{"role": "user", "content": "Hi"}]


def test_the_official_client_streams_the_same_text_in_parts(root):
    client = openai.OpenAI(base_url=f"{root}/v1", api_key="any")
    asked = {
        "model": "stand-in",
        "messages": build_messages("toolcall", ROW.prompt),
        "max_tokens": 12,
    }
    whole = client.chat.completions.create(**asked)
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    parts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(parts) == whole.choices[0].message.content
    assert sum(bool(part) for part in parts) > 3
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[
        0
    ].finish_reason
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1
    without = list(client.chat.completions.create(**asked, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in without)


def stream_scripted(model: LoadedModel, text: str) -> list:
    """The parts of a fixed text that a batcher streams, and the generation; real tokenizer."""

    class Scripted:
        detokenise = staticmethod(model.detokenise)

        constrain = staticmethod(model.constrain)

        def follow(self, feed, batch_size, on_token, logits_hook):
            assert feed.take(batch_size) == [("x", 99)]
            ids = model.checkpoint.encode(text)
            for token in [*ids, model.checkpoint.tokenizer.eos_token_id]:
                on_token(0, token)
            yield 0, Generation(text, "ok", "stop", 1, len(ids), 1.0)

    async def collect() -> list:
        batcher = Batcher(SimpleNamespace(batch_size=1, model=Scripted()))
        worker = asyncio.create_task(batcher.run())
        parts = [part async for part in batcher.stream("x", 99)]
        worker.cancel()
        return parts

    return asyncio.run(collect())


def test_tags_that_a_tokenizer_marks_special_are_streamed_and_ends_are_not(model_of_special_tags):
    text = '<tool_call name="circle_area">{"radius":5}</tool_call>'
    *parts, generation = stream_scripted(model_of_special_tags, text)
    assert "".join(parts) == text == generation.output
    assert parts[0] == '<tool_call name="'
    assert parts[-1] == "</tool_call>"


def test_a_character_of_several_tokens_is_streamed_whole(slm):
    text = "naïve 日本 🎉 end"
    *parts, generation = stream_scripted(slm.model, text)
    assert "".join(parts) == text == generation.output
    assert not any("\ufffd" in part for part in parts)
    assert len(parts) > 4


def test_a_decoding_that_fails_before_it_begins_fails_those_that_wait_and_no_later_ones(slm):
    class Failing:
        constrain = staticmethod(slm.model.constrain)
        n_calls = 0

        def follow(self, feed, batch_size, on_token, logits_hook):
            self.n_calls += 1
            if self.n_calls == 1:
                raise RuntimeError("no memory for anything")
            for i, _ in enumerate(feed.take(batch_size)):
                yield i, Generation("fine", "ok", "stop", 1, 1, 1.0)

    async def ask() -> list:
        batcher = Batcher(SimpleNamespace(batch_size=1, model=Failing()))
        worker = asyncio.create_task(batcher.run())
        first = await asyncio.gather(*(batcher.ask(x, 9) for x in "ab"), return_exceptions=True)
        later = await asyncio.wait_for(batcher.ask("c", 9), 10)
        worker.cancel()
        return [*map(str, first), later.output]

    assert asyncio.run(ask()) == ["no memory for anything"] * 2 + ["fine"]


def test_32_clients_and_200_requests_get_every_answer_to_its_own_question(root):
    words = ["lion", "river", "seven", "blue", "Paris", "music", "stone", "winter"]
    chats = {word: [{"role": "user", "content": f"Spell {word}."}] for word in words}
    expected = {word: dict(STAND_IN.generate([chat], 6))[0] for word, chat in chats.items()}
    # So an answer shows whose it is.
    assert len({e.output for e in expected.values()}) == len(words)

    def ask(i: int) -> tuple[str, str, int]:
        word = words[i % len(words)]
        body = {"messages": chats[word], "max_tokens": 6}
        answer = httpx.post(f"{root}/v1/chat/completions", json=body, timeout=300).json()
        return word, answer["choices"][0]["message"]["content"], answer["usage"]["prompt_tokens"]

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, range(200)))
    assert len(answers) == 200
    assert all(tokens == expected[word].prompt_tokens for word, _, tokens in answers)
    wrong = [(word, text) for word, text, _ in answers if text != expected[word].output]
    # Nobody got another's answer.
    assert not any(text == e.output for word, text in wrong for e in expected.values())
    assert len(wrong) <= 2  # rounding may differ between compositions


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"messages": ' + b"[" * 100_000,
        b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 1e999}',
        b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": ' + b"9" * 5000 + b"}",
        b'{"messages": [{"role": "user", "content": "x"}], "seed": NaN}',
        b'{"messages": [{"role": "user", "content": 1}]}',
        b'{"messages": {"role": "user"}}',
        b'"' + b"x" * 900_000 + b'"',
    ],
    ids=range(12),
)
@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/openai/deployments/stand-in/chat/completions"]
)
def test_a_bad_body_is_4xx_in_the_openai_error_shape(root, path, body):
    answer = httpx.post(
        f"{root}{path}", content=body, headers={"content-type": "application/json"}, timeout=30
    )
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_body_that_is_too_large_is_refused_with_and_without_its_length(root):
    def send_parts():
        for _ in range(3):
            yield b" " * 500_000

    for content in (b" " * 1_500_000, send_parts()):
        answer = httpx.post(f"{root}/v1/chat/completions", content=content, timeout=30)
        assert answer.status_code == 413
        assert "larger than 1000000 bytes" in answer.json()["error"]["message"]


def test_another_models_name_is_refused_not_answered(root):
    for path, body in [
        ("/v1/chat/completions", {"model": "gpt", "messages": CHAT}),
        ("/openai/deployments/gpt/chat/completions", {"messages": CHAT}),
    ]:
        answer = httpx.post(f"{root}{path}", json=body, timeout=30)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "model_not_found"


# A real server and its clients in one process. Its memory is limited once the model has answered.
SHORT_OF_MEMORY = """
import asyncio, json, resource, sys
from pathlib import Path
import httpx, torch, uvicorn
from swaplib.models.local import LocalSLM
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.serving.server import make_app
folder, port, spare = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) * 2**20
slm = LocalSLM(Checkpoint(Path(folder), precision="float32"), batch_size=8)

def limit_memory():
    if slm.checkpoint.device == "cuda":
        used = torch.cuda.memory_reserved() + spare
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(used / total)
    else:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + spare
        resource.setrlimit(resource.RLIMIT_AS, (used, used))

def make_body(i, **more):
    messages = [{"role": "user", "content": f"Request {i} " + "word " * 400}]
    return {"messages": messages, "max_tokens": 3} | more

async def main():
    server = uvicorn.Server(uvicorn.Config(make_app(slm, "slm"), port=port, log_level="warning"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.1)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/v1", timeout=600) as client:
        async def ask(body):
            return await client.post("/chat/completions", json=body)
        alone = [await ask(make_body(i)) for i in range(2)]
        limit_memory()
        bodies = [make_body(0, stream=True), *(make_body(i) for i in range(1, 8))]
        together = await asyncio.gather(*map(ask, bodies))
        after = await ask(make_body(1))
    lines = together[0].text.splitlines()
    parts = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    streamed = "".join(part["choices"][0]["delta"].get("content", "") for part in parts)
    answers = [answer.json() for answer in (*alone, *together[1:], after)]
    outputs = [answer["choices"][0]["message"]["content"] for answer in answers]
    tokens = [answer["usage"]["completion_tokens"] for answer in answers]
    print(json.dumps({"streamed": streamed, "outputs": outputs, "tokens": tokens}))
    server.should_exit = True
    await running

asyncio.run(main())
"""


def test_a_batch_that_does_not_fit_into_memory_is_answered_in_smaller_ones(checkpoint):
    # How much a process has in reserve differs between machines and runs: less until it is short.
    for spare_mib in (60, 48, 36, 28, 20, 12, 6, 0):
        command = [sys.executable, "-c", SHORT_OF_MEMORY, checkpoint.path]
        command += [str(find_free_port()), str(spare_mib)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == -signal.SIGABRT and "memory allocation of" in done.stderr:
            pytest.skip("the tokenizer, which ends its process then, was the first to be short")
        assert done.returncode == 0, done.stderr
        *said, answers = done.stdout.splitlines()
        if said:
            break
    assert said
    assert all(line.startswith("out of memory with") for line in said)
    found = json.loads(answers)
    assert len(found["tokens"]) == 10
    assert all(found["tokens"])
    first, second, *together, after = found["outputs"]
    assert found["streamed"] == first
    assert together[0] == after == second  # and the server has survived it


@pytest.fixture(scope="module")
def guarded(slm):
    """A server with a key, started as by `swap serve`; yields the process and its root."""
    port = find_free_port()
    command = [
        sys.executable,
        "-m",
        "swaplib.cli",
        "serve",
        "--model",
        slm.checkpoint.path,
        "--dtype",
        "float32",
    ]
    env = os.environ | {"SLM_API_KEY": "open-sesame"}
    process = subprocess.Popen(
        [*command, "--port", str(port), "--host", "0.0.0.0"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    root = f"http://127.0.0.1:{port}"
    for _ in range(240):
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"{root}/health", timeout=5)
            break
        time.sleep(0.5)
    yield process, root
    process.kill()


def test_a_server_with_a_key_answers_only_those_who_have_it(guarded):
    _, root = guarded
    body = {"model": "slm", "messages": CHAT, "max_tokens": 1}
    for headers, status in [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"api-key": "ö"}, 401),
        ({"authorization": "Bearer open-sesame"}, 200),
        ({"authorization": "bearer open-sesame"}, 200),
        ({"authorization": "Basic open-sesame"}, 401),
        ({"api-key": "open-sesame"}, 200),
    ]:
        raw = {name: value.encode("utf-8") for name, value in headers.items()}
        answer = httpx.post(f"{root}/v1/chat/completions", json=body, headers=raw, timeout=60)
        assert answer.status_code == status, headers
    assert httpx.get(f"{root}/v1/models").status_code == 401
    assert httpx.get(f"{root}/health").status_code == 200


def test_a_stopped_server_ends_what_it_has_begun_and_has_warned_of_its_address(guarded):
    process, root = guarded
    body = {"messages": CHAT, "max_tokens": 48}
    headers = {"authorization": "Bearer open-sesame"}
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(
            httpx.post, f"{root}/v1/chat/completions", json=body, headers=headers, timeout=120
        )
        while httpx.get(f"{root}/health").json()["requests"] < 4:
            time.sleep(0.02)
        process.terminate()
        assert answer.result().status_code == 200
    output, _ = process.communicate(timeout=60)
    assert "0.0.0.0 is reachable from other machines, unencrypted, by anyone with the key" in output
    assert "slm answers at" in output
    assert "open-sesame" not in output
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{root}/health")
