"""A run's spans: their ids are derived from the run id, they keep their times, and none is lost.

A server keeps a row by its id and its time, so a span that a resumed run writes again has both from
the first time.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from langfuse import Langfuse
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Span

from swaplib.files import append_line
from swaplib.tracing.langfuse_client import get_tracer, make_line
from swaplib.tracing.outbox import mask_content
from swaplib.tracing.outbox_index import OutboxIndex


class RunSpans:
    """Starts the spans of one run, and brings them to its outbox.

    Attributes:
        trace_id: The run's trace, in hex.
        index: What the outbox holds.
        starts: When each span began, in Unix nanoseconds, by id, whether it is in the outbox yet or
            not.
    """

    def __init__(self, run_id: str, path: Path):
        self.trace_id = Langfuse.create_trace_id(seed=run_id)
        self.tracer = get_tracer()
        self.index = OutboxIndex(path)
        self.index.update()
        self.starts = dict(self.index.span_starts)
        self._run_id = run_id

    def make_id(self, key: str) -> str:
        """The id of the span or score that this key names within the run."""
        return hashlib.sha256(f"{self._run_id}/{key}".encode()).hexdigest()[:16]

    def start(self, name: str, span_id: str, start_ns: int) -> Span:
        """Start a span of the run; one that is written again keeps its time."""
        return self.tracer.start_span(
            name, span_id, self.starts.setdefault(span_id, start_ns), self.trace_id
        )

    def open_outbox(self, is_content_hidden: bool) -> None:
        """Have this process's spans written to the run's outbox from now on.

        Raises:
            RuntimeError: As SpanDoor.open.
        """

        def write(spans: Sequence[ReadableSpan]) -> None:
            line = make_line(spans)
            if is_content_hidden:
                line = mask_content(line)
            append_line(self.index.path, json.dumps(line))

        self.tracer.door.open(write)

    def close_outbox(self) -> None:
        """Let the next run open its outbox."""
        self.tracer.door.close()

    def write_ended(self) -> None:
        """Bring the spans that have ended to the outbox; raises OSError where that fails."""
        self.tracer.provider.force_flush()
        self._check_written()

    def flush(self) -> None:
        """As write_ended, and wait for whatever else the SDK has queued."""
        self.tracer.client.flush()
        self._check_written()

    def _check_written(self) -> None:
        if problem := self.tracer.door.problem:
            raise OSError(f"cannot write the trace to {self.index.path}: {problem}")

    def check_complete(self) -> None:
        """Check that all spans are in the outbox, whatever the SDK was told to drop.

        Raises:
            RuntimeError: Some are missing.
        """
        self.index.update()
        if lost := self.starts.keys() - self.index.span_starts.keys():
            raise RuntimeError(
                f"{len(lost)} span(s) did not reach {self.index.path}. Is tracing switched off in "
                "the environment (LANGFUSE_TRACING_ENABLED, OTEL_SDK_DISABLED)? Unset it and run "
                "again."
            )
