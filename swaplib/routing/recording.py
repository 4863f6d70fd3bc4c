"""One Langfuse trace for each request of a route: both attempts, what was sent, and why.

What a request, an answer or a reason says goes into inputs and outputs only, which
SWAP_TRACE_CONTENT=off hides. Nothing here delays an answer: a thread of its own makes the traces.
"""

import json
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from swaplib.evaluation.costs import Prices
from swaplib.metrics import Track
from swaplib.models.hosted import HostedLLM
from swaplib.routing.hosted_calls import HostedAnswer
from swaplib.routing.hosted_request import make_request
from swaplib.routing.local_answers import LocalAnswer
from swaplib.rows import Generation, Status
from swaplib.serving.routed import AnsweredBy, Failure, Routed, RoutedRequest
from swaplib.tracing.request_record import Attempt, RequestTrace
from swaplib.tracing.request_traces import RequestTraces

_PARAMETERS: tuple[str, ...] = ("temperature", "max_tokens", "max_completion_tokens")
_UNENDED = "the request ended before its answer"


@dataclass
class _Asked:
    """A model that was asked, and what came back."""

    name: AnsweredBy
    started_at: float
    ended_at: float | None = None
    generation: Generation | None = None


@dataclass
class Recording:
    """What happens to one request; times are Unix seconds."""

    request: RoutedRequest
    request_id: str = field(default_factory=lambda: f"route-{uuid.uuid4().hex}")
    started_at: float = field(default_factory=time.time)
    asked: list[_Asked] = field(default_factory=list)

    def begin(self, name: AnsweredBy) -> None:
        """A model is asked."""
        self.asked.append(_Asked(name, time.time()))

    def end(self, came: LocalAnswer | HostedAnswer | Failure) -> None:
        """What came back from the model that was asked last."""
        last = self.asked[-1]
        last.ended_at = time.time()
        last.generation = _to_generation(came, (last.ended_at - last.started_at) * 1000)


def _to_generation(came: LocalAnswer | HostedAnswer | Failure, took_ms: float) -> Generation:
    """What came back as runs have it."""
    if isinstance(came, Failure):
        status: Status = "filtered" if came.code == "content_filter" else "error"
        return Generation("", status, None, None, None, took_ms, came.message)
    if isinstance(came, LocalAnswer):
        unanswered = Generation("", "error", None, None, None, took_ms, came.reason)
        return came.generation or unanswered
    read = came.completion
    text = json.dumps(read.calls, ensure_ascii=False) if read.calls else read.text
    counts = (read.prompt_tokens, read.completion_tokens)
    ended: Status = read.end or ("ok" if text.strip() else "empty")
    return Generation(text, ended, read.finish_reason, *counts, took_ms)


class Recorder:
    """Hands the traces of a route over.

    Args:
        traces: Where they go.
        track: Of the route.
        slm: The served model's name.
        hosted: The hosted LLM.
        prices: Of its tokens.
    """

    def __init__(
        self, traces: RequestTraces, track: Track, slm: str, hosted: HostedLLM, prices: Prices
    ):
        self._traces, self._track, self._slm = traces, track, slm
        self._hosted, self._prices = hosted, prices
        self._thread = ThreadPoolExecutor(1, "recorder")

    def add(self, recording: Recording, routed: Routed | None, error: str | None) -> None:
        """Trace a request that is over.

        Args:
            recording: What happened.
            routed: What its client got; None for nothing.
            error: Why it got nothing.
        """
        self._thread.submit(self._add, recording, routed, error, time.time())

    def close(self) -> None:
        """Hand over what is left; the traces are written and sent."""
        self._thread.shutdown(wait=True)
        self._traces.close()

    def _add(
        self, recording: Recording, routed: Routed | None, error: str | None, ended_at: float
    ) -> None:
        try:
            self._traces.add(self._make_trace(recording, routed, error, ended_at))
        except Exception as problem:  # nobody waits for it, and the next request is traced again
            print(f"warning: a request has no trace ({problem})", file=sys.stderr)

    def _make_trace(
        self, recording: Recording, routed: Routed | None, error: str | None, ended_at: float
    ) -> RequestTrace:
        body = make_request(self._hosted, recording.request.body)
        messages = body.pop("messages")
        parameters = {key: body.pop(key) for key in _PARAMETERS if key in body}
        del body["model"]
        attempts = tuple(
            self._make_attempt(asked, messages, body, parameters, ended_at)
            for asked in recording.asked
        )
        failure = routed.failure if routed else None
        if failure:
            error = failure.code or str(failure.status)
        return RequestTrace(
            request_id=recording.request_id,
            name=f"route {self._track}",
            started_at=recording.started_at,
            ended_at=ended_at,
            inputs={"messages": messages, **body},
            output=_describe_output(routed),
            metadata=_describe(routed),
            attempts=attempts,
            answered_by=None if routed is None or failure else routed.answered_by,
            error=error,
        )

    def _make_attempt(
        self,
        asked: _Asked,
        messages: list[dict[str, Any]],
        fields: dict[str, Any],
        parameters: dict[str, Any],
        ended_at: float,
    ) -> Attempt:
        said = asked.generation or Generation("", "error", None, None, None, 0.0, _UNENDED)
        is_hosted = asked.name == "hosted"
        cost = self._prices.split_price(said.prompt_tokens, said.completion_tokens)
        return Attempt(
            name=asked.name,
            model=(self._hosted.deployment or "") if is_hosted else self._slm,
            generation=said,
            messages=messages,
            started_at=asked.started_at,
            ended_at=asked.ended_at or ended_at,
            asked=fields or None,
            parameters=parameters,
            cost=cost if is_hosted else None,
        )


def _describe(routed: Routed | None) -> dict[str, Any]:
    """What may be shown of a request whatever SWAP_TRACE_CONTENT says: no text of it."""
    if routed is None:
        return {}
    failure = routed.failure
    told = {"status": failure.status, "code": failure.code} if failure else {"status": 200}
    return {"routed_to": routed.answered_by, "validator": routed.validator, **told}


def _describe_output(routed: Routed | None) -> dict[str, Any] | None:
    """What the client got, and why."""
    if routed is None:
        return None
    answer: Any = routed.completion and routed.completion.get("choices")
    if routed.generation:
        answer = routed.generation.output
    return {"answer": answer, "route": routed.describe()}
