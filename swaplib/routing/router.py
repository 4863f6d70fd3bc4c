"""Answers a request with the SLM where its answer may be sent, else with the hosted LLM.

One deadline holds for both. Where the hosted LLM does not answer, the client gets the reason as an
error, or with `fail_open` the SLM's refused answer, marked as such.

    accepted                       the SLM's answer
    refused by a validator         the hosted LLM's, with the validator and its reason
    prompt too long, queue full    the hosted LLM's
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

from swaplib.routing.audit import Audit
from swaplib.routing.hosted_calls import HostedCalls
from swaplib.routing.hosted_failures import HostedFailed
from swaplib.routing.local_answers import LATE, LocalAnswer, ask_slm
from swaplib.routing.recording import Recorder, Recording
from swaplib.routing.route_file import Route
from swaplib.serving.routed import Failure, Routed, RoutedRequest


@dataclass(frozen=True)
class RouteOptions:
    """How a route is served.

    Attributes:
        deadline_s: Of a whole request, in seconds.
        daily_calls: HTTP calls to the hosted LLM a day (UTC); None for any number.
        fail_open: Whether the SLM's refused answer is sent where the hosted LLM gives none.
        audit_share: Of the accepted answers, those that the hosted LLM is asked for, too (0..1).
    """

    deadline_s: float = 60.0
    daily_calls: int | None = None
    fail_open: bool = False
    audit_share: float = 0.0


@dataclass(frozen=True)
class ModelRouter:
    """Decides who answers (serving.routed.Router).

    Attributes:
        route: Its policy decides.
        options: Deadline, and what happens without the hosted LLM.
        calls: The hosted LLM.
        audit: Looks after accepted answers; None for no audit.
        recorder: Traces each request; None for no traces.
    """

    route: Route
    options: RouteOptions
    calls: HostedCalls
    audit: Audit | None
    recorder: Recorder | None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Holds the hosted LLM's client; at the end, audits end and traces are sent."""
        async with AsyncExitStack() as stack:
            if self.recorder:
                stack.push_async_callback(asyncio.to_thread, self.recorder.close)
            await stack.enter_async_context(self.calls.running())
            if self.audit:
                await stack.enter_async_context(self.audit.running())
            yield

    async def decide(self, request: RoutedRequest) -> Routed:
        """Answer a request by one of the two models, or say why neither does."""
        recording = Recording(request)
        routed, error = None, None
        try:
            routed = await self._decide(request, recording)
            return replace(routed, request_id=recording.request_id)
        except asyncio.CancelledError:
            error = "the client had gone before its answer"
            raise
        except Exception as problem:
            error = f"the router failed ({type(problem).__name__})"
            raise
        finally:
            if self.recorder:
                self.recorder.add(recording, routed, error)

    async def _decide(self, request: RoutedRequest, recording: Recording) -> Routed:
        until = request.started + self.options.deadline_s
        recording.begin("slm")
        local = await ask_slm(self.route, request, until)
        recording.end(local)
        if local.is_accepted:
            audit = None
            if self.audit:
                audit = partial(self.audit.start, request.body, local.answer)
            return Routed("slm", local.reason, generation=local.generation, after_sent=audit)
        if local.is_late:
            return Routed("slm", LATE, failure=Failure(504, LATE, "deadline_exceeded"))
        recording.begin("hosted")
        try:
            hosted = await self.calls.ask(request.body, until)
        except HostedFailed as failed:
            recording.end(failed.failure)
            return self._do_without(local, failed.failure)
        recording.end(hosted)
        return Routed("hosted", local.reason, local.validator, completion=hosted.body)

    def _do_without(self, local: LocalAnswer, failure: Failure) -> Routed:
        """What a client gets where the hosted LLM gives no answer."""
        both = f"{local.reason}; {failure.message}"
        if self.options.fail_open and local.generation:
            return Routed("slm", both, local.validator, generation=local.generation)
        message = f"{failure.message}; the SLM's answer is not sent ({local.reason})"
        told = replace(failure, message=message)
        return Routed("hosted", both, local.validator, failure=told)
