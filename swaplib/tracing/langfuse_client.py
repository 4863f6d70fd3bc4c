"""The process's one Langfuse client: it makes spans, and its exporter hands them on to be written.

It needs no keys, and nothing leaves the machine through it. Spans go to the `trace.jsonl` of the
run or the server that is traced; `delivery.py` sends.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version

import httpx
from langfuse import Langfuse, LangfuseOtelSpanAttributes
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from swaplib.settings import no_proxies
from swaplib.tracing.outbox import Line, list_spans

PUBLIC_KEY = "outbox"  # the SDK drops spans of a scope that names another


Take = Callable[[Sequence[ReadableSpan]], None]


class SpanDoor(SpanExporter):
    """Hands ended spans to the one run, or the one server, that is traced in this process."""

    problem: Exception | None = None
    _take: Take | None = None

    def open(self, take: Take) -> None:
        """Have spans handed to `take` from now on.

        Raises:
            RuntimeError: They go to another run or server.
        """
        if self._take is not None:
            raise RuntimeError(
                "another run, or a server's requests, are being traced in this process; runs go "
                "one after the other"
            )
        self._take, self.problem = take, None

    def close(self) -> None:
        """Let the next one open it."""
        self._take = None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Hand on spans that have ended."""
        try:
            if self._take is None:
                raise RuntimeError("a span ended outside of a run")
            self._take(spans)
        except Exception as error:
            self.problem = error  # the SDK only logs what its exporter raises: RunTrace raises it
            raise
        return SpanExportResult.SUCCESS


def make_line(spans: Sequence[ReadableSpan]) -> Line:
    """Spans as OTLP/JSON, without what a server would show as metadata of each row."""
    from google.protobuf.json_format import MessageToDict

    body = MessageToDict(encode_spans(spans))
    for resource in body["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            scope["scope"].pop("attributes", None)
    for span in list_spans(body):
        # OTLP/JSON writes ids in hex, where protobuf's JSON has base64
        for key in span.keys() & {"traceId", "spanId", "parentSpanId"}:
            span[key] = base64.b64decode(span[key]).hex()
    return body


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
    """The client, and the parts of it that a run uses.

    Attributes:
        scope: Starts spans.
        door: Hands them on when they have ended.
        ids: Gives them their ids.
    """

    client: Langfuse
    scope: trace.Tracer
    provider: TracerProvider
    door: SpanDoor
    ids: Ids

    def start_span(
        self, name: str, span_id: str, start_ns: int, trace_id: str | None = None
    ) -> trace.Span:
        """Start a span below the current one or, where there is none, as the first of a trace."""
        self.ids.span_id, self.ids.trace_id = span_id, trace_id
        return self.scope.start_span(name, start_time=start_ns)


@lru_cache
def get_tracer() -> Tracer:
    """The process's one Langfuse client; its exporter is the door, so it needs no keys."""
    door, ids = SpanDoor(), Ids()
    # given here, so that OTEL_* and LANGFUSE_* of the environment can neither drop nor cut a span
    limits = SpanLimits(max_span_attributes=128, max_span_attribute_length=SpanLimits.UNSET)
    resource = Resource({"service.name": "slm-swap"})  # it is shown beside every row
    provider = TracerProvider(
        sampler=ALWAYS_ON, span_limits=limits, id_generator=ids, resource=resource
    )
    # the SDK would ask its server for more, such as room for images: nothing answers it here
    nowhere = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(404)))
    with (
        no_proxies()
    ):  # the SDK builds a second client, which would read the proxies of the environment
        client = Langfuse(
            public_key=PUBLIC_KEY,
            secret_key="outbox",  # noqa: S106 - no secret: nothing leaves through this client
            base_url="http://outbox",
            tracing_enabled=True,
            tracer_provider=provider,
            span_exporter=door,
            httpx_client=nowhere,
            should_export_span=lambda _: True,
        )
    # the SDK's own scope: a server does not copy the attributes of its spans into the metadata
    scope = provider.get_tracer(
        "langfuse-sdk", version("langfuse"), attributes={"public_key": PUBLIC_KEY}
    )
    return Tracer(client, scope, provider, door, ids)


def describe_spent(
    model: str, usage: Mapping[str, int], cost: Mapping[str, float] | None
) -> dict[str, str]:
    """The attributes that say what an observation spent.

    The SDK takes these for generations only, a server for every observation.

    Args:
        model: Who was asked.
        usage: Tokens of `input` and `output`.
        cost: US dollars of both; None where no price is known.
    """
    names = LangfuseOtelSpanAttributes
    spent = {names.OBSERVATION_MODEL: model, names.OBSERVATION_USAGE_DETAILS: json.dumps(usage)}
    return spent | ({names.OBSERVATION_COST_DETAILS: json.dumps(cost)} if cost else {})
