"""Accepted answers that the hosted LLM is asked for as well: what is counted, and what never is."""

import json
import re
import threading
import time

import httpx
import pytest
from routes import ACCEPT, CALL, always, hosted_at, list_calls, served_route, write_route
from servers import completion, refusal, serving
from test_router_budget import ASKED
from test_tool_api import CHAT

from swaplib.evaluation.answers import is_same
from swaplib.metrics import JsonDocument, ToolCall
from swaplib.models.completions import read_completion
from swaplib.routing import audit
from swaplib.routing.answers import read_hosted

pytestmark = pytest.mark.slow
OUTCOMES = {"agreed": 0, "disagreed": 0, "hosted_errors": 0, "over_budget": 0, "skipped": 0}
FULL = {**ASKED, "max_tokens": 32}


def post(served: str, body=FULL) -> httpx.Response:
    answer = httpx.post(f"{served}/chat/completions", json=body, timeout=120)
    assert answer.headers["x-swap-route"] == "slm"
    return answer


def read(file) -> dict:
    return json.loads(file.with_name(f"{file.stem}.audit.json").read_text())


def test_agreement_is_counted_over_restarts_and_drift_is_seen(settings, slm):
    said = {}

    def answer(exchange):
        return completion(said.get("call", CALL))

    with serving(answer) as (root, exchanges):
        at = hosted_at(settings, root)
        file = write_route(at, slm, ACCEPT)
        with served_route(at, slm, file) as served:
            call = post(served).json()["choices"][0]["message"]["tool_calls"][0]["function"]
        assert list_calls(exchanges) == []  # no share, no audit
        said["call"] = f'<tool_call name="area">{call["arguments"]}</tool_call>'
        with served_route(at, slm, file, audit_share=1.0) as served:
            post(served)
        once = read(file)
        said["call"] = '<tool_call name="area">{"radius": 123456789}</tool_call>'
        with served_route(at, slm, file, audit_share=1.0) as served:
            for _ in range(3):
                post(served)
        twice = read(file)
    assert once["outcomes"] == OUTCOMES | {"agreed": 1}
    assert (once["n"], once["agreed"], once["rate"]) == (1, 1, 1.0)
    assert not once["is_drifting"]
    assert twice["outcomes"] == OUTCOMES | {"agreed": 1, "disagreed": 3}
    assert (twice["n"], twice["rate"], twice["since"]) == (4, 0.25, once["since"])
    assert twice["val_interval"] == [0.89, 0.98]
    assert twice["interval"][1] < 0.89
    assert twice["is_drifting"]
    assert len(list_calls(exchanges)) == 4
    assert list_calls(exchanges)[0].json()["messages"] == CHAT


def test_an_audit_never_delays_an_answer_and_only_some_are_in_flight(settings, slm, monkeypatch):
    monkeypatch.setattr(audit, "MOST_IN_FLIGHT", 1)
    go = threading.Event()

    def stall(exchange):
        go.wait(60)
        return completion(CALL)

    with serving(stall) as (root, exchanges):
        at = hosted_at(settings, root)
        file = write_route(at, slm, ACCEPT)
        with served_route(at, slm, file, audit_share=1.0) as served:
            for _ in range(2):
                post(served)
            assert not go.is_set()  # both answers came while the hosted LLM had said nothing
            for _ in range(100):
                if read(file)["outcomes"]["skipped"]:
                    break
                time.sleep(0.1)
            go.set()
    assert len(list_calls(exchanges)) == 1
    outcomes = read(file)["outcomes"]
    assert outcomes["skipped"] == 1
    assert outcomes["agreed"] + outcomes["disagreed"] == 1


def test_what_the_hosted_llm_does_not_answer_is_no_disagreement(settings, slm):
    with serving(lambda exchange: refusal(401)) as (root, exchanges):
        at = hosted_at(settings, root)
        file = write_route(at, slm, ACCEPT)
        with served_route(at, slm, file, audit_share=1.0, daily_calls=1) as served:
            post(served)
            for _ in range(100):
                if read(file)["outcomes"]["hosted_errors"]:
                    break
                time.sleep(0.1)
            post(served)
    record = read(file)
    assert record["outcomes"] == OUTCOMES | {"hosted_errors": 1, "over_budget": 1}
    assert (record["n"], record["rate"], record["is_drifting"]) == (0, None, False)
    assert len(list_calls(exchanges)) == 1


def test_another_route_starts_another_count_and_a_broken_file_none(settings, slm):
    with serving(always("no call")) as (root, _):
        at = hosted_at(settings, root)
        file = write_route(at, slm, ACCEPT)
        with served_route(at, slm, file, audit_share=1.0) as served:
            post(served)
        before = read(file)
        write_route(at, slm, ACCEPT - 1)
        with served_route(at, slm, file, audit_share=1.0):
            pass
        after = read(file)
        path = file.with_name("toolcall_router.audit.json")
        path.write_text("{}")
        with (
            pytest.raises(ValueError, match=re.escape(str(path))),
            served_route(at, slm, file, audit_share=1.0),
        ):
            pass
    assert before["outcomes"]["disagreed"] == 1
    assert after["outcomes"] == OUTCOMES
    [kept] = after["earlier"]
    assert kept == {key: value for key, value in before.items() if key != "earlier"}
    assert path.read_text() == "{}"


def read_message(track: str, **message):
    body = {"choices": [{"message": message, "finish_reason": "stop"}]}
    return read_hosted(track, read_completion(body))


def test_answers_are_the_same_as_canonical_json_whatever_their_form():
    function = {"name": "area", "arguments": '{"b": [1], "a": 1}'}
    called = read_message("toolcall", content=None, tool_calls=[{"function": function}])
    assert called == ToolCall("area", {"a": 1, "b": [1]})
    assert is_same(
        called,
        read_message("toolcall", content='{"name": "area", "arguments": {"a": 1, "b": [1]}}'),
    )
    written = '<tool_call name="area">{"a":1,"b":[1]}</tool_call>'
    assert is_same(called, read_message("toolcall", content=written))
    assert not is_same(called, ToolCall("area", {"a": 1.0, "b": [1]}))
    assert not is_same(called, ToolCall("volume", {"a": 1, "b": [1]}))
    twice = [{"function": function}, {"function": function}]
    assert read_message("toolcall", content=None, tool_calls=twice) is None
    assert not is_same(None, None)
    assert is_same(read_message("structured", content=' {"a": 1}'), JsonDocument({"a": 1}))
    assert read_message("structured", content="{}", tool_calls=twice) is None
