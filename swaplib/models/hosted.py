"""The hosted LLM: concurrent, greedy chat completions with bounded retries, over the `openai` SDK.

The SDK retries 408, 409, 429 and 5xx and honours Retry-After; here every call gets a total deadline
as well, and calls start no faster than the endpoint's limits allow. What an answer or a refusal
means is in endpoints.py and replies.py; nothing is scored here.
"""

import asyncio
import re
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx2

from swaplib import web
from swaplib.models.arrivals import Arrivals, stream_arrivals
from swaplib.models.endpoints import Streak, find_meaning
from swaplib.models.native import NativeForm
from swaplib.models.pace import Pace, estimate_tokens
from swaplib.models.reachability import check_endpoint
from swaplib.models.replies import Call, CallFailed, Reader, refusal_of
from swaplib.prompts import Message
from swaplib.rows import Generation
from swaplib.settings import Settings

if TYPE_CHECKING:
    from openai import AsyncOpenAI

CONNECT_S = 10.0  # of one try: a host that swallows packets must not take the whole deadline

_HOSTED_ENDPOINT = re.compile(r"https?://[^/?#@<>\s]+(/[^?#<>\s]*)?(/deployments/[^/?#<>\s]+|/v1)")
_SERVED_ENDPOINT = re.compile(r"https?://[^/?#@<>\s]+(/[^?#<>\s]*)?/v1")


@dataclass(frozen=True)
class HostedLLM:
    """An Azure deployment (`…/openai/deployments/<name>`) or an OpenAI-compatible `…/v1`, greedy.

    At most `concurrency` calls are in flight; a row that has no answer after `max_retries` or
    `deadline_s` seconds ends as `error`. Waiting for its turn under the limits of `pace` counts for
    neither its deadline nor its latency. One that `is_reasoning` takes no temperature, and its
    limit counts what it thinks, too: it is not greedy.
    """

    endpoint: str
    api_key: str = field(repr=False)
    api_version: str | None = None
    deployment: str | None = None
    concurrency: int = 8
    max_retries: int = 5
    deadline_s: float = 180.0
    is_slm: bool = False
    is_reasoning: bool = False
    pace: Pace = field(default_factory=Pace, compare=False)
    _streak: Streak = field(default_factory=Streak, init=False, repr=False, compare=False)

    @classmethod
    def from_settings(cls, settings: Settings, concurrency: int = 8) -> "HostedLLM":
        """Build from AZURE_*; raises ValueError for a missing one or an unknown shape."""
        settings.require("AZURE_ENDPOINT", "AZURE_API_KEY")
        endpoint = (settings.azure_endpoint or "").rstrip("/")
        if not _HOSTED_ENDPOINT.fullmatch(endpoint):
            raise ValueError(
                "AZURE_ENDPOINT: expected https://<host>/openai/deployments/<deployment>, or …/v1 "
                "with AZURE_DEPLOYMENT as the model, and nothing behind it (no /chat/completions, "
                "no ?api-version, no user)"
            )
        path = urlsplit(endpoint).path
        is_azure = "/deployments/" in path
        settings.require("AZURE_API_VERSION" if is_azure else "AZURE_DEPLOYMENT")
        deployment = path.rpartition("/deployments/")[2] if is_azure else settings.azure_deployment
        return cls(
            endpoint=endpoint,
            api_key=settings.azure_api_key or "",
            api_version=settings.azure_api_version if is_azure else None,
            deployment=deployment,
            concurrency=concurrency,
            is_reasoning=settings.azure_reasoning,
            pace=Pace(settings.azure_requests_per_minute, settings.azure_tokens_per_minute),
        )

    @classmethod
    def from_slm_settings(cls, settings: Settings, model: str, concurrency: int = 8) -> "HostedLLM":
        """An SLM that is served at SLM_BASE_URL; raises ValueError for another shape of it."""
        endpoint = (settings.slm_base_url or "").rstrip("/")
        if not _SERVED_ENDPOINT.fullmatch(endpoint):
            raise ValueError(
                "SLM_BASE_URL: expected http(s)://<host>/v1, and nothing behind it (no "
                "/chat/completions)"
            )
        return cls(endpoint, settings.slm_api_key or "local", None, model, concurrency, is_slm=True)

    @property
    def _variables(self) -> str:
        """What to look at when the endpoint refuses."""
        azure = "AZURE_ENDPOINT, AZURE_DEPLOYMENT, AZURE_API_KEY and AZURE_API_VERSION"
        return "SLM_BASE_URL and SLM_API_KEY" if self.is_slm else azure

    def check(self) -> None:
        """Check the endpoint without a paid call, in the way that the calls of a run take.

        Raises:
            ConnectionError: Nothing listens there, or what does cannot be spoken with; says why.
            ValueError, PermissionError: A served SLM is not listed under its name there, or wants
                another key.
        """
        bearer = {"authorization": f"Bearer {self.api_key}"}
        headers = {"api-key": self.api_key} if self.api_version else bearer
        served = self.deployment if self.is_slm else None
        check_endpoint(self.endpoint, headers, self._variables, served)

    def identity(self) -> dict[str, Any]:
        """What makes two runs of this model the same run; never the key."""
        identity: dict[str, Any] = {
            "endpoint": self.place,
            "model": self.deployment,
            "api_version": self.api_version,
        }
        return identity | ({"is_reasoning": True} if self.is_reasoning else {})

    @property
    def place(self) -> str:
        """Host and path."""
        parts = urlsplit(self.endpoint)
        return f"{parts.netloc}{parts.path}"

    def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        max_new_tokens: int,
        forms: Sequence[NativeForm] | None = None,
    ) -> Generator[tuple[int, Generation], None, None]:
        """Ask for answers concurrently, and hand them on as they come.

        When the consumer stops, the calls in flight are cancelled.

        Args:
            conversations: Messages of each row, as build_messages makes them.
            max_new_tokens: The longest answer, in tokens.
            forms: Where rows are asked natively, the form of each.

        Yields:
            The index of a conversation and its generation, in the order of arrival.

        Raises:
            CallFailed: The endpoint refuses every call (key, deployment, parameter); says what to
                do.
        """
        questions = list(zip(conversations, forms or repeat(None, len(conversations)), strict=True))

        def work(arrived: Arrivals, free: asyncio.Semaphore) -> Coroutine[None, None, None]:
            """All calls."""
            return self._ask_all(questions, max_new_tokens, arrived, free)

        yield from stream_arrivals(work, self.concurrency)

    async def _ask_all(
        self,
        questions: list[tuple[Sequence[Message], NativeForm | None]],
        max_new_tokens: int,
        arrived: Arrivals,
        free: asyncio.Semaphore,
    ) -> None:
        """Ask all questions in their turn, as far as `free` and the pace allow."""
        turn = asyncio.Lock()
        async with self.open_client() as client, asyncio.TaskGroup() as group:

            async def ask(index: int, messages: Sequence[Message], form: NativeForm | None) -> None:
                """Put the answer to one question into the queue."""
                await free.acquire()  # the consumer releases it
                async with turn:
                    await self.pace.wait(estimate_tokens(messages) + max_new_tokens)
                generation = await self._ask(client, messages, max_new_tokens, form)
                arrived.put((index, generation))

            for index, (messages, form) in enumerate(questions):
                group.create_task(ask(index, messages, form))

    def open_client(self) -> "AsyncOpenAI":
        """A client of the endpoint, for one event loop; close it."""
        from openai import AsyncAzureOpenAI, AsyncOpenAI

        make: Callable[..., AsyncOpenAI] = AsyncOpenAI
        if self.api_version:
            make = partial(AsyncAzureOpenAI, api_version=self.api_version)
        return make(
            base_url=self.endpoint,
            api_key=self.api_key,
            max_retries=self.max_retries,
            timeout=httpx2.Timeout(self.deadline_s, connect=CONNECT_S),
            http_client=web.open_async_client(self.endpoint, self.deadline_s, [self._observe]),
        )

    async def _observe(self, response: httpx2.Response) -> None:
        """Let new calls wait where a response asks for it, and retry none that cannot succeed."""
        await self.pace.observe_response(response)
        status = response.status_code
        if status >= 400 and find_meaning(refusal_of(status, response.content)):
            response.headers["x-should-retry"] = "false"

    async def _ask(
        self,
        client: "AsyncOpenAI",
        messages: Sequence[Message],
        max_new_tokens: int,
        form: NativeForm | None,
    ) -> Generation:
        """Make one call; raises CallFailed where every call would fail."""
        import openai

        call = Call(messages, form)
        reader = self._make_reader()
        body = self.make_body(messages, max_new_tokens, call.fields)
        try:
            async with asyncio.timeout(self.deadline_s):
                answer = await client.chat.completions.with_raw_response.create(**body)
            return reader.read_answer(answer.content, call)
        except TimeoutError:
            return call.fail(f"no answer within {self.deadline_s:g} s")
        except openai.APIStatusError as error:
            refusal = refusal_of(error.status_code, error.response.content)
            return reader.read_refusal(refusal, type(error).__name__, call)
        except openai.OpenAIError as error:
            why = web.explain(error)
            if web.is_lasting(error):
                raise CallFailed(f"{self.place}: {why}. Check {self._variables}.") from None
            retries = f"after up to {self.max_retries} retries"
            return call.fail(f"{type(error).__name__}: {why}, {retries}")

    def make_body(
        self,
        messages: Sequence[Mapping[str, Any]],
        max_new_tokens: int,
        fields: Mapping[str, Any],
    ) -> dict[str, Any]:
        """What a call sends: greedy, or as a reasoning model takes it; `fields` as they are."""
        body = {"model": self.deployment, "messages": list(messages), **fields}
        if self.is_reasoning:
            return body | {"max_completion_tokens": max_new_tokens}
        return body | {"temperature": 0, "max_tokens": max_new_tokens}

    def _make_reader(self) -> Reader:
        names = (self.place, self.deployment, self._variables)
        return Reader(*names, self.api_key, self.max_retries, self._streak)
