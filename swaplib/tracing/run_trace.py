"""One Langfuse trace for each run, in the run's outbox: spans by the Langfuse SDK, then scores.

The SDK's exporter is the outbox itself, so it needs no keys and nothing leaves here; `delivery.py`
sends. A resumed run continues its trace and doubles nothing (`run_spans.py`). The trace of an
evaluation, and the line of `trace.jsonl` that each part is in (`outbox.py` shows such lines):

    eval toolcall slm test      root span: inputs, then rates          line 3, when the run ends
        row 0                   generation: messages, output, tokens   line 1
        row 1                   generation                             line 2
    valid_call_rate 0.97, …     scores of the trace                    line 4

A run killed after line 2 has no root span there yet: resumed, it starts the root at the time of row
0, adds the missing rows, and ends it.
"""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from langfuse import (
    LangfuseAgent,
    LangfuseEvent,
    LangfuseGeneration,
    LangfuseSpan,
    propagate_attributes,
)
from opentelemetry.trace import get_current_span, use_span

from swaplib.files import append_line
from swaplib.prompts import Message
from swaplib.rows import LedgerLine
from swaplib.settings import Settings
from swaplib.tracing.delivery import Delivery, Sender
from swaplib.tracing.observations import Level, describe_line, make_scores
from swaplib.tracing.outbox import check_tracing
from swaplib.tracing.posting import LINES_PER_POST
from swaplib.tracing.run_spans import RunSpans


class RunTrace:
    """The trace of one run, as a context manager: a root span, and below it observations.

    Only one run is traced at a time in a process. Leaving it with an exception ends the root span
    as an error.

    Args:
        settings: `swap_tracing` says whether traces go to a server.
        run_id: Seeds the ids of the trace and of its spans.
        folder: The run's folder; the outbox is its `trace.jsonl`.
        name: The trace's name, for example `eval toolcall slm test`.
        inputs: The root span's input: dataset path, model, parameters.
        tags: At most a few words to find the trace by.
        session_id: Joins the traces of several runs, such as the stages of one capture, in one
            Langfuse session.

    Raises:
        ValueError: As check_tracing.
    """

    def __init__(
        self,
        settings: Settings,
        run_id: str,
        folder: Path,
        name: str,
        inputs: Mapping[str, Any],
        tags: list[str],
        session_id: str | None = None,
    ):
        check_tracing(settings)
        self.path = folder / "trace.jsonl"
        self._settings = settings
        self._run_id = run_id
        self._name = name
        self._inputs = inputs
        self._tags = tags
        self._session_id = session_id
        self._spans = RunSpans(run_id, self.path)
        self.trace_id = self._spans.trace_id
        self._client = self._spans.tracer.client
        self._sender = Sender(settings, self._spans.index)
        self._scores: list[dict[str, Any]] = []
        self._stack = ExitStack()

    def __enter__(self) -> "RunTrace":
        self._spans.open_outbox(self._settings.swap_trace_content == "off")
        try:
            self._stack.enter_context(
                propagate_attributes(
                    trace_name=self._name, tags=self._tags, session_id=self._session_id
                )
            )
            self._root = self._start_root()
        except BaseException:  # an interrupt, too, must leave the process able to trace again
            self._stack.close()
            self._spans.close_outbox()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is not None:
                self._root.update(level="ERROR", status_message=kind.__name__)
            self._stack.close()
            self._spans.flush()
            self._write_scores()
            self._spans.check_complete()
        finally:
            self._spans.close_outbox()

    def _start_root(self) -> LangfuseSpan:
        """Open the root span; a resumed one began when it first did, or its first span did."""
        start_ns = min(self._spans.starts.values(), default=time.time_ns())
        span = self._spans.start(self._name, self._spans.make_id("root"), start_ns)
        self._stack.enter_context(
            use_span(span, True, record_exception=False, set_status_on_exception=False)
        )
        return LangfuseSpan(
            otel_span=span,
            langfuse_client=self._client,
            input=self._inputs,
            metadata={"run_id": self._run_id},
        )

    def _write_scores(self) -> None:
        """Append the scores as one line; by now the SDK's thread has nothing left to append."""
        try:
            if self._scores:
                append_line(self.path, json.dumps(self._scores))
        except OSError as error:
            raise OSError(f"cannot write the trace to {self.path}: {error}") from error

    def add_generation(
        self,
        line: LedgerLine,
        messages: Sequence[Message],
        model: str,
        max_new_tokens: int,
        asked: Mapping[str, Any] | None = None,
        cost: dict[str, float] | None = None,
        temperature: float | None = 0,
    ) -> None:
        """Add the generation of one ledger line, unless the trace has it already.

        Args:
            line: The row's ledger line; when its answer came and its latency give the span's times.
            messages: What `model` was asked.
            asked: What else was sent with the messages, such as tools.
            cost: US dollars of `input` and `output`; None where no price is known.
            temperature: What was sent; None where none was.
        """
        span_id = self._spans.make_id(line.to_json())
        if span_id in self._spans.starts:
            return
        end = _to_ns(line.ended_at)
        start = end - int(line.generation.latency_ms * 1e6)
        fields = describe_line(line, messages, model, max_new_tokens, asked, cost, temperature)
        LangfuseGeneration(
            otel_span=self._spans.start(f"row {line.index}", span_id, start),
            langfuse_client=self._client,
            **fields,
        ).end(end_time=end)
        self._pass_on()

    def _pass_on(self) -> None:
        """Bring a generation to the outbox, and after every LINES_PER_POST spans send it.

        A server that failed once is asked again at the run's end only.
        """
        self._spans.write_ended()
        if len(self._spans.starts) % LINES_PER_POST == 0 and self._sender.problem is None:
            self._sender.send()

    def add_span(
        self,
        key: str,
        name: str,
        values: Mapping[str, Any],
        latency_ms: float = 0.0,
        is_error: bool = False,
        kind: type[LangfuseSpan] | type[LangfuseAgent] = LangfuseSpan,
        ended_at: float | None = None,
        spent: Mapping[str, str] | None = None,
    ) -> None:
        """Add a finished span below the root, for example a stage, unless the trace has it already.

        Args:
            key: What makes it the same span when a resumed run adds it again.
            values: `input`, `output` and `metadata`, as far as there are any.
            kind: The SDK's class; input and output of any other than a span are hidden by
                SWAP_TRACE_CONTENT=off.
            ended_at: When it ended, in Unix seconds; now by default.
            spent: As langfuse_client.describe_spent makes it.
        """
        span_id = self._spans.make_id(f"span {key}")
        if span_id in self._spans.starts:
            return
        end = _to_ns(ended_at)
        span = self._spans.start(name, span_id, end - int(latency_ms * 1e6))
        span.set_attributes(spent or {})
        level: Level = "ERROR" if is_error else "DEFAULT"
        kind(otel_span=span, langfuse_client=self._client, level=level, **values).end(end_time=end)
        self._spans.flush()

    def add_event(self, name: str, output: Any) -> None:
        """Add an event, such as a decision; one that is added again keeps its time."""
        span_id = self._spans.make_id(f"event {name}")
        span = self._spans.start(name, span_id, time.time_ns())
        event = LangfuseEvent(otel_span=span, langfuse_client=self._client, output=output)
        event.end(end_time=self._spans.starts[span_id])

    def finish(self, output: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        """Set the root span's output, and add scores to the trace when it ends.

        Ids make a repeated score the same one.
        """
        # a server keeps what a failed attempt said of itself until a later one overwrites it
        self._root.update(output=output, level="DEFAULT", status_message="")
        attributes = getattr(get_current_span(), "attributes", None) or {}
        environment = attributes.get("langfuse.environment")  # of LANGFUSE_TRACING_ENVIRONMENT
        named = {
            self._spans.make_id(f"score {name}"): (name, value) for name, value in scores.items()
        }
        self._scores = make_scores(self.trace_id, named, self._spans.index.score_times, environment)

    def count(self) -> Delivery:
        """What was made and delivered so far, without sending anything."""
        return self._sender.count()

    def deliver(self) -> Delivery:
        """Send what was not sent yet, and count. Never raises for what a server does."""
        self._sender.send()
        return self._sender.count()


def _to_ns(at: float | None) -> int:
    """A time in Unix seconds in nanoseconds; now for None."""
    return time.time_ns() if at is None else int(at * 1e9)
