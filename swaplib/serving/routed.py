"""Where a router may come between a request and its answer: what it is given, what it gives back.

It decides nothing itself. With a router, ChatEndpoint asks it once a request has been read and
found to be one that could be answered here; without one, nothing changes.

    router.decide(RoutedRequest(…)) -> Routed("slm", "accepted", generation=…)
"""

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from swaplib.rows import Generation
from swaplib.serving.openai_format import ChatRequest
from swaplib.serving.tool_api import Asked

AnsweredBy = Literal["slm", "hosted"]


@dataclass(frozen=True)
class RoutedRequest:
    """A request that waits for its answer.

    Attributes:
        body: The request, as it was checked.
        asked: What it asks of the local model.
        ask_slm: Asks the local model. Raises Refused where the prompt does not fit into its
            context, Busy where its queue is full, and whatever it fails with.
        started: When the request had arrived, as the event loop counts (seconds).
    """

    body: ChatRequest
    asked: Asked
    ask_slm: Callable[[], Coroutine[Any, Any, Generation]]
    started: float


@dataclass(frozen=True)
class Failure:
    """Why a request gets no answer, as an error in OpenAI's shape; `headers` go with it."""

    status: int
    message: str
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Routed:
    """Who answers a request, and why; exactly one of generation, completion and failure is set.

    Attributes:
        answered_by: The model that answers, or that was to answer where there is a failure.
        reason: Why, in one line.
        validator: The check that refused the local model's answer, where one did.
        generation: The local model's answer.
        completion: The hosted LLM's chat completion, as it came.
        failure: Why neither answers.
        after_sent: To be called when the answer has been sent.
        request_id: What the client is told, to find the request's trace by.
    """

    answered_by: AnsweredBy
    reason: str
    validator: str | None = None
    generation: Generation | None = None
    completion: dict[str, Any] | None = None
    failure: Failure | None = None
    after_sent: Callable[[], Awaitable[None]] | None = None
    request_id: str = ""

    def describe(self) -> dict[str, str | None]:
        """The field `route` of an answer."""
        return {
            "answered_by": self.answered_by,
            "reason": self.reason,
            "validator": self.validator,
        }


class Router(Protocol):
    """Decides who answers."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """Holds what the router needs while the server runs."""

    async def decide(self, request: RoutedRequest) -> Routed:
        """Answer a request by one of the two models, or say why neither does."""
