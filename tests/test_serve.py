import os
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from swaplib.metrics import score_row
from swaplib.prompts import build_messages
from swaplib.rows import read_rows
from swaplib.settings import ROOT
from swaplib.stand_in import STAND_IN

pytestmark = pytest.mark.stand_in
ROW = read_rows(ROOT / "slm_swap" / "02_dataset" / "toolcall" / "train.jsonl", "toolcall")[0]


@pytest.fixture
def root() -> str:
    return os.environ["AZURE_ENDPOINT"].partition("/openai")[0]


def test_official_clients_work_unchanged_on_both_paths(root):
    azure = openai.AzureOpenAI(
        base_url=os.environ["AZURE_ENDPOINT"], api_key="any", api_version=os.environ["AZURE_API_VERSION"]
    )
    plain = openai.OpenAI(base_url=f"{root}/v1", api_key="any")
    messages = build_messages("toolcall", ROW.prompt)
    answers = [c.chat.completions.create(model="stand-in", messages=messages, max_tokens=4) for c in (azure, plain)]
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
        return httpx.post(f"{root}/v1/chat/completions", json=body, timeout=120).json()["choices"][0]["message"][
            "content"
        ]

    with ThreadPoolExecutor(6) as pool:
        served = list(pool.map(ask, prompts))
    chats = [build_messages("structured", prompt) for prompt in prompts]
    alone = [in_process.generate_batch([in_process.render(chat)], 8)[0].output for chat in chats]
    assert sum(a == b for a, b in zip(served, alone, strict=True)) >= 5  # rounding may differ between compositions


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
        ({"messages": [{"role": "user", "content": "x"}], "stream": True}, "stream"),
        ({"messages": [{"role": "user", "content": "x"}], "n": 2}, "n"),
        ({"messages": [{"role": "user", "content": "x"}], "stop": ["x"]}, "stop"),
        ({"messages": [{"role": "user", "content": "x"}], "max_tokens": 9000}, "messages"),
    ],
)
def test_a_wrong_body_gets_the_openai_error_shape(root, body, param):
    answer = httpx.post(f"{root}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_body_that_is_no_json_and_a_path_that_is_not_there(root):
    assert httpx.post(f"{root}/v1/chat/completions", content=b"{").status_code == 400
    answer = httpx.get(f"{root}/v1/nothing")
    assert answer.status_code == 404
    assert "GET /v1/nothing" in answer.json()["error"]["message"]


def test_a_port_that_is_taken_is_named(root, slm):
    from swaplib.serve import serve

    with pytest.raises(OSError, match=r"port \d+ on loopback is taken"):
        serve(slm, "second", int(root.rpartition(":")[2]))


def test_another_server_at_the_port_is_not_taken_for_the_stand_in(root):
    from swaplib.stand_in import running_stand_in

    with pytest.raises(RuntimeError, match="is taken"), running_stand_in(f"{root}/v1"):
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
    answer = httpx.post(f"{root}/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_the_stand_in_knows_the_task_and_the_base_model_does_not(root, slm):
    messages = build_messages("toolcall", ROW.prompt)
    body = {"messages": messages, "max_tokens": 96}
    served = httpx.post(f"{root}/v1/chat/completions", json=body, timeout=120).json()["choices"][0]["message"][
        "content"
    ]
    [alone] = slm.generate_batch([slm.render(messages)], 32)
    assert score_row("toolcall", ROW.completion, served)["valid_call"]
    assert not score_row("toolcall", ROW.completion, alone.output)["valid_call"]
