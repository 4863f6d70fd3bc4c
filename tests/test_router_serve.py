"""`swap serve --route` over the packaged checkpoint: who answers, how, and what is refused."""

import json
import socket
import threading
import time

import httpx
import openai
import pytest
from routes import (
    ACCEPT,
    CALL,
    REFUSE,
    always,
    hosted_at,
    list_calls,
    open_openai,
    read_traces,
    served_route,
    write_route,
)
from servers import as_json, completion, refusal, serving
from test_tool_api import AREA, CALLING, CHAT, NOW, RESULT, as_schema

from swaplib.metrics import parse_output

pytestmark = pytest.mark.slow
BOUND = {"tools": [AREA], "tool_choice": "required"}
CALLED = {"id": "call_1", "type": "function", "function": {"name": "area", "arguments": "{}"}}
ANSWERED = {"index": 0, "message": {"role": "assistant", "content": "5"}, "finish_reason": "stop"}


def called(*calls) -> tuple:
    """A hosted LLM's answer that makes calls."""
    status, headers, body = completion(None, "tool_calls")
    content = json.loads(body)
    content["choices"][0]["message"]["tool_calls"] = list(calls)
    return status, headers, json.dumps(content).encode()


def ask(client, **body):
    asked = {"model": "slm", "messages": CHAT, "max_tokens": 32, **BOUND, **body}
    return client.chat.completions.with_raw_response.create(**asked)


def test_what_is_accepted_is_the_answer_of_the_server_without_a_route(settings, slm):
    with serving(always("never asked")) as (root, exchanges):
        at = hosted_at(settings, root)
        with served_route(at, slm, write_route(at, slm)) as served:
            raw = ask(open_openai(served))
    assert list_calls(exchanges) == []
    answer = raw.parse()
    assert raw.headers["x-swap-route"] == "slm"
    assert raw.headers["x-swap-reason"] == "accepted"
    assert answer.model == "slm"
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.tool_calls[0].function.name == "area"
    route = {"answered_by": "slm", "reason": "accepted", "validator": None}
    assert json.loads(raw.content)["route"] == route
    [trace] = read_traces(at)
    assert set(trace) == {"route toolcall", "slm"}
    root_span = trace["route toolcall"]
    assert raw.headers["x-request-id"] in root_span["langfuse.observation.metadata.request_id"]


def test_what_is_refused_goes_to_the_hosted_llm_as_the_client_asked_it(settings, slm):
    two = called(CALLED, {**CALLED, "id": "call_2"})
    with serving(lambda exchange: two) as (root, exchanges):
        at = hosted_at(settings, root)
        with served_route(at, slm, write_route(at, slm, REFUSE)) as served:
            messages = [*CHAT, CALLING, RESULT, {"role": "user", "content": "Radius 6?"}]
            raw = ask(
                open_openai(served),
                messages=messages,
                tools=[AREA, NOW],
                tool_choice={"type": "function", "function": {"name": "area"}},
                parallel_tool_calls=True,
                temperature=0,
                seed=7,
                frequency_penalty=0,
            )
    [call] = list_calls(exchanges)
    assert call.json() == {
        "model": "big",
        "messages": messages,
        "tools": [AREA, NOW],
        "tool_choice": {"type": "function", "function": {"name": "area"}},
        "parallel_tool_calls": True,
        "temperature": 0,
        "max_tokens": 32,
    }
    assert call.headers["authorization"] == "Bearer key-of-the-test"
    content = json.loads(raw.content)
    route = content.pop("route")
    assert content == json.loads(two[2])
    assert (route["answered_by"], route["validator"]) == ("hosted", "confidence")
    assert route["reason"].startswith("confidence: mean_logprob -")
    assert raw.headers["x-swap-route"] == "hosted"
    assert raw.headers["x-swap-reason"] == route["reason"]
    [trace] = read_traces(at)
    assert set(trace) == {"route toolcall", "slm", "hosted"}
    assert trace["hosted"]["langfuse.observation.model.name"] == "big"


def test_a_reasoning_deployment_gets_no_temperature(settings, slm):
    with serving(always(CALL)) as (root, exchanges):
        at = hosted_at(settings, root, azure_reasoning=True)
        with served_route(at, slm, write_route(at, slm, REFUSE)) as served:
            ask(open_openai(served))
    body = list_calls(exchanges)[0].json()
    assert "temperature" not in body
    assert "max_tokens" not in body
    assert body["max_completion_tokens"] == 32


def test_validators_see_the_tools_and_the_words_of_the_request(settings, slm):
    policy = {"has_validators": True, "signal": None, "threshold": None}
    huge = {"type": "integer", "minimum": 7000, "maximum": 7001}
    weigh = {"type": "object", "properties": {"weight_kg": huge}, "required": ["weight_kg"]}
    weigh["properties"]["weight_kg"]["description"] = "in kg"
    tool = {"type": "function", "function": {"name": "weigh", "parameters": weigh}}
    with serving(always(CALL)) as (root, _):
        at = hosted_at(settings, root)
        with served_route(at, slm, write_route(at, slm, policy=policy)) as served:
            client = open_openai(served)
            named = ask(
                client, tools=[tool], messages=[{"role": "user", "content": "7000 kg or 7001 kg"}]
            )
            invented = ask(client, tools=[tool], messages=[{"role": "user", "content": "5 kg"}])
            free = ask(client, tool_choice="auto", max_tokens=6)
    assert named.headers["x-swap-route"] == "slm", named.headers["x-swap-reason"]
    assert json.loads(invented.content)["route"]["validator"] == "values"
    assert json.loads(free.content)["route"]["validator"] in ("end", "form")
    assert all(
        json.loads(answer.content)["route"]["answered_by"] == "hosted"
        for answer in (invented, free)
    )


def test_without_a_user_message_no_value_is_named_and_no_reason_shows_a_key(settings, slm):
    policy = {"has_validators": True, "signal": None, "threshold": None}
    key = "sk-abcdefghijklmnopqrstuvwxyz012345"
    parameters = {
        "type": "object",
        "properties": {"user_id": {"enum": [key]}},
        "required": ["user_id"],
    }
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    with serving(always(CALL)) as (root, _):
        at = hosted_at(settings, root)
        with served_route(at, slm, write_route(at, slm, policy=policy)) as served:
            messages = [{"role": "system", "content": f"The user is {key}."}]
            raw = ask(open_openai(served), tools=[tool], messages=messages, max_tokens=60)
    reason = json.loads(raw.content)["route"]["reason"]
    assert reason == "values: user_id of f is ***, and the request does not name it"
    assert raw.headers["x-swap-reason"] == reason


@pytest.mark.parametrize(
    ("said", "warning"),
    [
        ({"verdict": "worse"}, "surely worse than the hosted LLM's: do not route so"),
        ({"verdict": "better", "obstacle": "form"}, "two models cannot be compared (form)"),
        ({"verdict": "not enough rows", "obstacle": None}, None),
    ],
)
def test_a_route_that_09_advises_against_is_a_warning(settings, slm, capsys, said, warning):
    with serving(always(CALL)) as (root, _):
        at = hosted_at(settings, root)
        with served_route(at, slm, write_route(at, slm, **said)):
            pass
    told = capsys.readouterr().err
    assert warning in told if warning else "warning" not in told


def test_a_structured_answer_must_fit_its_schema_and_may_be_streamed(settings, slm):
    switch = {
        "type": "object",
        "properties": {"is_on": {"enum": [True, False]}},
        "required": ["is_on"],
        "additionalProperties": False,
    }
    policy = {"has_validators": True, "signal": None, "threshold": None}
    body = {"tools": openai.omit, "tool_choice": openai.omit, **as_schema(switch)}
    with serving(always("{}")) as (root, exchanges):
        at = hosted_at(settings, root)
        file = write_route(at, slm, policy=policy, track="structured")
        with served_route(at, slm, file) as served:
            client = open_openai(served)
            whole = ask(client, **body)
            stream = client.chat.completions.create(
                model="slm", messages=CHAT, max_tokens=32, stream=True, **as_schema(switch)
            )
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            cut = ask(client, **body | {"max_tokens": 1})
    assert whole.headers["x-swap-route"] == "slm"
    assert text == whole.parse().choices[0].message.content
    assert parse_output("structured", text).value.keys() == {"is_on"}
    assert json.loads(cut.content)["route"]["validator"] == "end"
    [call] = list_calls(exchanges)
    assert call.json()["response_format"] == as_schema(switch)["response_format"]


def test_streams_begin_when_it_is_decided_and_say_who_answers(settings, slm):
    two = called(CALLED, {**CALLED, "id": "call_2"})
    found = {}
    with serving(lambda exchange: two) as (root, exchanges):
        at = hosted_at(settings, root)
        for threshold in (ACCEPT, REFUSE):
            with served_route(at, slm, write_route(at, slm, threshold)) as served:
                client = open_openai(served)
                raw = ask(client, stream=True, stream_options={"include_usage": True})
                found[raw.headers["x-swap-route"]] = list(raw.parse())
                with client.chat.completions.stream(
                    model="slm", messages=CHAT, max_tokens=32, **BOUND
                ) as stream:
                    found[f"{raw.headers['x-swap-route']} read"] = stream.get_final_completion()
    assert all("stream" not in call.json() for call in list_calls(exchanges))
    for name in ("slm", "hosted"):
        *chunks, usage = found[name]
        assert usage.usage.completion_tokens
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-1].choices[0].finish_reason == "tool_calls"
        assert chunks[-1].route["answered_by"] == name
        assert not any(hasattr(chunk, "route") for chunk in chunks[:-1])
        assert len({chunk.id for chunk in found[name]}) == 1
    read = found["hosted read"].choices[0].message.tool_calls
    assert [call.id for call in read] == ["call_1", "call_2"]
    assert found["slm read"].choices[0].message.tool_calls[0].function.name == "area"


def test_what_the_slm_cannot_take_goes_to_the_hosted_llm(settings, slm, monkeypatch):
    long = [{"role": "user", "content": "word " * 9000}]
    with serving(always(CALL)) as (root, exchanges):
        at = hosted_at(settings, root)
        file = write_route(at, slm)
        with served_route(at, slm, file) as served:
            too_long = ask(open_openai(served), messages=long)
        with served_route(at, slm, file, max_waiting=0) as served:
            busy = ask(open_openai(served))

        def fail(model, feed, *args):
            feed.take(1)
            raise MemoryError

        with served_route(at, slm, file) as served, monkeypatch.context() as patch:
            patch.setattr(type(slm.model), "follow", fail)
            failed = ask(open_openai(served))
    assert [
        (answer.headers["x-swap-route"], answer.headers["x-swap-reason"])
        for answer in (too_long, busy, failed)
    ] == [
        ("hosted", "the prompt does not fit into the SLM's context"),
        ("hosted", "too many requests wait for the SLM"),
        ("hosted", "the SLM failed (MemoryError)"),
    ]
    assert len(list_calls(exchanges)) == 3
    assert all(set(trace) == {"route toolcall", "slm", "hosted"} for trace in read_traces(at))


def test_what_is_refused_without_a_route_is_refused_with_one(settings, slm):
    bodies = [
        {"messages": CHAT, "temperature": 0.7},
        {"messages": CHAT, "n": 2},
        {"messages": CHAT, "max_tokens": 5000},
        {"messages": [*CHAT, RESULT]},
        {"messages": CHAT, **as_schema({"type": "object", "$ref": "#/nowhere"})},
    ]
    with serving(always(CALL)) as (root, exchanges):
        at = hosted_at(settings, root)
        with served_route(at, slm, write_route(at, slm, REFUSE)) as served:
            statuses = [
                httpx.post(f"{served}/chat/completions", json=body, timeout=60).status_code
                for body in bodies
            ]
    assert statuses == [400] * len(bodies)
    assert list_calls(exchanges) == []


@pytest.mark.parametrize(
    ("answer", "status", "code", "words"),
    [
        (refusal(400, "content_filter"), 400, "content_filter", "refused the request: 400"),
        (refusal(400, "context_length_exceeded"), 400, "context_length_exceeded", "400"),
        (refusal(401), 502, "hosted_failed", "401"),
        (refusal(404, "DeploymentNotFound"), 502, "hosted_failed", "DeploymentNotFound"),
        (refusal(429, "insufficient_quota"), 502, "hosted_failed", "insufficient_quota"),
        (as_json({"error": {"message": "x", "code": 500}}), 502, "hosted_failed", "500"),
        ((200, {}, b"<html>"), 502, "hosted_failed", "no chat completion"),
        (called("no call"), 502, "hosted_failed", "no chat completion"),
        (as_json({"choices": [ANSWERED, "none"]}), 502, "hosted_failed", "no chat completion"),
    ],
    ids=["filter", "too-long", "key", "deployment", "quota", "error-in-200", "html", "call", "two"],
)
def test_a_hosted_llm_that_does_not_answer_is_an_error_with_the_reason(
    settings, slm, answer, status, code, words
):
    found = {}
    with serving(lambda exchange: answer) as (root, exchanges):
        at = hosted_at(settings, root)
        file = write_route(at, slm, REFUSE)
        for fail_open in (False, True):
            with served_route(at, slm, file, fail_open=fail_open) as served:
                asked = {"model": "slm", "messages": CHAT, "max_tokens": 4, **BOUND}
                found[fail_open] = httpx.post(f"{served}/chat/completions", json=asked, timeout=60)
    assert len(list_calls(exchanges)) == 2  # a try each: another would end alike
    refused, sent = found[False], found[True]
    assert refused.status_code == status
    error = refused.json()["error"]
    assert error["code"] == code
    assert words in error["message"]
    assert "confidence: mean_logprob" in error["message"]
    assert refused.headers["x-swap-route"] == "hosted"
    assert words in refused.headers["x-swap-reason"]
    assert sent.status_code == 200
    assert sent.headers["x-swap-route"] == "slm"
    reason = sent.json()["route"]["reason"]
    assert words in reason
    assert reason.startswith("confidence: ")
    assert sent.json()["choices"][0]["message"]["content"].startswith("{")
    text = json.dumps(read_traces(at))
    assert "key-of-the-test" not in text
    assert "not answered" in text


def test_passing_failures_are_tried_again_within_the_deadline(settings, slm):
    script = iter(
        [
            refusal(429, **{"Retry-After": "0"}),
            refusal(500),
            refusal(503, **{"retry-after-ms": "5"}),
            ConnectionError(),
            completion(CALL),
        ]
    )

    def answer(exchange):
        step = next(script) if exchange.method == "POST" else completion("")
        if isinstance(step, ConnectionError):
            raise step
        return step

    with serving(answer) as (root, exchanges):
        at = hosted_at(settings, root)
        with served_route(at, slm, write_route(at, slm, REFUSE)) as served:
            raw = ask(open_openai(served))
    assert raw.parse().choices[0].message.content == CALL
    assert len(list_calls(exchanges)) == 5


def test_the_deadline_is_that_of_the_whole_request(settings, slm):
    end = threading.Event()

    def stall(exchange):
        end.wait(20)
        return completion(CALL)

    found = {}
    with serving(stall) as (root, exchanges):
        at = hosted_at(settings, root)
        file = write_route(at, slm, REFUSE)
        for fail_open in (False, True):
            with served_route(at, slm, file, deadline_s=12, fail_open=fail_open) as served:
                asked = {"model": "slm", "messages": CHAT, "max_tokens": 4, **BOUND}
                start = time.perf_counter()
                answer = httpx.post(f"{served}/chat/completions", json=asked, timeout=60)
                found[fail_open] = (answer, time.perf_counter() - start)
        end.set()
        with served_route(at, slm, file, deadline_s=0.05, fail_open=True) as served:
            late = httpx.post(f"{served}/chat/completions", json=asked, timeout=60)
    assert len(list_calls(exchanges)) == 2
    assert late.status_code == 504
    assert late.json()["error"]["code"] == "deadline_exceeded"
    refused, took_s = found[False]
    assert refused.status_code == 504
    assert refused.json()["error"]["code"] == "hosted_timeout"
    assert 11 < took_s < 16
    assert found[True][0].headers["x-swap-route"] == "slm"
    assert "time was up" in found[True][0].json()["route"]["reason"]


def test_a_try_that_would_begin_after_the_deadline_is_not_waited_for(settings, slm):
    with serving(lambda exchange: refusal(429, **{"Retry-After": "90"})) as (root, exchanges):
        at = hosted_at(settings, root)
        with served_route(at, slm, write_route(at, slm, REFUSE), deadline_s=50) as served:
            start, found = time.perf_counter(), []
            for _ in range(2):
                with pytest.raises(openai.InternalServerError) as caught:
                    ask(open_openai(served), max_tokens=4)
                found.append(caught.value)
    assert time.perf_counter() - start < 40
    assert [error.status_code for error in found] == [502, 502]
    assert "429" in found[0].message
    assert "takes no calls for" in found[1].message
    assert 0 < int(found[1].response.headers["retry-after"]) <= 90
    assert len(list_calls(exchanges)) == 1


def serve_nothing(*arguments):
    with served_route(*arguments):
        pass


def test_a_route_for_another_checkpoint_is_refused_with_both_named(settings, slm):
    other = slm.identity() | {"checkpoint_sha256": "f" * 64}
    with serving(always(CALL)) as (root, _):
        at = hosted_at(settings, root)
        file = write_route(at, slm, identity=other)
        own = slm.identity()["checkpoint_sha256"]
        with pytest.raises(ValueError, match=f"chosen for {'f' * 64}, served {own}"):
            serve_nothing(at, slm, file)
        unquantised = slm.identity() | {"quantisation": None}
        file = write_route(at, slm, identity=unquantised)
        with pytest.raises(ValueError, match="quantisation: chosen for None, served nf4"):
            serve_nothing(at, slm, file)


def test_a_hosted_llm_that_is_down_at_the_start_is_a_warning(settings, slm, capsys):
    with serving(always(CALL)) as (root, _):
        pass
    at = hosted_at(settings, root)
    file = write_route(at, slm)
    with served_route(at, slm, file) as served:
        accepted = ask(open_openai(served))
    assert accepted.headers["x-swap-route"] == "slm"
    assert "warning: cannot reach" in capsys.readouterr().err
    with pytest.raises(ValueError, match="AZURE_API_KEY"):
        serve_nothing(at.model_copy(update={"azure_api_key": None}), slm, file)


def test_a_client_that_goes_leaves_a_trace_and_no_call_in_flight(settings, slm):
    go = threading.Event()

    def stall(exchange):
        go.wait(60)
        return completion(CALL)

    with serving(stall) as (root, exchanges):
        at = hosted_at(settings, root)
        with served_route(at, slm, write_route(at, slm, REFUSE)) as served:
            asked = {"model": "slm", "messages": CHAT, "max_tokens": 4, **BOUND}
            body = json.dumps(asked).encode()
            head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            with socket.create_connection(("127.0.0.1", int(served.split(":")[2][:-3]))) as client:
                client.sendall(head.encode() + body)
                while not list_calls(exchanges):
                    time.sleep(0.05)
            start = time.perf_counter()
        assert time.perf_counter() - start < 30  # the server stops without the hosted LLM
        go.set()
    [trace] = read_traces(at)
    assert set(trace) == {"route toolcall", "slm", "hosted"}
    told = trace["route toolcall"]["langfuse.observation.status_message"]
    assert told == "the client had gone before its answer"
    assert "ended before its answer" in trace["hosted"]["langfuse.observation.status_message"]


def test_texts_are_hidden_where_they_are_to_be(settings, slm):
    with serving(lambda exchange: refusal(400, "content_filter")) as (root, _):
        at = hosted_at(settings, root, swap_trace_content="off")
        policy = {"has_validators": True, "signal": None, "threshold": None}
        with served_route(at, slm, write_route(at, slm, policy=policy)) as served:
            messages = [{"role": "user", "content": "My secret is 4711."}]
            with pytest.raises(openai.BadRequestError):
                ask(open_openai(served), messages=messages, max_tokens=4)
    text = json.dumps(read_traces(at))
    assert "4711" not in text
    assert "content_filter" in text
