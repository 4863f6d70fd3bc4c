"""One Langfuse trace for each run: made with the Langfuse SDK, kept in a local outbox, delivered and counted.

The SDK's spans and scores go to the run's `trace.jsonl` first, each line synced to disk. A line is the body of a request
that Langfuse takes as it is: OTLP/JSON spans, or a list of scores. With keys set, the same lines are posted during the
run and at its end; what a server did not take is sent later by `swap push-traces`. Ids are derived from the run id, so a
resumed run goes on with its trace, and a line sent twice makes no duplicate.
"""

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx
from langfuse import Langfuse, LangfuseGeneration, propagate_attributes
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from swaplib.prompts import Message
from swaplib.rows import LedgerLine, append_line, write_json
from swaplib.settings import Settings, show_path

SPANS_PATH, SCORES_PATH = "/api/public/otel/v1/traces", "/api/public/scores"
LINES_PER_POST = 200
TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Delivery:
    """What became of a trace: spans and scores made, delivered to the server, and failed so far."""

    trace_id: str
    outbox: str
    made: int
    delivered: int
    failed: int


class _Outbox(SpanExporter, httpx.BaseTransport):
    """Where the SDK believes the server is: appends its spans and score requests to the open run's file."""

    path: Path | None = None
    problem: Exception | None = None

    def _append(self, body: Any) -> None:
        try:
            if self.path is None:
                raise RuntimeError("a span or score ended outside of a run")
            append_line(self.path, json.dumps(body))
        except Exception as error:  # the SDK only logs what its exporter raises, so keep it for RunTrace
            self.problem = error
            raise

    def export(self, spans: Any) -> SpanExportResult:
        from google.protobuf.json_format import MessageToDict

        body = MessageToDict(encode_spans(spans))
        for span in _spans_of(body):  # OTLP/JSON writes ids in hex, where protobuf's JSON has base64
            for key in span.keys() & {"traceId", "spanId", "parentSpanId"}:
                span[key] = base64.b64decode(span[key]).hex()
        self._append(body)
        return SpanExportResult.SUCCESS

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path != SCORES_PATH:
            return httpx.Response(404, json={"message": "the outbox takes scores only"})
        self._append(json.loads(request.read()))
        return httpx.Response(202, json={"successes": [], "errors": []})


class _Ids(RandomIdGenerator):
    """Random ids, but for the next trace and span when they are given."""

    trace_id: str | None = None
    span_id: str | None = None

    def generate_trace_id(self) -> int:
        given, self.trace_id = self.trace_id, None
        return int(given, 16) if given else super().generate_trace_id()

    def generate_span_id(self) -> int:
        given, self.span_id = self.span_id, None
        return int(given, 16) if given else super().generate_span_id()


@dataclass(frozen=True)
class _Tracer:
    client: Langfuse
    provider: TracerProvider
    outbox: _Outbox
    ids: _Ids


@lru_cache
def _get_tracer() -> _Tracer:
    """The process's one Langfuse client; its exporter and its HTTP transport are the outbox, so it needs no keys."""
    outbox, ids = _Outbox(), _Ids()
    provider = TracerProvider(id_generator=ids, resource=Resource.create({"service.name": "slm-swap"}))
    client = Langfuse(
        public_key="outbox",
        secret_key="outbox",  # noqa: S106 - no secret: nothing leaves through this client
        base_url="http://outbox",
        tracer_provider=provider,
        span_exporter=outbox,
        httpx_client=httpx.Client(transport=outbox),
        should_export_span=lambda _: True,
    )
    return _Tracer(client, provider, outbox, ids)


def check_tracing(settings: Settings) -> None:
    """Stop when a run could not be traced.

    Raises:
        ValueError: Langfuse keys are missing, and SWAP_TRACING=outbox does not say that the local outbox alone is wanted.
    """
    if settings.swap_tracing == "langfuse":
        try:
            settings.require("LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY")
        except ValueError as error:
            raise ValueError(f"{error}\nOr set SWAP_TRACING=outbox to keep traces in the local outbox alone.") from None


class RunTrace:
    """The trace of one run, as a context manager: a root span, and below it generations, events and scores.

    Only one run is traced at a time in a process. Leaving it with an exception ends the root span as an error.

    Args:
        settings: Says whether traces go to a server.
        run_id: Seeds the trace's id.
        folder: The run's folder; the outbox is its `trace.jsonl`.
        name: The trace's name, for example `eval toolcall slm test`.
        inputs: The root span's input: dataset path, model, parameters.
        tags: At most a few words to find the trace by.
    """

    def __init__(
        self, settings: Settings, run_id: str, folder: Path, name: str, inputs: dict[str, Any], tags: list[str]
    ):
        check_tracing(settings)
        self.trace_id = Langfuse.create_trace_id(seed=run_id)
        self.path = folder / "trace.jsonl"
        self._settings, self._run_id, self._name, self._inputs, self._tags = settings, run_id, name, inputs, tags
        self._tracer = _get_tracer()
        self._written = {span["spanId"] for line in read_outbox(self.path) for span in _spans_of(line)}
        self._sender = Sender(settings, self.path)
        self._stack = ExitStack()

    def __enter__(self) -> "RunTrace":
        if self._tracer.outbox.path is not None:
            raise RuntimeError("another run is being traced in this process; runs go one after the other")
        self._tracer.outbox.path, self._tracer.outbox.problem = self.path, None
        self._stack.enter_context(propagate_attributes(trace_name=self._name, tags=self._tags))
        self._tracer.ids.trace_id, self._tracer.ids.span_id = self.trace_id, self._make_id("root")
        observation = self._tracer.client.start_as_current_observation(
            name=self._name, as_type="span", input=self._inputs, metadata={"run_id": self._run_id}
        )
        self._root = self._stack.enter_context(observation)
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if error is not None:
            self._root.update(level="ERROR", status_message=kind.__name__)
        self._stack.close()
        try:
            self._flush()
        finally:
            self._tracer.outbox.path = None

    def _make_id(self, key: str) -> str:
        return hashlib.sha256(f"{self._run_id}/{key}".encode()).hexdigest()[:16]

    def _flush(self) -> None:
        """Bring everything made so far to the outbox; a full disk or read-only folder is raised here."""
        self._tracer.client.flush()
        if self._tracer.outbox.problem:
            raise OSError(f"cannot write the trace to {self.path}: {self._tracer.outbox.problem}")

    def add_generation(self, line: LedgerLine, messages: list[Message], model: str, limit: int) -> None:
        """Add the generation of one ledger line, unless the trace holds it already.

        Args:
            line: The row's ledger line; its latency gives the span's start.
            messages: What the model was asked.
            model: The model's name.
            limit: max_new_tokens of the call.
        """
        span_id = self._make_id(line.to_json())
        if span_id in self._written:
            return
        self._written.add(span_id)
        generation, end = line.generation, time.time_ns()
        self._tracer.ids.span_id = span_id
        span = self._tracer.provider.get_tracer("swaplib").start_span(
            f"row {line.index}", start_time=end - int(generation.latency_ms * 1e6)
        )
        usage = {"input": generation.prompt_tokens, "output": generation.completion_tokens}
        LangfuseGeneration(
            otel_span=span,
            langfuse_client=self._tracer.client,
            input=messages,
            output=generation.output,
            model=model,
            model_parameters={"temperature": 0, "max_tokens": limit},
            usage_details={k: v for k, v in usage.items() if v is not None},
            metadata={"index": line.index, "status": generation.status, "scores": line.scores},
            level="ERROR" if generation.status == "error" else "DEFAULT",
            status_message=generation.error or generation.finish_reason,
        ).end(end_time=end)
        self._tracer.provider.force_flush()
        if self._tracer.outbox.problem:
            self._flush()
        if len(self._written) % LINES_PER_POST == 0 and self._sender.problem is None:
            self._sender.send()  # during a long run; a server that failed once is asked again at the end only

    def add_event(self, name: str, output: Any) -> None:
        """Add an event, for example a decision, below the root span."""
        self._tracer.ids.span_id = self._make_id(f"event {name}")
        self._tracer.client.create_event(name=name, output=output)

    def finish(self, output: dict[str, Any], scores: dict[str, float]) -> None:
        """Set the root span's output and add scores to the trace; ids make a repeated score the same one."""
        self._root.update(output=output)
        for name, value in scores.items():
            score_id = self._make_id(f"score {name}")
            self._tracer.client.create_score(name=name, value=value, trace_id=self.trace_id, score_id=score_id)

    def deliver(self) -> Delivery:
        """Send what was not sent yet and count; call it after the context manager closed. Never raises for a server."""
        return self._sender.send()


class Sender:
    """Posts an outbox's lines to Langfuse; with SWAP_TRACING=outbox it only counts them.

    Attributes:
        problem: Why the server did not take the last request, or None.
    """

    def __init__(self, settings: Settings, path: Path):
        self.path = path
        self.problem: str | None = None
        self._settings, self._sent = settings, 0

    def send(self) -> Delivery:
        """Post the lines that were not posted yet, until the server refuses one; count spans and scores by id."""
        lines, is_on = list(read_outbox(self.path)), self._settings.swap_tracing == "langfuse"
        if is_on:
            self.problem = None
            self._post_all(lines[self._sent :])
        made, delivered = count_items(lines), count_items(lines[: self._sent])
        trace_id = next((span["traceId"] for line in lines for span in _spans_of(line)), "")
        return Delivery(trace_id, show_path(self.path), made, delivered, made - delivered if is_on else 0)

    def _post_all(self, lines: list[Any]) -> None:
        auth = (self._settings.langfuse_public_key or "", self._settings.langfuse_secret_key or "")
        headers = {"x-langfuse-ingestion-version": "4", "x-langfuse-sdk-name": "python"}
        with httpx.Client(
            base_url=self._settings.langfuse_host, auth=auth, headers=headers, timeout=TIMEOUT_S
        ) as client:
            for path, body, count in _merge(lines):
                try:
                    answer = client.post(path, json=body)
                except httpx.HTTPError as error:
                    self.problem = type(error).__name__
                    return
                if reason := _find_refusal(answer):
                    self.problem = reason
                    return
                self._sent += count


def _find_refusal(answer: httpx.Response) -> str | None:
    """Why Langfuse did not take a whole request, or None when it did."""
    if answer.status_code not in (200, 202, 207):
        return f"status {answer.status_code}"
    try:
        body = answer.json() if answer.content else {}
    except ValueError:
        return f"status {answer.status_code} without JSON: is LANGFUSE_HOST a Langfuse server?"
    if isinstance(body, dict) and (body.get("errors") or body.get("partialSuccess", {}).get("rejectedSpans")):
        return "refused some of the spans or scores"
    return None


def _merge(lines: list[Any]) -> Iterator[tuple[str, Any, int]]:
    """Requests of up to LINES_PER_POST lines of one kind, in order: path, body, and how many lines it holds."""
    start = 0
    while start < len(lines):
        kind, end = type(lines[start]), start
        while end < len(lines) and end - start < LINES_PER_POST and type(lines[end]) is kind:
            end += 1
        batch = lines[start:end]
        if kind is dict:
            yield SPANS_PATH, {"resourceSpans": [r for line in batch for r in line["resourceSpans"]]}, len(batch)
        else:
            yield SCORES_PATH, [score for line in batch for score in line], len(batch)
        start = end


def read_outbox(path: Path) -> Iterator[Any]:
    """The lines of an outbox; a line left torn by a kill is passed over, its row is traced again on resume."""
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            yield json.loads(text)
        except ValueError:
            continue


def _spans_of(line: Any) -> Iterator[dict[str, Any]]:
    """The spans of one OTLP/JSON line; none for a line of scores."""
    if isinstance(line, dict):
        for resource in line["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                yield from scope["spans"]


def count_items(lines: list[Any]) -> int:
    """Spans and scores in outbox lines, each id once."""
    ids = {span["spanId"] for line in lines for span in _spans_of(line)}
    return len(ids | {score["id"] for line in lines if isinstance(line, list) for score in line})


def push_traces(settings: Settings) -> list[dict[str, Any]]:
    """Send the outbox of every run that is not on the server yet; what is there already is not doubled.

    The runs' metrics and decision files get the new counts.

    Returns:
        One record for each run that was sent: `run_id`, the fields of Delivery, and the server's `problem` or None.

    Raises:
        ValueError: Langfuse keys are missing.
    """
    settings = settings.model_copy(update={"swap_tracing": "langfuse"})
    check_tracing(settings)
    records = []
    for path in sorted(settings.runs.glob("*/trace.jsonl")):
        run_id, sender = path.parent.name, Sender(settings, path)
        files = [f for f in (path.parent / "metrics.json", *settings.evaluation.glob("*.json")) if f.is_file()]
        contents = {f: c for f in files if (c := json.loads(f.read_text()))["run"]["run_id"] == run_id}
        if contents and all(c["run"]["trace"]["delivered"] == c["run"]["trace"]["made"] for c in contents.values()):
            continue
        delivery = asdict(sender.send())
        for file, content in contents.items():
            content["run"]["trace"] = delivery
            write_json(file, content)
        records.append({"run_id": run_id, **delivery, "problem": sender.problem})
    return records


def describe_delivery(delivery: Delivery, settings: Settings) -> str:
    """One line for a person: where the trace is, and what to do when the server did not take all of it."""
    text = f"trace {delivery.trace_id}: {delivery.made} spans and scores in the run's trace.jsonl"
    if settings.swap_tracing == "outbox":
        return f"{text}; none sent (SWAP_TRACING=outbox)"
    if delivery.failed:
        return f"{text}; {delivery.failed} NOT delivered to {settings.langfuse_host}. Send them: swap push-traces"
    return f"{text}; all delivered to {settings.langfuse_host}"
