import gzip
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from servers import as_json, completion, refusal, serving, serving_lines, serving_tls

from swaplib.models.hosted import HostedLLM
from swaplib.models.pace import Pace
from swaplib.models.replies import CallFailed
from swaplib.prompts import build_messages
from swaplib.settings import load_settings


def ask(root: str, n: int = 1, **options) -> dict:
    llm = HostedLLM(
        f"{root}/openai/deployments/gpt", "key-of-the-test", "2024-10-21", "gpt", **options
    )
    return dict(llm.generate([build_messages("toolcall", f"Request {i}") for i in range(n)], 32))


def echo(exchange):
    return completion(f"to {exchange.json()['messages'][-1]['content']}")


def test_an_azure_call_has_the_shape_that_azure_wants():
    with serving(echo) as (root, exchanges):
        answers = ask(root)
    [exchange] = exchanges
    assert exchange.path == "/openai/deployments/gpt/chat/completions"
    assert exchange.query == "api-version=2024-10-21"
    assert exchange.headers["api-key"] == "key-of-the-test"
    body = exchange.json()
    assert (body["temperature"], body["max_tokens"]) == (0, 32)
    assert body["messages"] == build_messages("toolcall", "Request 0")
    generation = answers[0]
    assert (generation.output, generation.status, generation.finish_reason) == (
        "to Request 0",
        "ok",
        "stop",
    )
    assert (generation.prompt_tokens, generation.completion_tokens) == (11, 7)


def test_a_plain_v1_endpoint_gets_the_deployment_as_model(monkeypatch):
    with serving(echo) as (root, exchanges):
        monkeypatch.setenv("AZURE_ENDPOINT", f"{root}/v1")
        monkeypatch.setenv("AZURE_DEPLOYMENT", "small-model")
        list(
            HostedLLM.from_settings(load_settings()).generate([build_messages("toolcall", "Hi")], 8)
        )
    assert exchanges[0].path == "/v1/chat/completions"
    assert exchanges[0].json()["model"] == "small-model"
    assert exchanges[0].headers["authorization"].startswith("Bearer ")


def test_every_answer_belongs_to_its_question_and_calls_in_flight_are_bounded():
    in_flight, most, lock = 0, 0, threading.Lock()

    def answer(exchange):
        nonlocal in_flight, most
        with lock:
            in_flight += 1
            most = max(most, in_flight)
        time.sleep(0.05)
        with lock:
            in_flight -= 1
        return echo(exchange)

    with serving(answer) as (root, _):
        answers = ask(root, n=24, concurrency=6)
    assert {i: g.output for i, g in answers.items()} == {i: f"to Request {i}" for i in range(24)}
    assert 2 <= most <= 6


@pytest.mark.parametrize(
    ("answer", "status", "output"),
    [
        (completion("half", "length"), "truncated", "half"),
        (completion(None, "content_filter"), "filtered", ""),
        (completion(""), "empty", ""),
        (completion(None), "empty", ""),
        (completion(" \n"), "empty", " \n"),
        (refusal(400, code="content_filter"), "filtered", ""),
        (refusal(400, code="something_else"), "error", ""),
        (refusal(400, code="context_length_exceeded"), "truncated", ""),
        ((200, {"content-type": "text/html"}, b"<html>log in</html>"), "error", ""),
        ((200, {}, b'{"choices": [{"mess'), "error", ""),
        (as_json([]), "error", ""),
        (
            as_json({"choices": [{"message": None, "finish_reason": "content_filter"}]}),
            "filtered",
            "",
        ),
        (as_json({"error": {"message": "no", "code": ["x"], "param": {}}}, 400), "error", ""),
        (as_json({"choices": []}), "error", ""),
        (as_json({"choices": [{"message": None, "finish_reason": "stop"}]}), "error", ""),
        (completion(["a list of parts"]), "error", ""),
    ],
)
def test_how_an_answer_ended_is_kept(answer, status, output):
    with serving(lambda _: answer) as (root, _):
        [generation] = ask(root).values()
    assert (generation.status, generation.output) == (status, output)


def test_a_rate_limit_is_waited_for_as_long_as_the_server_says():
    def answer(exchange):
        return refusal(429, **{"retry-after": "1"}) if len(exchanges) == 1 else echo(exchange)

    with serving(answer) as (root, exchanges):
        start = time.monotonic()
        [generation] = ask(root).values()
    assert generation.status == "ok"
    assert len(exchanges) == 2
    assert time.monotonic() - start >= 1


def test_a_row_without_an_answer_after_the_retries_ends_as_error_and_others_do_not():
    def answer(exchange):
        return refusal(500) if "Request 1" in exchange.body.decode() else echo(exchange)

    with serving(answer) as (root, exchanges):
        answers = ask(root, n=3, max_retries=1)
    assert [answers[i].status for i in range(3)] == ["ok", "error", "ok"]
    assert "500" in answers[1].error
    assert len(exchanges) == 4


def test_a_call_is_given_up_at_its_deadline():
    with serving(lambda _: time.sleep(1.5) or completion("late")) as (root, _):
        [generation] = ask(root, deadline_s=0.3).values()
    assert generation.status == "error"
    assert "within 0.3 s" in generation.error


@pytest.mark.parametrize("parameter", ["temperature", "max_tokens"])
def test_a_model_that_refuses_greedy_decoding_is_named_as_such(parameter):
    with (
        serving(lambda _: refusal(400, code="unsupported_parameter", param=parameter)) as (root, _),
        pytest.raises(CallFailed, match=rf"refuses `{parameter}`.*decode greedily"),
    ):
        ask(root)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_that_every_call_would_get_stops_the_run_and_shows_no_key(status):
    with (
        serving(lambda _: refusal(status)) as (root, exchanges),
        pytest.raises(CallFailed) as caught,
    ):
        ask(root, n=50, concurrency=2)
    assert "AZURE_API_KEY" in str(caught.value)
    assert "key-of-the-test" not in str(caught.value)
    assert len(exchanges) <= 4


def test_a_consumer_that_stops_cancels_the_calls_in_flight():
    with serving(lambda e: time.sleep(0.2) or echo(e)) as (root, exchanges):
        llm = HostedLLM(f"{root}/openai/deployments/gpt", "k", "v", "gpt", concurrency=2)
        answers = llm.generate([build_messages("toolcall", f"{i}") for i in range(50)], 8)
        next(answers)
        answers.close()
        time.sleep(0.5)
        assert len(exchanges) <= 6


def test_a_closed_port_is_said_before_any_call():
    with serving(echo) as (root, _):
        pass
    with pytest.raises(ConnectionError, match=r"cannot reach 127.0.0.1:\d+.*AZURE_ENDPOINT"):
        HostedLLM(f"{root}/openai/deployments/gpt", "k", "v", "gpt").check()


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://host/openai",
        "host/v1",
        "ftp://host/v1",
        "https://host/openai/deployments/gpt/chat/completions?api-version=2024-10-21",
        "https://<host>/openai/deployments/<deployment>",
        "https://user:password@host/v1",
    ],
)
def test_an_endpoint_of_neither_shape_says_which_shapes_there_are(monkeypatch, endpoint):
    monkeypatch.setenv("AZURE_ENDPOINT", endpoint)
    with pytest.raises(ValueError, match=r"openai/deployments/<deployment>, or …/v1"):
        HostedLLM.from_settings(load_settings())


def test_the_key_is_in_no_representation():
    assert "key-of-the-test" not in repr(HostedLLM("http://h/v1", "key-of-the-test"))


def test_behind_a_proxy_the_endpoint_is_asked_through_it(monkeypatch):
    with serving_lines(b"HTTP/1.1 403 no\r\ncontent-length: 0\r\n\r\n") as (proxy, lines):
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        with pytest.raises(
            ConnectionError,
            match=r"gpt.corp.invalid:443 through the environment's proxy \(the proxy refused",
        ):
            HostedLLM("https://gpt.corp.invalid/openai/deployments/gpt", "k", "v", "gpt").check()
        assert lines[0].startswith(b"CONNECT gpt.corp.invalid:443 ")
        monkeypatch.setenv("HTTP_PROXY", proxy)
        HostedLLM(
            "http://gpt.corp.invalid/v1", "key-of-the-test", None, "gpt"
        ).check()  # something answered
        assert lines[1].startswith(b"OPTIONS http://gpt.corp.invalid/v1/chat/completions ")


@pytest.mark.parametrize("is_slm", [False, True])
def test_this_machine_is_not_asked_through_a_proxy_and_the_key_stays_here(monkeypatch, is_slm):
    def answer(exchange):
        return as_json({"data": [{"id": "gpt"}]}) if exchange.method == "GET" else echo(exchange)

    with (
        serving_lines(b"HTTP/1.1 502 no\r\ncontent-length: 0\r\n\r\n") as (proxy, lines),
        serving(answer) as (root, _),
    ):
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy)
        llm = HostedLLM(f"{root}/v1", "key-of-the-test", None, "gpt", is_slm=is_slm)
        llm.check()
        [(_, generation)] = llm.generate([build_messages("toolcall", "Hi")], 8)
    assert generation.status == "ok"
    assert lines == []


@pytest.mark.parametrize("variable", ["no_proxy", "NO_PROXY"])
def test_a_range_of_ipv6_among_the_exceptions_stops_no_call(monkeypatch, variable):
    monkeypatch.setenv(variable, "localhost,127.0.0.0/8,::1/128")
    with serving(echo) as (proxy, exchanges):
        monkeypatch.setenv("http_proxy", proxy)
        assert ask("http://gpt.corp.invalid")[0].status == "ok"
    assert exchanges[0].path == "http://gpt.corp.invalid/openai/deployments/gpt/chat/completions"


def test_a_redirect_is_not_followed_since_the_key_would_go_along():
    with (
        serving(echo) as (elsewhere, strangers),
        serving(lambda e: (307, {"location": f"{elsewhere}{e.path}"}, b"")) as (root, _),
    ):
        [generation] = ask(root).values()
    assert (generation.status, strangers) == ("error", [])
    assert "307" in generation.error


@pytest.mark.parametrize(
    "code", ["key-of-the-test", "\x1b]0;title\x07", "<script>alert(1)</script>", "x" * 10_000]
)
def test_what_a_server_calls_its_refusal_is_not_repeated_when_it_is_no_plain_word(code):
    with serving(lambda _: refusal(400, code=code)) as (root, _):
        [generation] = ask(root).values()
    assert generation.error == "BadRequestError 400 (no code): no"
    with (
        serving(lambda _: refusal(401, code=code)) as (root, _),
        pytest.raises(CallFailed, match=r"401 \(no code\)"),
    ):
        ask(root)


def test_a_finish_reason_that_is_no_plain_word_is_not_kept():
    with serving(lambda _: completion("fine", "stop <b>" * 1000)) as (root, _):
        [generation] = ask(root).values()
    assert (generation.output, generation.finish_reason) == ("fine", "unknown")


def test_a_slow_consumer_holds_the_calls_back_so_that_a_kill_loses_no_more_than_those_in_flight():
    with serving(echo) as (root, exchanges):
        llm = HostedLLM(f"{root}/openai/deployments/gpt", "k", "v", "gpt", concurrency=3)
        for written, _ in enumerate(
            llm.generate([build_messages("toolcall", f"{i}") for i in range(12)], 8)
        ):
            time.sleep(0.05)  # as writing it down may take
            assert len(exchanges) - written <= 3
    assert written == 11


@pytest.mark.parametrize(
    ("scheme", "said"),
    [("https", "http:// rather than https://"), ("http", "the key or a header holds a character")],
)
def test_what_no_second_try_can_mend_stops_the_run_at_once_and_says_why(scheme, said):
    key = "key-of-the-test\n" if scheme == "http" else "key-of-the-test"
    with serving(echo) as (root, exchanges):
        llm = HostedLLM(
            f"{root.replace('http', scheme)}/v1", key, None, "gpt", concurrency=2, max_retries=1
        )
        with pytest.raises(ConnectionError, match="cannot reach") as checked:
            llm.check()
        with pytest.raises(CallFailed) as called:
            list(llm.generate([build_messages("toolcall", f"{i}") for i in range(20)], 8))
        assert exchanges == []
    for caught in (checked, called):
        assert said in str(caught.value)
        assert "key-of-the-test" not in str(caught.value)


def test_a_certificate_that_is_not_trusted_is_said(tmp_path, monkeypatch):
    with serving_tls(tmp_path) as (port, certificate):
        llm = HostedLLM(f"https://localhost:{port}/v1", "k", None, "gpt")
        with pytest.raises(
            ConnectionError, match=r"its certificate is not trusted .*SSL_CERT_FILE"
        ):
            llm.check()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        llm.check()


def test_a_connection_that_broke_is_tried_again_and_its_cause_is_told():
    def answer(exchange):
        raise ConnectionAbortedError

    with serving(answer) as (root, exchanges):
        [generation] = ask(root, max_retries=1).values()
    assert len(exchanges) == 2
    assert generation.error.startswith(
        "APIConnectionError: what answered does not speak HTTP as expected"
    )


def test_a_deployment_that_reasons_is_asked_without_a_temperature_and_is_another_run(monkeypatch):
    with serving(echo) as (root, exchanges):
        monkeypatch.setenv("AZURE_ENDPOINT", f"{root}/v1")
        monkeypatch.setenv("AZURE_DEPLOYMENT", "gpt")
        plain = HostedLLM.from_settings(load_settings())
        monkeypatch.setenv("AZURE_REASONING", "on")
        llm = HostedLLM.from_settings(load_settings())
        list(llm.generate([build_messages("toolcall", "Hi")], 8))
    body = exchanges[0].json()
    assert body["max_completion_tokens"] == 8
    assert not {"temperature", "max_tokens"} & set(body)
    assert llm.identity() == plain.identity() | {"is_reasoning": True}


@pytest.mark.parametrize(
    ("names", "is_there"),
    [
        (["slm:latest"], True),
        (["other", "slm"], True),
        (["slm:8b"], False),
        (["slm-latest"], False),
    ],
)
def test_a_served_name_may_stand_with_the_tag_that_ollama_gives_it(names, is_there):
    listed = as_json({"data": [{"id": name} for name in names]})
    with serving(lambda _: listed) as (root, _):
        llm = HostedLLM(f"{root}/v1", "local", None, "slm", is_slm=True)
        if is_there:
            return llm.check()
        with pytest.raises(ValueError, match=rf"serves {names[0]}, not slm\. .*ollama cp"):
            llm.check()


def test_a_served_name_reaches_a_terminal_as_plain_text():
    listed = as_json(
        {"data": [{"id": "evil\x1b]0;title\x07\r\n\u202ename" + "x" * 5000}, {"id": 7}, {}, None]}
    )
    with (
        serving(lambda _: listed) as (root, _),
        pytest.raises(ValueError, match="serves evil ]0;title name") as caught,
    ):
        HostedLLM(f"{root}/v1", "local", None, "slm", is_slm=True).check()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "content", [b"[" * 200_000, b'{"data":' * 50_000, b"<html>", b'{"data": {"id": "slm"}}', b""]
)
def test_a_list_of_models_of_any_shape_is_refused_in_words(content):
    with (
        serving(lambda _: (200, {}, content)) as (root, _),
        pytest.raises(ConnectionError, match="no OpenAI-compatible"),
    ):
        HostedLLM(f"{root}/v1", "local", None, "slm", is_slm=True).check()


def test_a_packed_answer_that_would_fill_the_memory_is_an_error():
    packed = gzip.compress(b" " * 40_000_000)
    with serving(lambda _: (200, {"content-encoding": "gzip"}, packed)) as (root, _):
        [generation] = ask(root, max_retries=0).values()
    assert (generation.status, "longer than 16 MiB" in generation.error) == ("error", True)


class Bucket:
    """A limit of so many a minute, with no more than half a second's worth at once."""

    def __init__(self, per_minute: float):
        self.rate, self.level, self.seen = per_minute / 60, 0.0, time.monotonic()

    def find_wait(self, amount: float) -> float:
        """Seconds until the amount fits; 0 when it does now."""
        now = time.monotonic()
        self.level, self.seen = max(0.0, self.level - (now - self.seen) * self.rate), now
        return max(0.0, (self.level + amount) / self.rate - 0.5)


@contextmanager
def limiting(requests: float, tokens: float):
    """An endpoint with limits a minute; yields its root, and time and status of each answer."""
    lock, answered, buckets = threading.Lock(), [], (Bucket(requests), Bucket(tokens))

    def answer(exchange):
        body = exchange.json()
        amounts = (1, sum(len(m["content"]) for m in body["messages"]) / 4 + body["max_tokens"])
        with lock:
            wait = max(bucket.find_wait(n) for bucket, n in zip(buckets, amounts, strict=True))
            answered.append((time.monotonic(), 429 if wait else 200))
            if wait:
                return refusal(429, **{"retry-after": str(math.ceil(wait))})
            for bucket, n in zip(buckets, amounts, strict=True):
                bucket.level += n
        time.sleep(0.1)
        return echo(exchange)

    with serving(answer) as (root, _):
        yield root, answered


# 57 tokens a call.
@pytest.mark.parametrize(("requests", "tokens"), [(1200, 10**7), (10**5, 1200 * 57)])
def test_calls_come_at_nine_tenths_of_a_limit_at_least_and_none_is_over_it(requests, tokens):
    with limiting(requests, tokens) as (root, answered):
        answers = ask(root, n=41, concurrency=32, pace=Pace(requests, tokens))
    assert {generation.status for generation in answers.values()} == {"ok"}
    assert [status for _, status in answered] == [200] * 41
    assert answered[-1][0] - answered[0][0] < 40 * 60 / 1200 / 0.9


def test_a_limit_holds_for_all_threads_that_ask_the_endpoint():
    with limiting(1200, 10**7) as (root, answered):
        pace = Pace(1200)
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda _: ask(root, pace=pace), range(24)))
    assert [status for _, status in answered] == [200] * 24


def test_waiting_for_its_turn_is_no_part_of_a_calls_deadline_or_latency():
    with serving(echo) as (root, _):
        answers = ask(root, n=4, concurrency=4, deadline_s=0.3, pace=Pace(240))
    assert [g.status for g in answers.values()] == ["ok"] * 4
    assert max(g.latency_ms for g in answers.values()) < 300


def test_a_consumer_that_stops_does_not_wait_for_the_calls_whose_turn_is_to_come():
    with serving(echo) as (root, exchanges):
        llm = HostedLLM(f"{root}/v1", "k", None, "gpt", concurrency=4, pace=Pace(1))
        answers = llm.generate([build_messages("toolcall", f"{i}") for i in range(4)], 8)
        next(answers)
        start = time.monotonic()
        answers.close()
        assert time.monotonic() - start < 5
    assert len(exchanges) == 1


@pytest.mark.parametrize(
    "header", [{"retry-after": "0.6"}, {"retry-after-ms": "600", "retry-after": "9"}]
)
def test_while_one_call_is_told_to_wait_no_other_starts(header):
    arrived = []

    def answer(exchange):
        arrived.append(time.monotonic())
        if len(arrived) == 1:
            return refusal(429, **header)
        time.sleep(0.2)
        return echo(exchange)

    with serving(answer) as (root, _):
        answers = ask(root, n=6, concurrency=2)
    assert {generation.status for generation in answers.values()} == {"ok"}
    assert sum(at - arrived[0] < 0.55 for at in arrived) <= 2  # the one told, and the one beside it
    assert len(arrived) == 7


@pytest.mark.parametrize("value", ["0", "-1", "nan", "Wed, 21 Oct 2026 07:28:00 GMT", "86400"])
def test_a_pause_that_makes_no_sense_holds_no_other_call(value):
    def answer(exchange):
        is_told = "Request 0" in exchange.body.decode() and len(exchanges) == 1
        return refusal(429, **{"retry-after": value}) if is_told else echo(exchange)

    with serving(answer) as (root, exchanges):
        start = time.monotonic()
        answers = ask(root, n=3, concurrency=1, max_retries=0)
    assert time.monotonic() - start < 5
    assert [answers[i].status for i in range(3)] == ["error", "ok", "ok"]


def test_limits_are_read_from_the_environment_and_are_no_part_of_what_makes_a_run(monkeypatch):
    monkeypatch.setenv("AZURE_ENDPOINT", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("AZURE_DEPLOYMENT", "small-model")
    free = HostedLLM.from_settings(load_settings())
    monkeypatch.setenv("AZURE_REQUESTS_PER_MINUTE", "600")
    monkeypatch.setenv("AZURE_TOKENS_PER_MINUTE", "90000")
    limited = HostedLLM.from_settings(load_settings())
    assert limited.pace == Pace(600, 90000)
    assert limited.identity() == free.identity()
    monkeypatch.setenv("AZURE_REQUESTS_PER_MINUTE", "0")
    with pytest.raises(ValueError, match="AZURE_REQUESTS_PER_MINUTE"):
        load_settings()
