"""Asks the hosted LLM what a client has asked: its own request, greedily, never streamed.

Each try is booked in the day's budget before it is sent. A try that failed for a passing reason is
repeated after the time that the endpoint names, as long as the request's deadline allows.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_exponential_jitter,
)

from swaplib import web
from swaplib.models.completions import Completion, read_completion
from swaplib.models.endpoints import Refusal
from swaplib.models.hosted import HostedLLM
from swaplib.models.pace import estimate_tokens
from swaplib.models.replies import refusal_of
from swaplib.routing.daily_budget import BudgetBroken, BudgetSpent, DailyBudget
from swaplib.routing.hosted_failures import (
    explain_connection,
    explain_deadline,
    explain_pause,
    explain_refusal,
    explain_unreadable,
    refuse_by_budget,
)
from swaplib.routing.hosted_request import make_request
from swaplib.serving.openai_format import ChatRequest

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_RETRIED = (408, 409, 429)
_BACK_OFF = wait_exponential_jitter(multiplier=0.5, max=8, jitter=0.5)


@dataclass(frozen=True)
class HostedAnswer:
    """A chat completion: as it came, and read; milliseconds from the first try to its end."""

    body: dict[str, Any]
    completion: Completion
    latency_ms: float


@dataclass
class HostedCalls:
    """The hosted LLM of a server.

    Attributes:
        hosted: Its endpoint, key and pace.
        budget: How many calls it may get a day; None for any number.
    """

    hosted: HostedLLM
    budget: DailyBudget | None = None
    _client: "AsyncOpenAI | None" = field(default=None, init=False, repr=False)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Holds the client."""
        # The SDK would repeat calls that are not booked.
        async with replace(self.hosted, max_retries=0).open_client() as client:
            self._client = client
            yield

    async def ask(self, request: ChatRequest, until: float) -> HostedAnswer:
        """Ask a client's own request.

        Args:
            request: The request.
            until: The deadline, as the event loop counts (seconds).

        Raises:
            HostedFailed: There is no answer; says why, and how the client is told.
        """
        import openai

        body = make_request(self.hosted, request)
        texts = [message.content for message in request.messages if message.content]
        start, failed = time.perf_counter(), _Failed()
        try:
            async with asyncio.timeout_at(until):
                content = await self._try_until(body, until, failed)
        except TimeoutError:
            raise explain_deadline(failed.last) from None
        except (BudgetSpent, BudgetBroken) as problem:
            raise refuse_by_budget(problem) from None
        except openai.APIStatusError as error:
            refusal = refusal_of(error.status_code, error.response.content)
            raise explain_refusal(refusal, self.hosted.api_key, texts, failed.n) from None
        except openai.OpenAIError as error:
            raise explain_connection(error, failed.n) from None
        answer = web.parse_body(content)
        completion = read_completion(answer)
        if isinstance(completion, Refusal):
            raise explain_refusal(completion, self.hosted.api_key, texts, 1)
        if completion is None or completion.end == "error":
            raise explain_unreadable(completion)
        if not _is_sendable(answer):
            raise explain_unreadable(None)
        return HostedAnswer(answer, completion, (time.perf_counter() - start) * 1000)

    async def _try_until(self, body: dict[str, Any], until: float, failed: "_Failed") -> bytes:
        """Make tries until one is answered; raises what the last one failed with."""
        left = until - asyncio.get_running_loop().time()
        if (pause := self.hosted.pace.find_wait()) > left:
            raise explain_pause(pause)
        tries = AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_attempt(1 + self.hosted.max_retries) | stop_before_delay(left),
            wait=_find_wait,
            after=failed.note,
            reraise=True,
        )
        return await tries(self._try, body)

    async def _try(self, body: dict[str, Any]) -> bytes:
        """Make one HTTP call."""
        if self._client is None:
            raise RuntimeError("the client is open only while the server runs")
        limit = body.get("max_tokens") or body["max_completion_tokens"]
        await self.hosted.pace.wait(estimate_tokens(body["messages"]) + limit)
        if self.budget:
            await self.budget.book()
        answer = await self._client.chat.completions.with_raw_response.create(**body)
        return answer.content


def _is_sendable(body: dict[str, Any]) -> bool:
    """Whether every choice of a chat completion is one, so that it can be sent in chunks, too."""
    for choice in body["choices"]:
        message = (choice.get("message") or {}) if isinstance(choice, dict) else None
        calls = (message.get("tool_calls") or []) if isinstance(message, dict) else None
        if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
            return False
    return True


@dataclass
class _Failed:
    """The tries that failed: how many, and what the last one failed with."""

    n: int = 0
    last: BaseException | None = None

    def note(self, state: RetryCallState) -> None:
        self.n = state.attempt_number
        self.last = state.outcome.exception() if state.outcome else None


def _may_pass(error: BaseException) -> bool:
    """Whether another try may be answered."""
    import openai

    if isinstance(error, openai.APIStatusError):
        advice = error.response.headers.get("x-should-retry")
        passes = error.status_code in _RETRIED or error.status_code >= 500
        return advice != "false" and (passes or advice == "true")
    return isinstance(error, openai.APIConnectionError) and not web.is_lasting(error)


def _find_wait(state: RetryCallState) -> float:
    """Seconds until the next try: what the endpoint says, else more with each try."""
    error = state.outcome.exception() if state.outcome else None
    headers = getattr(getattr(error, "response", None), "headers", {})
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit)
        except (KeyError, ValueError):
            continue
    try:
        wait = parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time()
        return max(0.0, wait)
    except (KeyError, ValueError):
        return _BACK_OFF(state)
