"""The hosted LLM: chat completions over the official `openai` SDK, concurrent, greedy, with bounded retries.

The SDK retries 408, 409, 429 and 5xx and honours Retry-After; here every call gets a total deadline as well, and calls
start no faster than the endpoint's limits allow. It parses nothing and scores nothing: it keeps the text, the finish reason
and the usage.
"""

import asyncio
import contextlib
import json
import queue
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from swaplib.native import NativeForm
from swaplib.pace import Pace
from swaplib.prompts import Message
from swaplib.rows import Generation
from swaplib.settings import LOOPBACK, Settings


class CallFailed(Exception):  # noqa: N818 - reads as what happened
    """A call failed in a way that every further call would too: wrong key, wrong deployment, refused parameter."""


@dataclass(frozen=True)
class HostedLLM:
    """An Azure deployment (`…/openai/deployments/<deployment>`) or any OpenAI-compatible `…/v1`, at temperature 0.

    At most `concurrency` calls are in flight; a row that has no answer after `max_retries` or `deadline_s` seconds ends
    as `error`. Waiting for its turn under the limits of `pace` counts for neither its deadline nor its latency.
    """

    endpoint: str
    api_key: str = field(repr=False)
    api_version: str | None = None
    deployment: str | None = None
    concurrency: int = 8
    max_retries: int = 5
    deadline_s: float = 180.0
    is_slm: bool = False
    pace: Pace = field(default_factory=Pace, compare=False)

    @classmethod
    def from_settings(cls, settings: Settings, concurrency: int = 8) -> "HostedLLM":
        """Build from AZURE_*; raises ValueError when a variable is missing or the endpoint has neither known shape."""
        settings.require("AZURE_ENDPOINT", "AZURE_API_KEY")
        endpoint = (settings.azure_endpoint or "").rstrip("/")
        if not re.fullmatch(r"https?://[^/?#@<>\s]+(/[^?#<>\s]*)?(/deployments/[^/?#<>\s]+|/v1)", endpoint):
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
        return cls(endpoint, settings.azure_api_key or "", version, deployment, concurrency, pace=pace)

    @classmethod
    def from_slm_settings(cls, settings: Settings, model: str, concurrency: int = 8) -> "HostedLLM":
        """An SLM that is served at SLM_BASE_URL under the name `slm` or `slm_ft`; raises ValueError for another shape."""
        endpoint = (settings.slm_base_url or "").rstrip("/")
        if not re.fullmatch(r"https?://[^/?#@<>\s]+(/[^?#<>\s]*)?/v1", endpoint):
            raise ValueError("SLM_BASE_URL: expected http(s)://<host>/v1, and nothing behind it (no /chat/completions)")
        return cls(endpoint, settings.slm_api_key or "local", None, model, concurrency, is_slm=True)

    @property
    def _variables(self) -> str:
        """What to look at when the endpoint refuses."""
        azure = "AZURE_ENDPOINT, AZURE_DEPLOYMENT, AZURE_API_KEY and AZURE_API_VERSION"
        return "SLM_BASE_URL and SLM_API_KEY" if self.is_slm else azure

    def check(self) -> None:
        """Check the endpoint without a paid call.

        Raises:
            ConnectionError: Nothing listens there.
            ValueError, PermissionError: A served SLM is not listed under its name there, or wants another key.
        """
        self._check_reachable()
        if self.is_slm:
            self._check_listed()

    def _check_listed(self) -> None:
        """A server that ignores the model's name must not answer for another model."""
        import httpx

        headers = {"authorization": f"Bearer {self.api_key}"}
        try:
            answer = httpx.get(f"{self.endpoint}/models", headers=headers, timeout=30)
            names = [entry["id"] for entry in answer.json()["data"]] if answer.status_code == 200 else []
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise ConnectionError(
                f"{self.endpoint} is no OpenAI-compatible server ({type(error).__name__}). Check SLM_BASE_URL."
            ) from None
        if answer.status_code != 200:
            raise PermissionError(f"{self.endpoint}/models answered {answer.status_code}. Check {self._variables}.")
        if self.deployment not in names:
            raise ValueError(
                f"{self.endpoint} serves {', '.join(names) or 'no model'}, not {self.deployment}. Serve it under that name: "
                "`swap serve --name`, or vLLM's --served-model-name and --lora-modules."
            )

    def _check_reachable(self) -> None:
        parts = urlsplit(self.endpoint)
        if getproxies().get(parts.scheme) and not proxy_bypass(parts.hostname or ""):
            return  # the SDK goes through the proxy, where this machine may not reach the endpoint itself
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname or "", port), timeout=10).close()
        except OSError as error:
            raise ConnectionError(
                f"cannot reach {parts.hostname}:{port} ({error}). Check {self._variables} and the network; for the demo's "
                "stand-in, start it with `make stand-in`."
            ) from None

    def identity(self) -> dict[str, Any]:
        """What makes two runs of this model the same run: host, path and deployment (never the key)."""
        parts = urlsplit(self.endpoint)
        return {"endpoint": f"{parts.netloc}{parts.path}", "model": self.deployment, "api_version": self.api_version}

    def generate(
        self, conversations: Sequence[Sequence[Message]], max_new_tokens: int, forms: Sequence[NativeForm] | None = None
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
                with contextlib.suppress(RuntimeError):  # the loop is closed when every call is done
                    loop.call_soon_threadsafe(free.release)  # not before: a kill loses what nobody has kept yet
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
        from openai import AsyncAzureOpenAI, AsyncOpenAI, DefaultAsyncHttpxClient

        is_proxied = urlsplit(self.endpoint).hostname not in LOOPBACK  # no proxy leads back to this machine
        options = {"trust_env": is_proxied, "event_hooks": {"response": [self.pace.note]}}
        http_client = DefaultAsyncHttpxClient(**options, follow_redirects=False)  # nor the key elsewhere
        shared = {"base_url": self.endpoint, "api_key": self.api_key, "max_retries": self.max_retries}
        shared["http_client"] = http_client
        if self.api_version:
            return AsyncAzureOpenAI(**shared, api_version=self.api_version)
        return AsyncOpenAI(**shared)

    async def _ask(self, client: Any, messages: Sequence[Message], limit: int, form: NativeForm | None) -> Generation:
        import openai

        start, fields = time.perf_counter(), form.to_request() if form else {}
        try:
            async with asyncio.timeout(self.deadline_s):
                answer = await client.chat.completions.create(
                    model=self.deployment, messages=list(messages), temperature=0, max_tokens=limit, **fields
                )
            return self._read_answer(answer, start, form)
        except TimeoutError:
            return _no_answer(start, f"no answer within {self.deadline_s:g} s")
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            return self._read_bad_request(error, start, fields)
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise CallFailed(
                f"{self.identity()['endpoint']} answered {error.status_code} ({self._read_code(error)}). Check "
                f"{self._variables}."
            ) from None
        except openai.APIError as error:
            status = getattr(error, "status_code", None)
            reason = f"{type(error).__name__}{f' {status}' if status else ''}"
            return _no_answer(start, f"{reason} after up to {self.max_retries} retries")
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            return _no_answer(start, f"the answer is no chat completion ({type(error).__name__})")

    def _read_bad_request(self, error: Any, start: float, fields: dict[str, Any]) -> Generation:
        """A 400 or 422: a filtered or too long prompt is the model's own limit; a refused parameter stops the run."""
        if status := {"content_filter": "filtered", "context_length_exceeded": "truncated"}.get(str(error.code)):
            return Generation("", status, error.code, None, None, (time.perf_counter() - start) * 1000)
        if str(error.param) in {"temperature", "max_tokens"}:
            raise CallFailed(
                f"the deployment {self.deployment} refuses `{error.param}` ({self._read_code(error)}). This workbook "
                "compares models that decode greedily with a token limit, which reasoning models do not. Choose another "
                "deployment, or a lower max_new_tokens if the limit is too high for this one."
            ) from None
        said = f"{error.param} {error.body}"
        if refused := [name for name in (*fields, "json_schema") if fields and re.search(rf"\b{name}\b", said)]:
            raise CallFailed(
                f"the deployment {self.deployment} refuses `{refused[0]}` ({error.status_code}, {self._read_code(error)}), "
                "which asking natively needs. Leave -native out of `models`, or choose another deployment."
            ) from None
        return _no_answer(start, f"{type(error).__name__} {error.status_code} ({self._read_code(error)})")

    def _read_code(self, error: Any) -> str:
        return self._keep_word(error.code or error.type) or "no code"

    def _keep_word(self, word: Any) -> str | None:
        """What a server says, where it is one plain word and not the key: it goes to ledgers, traces and terminals."""
        is_plain = isinstance(word, str) and re.fullmatch(r"[\w.-]{1,64}", word) and self.api_key not in word
        return word if is_plain else None

    def _read_answer(self, answer: Any, start: float, form: NativeForm | None) -> Generation:
        """Keep text, finish reason and usage; raises what reading something else than a chat completion raises."""
        choice, usage = answer.choices[0], answer.usage
        reason = choice.finish_reason
        output = "" if reason == "content_filter" and choice.message is None else choice.message.content or ""
        if form:
            output = form.read_message(output, _list_calls(choice.message))
        status = {"length": "truncated", "content_filter": "filtered"}.get(reason, "ok" if output.strip() else "empty")
        kept = None if reason is None else self._keep_word(reason) or "unknown"
        counts = (usage.prompt_tokens, usage.completion_tokens) if usage else (None, None)
        tokens = [count if isinstance(count, int) else None for count in counts]
        return Generation(output, status, kept, *tokens, (time.perf_counter() - start) * 1000)


def _estimate_tokens(messages: Sequence[Message]) -> int:
    """What an endpoint counts for a prompt before it reads it, about: 4 characters a token."""
    return sum(len(message["content"]) for message in messages) // 4


def _list_calls(message: Any) -> list[tuple[str, str]]:
    """A message's tool calls, name and arguments as they came; some servers send arguments as an object."""
    functions = [call.function for call in (message.tool_calls if message else None) or ()]
    texts = [f.arguments if isinstance(f.arguments, str) else json.dumps(f.arguments) for f in functions]
    return [(str(f.name), text) for f, text in zip(functions, texts, strict=True)]


def _no_answer(start: float, reason: str) -> Generation:
    return Generation("", "error", None, None, None, (time.perf_counter() - start) * 1000, reason)


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
