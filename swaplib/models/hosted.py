"""The hosted LLM: chat completions over the official `openai` SDK, concurrent, greedy, with bounded retries.

The SDK retries 408, 409, 429 and 5xx and honours Retry-After; here every call gets a total deadline as well, and calls
start no faster than the endpoint's limits allow. What an answer or a refusal means stands in endpoints.py and replies.py;
nothing is scored here.
"""

import asyncio
import contextlib
import queue
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx2

from swaplib import web
from swaplib.models.completions import list_models
from swaplib.models.endpoints import Streak, find_meaning
from swaplib.models.native import NativeForm
from swaplib.models.pace import Pace
from swaplib.models.replies import Call, CallFailed, Reader, refusal_of
from swaplib.prompts import Message
from swaplib.rows import Generation
from swaplib.settings import Settings

CONNECT_S = 10.0  # of one try: a host that swallows packets must not take the whole deadline


@dataclass(frozen=True)
class HostedLLM:
    """An Azure deployment (`…/openai/deployments/<deployment>`) or any OpenAI-compatible `…/v1`, at temperature 0.

    At most `concurrency` calls are in flight; a row that has no answer after `max_retries` or `deadline_s` seconds ends
    as `error`. Waiting for its turn under the limits of `pace` counts for neither its deadline nor its latency.
    One that `is_reasoning` takes no temperature, and its limit counts what it thinks, too: it is not greedy.
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
        """Build from AZURE_*; raises ValueError when a variable is missing or the endpoint has neither known shape."""
        settings.require("AZURE_ENDPOINT", "AZURE_API_KEY")
        endpoint = (settings.azure_endpoint or "").rstrip("/")
        if not re.fullmatch(
            r"https?://[^/?#@<>\s]+(/[^?#<>\s]*)?(/deployments/[^/?#<>\s]+|/v1)", endpoint
        ):
            raise ValueError(
                "AZURE_ENDPOINT: expected https://<host>/openai/deployments/<deployment>, or …/v1 with AZURE_DEPLOYMENT as "
                "the model, and nothing behind it (no /chat/completions, no ?api-version, no user)"
            )
        path = urlsplit(endpoint).path
        is_azure = "/deployments/" in path
        settings.require("AZURE_API_VERSION" if is_azure else "AZURE_DEPLOYMENT")
        deployment = path.rpartition("/deployments/")[2] if is_azure else settings.azure_deployment
        version = settings.azure_api_version if is_azure else None
        pace = Pace(settings.azure_requests_per_minute, settings.azure_tokens_per_minute)
        options = {"is_reasoning": settings.azure_reasoning, "pace": pace}
        return cls(
            endpoint, settings.azure_api_key or "", version, deployment, concurrency, **options
        )

    @classmethod
    def from_slm_settings(cls, settings: Settings, model: str, concurrency: int = 8) -> "HostedLLM":
        """An SLM that is served at SLM_BASE_URL under the name `slm` or `slm_ft`; raises ValueError for another shape."""
        endpoint = (settings.slm_base_url or "").rstrip("/")
        if not re.fullmatch(r"https?://[^/?#@<>\s]+(/[^?#<>\s]*)?/v1", endpoint):
            raise ValueError(
                "SLM_BASE_URL: expected http(s)://<host>/v1, and nothing behind it (no /chat/completions)"
            )
        return cls(endpoint, settings.slm_api_key or "local", None, model, concurrency, is_slm=True)

    @property
    def _variables(self) -> str:
        """What to look at when the endpoint refuses."""
        azure = "AZURE_ENDPOINT, AZURE_DEPLOYMENT, AZURE_API_KEY and AZURE_API_VERSION"
        return "SLM_BASE_URL and SLM_API_KEY" if self.is_slm else azure

    def check(self) -> None:
        """Check the endpoint without a paid call, by the way that the calls of a run take: same proxy, same key.

        Raises:
            ConnectionError: Nothing listens there, or what does cannot be spoken with; says why.
            ValueError, PermissionError: A served SLM is not listed under its name there, or wants another key.
        """
        headers = (
            {"api-key": self.api_key}
            if self.api_version
            else {"authorization": f"Bearer {self.api_key}"}
        )
        try:
            with web.open_client(self.endpoint, headers=headers) as client:
                answer = (
                    client.get("/models") if self.is_slm else client.options("/chat/completions")
                )
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            if isinstance(error, httpx2.ReadTimeout | httpx2.ReadError) and not self.is_slm:
                return  # it is there; how it takes a call, the first one tells
            raise ConnectionError(
                f"cannot reach {self._say_address()} ({web.explain(error)}). Check {self._variables} and the network; for "
                "the demo's stand-in, start it with `make stand-in`."
            ) from None
        if answer.status_code == 407:
            raise ConnectionError(
                "the proxy of HTTPS_PROXY, HTTP_PROXY or ALL_PROXY wants a user and a password (407)"
            )
        if self.is_slm:
            self._check_listed(answer)

    def _say_address(self) -> str:
        parts = urlsplit(self.endpoint)
        way = " through the environment's proxy" if web.find_proxy(self.endpoint) else ""
        return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}{way}"

    def _check_listed(self, answer: httpx2.Response) -> None:
        """A server that ignores the model's name must not answer for another model."""
        if answer.status_code != 200:
            raise PermissionError(
                f"{self.endpoint}/models answered {answer.status_code}. Check {self._variables}."
            )
        names = list_models(web.parse_body(answer.content))
        if names is None:
            raise ConnectionError(
                f"{self.endpoint} is no OpenAI-compatible server. Check SLM_BASE_URL."
            )
        if not {self.deployment, f"{self.deployment}:latest"} & set(
            names
        ):  # Ollama lists no name without a tag
            raise ValueError(
                f"{self.endpoint} serves {', '.join(names[:10]) or 'no model'}, not {self.deployment}. Serve it under that "
                "name: `swap serve --name`, vLLM's --served-model-name and --lora-modules, or `ollama cp`."
            )

    def identity(self) -> dict[str, Any]:
        """What makes two runs of this model the same run: host, path and deployment (never the key)."""
        parts = urlsplit(self.endpoint)
        found = {
            "endpoint": f"{parts.netloc}{parts.path}",
            "model": self.deployment,
            "api_version": self.api_version,
        }
        return found | ({"is_reasoning": True} if self.is_reasoning else {})

    def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        max_new_tokens: int,
        forms: Sequence[NativeForm] | None = None,
    ) -> Iterator[tuple[int, Generation]]:
        """Ask for answers concurrently, and hand them on as they come.

        The calls run on an event loop in a thread of their own, so this works inside a notebook too. When the consumer
        stops, the calls in flight are cancelled.

        Args:
            conversations: Messages of each row, as build_messages makes them.
            max_new_tokens: The limit of each answer, in tokens.
            forms: Where rows are asked natively, the form of each.

        Yields:
            The index of a conversation and its generation, in the order of arrival.

        Raises:
            CallFailed: The endpoint refuses every call (key, deployment, parameter); says what to do.
        """
        arrived: queue.Queue[tuple[int, Generation] | BaseException | None] = queue.Queue()
        loop, free = asyncio.new_event_loop(), asyncio.Semaphore(self.concurrency)
        asked = list(zip(conversations, forms or [None] * len(conversations), strict=True))
        task = loop.create_task(self._ask_all(asked, max_new_tokens, arrived, free))
        thread = threading.Thread(target=_run_loop, args=(loop, task, arrived), daemon=True)
        thread.start()
        try:
            while (item := arrived.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
                with contextlib.suppress(
                    RuntimeError
                ):  # the loop is closed when every call is done
                    loop.call_soon_threadsafe(
                        free.release
                    )  # not before: a kill loses what nobody has kept yet
        finally:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(task.cancel)
            thread.join()

    async def _ask_all(
        self,
        asked: list[tuple[Sequence[Message], NativeForm | None]],
        limit: int,
        arrived: queue.Queue,
        free: asyncio.Semaphore,
    ) -> None:
        turn = asyncio.Lock()
        async with self._client() as client, asyncio.TaskGroup() as group:

            async def ask(index: int, messages: Sequence[Message], form: NativeForm | None) -> None:
                await free.acquire()  # the consumer gives it back
                async with turn:
                    await self.pace.wait(_estimate_tokens(messages) + limit)
                arrived.put((index, await self._ask(client, messages, limit, form)))

            for index, (messages, form) in enumerate(asked):
                group.create_task(ask(index, messages, form))

    def _client(self) -> Any:
        from openai import AsyncAzureOpenAI, AsyncOpenAI

        shared = {
            "base_url": self.endpoint,
            "api_key": self.api_key,
            "max_retries": self.max_retries,
        }
        shared["timeout"] = httpx2.Timeout(self.deadline_s, connect=CONNECT_S)
        shared["http_client"] = web.open_async_client(self.endpoint, self.deadline_s, [self._note])
        if self.api_version:
            return AsyncAzureOpenAI(**shared, api_version=self.api_version)
        return AsyncOpenAI(**shared)

    async def _note(self, answer: httpx2.Response) -> None:
        """Look at each answer: what tells new calls to wait, and what no second try of this one can mend."""
        await self.pace.note(answer)
        if answer.status_code >= 400 and find_meaning(
            refusal_of(answer.status_code, answer.content)
        ):
            answer.headers["x-should-retry"] = "false"

    async def _ask(
        self, client: Any, messages: Sequence[Message], limit: int, form: NativeForm | None
    ) -> Generation:
        import openai

        call = Call(messages, form)
        reader = Reader(
            self._place,
            self.deployment,
            self._variables,
            self.api_key,
            self.max_retries,
            self._streak,
        )
        how = (
            {"max_completion_tokens": limit}
            if self.is_reasoning
            else {"temperature": 0, "max_tokens": limit}
        )
        create = client.chat.completions.with_raw_response.create
        try:
            async with asyncio.timeout(self.deadline_s):
                answer = await create(
                    model=self.deployment, messages=list(messages), **how, **call.fields
                )
            return reader.read_answer(answer.content, call)
        except TimeoutError:
            return call.fail(f"no answer within {self.deadline_s:g} s")
        except openai.APIStatusError as error:
            return reader.read_refusal(
                refusal_of(error.status_code, error.response.content), type(error).__name__, call
            )
        except openai.OpenAIError as error:
            if web.is_lasting(error):
                raise CallFailed(
                    f"{self._place}: {web.explain(error)}. Check {self._variables}."
                ) from None
            return call.fail(
                f"{type(error).__name__}: {web.explain(error)}, after up to {self.max_retries} retries"
            )

    @property
    def _place(self) -> str:
        return self.identity()["endpoint"]


def _estimate_tokens(messages: Sequence[Message]) -> int:
    """What an endpoint counts for a prompt before it reads it, about: 4 characters a token."""
    return sum(len(message["content"]) for message in messages) // 4


def _run_loop(loop: asyncio.AbstractEventLoop, task: asyncio.Task, arrived: queue.Queue) -> None:
    """Run a task to its end in this thread; its failure, then None, go to the queue."""
    try:
        loop.run_until_complete(task)
    except BaseExceptionGroup as group:
        arrived.put(group.exceptions[0])
    except BaseException as error:  # handed to the consumer, which raises it
        arrived.put(error)
    finally:
        arrived.put(None)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
