"""One Langfuse trace for each run, written to the run's outbox: spans by the Langfuse SDK, scores as their line.

The SDK's exporter is the outbox itself, so it needs no keys and nothing leaves here; `delivery.py` sends. Ids are derived
from the run id, and what is written again keeps its time, so a resumed run goes on with its trace and doubles nothing.
"""

import hashlib
import json
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

from langfuse import (
    Langfuse,
    LangfuseEvent,
    LangfuseGeneration,
    LangfuseSpan,
    propagate_attributes,
)
from opentelemetry.trace import Span, get_current_span, use_span

from swaplib.files import append_line
from swaplib.prompts import Message
from swaplib.rows import LedgerLine
from swaplib.settings import Settings
from swaplib.tracing.delivery import LINES_PER_POST, Delivery, Sender
from swaplib.tracing.langfuse_client import get_tracer
from swaplib.tracing.outbox import check_tracing, read_starts


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
        session_id: Joins the traces of several runs, such as the stages of one capture, in one Langfuse session.
    """

    def __init__(
        self,
        settings: Settings,
        run_id: str,
        folder: Path,
        name: str,
        inputs: dict[str, Any],
        tags: list[str],
        session_id: str | None = None,
    ):
        check_tracing(settings)
        self.trace_id = Langfuse.create_trace_id(seed=run_id)
        self.path = folder / "trace.jsonl"
        self._settings, self._run_id, self._name, self._inputs = settings, run_id, name, inputs
        self._shared: Any = {"trace_name": name, "tags": tags, "session_id": session_id}
        self._tracer = get_tracer()
        self._starts = read_starts(self.path)
        self._sender = Sender(settings, self.path)
        self._scores: list[dict[str, Any]] = []
        self._stack = ExitStack()

    def __enter__(self) -> "RunTrace":
        if self._tracer.outbox.path is not None:
            raise RuntimeError(
                "another run is being traced in this process; runs go one after the other"
            )
        try:
            self._tracer.outbox.path, self._tracer.outbox.problem = self.path, None
            self._tracer.outbox.is_content_hidden = self._settings.swap_trace_content == "off"
            self._stack.enter_context(propagate_attributes(**self._shared))
            self._root = self._start_root()
        except (
            BaseException
        ):  # an interrupt, too, must leave the process able to trace the next run
            self._stack.close()
            self._tracer.outbox.path = None
            raise
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        try:
            if error is not None:
                self._root.update(level="ERROR", status_message=kind.__name__)
            self._stack.close()
            self._flush()
            self._write_scores()
            self._check_complete()
        finally:
            self._tracer.outbox.path = None

    def _start_root(self) -> LangfuseSpan:
        """Open the root span; one that goes on began when it first did, or when the first of its spans did."""
        spans = [start for start in self._starts.values() if isinstance(start, int)]
        self._tracer.ids.trace_id, span_id = self.trace_id, self._make_id("root")
        span = self._start_span(self._name, span_id, min(spans, default=time.time_ns()))
        self._stack.enter_context(
            use_span(span, True, record_exception=False, set_status_on_exception=False)
        )
        facts = {"input": self._inputs, "metadata": {"run_id": self._run_id}}
        return LangfuseSpan(otel_span=span, langfuse_client=self._tracer.client, **facts)

    def _start_span(self, name: str, span_id: str, start: int) -> Span:
        """Start a span below the current one; one that is written again keeps the time that it had."""
        self._tracer.ids.span_id = span_id
        return self._tracer.scope.start_span(
            name, start_time=self._starts.setdefault(span_id, start)
        )

    def _make_id(self, key: str) -> str:
        return hashlib.sha256(f"{self._run_id}/{key}".encode()).hexdigest()[:16]

    def _flush(self) -> None:
        """Bring everything made so far to the outbox; a full disk or read-only folder is raised here."""
        self._tracer.client.flush()
        if self._tracer.outbox.problem:
            raise OSError(f"cannot write the trace to {self.path}: {self._tracer.outbox.problem}")

    def _write_scores(self) -> None:
        """Append the scores as the request that the server takes. The SDK's thread has nothing left to append then."""
        try:
            if self._scores:
                append_line(self.path, json.dumps(self._scores))
        except OSError as error:
            raise OSError(f"cannot write the trace to {self.path}: {error}") from error

    def _check_complete(self) -> None:
        """Tracing is mandatory: what was made must be in the outbox, whatever the SDK's own settings say."""
        if lost := self._starts.keys() - read_starts(self.path).keys():
            raise RuntimeError(
                f"{len(lost)} span(s) did not reach {self.path}. Is tracing switched off in the environment "
                "(LANGFUSE_TRACING_ENABLED, OTEL_SDK_DISABLED)? Unset it and run again."
            )

    def add_generation(
        self,
        line: LedgerLine,
        messages: list[Message],
        model: str,
        limit: int,
        asked: dict[str, Any] | None = None,
        cost: dict[str, float] | None = None,
        temperature: float | None = 0,
    ) -> None:
        """Add the generation of one ledger line, unless the trace holds it already.

        Args:
            line: The row's ledger line; when its answer came and its latency give the span's times.
            messages: What `model` was asked.
            limit: max_new_tokens of the call.
            asked: What else went with the messages, such as tools.
            cost: US dollars of `input` and `output`; None where no price is known.
            temperature: What was sent; None where none was.
        """
        span_id = self._make_id(line.to_json())
        if span_id in self._starts:
            return
        generation, end = line.generation, _to_ns(line.ended_at)
        span = self._start_span(
            f"row {line.index}", span_id, end - int(generation.latency_ms * 1e6)
        )
        said: Any = [{key: _clean(text) for key, text in message.items()} for message in messages]
        LangfuseGeneration(
            otel_span=span,
            langfuse_client=self._tracer.client,
            input={"messages": said, **asked} if asked else said,
            output=_clean(generation.output),
            model=model,
            model_parameters=_drop_none({"temperature": temperature, "max_tokens": limit}),
            usage_details=_drop_none(
                {"input": generation.prompt_tokens, "output": generation.completion_tokens}
            ),
            cost_details=cost,
            metadata={"index": line.index, "status": generation.status, "scores": line.scores},
            level="ERROR" if generation.status == "error" else "DEFAULT",
            status_message=None
            if generation.status == "ok"
            else generation.error or generation.finish_reason,
        ).end(end_time=end)
        self._pass_on()

    def _pass_on(self) -> None:
        """Bring a generation to the outbox, and now and then what lies there to the server."""
        self._tracer.provider.force_flush()
        if self._tracer.outbox.problem:
            self._flush()
        if len(self._starts) % LINES_PER_POST == 0 and self._sender.problem is None:
            self._sender.send()  # during a long run; a server that failed once is asked again at the end only

    def add_span(
        self,
        key: str,
        name: str,
        values: dict[str, Any],
        latency_ms: float = 0.0,
        is_error: bool = False,
        kind: type = LangfuseSpan,
        ended_at: float | None = None,
        spent: dict[str, str] | None = None,
    ) -> None:
        """Add a finished span below the root, for example a stage, unless the trace holds it already.

        Args:
            key: What makes it the same span when a resumed run adds it again.
            name: Its name.
            values: `input`, `output` and `metadata`, as far as there are any.
            latency_ms: How long it took.
            is_error: Whether it is shown as an error.
            kind: The SDK's class; input and output of any other than a span are hidden by SWAP_TRACE_CONTENT=off.
            ended_at: When it ended, in Unix seconds; now by default.
            spent: As langfuse_client.describe_spent makes it.
        """
        span_id = self._make_id(f"span {key}")
        if span_id in self._starts:
            return
        end = _to_ns(ended_at)
        span = self._start_span(name, span_id, end - int(latency_ms * 1e6))
        span.set_attributes(spent or {})
        level = "ERROR" if is_error else "DEFAULT"
        kind(otel_span=span, langfuse_client=self._tracer.client, level=level, **values).end(
            end_time=end
        )
        self._flush()

    def add_event(self, name: str, output: Any) -> None:
        """Add an event, for example a decision, below the root span; one that is added again keeps its time."""
        span_id = self._make_id(f"event {name}")
        span = self._start_span(name, span_id, time.time_ns())
        event = LangfuseEvent(otel_span=span, langfuse_client=self._tracer.client, output=output)
        event.end(end_time=self._starts[span_id])

    def finish(self, output: dict[str, Any], scores: dict[str, float]) -> None:
        """Set the root span's output and add scores to the trace; ids make a repeated score the same one."""
        # what an attempt that failed has said of itself, a server keeps until it is told otherwise
        self._root.update(output=output, level="DEFAULT", status_message="")
        attributes, now = (
            getattr(get_current_span(), "attributes", None) or {},
            datetime.now(UTC).isoformat(),
        )
        environment = attributes.get(
            "langfuse.environment"
        )  # LANGFUSE_TRACING_ENVIRONMENT, which the SDK reads
        shared = {"traceId": self.trace_id} | ({"environment": environment} if environment else {})
        found = {self._make_id(f"score {name}"): (name, value) for name, value in scores.items()}
        self._scores = [
            {
                "id": key,
                "name": name,
                "value": float(value),
                "timestamp": self._starts.get(key, now),
                **shared,
            }
            for key, (name, value) in found.items()
            if isfinite(value)  # JSON has no other numbers
        ]

    def count(self) -> Delivery:
        """What was made and delivered so far, without sending anything."""
        return self._sender.count()

    def deliver(self) -> Delivery:
        """Send what was not sent yet, and count. Never raises for what a server does."""
        self._sender.send()
        return self._sender.count()


def _clean(text: str) -> str:
    """A text that OTLP can carry: half of a surrogate pair becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


def _to_ns(at: float | None) -> int:
    """A time in Unix seconds in nanoseconds; now for None."""
    return time.time_ns() if at is None else int(at * 1e9)


def _drop_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
