"""What of a trace arrives at a Langfuse server, once, and what is said when it does not."""

import gzip
import json
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from langfuse_server import LangfuseServer
from servers import as_json, serving
from test_tracing import KEYS, make_line, trace_run

from swaplib.rows import Generation, LedgerLine
from swaplib.settings import load_settings
from swaplib.tracing import langfuse_api, outbox, outbox_index, run_trace
from swaplib.tracing.delivery import describe_delivery, push_traces
from swaplib.tracing.posting import SPANS_PATH

LEVEL, MESSAGE, OUTPUT = (
    f"langfuse.observation.{name}" for name in ("level", "status_message", "output")
)


def sending(settings, root, **changes):
    return settings.model_copy(update=KEYS | {"langfuse_base_url": root} | changes)


def fail_run(settings, n=2, run_id="run-1"):
    """A training that logs its steps and is then stopped by an error."""
    with (
        pytest.raises(RuntimeError),
        run_trace.RunTrace(settings, run_id, settings.runs / run_id, "train", {}, []) as trace,
    ):
        for i in range(n):
            trace.add_generation(make_line(i), [], "m", 1)
            trace.add_event(f"step {i} loss", {"loss": 1.0})
        raise RuntimeError("stopped")
    return trace


def resume_run(settings, n=3, run_id="run-1"):
    time.sleep(0.01)  # a clock that stands still would hide a new time
    with run_trace.RunTrace(settings, run_id, settings.runs / run_id, "train", {}, []) as trace:
        for i in range(n):
            trace.add_generation(make_line(i), [], "m", 1)
            trace.add_event(f"step {i} loss", {"loss": 0.5})
        trace.finish({"val_loss": 0.25}, {"val_loss": 0.25})
    return trace


def test_a_run_that_was_stopped_sent_and_resumed_is_one_finished_run_on_the_server(settings):
    langfuse = LangfuseServer()
    with serving(langfuse) as (root, _):
        settings = sending(settings, root)
        fail_run(settings)
        assert push_traces(settings)[0]["failed"] == 0
        assert [row["attributes"][LEVEL] for row in langfuse.named("train")] == ["ERROR"]
        assert resume_run(settings).deliver().failed == 0
    langfuse.merge()
    [root_span] = langfuse.named("train")
    assert root_span["attributes"][LEVEL] == "DEFAULT"
    assert root_span["attributes"][MESSAGE] == ""
    assert json.loads(root_span["attributes"][OUTPUT]) == {"val_loss": 0.25}
    assert root_span["status"].get("code") != "STATUS_CODE_ERROR"
    for i in range(3):
        [event] = langfuse.named(f"step {i} loss")
        assert json.loads(event["attributes"][OUTPUT]) == {"loss": 0.5}
    assert len(langfuse.rows) == 1 + 3 + 3


def test_a_run_that_was_stopped_and_resumed_is_sent_as_it_is_at_last_and_each_id_once(settings):
    langfuse = LangfuseServer()
    with serving(langfuse) as (root, _):
        settings = sending(settings, root)
        fail_run(settings)
        delivery = resume_run(settings).deliver()
    ids = [key[1] for key, _ in langfuse.rows]
    assert len(ids) == len(set(ids)) == 7  # unmerged
    assert langfuse.named("train")[0]["attributes"][LEVEL] == "DEFAULT"
    assert (delivery.made, delivery.delivered, delivery.failed) == (8, 8, 0)


def test_a_run_that_is_finished_twice_has_each_score_once(settings):
    langfuse = LangfuseServer()
    with serving(langfuse) as (root, _):
        settings = sending(settings, root)
        resume_run(settings).deliver()
        resume_run(settings).deliver()
    langfuse.merge()
    assert len(langfuse.score_rows) == 1
    assert len(langfuse.rows) == 1 + 3 + 3


def test_a_row_whose_span_a_kill_has_lost_keeps_the_time_of_its_answer(settings):
    line = LedgerLine(0, "0" * 64, Generation("x", "ok", "stop", 1, 1, 250.0), {}, 1_700_000_000.5)
    with run_trace.RunTrace(settings, "run-1", settings.runs / "run-1", "eval", {}, []) as trace:
        trace.add_generation(line, [], "m", 1)
    langfuse = LangfuseServer()
    with serving(langfuse) as (root, _):
        push_traces(sending(settings, root))
    [row] = langfuse.named("row 0")
    assert (int(row["startTimeUnixNano"]), int(row["endTimeUnixNano"])) == (
        1_700_000_000_250_000_000,
        1_700_000_000_500_000_000,
    )


def test_a_push_begins_where_it_stopped_and_sends_a_failed_run_once(settings):
    langfuse = LangfuseServer()
    with serving(langfuse) as (root, _):
        settings = sending(settings, root)
        trace_run(settings).deliver()
        fail_run(settings, run_id="run-2")
        assert [record["run_id"] for record in push_traces(settings)] == ["run-2"]
        assert push_traces(settings) == []
        assert len(langfuse.rows) == 5 + 5  # nothing twice, though nothing was merged
        resume_run(settings, run_id="run-2")
        assert [record["failed"] for record in push_traces(settings)] == [0]
        assert push_traces(settings) == []
    # The root, three events and a row more; two rows were there.
    assert len(langfuse.rows) == 5 + 5 + 5


def test_a_push_of_everything_sends_to_another_server_and_to_one_that_has_forgotten(settings):
    first, second = LangfuseServer(), LangfuseServer()
    with serving(first) as (root, _), serving(second) as (other, _):
        trace_run(sending(settings, root)).deliver()
        assert push_traces(sending(settings, other)) == []  # somebody has it
        [record] = push_traces(sending(settings, other), is_all=True)
        assert (record["delivered"], record["failed"], len(second.rows)) == (6, 0, 5)
        first.rows.clear()
        [record] = push_traces(sending(settings, root), is_all=True)
        assert (record["delivered"], len(first.rows)) == (6, 5)
        first.failing = 500
        [record] = push_traces(sending(settings, root), is_all=True)
        assert (record["delivered"], record["failed"]) == (0, 6)


def test_what_one_project_has_taken_is_not_taken_for_delivered_to_another(settings):
    langfuse = LangfuseServer()
    with serving(langfuse) as (root, _):
        fail_run(sending(settings, root))
        push_traces(sending(settings, root))
        other = sending(settings, root, langfuse_public_key="pk-of-another")
        assert resume_run(other).deliver().failed == 0
    assert sorted(Counter(key[0] for key, _ in langfuse.rows).values()) == [5, 7]


def test_lines_that_were_lost_and_made_anew_are_sent_though_as_many_had_been_delivered(settings):
    langfuse = LangfuseServer()
    with serving(langfuse) as (root, _):
        settings = sending(settings, root)
        trace = fail_run(settings)
        push_traces(settings)
        trace.path.write_bytes(trace.path.read_bytes()[:40])  # a disk that lost what it had
        assert resume_run(settings).deliver().failed == 0
    assert {row["name"] for _, row in langfuse.rows} == {
        "train",
        *(f"row {i}" for i in range(3)),
    } | {f"step {i} loss" for i in range(3)}


def test_no_key_is_kept_beside_the_trace(settings):
    with serving(LangfuseServer()) as (root, _):
        trace = trace_run(sending(settings, root))
        trace.deliver()
    kept = (trace.path.parent / "delivered.jsonl").read_text()
    assert root in kept
    assert not [key for key in ("pk-of-the-test", "canary-secret") if key in kept]


def test_rows_go_with_what_the_sdk_says_of_itself(settings):
    langfuse = LangfuseServer()
    with serving(langfuse) as (root, _):
        trace_run(sending(settings, root)).deliver()
    assert langfuse.headers[0]["x-langfuse-sdk-version"].startswith("5.")


def check_said(settings, said, n_failed=6):
    """The run and the push both say it."""
    delivery = trace_run(settings).deliver()
    assert delivery.failed == n_failed
    assert said in describe_delivery(delivery, settings)
    [record] = push_traces(settings)
    assert record["failed"] == n_failed
    assert said in record["problem"]
    assert "canary-secret" not in record["problem"]


def answer_with(body: bytes, **headers):
    """A server that tells a version, and answers everything else with a body."""
    langfuse = LangfuseServer()
    return lambda exchange: langfuse(exchange) if exchange.method == "GET" else (200, headers, body)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            lambda e: LangfuseServer()(e) if e.method == "GET" else as_json({}, 401),
            "check the two Langfuse keys",
        ),
        (lambda _: as_json({"message": "hello"}), "does not answer as a Langfuse server does"),
        (
            lambda _: as_json({"version": ["5.0"], "status": "OK"}),
            "does not answer as a Langfuse server does",
        ),
        (
            lambda _: (200, {"content-type": "text/html"}, b"<html>welcome"),
            "does not answer as a Langfuse server does",
        ),
        (lambda _: as_json({}, 502), "status 502"),
        (answer_with(b"<html>welcome"), "without a JSON object"),
        (answer_with(b"[" * 200_000), "without a JSON object"),
        (
            answer_with(gzip.compress(bytes(2**25)), **{"content-encoding": "gzip"}),
            "longer than 16 MiB",
        ),
        (answer_with(b'{"errors": [{"id": "x"}]}'), "refused some"),
        (answer_with(b'{"partialSuccess": {"rejectedSpans": "2"}}'), "refused some"),
        (answer_with(b'{"partialSuccess": {"rejectedSpans": {}, "errorMessage": 1}}'), None),
        (answer_with(b'{"partialSuccess": {"rejectedSpans": [1]}}'), "refused some"),
        (answer_with(b'{"partialSuccess": "all of it"}'), "refused some"),
        (answer_with(b'{"partialSuccess": {"rejectedSpans": "0"}}'), None),
        (answer_with(b'{"partialSuccess": null}'), None),
        (answer_with(b""), None),
    ],
)
def test_why_a_trace_was_not_delivered_is_said_where_it_happens(settings, answer, said):
    with serving(answer) as (root, _):
        if said:
            check_said(sending(settings, root), said)
        else:
            assert trace_run(sending(settings, root)).deliver().failed == 0


def test_a_server_that_is_too_old_takes_the_spans_and_why_it_refuses_the_scores_is_said(settings):
    langfuse = LangfuseServer("4.16.2")
    with serving(langfuse) as (root, _):
        check_said(
            sending(settings, root),
            "Langfuse 4.16.2 loses this SDK's scores: update it to 4.59",
            n_failed=1,
        )
    assert len(langfuse.rows) == 5


def test_a_server_that_is_away_or_speaks_no_tls_is_said(settings):
    with serving(LangfuseServer()) as (root, _):
        check_said(sending(settings, root.replace("http:", "https:")), "does not speak TLS")
    check_said(sending(settings, root), "nothing listens there")


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
)


@examples(max_examples=40, deadline=None)
@given(
    ANY
    | st.fixed_dictionaries({"partialSuccess": ANY | st.fixed_dictionaries({"rejectedSpans": ANY})})
    | st.fixed_dictionaries({"errors": ANY})
)
def test_whatever_a_server_answers_a_run_goes_on(tmp_path_factory, body):
    settings = load_settings().model_copy(update={"swap_home": tmp_path_factory.mktemp("home")})
    with serving(answer_with(json.dumps(body).encode())) as (root, _):
        delivery = trace_run(sending(settings, root), n=0).deliver()
    assert delivery.made == delivery.delivered + delivery.failed == 3


def test_a_server_that_hangs_is_waited_for_once_by_a_process_and_once_by_a_push(
    settings, monkeypatch
):
    monkeypatch.setattr(langfuse_api, "TIMEOUT_S", 0.3)
    with serving(lambda _: time.sleep(1) or as_json({})) as (root, exchanges):
        settings = sending(settings, root)
        for run_id in ("run-1", "run-2", "run-3"):
            delivery = trace_run(settings, run_id).deliver()
            assert "no answer in time" in describe_delivery(delivery, settings)
        assert len(exchanges) == 1
        assert [record["failed"] for record in push_traces(settings)] == [6, 6, 6]
        assert len(exchanges) == 2


def test_a_server_that_fails_is_asked_once_during_a_run_and_once_at_its_end(settings, monkeypatch):
    monkeypatch.setattr("swaplib.tracing.posting.LINES_PER_POST", 2)
    monkeypatch.setattr("swaplib.tracing.run_trace.LINES_PER_POST", 2)
    langfuse = LangfuseServer()
    langfuse.failing = 500
    with serving(langfuse) as (root, exchanges):
        trace_run(sending(settings, root), n=7).deliver()
        assert len(exchanges) == 2
    assert SPANS_PATH not in [exchange.path for exchange in exchanges]


def count_parsed_lines(monkeypatch) -> Counter:
    parsed, parse = Counter(), outbox_index.parse_line

    def parse_and_count(text):
        parsed[text] += 1
        return parse(text)

    monkeypatch.setattr(outbox_index, "parse_line", parse_and_count)
    return parsed


def test_a_line_is_parsed_once_and_once_more_to_be_sent_however_often_a_run_sends(
    settings, monkeypatch
):
    monkeypatch.setattr("swaplib.tracing.posting.LINES_PER_POST", 4)
    monkeypatch.setattr("swaplib.tracing.run_trace.LINES_PER_POST", 4)
    langfuse = LangfuseServer()
    with serving(langfuse) as (root, exchanges):
        parsed = count_parsed_lines(monkeypatch)
        trace = trace_run(sending(settings, root), n=40)
        trace.deliver()
        assert trace.deliver().delivered == 43
        assert [exchange.path for exchange in exchanges].count(SPANS_PATH) > 10
    assert len(parsed) == len(list(outbox.read_outbox(trace.path))) > 40
    assert set(parsed.values()) == {2}


def test_a_line_of_which_nothing_is_sent_is_parsed_once_and_once_by_a_push(settings, monkeypatch):
    parsed = count_parsed_lines(monkeypatch)
    trace_run(settings, n=40).deliver()
    assert set(parsed.values()) == {1}
    langfuse = LangfuseServer()
    with serving(langfuse) as (root, _):
        push_traces(sending(settings, root))
        assert set(parsed.values()) == {3}  # the push indexes the line, and sends it
        assert push_traces(sending(settings, root)) == []
    assert set(parsed.values()) == {4}


def test_an_index_follows_a_file_that_grows_that_is_torn_and_that_becomes_shorter(settings):
    trace = trace_run(settings, n=3)
    data = trace.path.read_bytes()
    index = outbox_index.OutboxIndex(trace.path)
    for end in range(0, len(data) + 1, 97):
        trace.path.write_bytes(data[:end])
        index.update()
    trace.path.write_bytes(data)
    index.update()
    whole = outbox_index.OutboxIndex(trace.path)
    whole.update()
    assert list(index.read_latest(())) == list(whole.read_latest(()))
    assert (index.span_starts, index.score_times) == (whole.span_starts, whole.score_times)
    assert index.count_ids().total() == 6
    trace.path.write_bytes(data[: data.index(b"\n") + 20] + b"\n" + data)  # torn, then closed
    index.update()
    assert index.count_ids().total() == 6
    trace.path.write_bytes(data[: data.index(b"\n") + 1])
    index.update()
    assert index.count_ids().total() == 1
    trace.path.unlink()
    index.update()
    assert list(index.read_latest(())) == []
