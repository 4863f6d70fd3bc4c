"""The process's one Langfuse client, which makes spans; nothing leaves through it, because its exporter is the outbox.

It needs no keys. Spans are appended to the open run's `trace.jsonl`; `outbox.py` sends.
"""

import base64
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx
from langfuse import Langfuse
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from swaplib.files import append_line
from swaplib.outbox import list_spans, mask_content


class Outbox(SpanExporter):
    """Appends the SDK's spans to the open run's file."""

    path: Path | None = None
    problem: Exception | None = None
    is_content_hidden: bool = False

    def export(self, spans: Any) -> SpanExportResult:
        """Append spans as OTLP/JSON."""
        from google.protobuf.json_format import MessageToDict

        body = MessageToDict(encode_spans(spans))
        for span in list_spans(body):  # OTLP/JSON writes ids in hex, where protobuf's JSON has base64
            for key in span.keys() & {"traceId", "spanId", "parentSpanId"}:
                span[key] = base64.b64decode(span[key]).hex()
        try:
            if self.path is None:
                raise RuntimeError("a span ended outside of a run")
            append_line(self.path, json.dumps(mask_content(body) if self.is_content_hidden else body))
        except Exception as error:  # the SDK only logs what its exporter raises, so keep it for RunTrace
            self.problem = error
            raise
        return SpanExportResult.SUCCESS


class Ids(RandomIdGenerator):
    """Random ids, but for the next trace and span when they are given."""

    trace_id: str | None = None
    span_id: str | None = None

    def generate_trace_id(self) -> int:
        """The given id once, else a random one."""
        given, self.trace_id = self.trace_id, None
        return int(given, 16) if given else super().generate_trace_id()

    def generate_span_id(self) -> int:
        """The given id once, else a random one."""
        given, self.span_id = self.span_id, None
        return int(given, 16) if given else super().generate_span_id()


@dataclass(frozen=True)
class Tracer:
    """The client, and the parts of it that a run sets: where it writes, and the next ids."""

    client: Langfuse
    provider: TracerProvider
    outbox: Outbox
    ids: Ids


@lru_cache
def get_tracer() -> Tracer:
    """The process's one Langfuse client; its exporter is the outbox, so it needs no keys."""
    outbox, ids = Outbox(), Ids()
    # given here, so that the environment's OTEL_* and LANGFUSE_* variables can neither drop nor cut a span
    limits = SpanLimits(max_span_attributes=128, max_span_attribute_length=SpanLimits.UNSET)
    provider = TracerProvider(
        sampler=ALWAYS_ON, span_limits=limits, id_generator=ids, resource=Resource.create({"service.name": "slm-swap"})
    )
    # what else the SDK would ask a server for, such as room for images, it is not given
    nowhere = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(404)))
    client = Langfuse(
        public_key="outbox",
        secret_key="outbox",  # noqa: S106 - no secret: nothing leaves through this client
        base_url="http://outbox",
        tracing_enabled=True,
        tracer_provider=provider,
        span_exporter=outbox,
        httpx_client=nowhere,
        should_export_span=lambda _: True,
    )
    return Tracer(client, provider, outbox, ids)
