"""A request's spans by the Langfuse SDK, as one line of an outbox.

    route toolcall          root, a chain: messages, answer, who answered and why
        slm                 generation: messages, output, tokens, status
        hosted              generation, where it was asked

The root is a chain and no span, so that SWAP_TRACE_CONTENT=off hides what it holds.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from langfuse import Langfuse, LangfuseChain, LangfuseGeneration, propagate_attributes
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Span, use_span

from swaplib.masking import mask_secrets, replace_surrogates
from swaplib.tracing.langfuse_client import get_tracer, make_line
from swaplib.tracing.observations import describe_generation
from swaplib.tracing.outbox import Line, mask_content
from swaplib.tracing.request_record import Attempt, RequestTrace


class RequestSpans:
    """Makes the line of one request after the other; one thread at a time may use it.

    Args:
        seed: Of all ids, with the number of the request.
        secrets: Masked as `***`, like what looks like a key.
        is_content_hidden: Whether texts become their sha256 and length.

    Raises:
        RuntimeError: As SpanDoor.open.
    """

    def __init__(self, seed: str, secrets: Sequence[str], is_content_hidden: bool):
        self._seed = seed
        self._secrets = secrets
        self._is_content_hidden = is_content_hidden
        self._numbers = count()
        self._ended: list[ReadableSpan] = []
        self._tracer = get_tracer()
        self._tracer.door.open(self._ended.extend)

    def close(self) -> None:
        """Let a run or another server be traced in this process."""
        self._tracer.door.close()

    def make_line(self, trace: RequestTrace) -> Line:
        """All spans of a request, as one line.

        Raises:
            RuntimeError: The SDK has dropped some.
        """
        self._ended.clear()
        try:
            self._make_spans(trace, f"{self._seed}/{next(self._numbers)}")
        finally:  # what there is of a trace that failed must not be taken for the next one's
            self._tracer.provider.force_flush()
        if lost := 1 + len(trace.attempts) - len(self._ended):
            raise RuntimeError(
                f"{lost} span(s) of a request were dropped. Is tracing switched off in the "
                "environment (LANGFUSE_TRACING_ENABLED, OTEL_SDK_DISABLED)? Unset it and start "
                "again."
            )
        line = make_line(self._ended)
        return mask_content(line) if self._is_content_hidden else line

    def _make_spans(self, trace: RequestTrace, seed: str) -> None:
        who = trace.answered_by
        tags = [f"answered by {who}" if who else "not answered"]
        with propagate_attributes(trace_name=trace.name, tags=tags):
            root = self._tracer.start_span(
                trace.name,
                _make_id(seed, "root"),
                _to_ns(trace.started_at),
                Langfuse.create_trace_id(seed=seed),
            )
            try:
                with use_span(root):
                    for number, attempt in enumerate(trace.attempts):
                        self._add_attempt(attempt, _make_id(seed, f"attempt {number}"))
                self._describe(trace, root)
            finally:
                root.end(end_time=_to_ns(max(trace.started_at, trace.ended_at)))

    def _describe(self, trace: RequestTrace, root: Span) -> None:
        known = {"request_id": trace.request_id, "answered_by": trace.answered_by}
        LangfuseChain(
            otel_span=root,
            langfuse_client=self._tracer.client,
            input=self._clean(trace.inputs),
            output=self._clean(trace.output),
            metadata=self._clean(known | dict(trace.metadata)),
            level="ERROR" if trace.error else "DEFAULT",
            status_message=self._clean(trace.error),
        )

    def _add_attempt(self, attempt: Attempt, span_id: str) -> None:
        said = attempt.generation
        fields = describe_generation(
            replace(said, output=self._clean(said.output), error=self._clean(said.error)),
            self._clean(attempt.messages),
            attempt.model,
            attempt.parameters,
            self._clean(attempt.asked),
            attempt.cost,
            {"status": said.status},
        )
        LangfuseGeneration(
            otel_span=self._tracer.start_span(attempt.name, span_id, _to_ns(attempt.started_at)),
            langfuse_client=self._tracer.client,
            **fields,
        ).end(end_time=_to_ns(max(attempt.started_at, attempt.ended_at)))

    def _clean(self, value: Any) -> Any:
        return mask_secrets(replace_surrogates(value), self._secrets)


def _make_id(seed: str, key: str) -> str:
    return hashlib.sha256(f"{seed}/{key}".encode()).hexdigest()[:16]


def _to_ns(at: float) -> int:
    return round(at * 1e6) * 1000  # a float of today's seconds holds no more than microseconds
