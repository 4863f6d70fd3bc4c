"""A server's traces, with the real SDK and a loopback Langfuse server."""

import json
from concurrent.futures import ThreadPoolExecutor

from langfuse_server import LangfuseServer, attributes
from servers import serving
from test_tracing import KEYS

from swaplib.rows import Generation
from swaplib.runs import new_folder
from swaplib.tracing import outbox
from swaplib.tracing.request_record import Attempt, RequestTrace
from swaplib.tracing.request_traces import RequestTraces

START = 1_795_000_000.0


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
