import json
import subprocess
import sys
from datetime import datetime

import pytest
from langfuse import propagate_attributes
from langfuse_server import LangfuseServer, attributes, spans_in
from servers import as_json, serving

from swaplib.files import hash_text
from swaplib.prompts import build_messages
from swaplib.rows import Generation, LedgerLine
from swaplib.settings import load_settings
from swaplib.tracing import outbox, run_trace
from swaplib.tracing.delivery import describe_delivery, push_traces
from swaplib.tracing.posting import SPANS_PATH

KEYS = {
    "swap_tracing": "langfuse",
    "langfuse_public_key": "pk-of-the-test",
    "langfuse_secret_key": "canary-secret",  # planted: it must be in no file
}


def make_line(index: int, status: str = "ok") -> LedgerLine:
    generation = Generation(
        f"output {index}", status, "stop", 11, 7, 250.0, "no answer" if status == "error" else None
    )
    return LedgerLine(index, "0" * 64, generation, {"valid_call": True})


def trace_run(settings, run_id="run-1", n=3):
    folder = settings.runs / run_id
    with run_trace.RunTrace(
        settings, run_id, folder, "eval toolcall slm test", {"model": "m"}, ["toolcall"]
    ) as trace:
        for i in range(n):
            trace.add_generation(
                make_line(i), build_messages("toolcall", f"Request {i}"), "model-x", 32
            )
        trace.add_event("decision", {"FINE_TUNE": 1})
        trace.finish({"valid_call_rate": 1.0}, {"valid_call_rate": 1.0})
    return trace


def test_a_run_is_one_trace_with_root_children_event_and_scores(settings):
    trace = trace_run(settings)
    lines = list(outbox.read_outbox(trace.path))
    spans = spans_in(lines)
    assert {span["traceId"] for span in spans.values()} == {trace.trace_id}
    [root] = [span for span in spans.values() if "parentSpanId" not in span]
    children = [span for span in spans.values() if span is not root]
    assert {span["parentSpanId"] for span in children} == {root["spanId"]}
    kinds = sorted(attributes(span)["langfuse.observation.type"] for span in children)
    assert kinds == ["event", "generation", "generation", "generation"]
    scores = lines[-1]  # one line, behind the root
    assert [(s["name"], s["value"], s["traceId"]) for s in scores] == [
        ("valid_call_rate", 1.0, trace.trace_id)
    ]
    # The server refuses one without.
    assert datetime.fromisoformat(scores[0]["timestamp"]).tzinfo is not None
    assert attributes(root)["langfuse.trace.name"] == "eval toolcall slm test"
    assert json.loads(attributes(root)["langfuse.observation.input"]) == {"model": "m"}


def test_a_generation_tells_model_usage_latency_and_messages(settings):
    spans = spans_in(outbox.read_outbox(trace_run(settings).path))
    [row] = [span for span in spans.values() if span["name"] == "row 1"]
    found = attributes(row)
    assert found["langfuse.observation.model.name"] == "model-x"
    assert json.loads(found["langfuse.observation.usage_details"]) == {"input": 11, "output": 7}
    assert json.loads(found["langfuse.observation.input"]) == build_messages(
        "toolcall", "Request 1"
    )
    assert found["langfuse.observation.output"] == "output 1"
    assert int(row["endTimeUnixNano"]) - int(row["startTimeUnixNano"]) == 250_000_000


def test_a_resumed_run_goes_on_with_its_trace_and_doubles_nothing(settings):
    first = trace_run(settings, n=2)
    again = trace_run(settings, n=3)
    spans = spans_in(outbox.read_outbox(again.path))
    assert first.trace_id == again.trace_id
    assert sorted(span["name"] for span in spans.values()) == [
        "decision",
        "eval toolcall slm test",
        "row 0",
        "row 1",
        "row 2",
    ]
    written = [
        s["name"] for line in outbox.read_outbox(again.path) for s in outbox.list_spans(line)
    ]
    assert written.count("row 0") == written.count("row 2") == 1
    scores = [line for line in outbox.read_outbox(again.path) if isinstance(line, list)]
    assert len(scores) == 2
    assert len({score["id"] for line in scores for score in line}) == 1
    assert again.deliver().made == 6


def test_a_score_that_is_no_number_is_left_out_and_the_others_are_kept(settings):
    folder = settings.runs / "run-1"
    with run_trace.RunTrace(settings, "run-1", folder, "train", {}, []) as trace:
        trace.finish({}, {"val_loss": float("nan"), "mean_train_loss": 2})
    [*_, scores] = outbox.read_outbox(trace.path)
    assert [(score["name"], score["value"]) for score in scores] == [("mean_train_loss", 2.0)]


def test_scores_are_of_the_environment_that_the_spans_are_of(settings):
    with propagate_attributes(environment="staging"):
        [*spans, scores] = outbox.read_outbox(trace_run(settings).path)
    assert {attributes(span)["langfuse.environment"] for span in spans_in(spans).values()} == {
        "staging"
    }
    assert [score["environment"] for score in scores] == ["staging"]


def test_an_error_inside_a_run_ends_its_root_as_an_error(settings):
    folder = settings.runs / "run-1"
    with pytest.raises(RuntimeError), run_trace.RunTrace(settings, "run-1", folder, "eval", {}, []):
        raise RuntimeError("told to nobody")
    [root] = spans_in(outbox.read_outbox(folder / "trace.jsonl")).values()
    assert attributes(root)["langfuse.observation.level"] == "ERROR"
    assert "told to nobody" not in json.dumps(root)


def test_with_keys_everything_arrives_and_is_counted(settings):
    langfuse = LangfuseServer()
    with serving(langfuse) as (root, _):
        settings = settings.model_copy(update=KEYS | {"langfuse_base_url": root})
        trace = trace_run(settings)
        delivery = trace.deliver()
    assert (delivery.made, delivery.delivered, delivery.failed) == (6, 6, 0)
    assert len(langfuse.spans) == 5
    assert [score["name"] for score in langfuse.scores.values()] == ["valid_call_rate"]
    assert len(langfuse.auth) == 1
    assert "canary-secret" not in trace.path.read_text()


@pytest.mark.parametrize("failing", [401, 500])
def test_a_server_that_refuses_costs_no_trace_and_gets_it_later_once(settings, failing):
    langfuse = LangfuseServer()
    with serving(langfuse) as (root, _):
        settings = settings.model_copy(update=KEYS | {"langfuse_base_url": root})
        langfuse.failing = failing
        delivery = trace_run(settings).deliver()
        assert (delivery.made, delivery.delivered, delivery.failed) == (6, 0, 6)
        assert "swap push-traces" in describe_delivery(delivery, settings)
        [refused] = push_traces(settings)
        assert refused["failed"] == 6
        assert str(failing) in refused["problem"]
        langfuse.failing = 0
        [pushed] = push_traces(settings)
        assert (pushed["delivered"], pushed["failed"]) == (6, 0)
        push_traces(settings)
    assert (len(langfuse.spans), len(langfuse.scores)) == (5, 1)


def test_a_server_that_is_not_there_is_a_count_and_no_exception(settings):
    with serving(LangfuseServer()) as (root, _):
        pass
    settings = settings.model_copy(update=KEYS | {"langfuse_base_url": root})
    assert trace_run(settings).deliver().failed == 6


def test_long_runs_send_while_they_go(settings, monkeypatch):
    monkeypatch.setattr("swaplib.tracing.run_trace.LINES_PER_POST", 4)
    monkeypatch.setattr("swaplib.tracing.posting.LINES_PER_POST", 4)
    langfuse = LangfuseServer()
    with serving(langfuse) as (root, exchanges):
        settings = settings.model_copy(update=KEYS | {"langfuse_base_url": root})
        folder = settings.runs / "run-1"
        with run_trace.RunTrace(settings, "run-1", folder, "eval", {}, []) as trace:
            for i in range(9):
                trace.add_generation(make_line(i), [], "m", 1)
            assert len(langfuse.spans) == 7  # the root is not at its end
        assert trace.deliver().delivered == 10
    assert [exchange.path for exchange in exchanges].count(SPANS_PATH) == 3


def test_without_keys_a_run_stops_and_says_how_to_go_on(settings):
    settings = settings.model_copy(update={"swap_tracing": "langfuse"})
    with pytest.raises(
        ValueError, match=r"LANGFUSE_PUBLIC_KEY.*\n.*LANGFUSE_SECRET_KEY[^$]*SWAP_TRACING=outbox"
    ):
        outbox.check_tracing(settings)


def test_a_trace_that_cannot_be_written_stops_the_run(settings):
    folder = settings.runs / "run-1"
    folder.parent.mkdir(parents=True)
    folder.write_text("a file where the run's folder should be")
    with pytest.raises(OSError, match="cannot write the trace"):
        trace_run(settings)
    folder.unlink()
    assert trace_run(settings).deliver().made == 6


def test_two_runs_at_once_in_one_process_are_refused(settings):
    with (
        run_trace.RunTrace(settings, "a", settings.runs / "a", "a", {}, []),
        pytest.raises(RuntimeError, match="one after the other"),
        run_trace.RunTrace(settings, "b", settings.runs / "b", "b", {}, []),
    ):
        pass


def test_requests_are_bounded_in_bytes_and_a_refused_one_does_not_hold_up_the_others(
    settings, monkeypatch
):
    monkeypatch.setattr("swaplib.tracing.posting.BYTES_PER_POST", 6_000)
    langfuse = LangfuseServer()

    def answer(exchange):
        return as_json({}, 413) if len(exchange.body) > 9_000 else langfuse(exchange)

    with serving(answer) as (root, exchanges):
        settings = settings.model_copy(update=KEYS | {"langfuse_base_url": root})
        folder = settings.runs / "run-1"
        with run_trace.RunTrace(settings, "run-1", folder, "eval", {}, []) as trace:
            for i in range(6):
                prompt = "x" * (20_000 if i == 2 else 1_000)
                trace.add_generation(make_line(i), build_messages("toolcall", prompt), "m", 1)
        delivery = trace.deliver()
    assert (delivery.made, delivery.delivered, delivery.failed) == (7, 6, 1)
    assert len(exchanges) > 2


@pytest.mark.parametrize("name", ["langfuse_base_url", "langfuse_host"])
@pytest.mark.parametrize(
    "host",
    [
        "http://lf.local:30O0",
        "lf.local",
        "https://",
        "https://lf.local\n",
        "https://pk:canary-secret@lf.local",
    ],
)
def test_an_address_that_is_none_stops_before_the_run(settings, name, host):
    with pytest.raises(ValueError, match=r"LANGFUSE_BASE_URL \(or LANGFUSE_HOST\)") as caught:
        outbox.check_tracing(settings.model_copy(update=KEYS | {name: host}))
    assert "canary-secret" not in str(caught.value)


def test_either_name_of_the_address_counts_and_two_addresses_are_refused(settings, monkeypatch):
    monkeypatch.setenv("LANGFUSE_BASE_URL", "https://lf.local/")
    assert load_settings().find_langfuse() == "https://lf.local"
    monkeypatch.setenv("LANGFUSE_HOST", "https://lf.local")
    outbox.check_tracing(load_settings().model_copy(update=KEYS))
    monkeypatch.setenv("LANGFUSE_HOST", "https://pw:canary-secret@cloud.local")
    with pytest.raises(
        ValueError, match="LANGFUSE_BASE_URL and LANGFUSE_HOST name different servers"
    ) as caught:
        outbox.check_tracing(load_settings().model_copy(update=KEYS))
    assert "canary-secret" not in str(caught.value)
    # SWAP_TRACING=outbox: where nothing is sent, they do not matter.
    assert trace_run(settings).deliver().made == 6
    monkeypatch.delenv("LANGFUSE_BASE_URL")
    assert load_settings().find_langfuse() == "https://pw:canary-secret@cloud.local"


def test_no_server_is_the_default(settings):
    with pytest.raises(ValueError, match="LANGFUSE_BASE_URL: the address of the Langfuse server"):
        outbox.check_tracing(settings.model_copy(update=KEYS))


@pytest.mark.parametrize(
    "proxies",
    [
        {"no_proxy": "localhost,127.0.0.0/8,::1/128"},
        {"all_proxy": "socks5://127.0.0.1:7891"},
        {"ALL_PROXY": "socks://127.0.0.1:7891/", "NO_PROXY": "[::1]/128"},
    ],
)
def test_runs_start_under_any_proxy_and_find_the_environment_as_it_was(
    settings, env_of_tests, proxies
):
    code = (
        "import os, sys; from pathlib import Path\n"
        "from swaplib.settings import load_settings\n"
        "from swaplib.tracing.run_trace import RunTrace\n"
        "before = dict(os.environ)\n"
        "with RunTrace(load_settings(), 'r', Path(sys.argv[1]), 'a run', {}, []) as trace:\n"
        "    trace.finish({}, {'rate': 1.0})\n"
        "assert dict(os.environ) == before\n"
    )
    env = {
        name: value for name, value in env_of_tests.items() if not name.lower().endswith("_proxy")
    }
    command = [sys.executable, "-c", code, str(settings.swap_home)]
    done = subprocess.run(command, env=env | proxies, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list(outbox.read_outbox(settings.swap_home / "trace.jsonl"))) == 2


def test_a_row_that_went_well_has_no_status_message_and_one_that_did_not_says_why(settings):
    with run_trace.RunTrace(settings, "run-1", settings.runs / "run-1", "eval", {}, []) as trace:
        for index, status in enumerate(("ok", "error", "truncated")):
            trace.add_generation(make_line(index, status), [], "m", 1)
    found = {
        span["name"]: attributes(span) for span in spans_in(outbox.read_outbox(trace.path)).values()
    }
    key = "langfuse.observation.status_message"
    assert [found[f"row {i}"].get(key) for i in range(3)] == [None, "no answer", "stop"]


def test_what_a_row_cost_is_told_where_a_price_is_known(settings):
    with run_trace.RunTrace(settings, "run-1", settings.runs / "run-1", "eval", {}, []) as trace:
        trace.add_generation(make_line(0), [], "m", 1, cost={"input": 0.25, "output": 0.5})
        trace.add_generation(make_line(1), [], "m", 1)
    found = {
        span["name"]: attributes(span) for span in spans_in(outbox.read_outbox(trace.path)).values()
    }
    assert json.loads(found["row 0"]["langfuse.observation.cost_details"]) == {
        "input": 0.25,
        "output": 0.5,
    }
    assert "langfuse.observation.cost_details" not in found["row 1"]


def test_nothing_but_what_was_meant_is_shown_as_metadata(settings):
    # A server copies all attributes of a span whose scope is not the SDK's, and those of any scope
    # and resource.
    for line in outbox.read_outbox(trace_run(settings).path):
        for resource in line["resourceSpans"] if isinstance(line, dict) else []:
            assert [a["key"] for a in resource["resource"]["attributes"]] == ["service.name"]
            for scope in resource["scopeSpans"]:
                assert scope["scope"]["name"].startswith("langfuse-sdk")
                assert "attributes" not in scope["scope"]


@pytest.mark.parametrize(
    ("name", "value", "is_refused"),
    [
        ("LANGFUSE_TRACING_ENABLED", "false", True),
        ("OTEL_TRACES_SAMPLER", "always_off", False),
        ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "20", False),
        ("LANGFUSE_SAMPLE_RATE", "0", False),
        ("OTEL_SDK_DISABLED", "true", True),
    ],
)
def test_the_environment_cannot_switch_tracing_off_silently(
    settings, env_of_tests, name, value, is_refused
):
    code = (
        "import sys; from pathlib import Path\n"
        "from swaplib.settings import load_settings\n"
        "from swaplib.tracing.run_trace import RunTrace\n"
        "text = {'text': 'x' * 99}\n"
        "with RunTrace(load_settings(), 'r', Path(sys.argv[1]), 'a run', text, []) as trace:\n"
        "    trace.finish({}, {'rate': 1.0})\n"
    )
    command = [sys.executable, "-c", code, str(settings.swap_home)]
    done = subprocess.run(command, env=env_of_tests | {name: value}, capture_output=True, text=True)
    if is_refused:
        assert done.returncode == 1
        assert name in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        [root] = spans_in(outbox.read_outbox(settings.swap_home / "trace.jsonl")).values()
        assert "x" * 99 in attributes(root)["langfuse.observation.input"]


def test_half_a_surrogate_pair_in_an_output_costs_one_character_and_not_the_output(settings):
    folder = settings.runs / "run-1"
    line = LedgerLine(0, "0" * 64, Generation("before \ud83d after", "ok", "stop", 1, 1, 1.0), {})
    with run_trace.RunTrace(settings, "run-1", folder, "eval", {}, []) as trace:
        trace.add_generation(line, build_messages("toolcall", "q"), "m", 1)
    [row] = [s for s in spans_in(outbox.read_outbox(trace.path)).values() if s["name"] == "row 0"]
    assert attributes(row)["langfuse.observation.output"] == "before ? after"


def test_other_files_in_the_evaluation_folder_do_not_disturb_a_push(settings):
    langfuse = LangfuseServer()
    with serving(langfuse) as (root, _):
        settings = settings.model_copy(update=KEYS | {"langfuse_base_url": root})
        trace_run(settings)
        for name, text in {"notes.json": "[1]", "other.json": '{"a": 1}', "torn.json": "{"}.items():
            (settings.evaluation / name).write_text(text)
        [record] = push_traces(settings)
    assert record["delivered"] == 6


def test_with_trace_content_off_only_hashes_and_lengths_of_prompts_and_outputs_are_traced(settings):
    trace = trace_run(settings.model_copy(update={"swap_trace_content": "off"}))
    text = trace.path.read_text()
    assert "Request" not in text
    assert "output 1" not in text
    spans = {
        span["name"]: attributes(span) for span in spans_in(outbox.read_outbox(trace.path)).values()
    }
    hidden = json.loads(spans["row 1"]["langfuse.observation.output"])
    assert hidden == {"sha256": hash_text("output 1"), "characters": 8}
    assert json.loads(spans["row 1"]["langfuse.observation.input"]).keys() == {
        "sha256",
        "characters",
    }
    assert json.loads(spans["row 1"]["langfuse.observation.usage_details"]) == {
        "input": 11,
        "output": 7,
    }
    assert json.loads(spans["eval toolcall slm test"]["langfuse.observation.input"]) == {
        "model": "m"
    }
    assert json.loads(spans["decision"]["langfuse.observation.output"]) == {"FINE_TUNE": 1}


def test_what_was_traced_before_trace_content_was_off_leaves_masked_too(settings):
    trace = trace_run(settings)
    assert "output 1" in trace.path.read_text()
    langfuse = LangfuseServer()
    with serving(langfuse) as (root, _):
        hiding = settings.model_copy(
            update=KEYS | {"langfuse_base_url": root, "swap_trace_content": "off"}
        )
        [record] = push_traces(hiding)
    assert (record["delivered"], record["failed"]) == (6, 0)
    sent = json.dumps(langfuse.spans)
    assert "Request" not in sent
    assert "output 1" not in sent
    assert hash_text("output 1") in sent
    masked = {name: span["attributes"] for name, span in langfuse.spans.items()}
    again = trace_run(settings.model_copy(update={"swap_trace_content": "off"}), run_id="run-2")
    once = {
        name: attributes(span) for name, span in spans_in(outbox.read_outbox(again.path)).items()
    }
    key = "langfuse.observation.output"
    # Hidden at either door, alike.
    assert {a[key] for a in masked.values()} == {a[key] for a in once.values()}


def test_a_run_that_goes_on_with_trace_content_off_leaves_masked_and_hides_nothing_twice(settings):
    trace_run(settings, n=1)
    langfuse = LangfuseServer()
    with serving(langfuse) as (root, _):
        hiding = settings.model_copy(
            update=KEYS | {"langfuse_base_url": root, "swap_trace_content": "off"}
        )
        trace = trace_run(hiding, n=2)
        assert trace.deliver().failed == 0
    assert "output 0" in trace.path.read_text()  # what lies here in the clear stays so
    assert "output 1" not in trace.path.read_text()
    sent = {
        span["name"]: span["attributes"]["langfuse.observation.output"]
        for span in langfuse.spans.values()
    }
    for i in (0, 1):
        assert json.loads(sent[f"row {i}"]) == {"sha256": hash_text(f"output {i}"), "characters": 8}


def test_what_is_hidden_already_is_not_hidden_again(settings):
    trace = trace_run(settings.model_copy(update={"swap_trace_content": "off"}))
    for line in outbox.read_outbox(trace.path):
        assert outbox.mask_content(json.loads(json.dumps(line))) == line


@pytest.mark.parametrize("output", ["", json.dumps({"sha256": "0" * 64, "characters": 8})])
def test_an_empty_output_and_one_that_looks_hidden_are_hidden_as_any_other(settings, output):
    line = LedgerLine(0, "0" * 64, Generation(output, "ok", "stop", 1, 1, 1.0), {})
    folder = settings.runs / "run-1"
    with run_trace.RunTrace(settings, "run-1", folder, "eval", {}, []) as trace:
        trace.add_generation(line, build_messages("toolcall", "q"), "m", 1)
    masked = spans_in(map(outbox.mask_content, outbox.read_outbox(trace.path))).values()
    [row] = [attributes(span) for span in masked if span["name"] == "row 0"]
    expected = {"sha256": hash_text(output), "characters": len(output)}
    assert json.loads(row["langfuse.observation.output"]) == expected
