"""The SLM's answer to a request, and whether it is one to send."""

import asyncio
from dataclasses import dataclass

from swaplib.masking import mask_secrets
from swaplib.metrics import Prediction
from swaplib.routing.answers import is_native, read_known, read_slm
from swaplib.routing.route_file import Route
from swaplib.rows import Generation
from swaplib.serving.batcher import Busy
from swaplib.serving.routed import RoutedRequest
from swaplib.serving.tool_api import Refused

ACCEPTED = "accepted"
REQUEST = "request"  # named as the validators are, where the request itself is of another kind
LATE = "the SLM had not answered when the request's time was up"


@dataclass(frozen=True)
class LocalAnswer:
    """What the SLM said, and why it is sent or not.

    Attributes:
        reason: `accepted`, or why not, in one line.
        generation: None where there is none.
        answer: The same, parsed; None for what has not the form of an answer.
        validator: What refused it, where something did.
    """

    reason: str
    generation: Generation | None = None
    answer: Prediction | None = None
    validator: str | None = None

    @property
    def is_accepted(self) -> bool:
        """Whether it is one to send."""
        return self.reason == ACCEPTED

    @property
    def is_late(self) -> bool:
        """Whether the request's time was up before it came."""
        return self.reason == LATE


async def ask_slm(route: Route, request: RoutedRequest, until: float) -> LocalAnswer:
    """Ask the SLM and look at what it said; whatever goes wrong is a reason.

    Args:
        route: Its policy is what the answer must pass.
        request: The request.
        until: The deadline, as the event loop counts (seconds).
    """
    if reason := route.explain_form(is_native(request)):
        return LocalAnswer(f"{REQUEST}: {reason}", validator=REQUEST)
    try:
        async with asyncio.timeout_at(until):
            generation = await request.ask_slm()
            return await asyncio.to_thread(_judge, route, request, generation)
    except TimeoutError:
        return LocalAnswer(LATE)
    except Refused:
        return LocalAnswer("the prompt does not fit into the SLM's context")
    except Busy:
        return LocalAnswer("too many requests wait for the SLM")
    except Exception as error:  # a model fails in many ways; the hosted LLM can still answer
        return LocalAnswer(f"the SLM failed ({type(error).__name__})")


def _judge(route: Route, request: RoutedRequest, generation: Generation) -> LocalAnswer:
    known = read_known(route.track, request)
    answer = read_slm(route.track, request, generation)
    refusal = route.policy.find_refusal(known, generation, answer)
    if refusal is None:
        return LocalAnswer(ACCEPTED, generation, answer)
    # It may quote the answer, and goes into a header, which proxies log.
    reason = mask_secrets(f"{refusal.validator}: {refusal.reason}", ())
    return LocalAnswer(reason, generation, answer, refusal.validator)
