import gc
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from langfuse_server import LangfuseServer, attributes
from servers import as_json, serving
from test_tracing import KEYS, trace_run

from swaplib.files import hash_text
from swaplib.rows import Generation
from swaplib.runs import new_folder
from swaplib.settings import ROOT
from swaplib.tracing import outbox, outbox_parts, posting, request_traces
from swaplib.tracing.delivery import push_traces
from swaplib.tracing.request_record import Attempt, RequestTrace
from swaplib.tracing.request_traces import RequestTraces

START = 1_795_000_000.0
TEXTS = ("question", "answer 0", "output of", "area", "no call")  # of request 0


def make_attempt(name: str, number: int, text: str = "", status: str = "ok") -> Attempt:
    return Attempt(
        name=name,
        model=f"model-of-{name}",
        generation=Generation(
            f"output of {name} {number}{text}",
            status,
            "stop",
            11,
            7,
            250.0,
            "no answer" if status == "error" else None,
        ),
        messages=[{"role": "user", "content": f"question {number}{text}"}],
        started_at=START + number,
        ended_at=START + number + 0.25,
        asked={"tools": [{"name": "area"}]},
        parameters={"temperature": 0, "max_tokens": 256},
        cost={"input": 0.5, "output": 0.25} if name == "hosted" else None,
    )


def make_trace(number: int, text: str = "", is_refused: bool = False) -> RequestTrace:
    """A request that the SLM answers or, where its answer was refused, the hosted LLM."""
    names = ("slm", "hosted") if is_refused else ("slm",)
    return RequestTrace(
        request_id=f"req-{number}",
        name="route toolcall",
        started_at=START + number,
        ended_at=START + number + 1,
        inputs={"messages": [{"role": "user", "content": f"question {number}{text}"}]},
        output=f"answer {number}{text}",
        metadata={"reason": "no call" if is_refused else "valid", "validator": "toolcall"},
        attempts=tuple(make_attempt(name, number, text) for name in names),
        answered_by=names[-1],
    )


SERVER = """
import sys
sys.path.insert(0, "tests")
from test_request_traces import make_trace
from swaplib.runs import new_folder
from swaplib.settings import load_settings
from swaplib.tracing.request_traces import RequestTraces
traces = RequestTraces(load_settings(), new_folder(load_settings(), "route"))
for number in range(10**6):
    traces.add(make_trace(number, is_refused=number % 3 == 0))
"""


def open_traces(settings, **changes) -> RequestTraces:
    settings = settings.model_copy(update=changes)
    return RequestTraces(settings, new_folder(settings, "route", "toolcall"))


def read_spans(settings) -> list[dict]:
    lines = [
        line
        for path in sorted(settings.runs.glob("*/trace.jsonl"))
        for line in outbox.read_outbox(path)
    ]
    return [span for line in lines for span in outbox.list_spans(line)]


def check_whole(spans, n_traces: int) -> None:
    """Each trace has one root, and below it the attempts of its own request."""
    traces = {}
    for span in spans:
        traces.setdefault(span["traceId"], []).append(span)
    assert len(traces) == n_traces
    for of_trace in traces.values():
        [root] = [span for span in of_trace if "parentSpanId" not in span]
        request_id = json.loads(attributes(root)["langfuse.observation.metadata.request_id"])
        number = int(request_id.removeprefix("req-"))
        children = [span for span in of_trace if span is not root]
        assert [span["parentSpanId"] for span in children] == [root["spanId"]] * len(children)
        expected = ["slm", "hosted"] if number % 3 == 0 else ["slm"]
        assert [span["name"] for span in children] == expected
        for span in children:
            said = attributes(span)["langfuse.observation.output"]
            assert said == f"output of {span['name']} {number}"


def test_many_requests_at_once_leave_a_whole_trace_each(settings):
    langfuse = LangfuseServer()
    with serving(langfuse) as (root, _):
        traces = open_traces(settings, **KEYS, langfuse_base_url=root)
        with ThreadPoolExecutor(20) as pool:
            for i in range(200):
                pool.submit(lambda i=i: traces.add(make_trace(i, is_refused=i % 3 == 0)))
        traces.close()
    counts = traces.count()
    assert (counts.made, counts.written, counts.delivered, counts.lost) == (200, 200, 200, 0)
    spans = read_spans(settings)
    check_whole(spans, 200)
    assert len(spans) == 200 * 2 + 67
    assert langfuse.spans.keys() == {span["spanId"] for span in spans}
    assert len(langfuse.rows) == len(spans)


def wait_until(is_so, timeout_s: float = 20.0) -> None:
    give_up_at = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def fill(traces, numbers) -> None:
    for i in numbers:
        traces.add(make_trace(i, is_refused=i % 3 == 0))


def sending(settings, root, **changes):
    return settings.model_copy(update=KEYS | {"langfuse_base_url": root} | changes)


def test_a_trace_tells_who_answered_and_why_and_what_each_attempt_was_and_cost(settings):
    failed = make_attempt("slm", 0, status="error")
    with open_traces(settings) as traces:
        traces.add(
            replace(make_trace(0, is_refused=True), attempts=(failed, make_attempt("hosted", 0)))
        )
    root, slm, hosted = sorted(
        read_spans(settings), key=lambda span: span["name"] != "route toolcall"
    )
    found = attributes(root)
    assert json.loads(found["langfuse.observation.input"])["messages"][0]["content"] == "question 0"
    assert found["langfuse.observation.output"] == "answer 0"
    shown = {
        name: json.loads(found[f"langfuse.observation.metadata.{name}"])
        for name in ("request_id", "answered_by", "reason", "validator")
    }
    assert shown == {
        "request_id": "req-0",
        "answered_by": "hosted",
        "reason": "no call",
        "validator": "toolcall",
    }
    assert int(root["startTimeUnixNano"]) == int(START * 1e9)
    assert int(root["endTimeUnixNano"]) == int((START + 1) * 1e9)
    for span in (root, slm, hosted):
        found = attributes(span)
        assert found["langfuse.trace.name"] == "route toolcall"
        assert found["langfuse.trace.tags"] == {"values": [{"stringValue": "answered by hosted"}]}
    found = attributes(slm)
    assert found["langfuse.observation.level"] == "ERROR"
    assert found["langfuse.observation.status_message"] == "no answer"
    found = attributes(hosted)
    assert found["langfuse.observation.level"] == "DEFAULT"
    assert found["langfuse.observation.model.name"] == "model-of-hosted"
    assert json.loads(found["langfuse.observation.usage_details"]) == {"input": 11, "output": 7}
    assert json.loads(found["langfuse.observation.cost_details"]) == {"input": 0.5, "output": 0.25}
    assert json.loads(found["langfuse.observation.model.parameters"]) == {
        "temperature": 0,
        "max_tokens": 256,
    }
    assert json.loads(found["langfuse.observation.input"])["tools"] == [{"name": "area"}]
    assert int(hosted["endTimeUnixNano"]) - int(hosted["startTimeUnixNano"]) == 250_000_000


def test_a_request_without_an_answer_is_an_error_and_tagged_as_such(settings):
    failed = (make_attempt("slm", 0, status="error"),)
    with open_traces(settings) as traces:
        traces.add(
            replace(
                make_trace(0),
                attempts=failed,
                answered_by=None,
                output=None,
                error="no model is there",
            )
        )
    [root] = [attributes(span) for span in read_spans(settings) if "parentSpanId" not in span]
    assert root["langfuse.observation.level"] == "ERROR"
    assert root["langfuse.observation.status_message"] == "no model is there"
    assert "not answered" in json.dumps(root["langfuse.trace.tags"])


def test_two_requests_with_one_id_have_two_traces(settings):
    with open_traces(settings) as traces:
        traces.add(make_trace(1))
        traces.add(make_trace(1))
    assert len({span["traceId"] for span in read_spans(settings)}) == 2
    assert len({span["spanId"] for span in read_spans(settings)}) == 4


def test_a_server_that_is_down_and_then_up_gets_each_trace_once(settings, monkeypatch, capsys):
    monkeypatch.setattr(request_traces, "RETRY_S", 0.05)
    langfuse = LangfuseServer()
    langfuse.failing = 503
    with serving(langfuse) as (root, exchanges):
        traces = open_traces(settings, **KEYS, langfuse_base_url=root)
        fill(traces, range(150))
        wait_until(lambda: len(exchanges) > 3)  # asked again and again
        assert traces.count().delivered == 0
        langfuse.failing = 0
        wait_until(lambda: traces.count().delivered == 150)
        fill(traces, range(150, 300))
        traces.close()
    assert traces.count().delivered == 300
    assert len(langfuse.rows) == len(langfuse.spans) == 300 * 2 + 100
    assert capsys.readouterr().out.count("not delivered yet") == 1
    assert push_traces(sending(settings, root)) == []


def test_what_a_server_that_stays_away_did_not_get_is_said_and_pushed_later(settings, capsys):
    langfuse = LangfuseServer()
    with serving(langfuse) as (root, _):
        langfuse.failing = 401
        traces = open_traces(settings, **KEYS, langfuse_base_url=root)
        fill(traces, range(30))
        traces.close()
        assert traces.count().delivered == 0
        [*_, said] = capsys.readouterr().out.splitlines()
        assert "30 NOT delivered" in said
        assert "swap push-traces" in said
        langfuse.failing = 0
        [record] = push_traces(sending(settings, root))
        assert (record["made"], record["delivered"], record["trace_id"]) == (70, 70, "")
        assert push_traces(sending(settings, root)) == []
        push_traces(sending(settings, root), is_all=True)
    langfuse.merge()
    check_whole([row | raw(row) for row in langfuse.spans.values()], 30)


def raw(row) -> dict:
    """A row of the server with its attributes as a span has them."""
    return {
        "attributes": [
            {"key": key, "value": {"stringValue": value}}
            for key, value in row["attributes"].items()
        ]
    }


def test_a_server_that_hangs_holds_up_no_request_for_long_and_what_is_lost_is_counted(
    settings, monkeypatch, capsys
):
    monkeypatch.setattr(request_traces, "WAITING", 5)
    monkeypatch.setattr(request_traces, "WAIT_S", 0.05)
    is_released = threading.Event()
    with serving(lambda _: as_json({"was": is_released.wait(4)})) as (root, exchanges):
        traces = open_traces(settings, **KEYS, langfuse_base_url=root)
        fill(traces, [0])
        wait_until(lambda: exchanges)
        started = time.monotonic()
        fill(traces, range(1, 11))
        assert time.monotonic() - started < 3  # five wait 0.05 s each
        is_released.set()
        traces.close()
    counts = traces.count()
    assert (counts.made, counts.written, counts.lost) == (11, 6, 5)
    said = capsys.readouterr().out
    assert said.count("are lost: 5 traces wait") == 1
    assert "5 LOST" in said
    check_whole(read_spans(settings), 6)


def test_with_trace_content_off_no_text_of_a_request_or_an_answer_is_traced(settings):
    with open_traces(settings, swap_trace_content="off") as traces:
        fill(traces, [0])
    [path] = settings.runs.glob("*/trace.jsonl")
    text = path.read_text()
    assert not [word for word in TEXTS if word in text]
    assert hash_text("answer 0") in text
    assert hash_text("output of slm 0") in text
    [root] = [attributes(span) for span in read_spans(settings) if "parentSpanId" not in span]
    assert json.loads(root["langfuse.observation.metadata.validator"]) == "toolcall"
    assert json.loads(root["langfuse.observation.metadata.answered_by"]) == "hosted"


def test_what_was_written_in_the_clear_is_hidden_when_it_is_sent_with_content_off(settings):
    with open_traces(settings) as traces:
        fill(traces, [0])
    langfuse = LangfuseServer()
    with serving(langfuse) as (root, _):
        [record] = push_traces(sending(settings, root, swap_trace_content="off"))
    assert record["failed"] == 0
    sent = json.dumps(langfuse.spans)
    assert not [word for word in TEXTS if word in sent]


def test_secrets_are_masked_wherever_a_request_or_an_answer_has_them(settings, tmp_path):
    keys = {
        "azure_api_key": "azure-key-of-the-test",
        "langfuse_secret_key": "canary-secret",
        "slm_api_key": "slm-key-of-the-test",
    }
    looks_like_one = "sk-" + "a1b2" * 8
    said = " ".join([*keys.values(), "key-of-the-server", looks_like_one])
    settings = settings.model_copy(update=keys)
    trace = make_trace(0, f" {said}", is_refused=True)
    broken = replace(trace.attempts[0].generation, status="error", error=f"status 500: {said}")
    attempt = replace(trace.attempts[0], generation=broken, asked={"tools": [{said: [said]}]})
    folder = new_folder(settings, "route")
    with request_traces.RequestTraces(settings, folder, ["key-of-the-server"]) as traces:
        traces.add(
            replace(
                trace, attempts=(attempt,), error=said, metadata={"reason": said}, request_id=said
            )
        )
    assert traces.count().written == 1
    text = (folder / "trace.jsonl").read_text()
    assert not [key for key in said.split() if key in text]
    assert "question 0 ***" in text


def test_a_trace_that_comes_after_the_end_is_an_error_in_words(settings):
    traces = open_traces(settings)
    traces.close()
    with pytest.raises(RuntimeError, match=r"request req-7 came after .* closed"):
        traces.add(make_trace(7))
    traces.close()  # does nothing
    assert list(settings.runs.iterdir()) == []  # nothing was asked, and no empty folder is left
    assert trace_run(settings).deliver().made == 6


def test_a_run_and_a_server_are_not_traced_in_one_process_at_once(settings):
    with open_traces(settings), pytest.raises(RuntimeError, match="are being traced"):
        trace_run(settings)
    with (
        request_traces.RequestTraces(settings, settings.runs / "a"),
        pytest.raises(RuntimeError, match="are being traced"),
    ):
        request_traces.RequestTraces(settings, settings.runs / "b")


def test_without_keys_a_server_does_not_start_and_says_how_to_go_on(settings):
    with pytest.raises(ValueError, match="SWAP_TRACING=outbox"):
        open_traces(settings, swap_tracing="langfuse")
    (settings.runs / "a").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="expected no such folder"):
        request_traces.RequestTraces(settings, settings.runs / "a")
    assert trace_run(settings).deliver().made == 6


def test_a_disk_that_takes_nothing_stops_no_request_and_what_is_lost_is_counted(settings, capsys):
    traces = open_traces(settings)
    fill(traces, range(3))
    wait_until(lambda: traces.count().written == 3)
    [path] = settings.runs.glob("*/trace.jsonl")
    written = path.read_bytes()
    path.unlink()
    path.mkdir()
    fill(traces, range(3, 8))
    wait_until(lambda: traces.count().lost == 5)
    path.rmdir()
    path.write_bytes(written)
    fill(traces, range(8, 10))
    traces.close()
    counts = traces.count()
    assert (counts.made, counts.written, counts.lost) == (10, 5, 5)
    assert "Is a directory" in counts.problem
    said = capsys.readouterr().out
    assert said.count("are lost") == 1
    assert "5 LOST" in said
    check_whole(read_spans(settings), 5)


def test_what_a_full_disk_took_half_of_is_taken_back_so_that_the_counts_are_true(
    settings, env_of_tests
):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
    code = limit + SERVER.replace("10**6", "300")
    env = env_of_tests | {"SWAP_HOME": str(settings.swap_home), "SWAP_TRACING": "outbox"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True
    )
    [said] = re.findall(r"300 request\(s\), (\d+) of them in .*; (\d+) LOST", done.stdout)
    n_written, n_lost = map(int, said)
    assert n_written + n_lost == 300
    assert n_lost > 0
    check_whole(read_spans(settings), n_written)


def test_a_trace_that_cannot_be_made_is_counted_and_leaves_nothing_in_the_next(settings):
    broken = replace(make_attempt("hosted", 1), messages=["no message"])
    with open_traces(settings) as traces:
        fill(traces, [0])
        traces.add(replace(make_trace(1), attempts=(make_attempt("slm", 1), broken)))
        fill(traces, [2, 3])
    counts = traces.count()
    assert (counts.made, counts.written, counts.lost) == (4, 3, 1)
    assert "AttributeError" in counts.problem
    check_whole(read_spans(settings), 3)


def test_a_large_outbox_goes_on_in_another_folder_and_all_are_delivered(settings, monkeypatch):
    monkeypatch.setattr(outbox_parts, "PART_BYTES", 20_000)
    monkeypatch.setattr(request_traces, "TRACES_PER_WRITE", 5)
    langfuse = LangfuseServer()
    langfuse.failing = 500
    with serving(langfuse) as (root, _):
        traces = open_traces(settings, **KEYS, langfuse_base_url=root)
        fill(traces, range(60))
        wait_until(lambda: traces.count().written == 60)
        langfuse.failing = 0
        traces.close()
        assert traces.count().delivered == 60
        assert push_traces(sending(settings, root)) == []
    folders = {path.name for path in settings.runs.iterdir()}
    assert len(folders) > 3
    first = min(folders)
    assert folders == {first} | {f"{first}-part{n}" for n in range(2, len(folders) + 1)}
    assert max(path.stat().st_size for path in settings.runs.glob("*/trace.jsonl")) < 50_000
    check_whole(read_spans(settings), 60)
    assert len(langfuse.rows) == len(langfuse.spans) == 140


def test_a_request_that_the_server_cannot_take_holds_up_no_other(settings, monkeypatch):
    monkeypatch.setattr(posting, "BYTES_PER_POST", 20_000)
    monkeypatch.setattr(outbox_parts, "BYTES_PER_POST", 20_000)
    langfuse = LangfuseServer()

    def answer(exchange):
        return as_json({}, 413) if len(exchange.body) > 30_000 else langfuse(exchange)

    with serving(answer) as (root, _):
        traces = open_traces(settings, **KEYS, langfuse_base_url=root)
        for i in range(20):
            traces.add(make_trace(i, "x" * (40_000 if i == 7 else 0), is_refused=i % 3 == 0))
        traces.close()
        counts = traces.count()
        assert (counts.written, counts.delivered) == (20, 19)
        [record] = push_traces(sending(settings, root))
    assert record["failed"] == 2


def test_what_a_killed_server_had_written_is_pushed_whole(settings, env_of_tests):
    env = env_of_tests | {"SWAP_HOME": str(settings.swap_home), "SWAP_TRACING": "outbox"}
    with subprocess.Popen([sys.executable, "-c", SERVER], env=env, cwd=ROOT) as server:
        wait_until(lambda: sum(p.stat().st_size for p in settings.runs.glob("*/*")) > 300_000, 60)
        os.kill(server.pid, signal.SIGKILL)
    [path] = settings.runs.glob("*/trace.jsonl")
    with path.open("ab") as file:  # the last write, torn
        file.write(b'{"resourceSpans": [{"sco')
    langfuse = LangfuseServer()
    with serving(langfuse) as (root, _):
        [record] = push_traces(sending(settings, root))
        assert record["failed"] == 0
        assert push_traces(sending(settings, root)) == []
    n_traces = sum(1 for _ in outbox.read_outbox(path))
    assert n_traces > 50
    check_whole([row | raw(row) for row in langfuse.spans.values()], n_traces)


def test_a_process_that_ends_without_closing_its_traces_loses_none(settings, env_of_tests):
    env = env_of_tests | {"SWAP_HOME": str(settings.swap_home), "SWAP_TRACING": "outbox"}
    code = SERVER.replace("10**6", "30")
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "traces of 30 request(s), 30 of them in" in done.stdout
    check_whole(read_spans(settings), 30)


@pytest.mark.parametrize("name", ["LANGFUSE_TRACING_ENABLED", "OTEL_SDK_DISABLED"])
def test_the_environment_cannot_switch_traces_off_silently(settings, env_of_tests, name):
    value = "true" if name == "OTEL_SDK_DISABLED" else "false"
    code = SERVER.replace("10**6", "3")
    env = env_of_tests | {"SWAP_HOME": str(settings.swap_home), "SWAP_TRACING": "outbox"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=env | {name: value},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "3 LOST" in done.stdout
    assert name in done.stdout


def test_nothing_is_kept_of_a_request_that_is_written(settings):
    def count_objects() -> int:
        wait_until(lambda: traces.count().written == traces.count().made)
        gc.collect()
        return len(gc.get_objects())

    with open_traces(settings) as traces:
        fill(traces, range(100))
        before = count_objects()
        fill(traces, range(100, 500))
        assert count_objects() - before < 100  # of 400 requests
