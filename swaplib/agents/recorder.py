"""Records what your own `openai` client asks and gets, without changing either.

See `capture.record`. It wraps `chat.completions.create` of one client, sync or async, streamed or
not. What the caller gets is the very object that the client made; a stream is recorded when it
ends. When recording fails, the call does not: the failure is counted, and a warning reports it.
"""

import contextlib
import functools
import inspect
import json
import threading
import time
import uuid
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from swaplib.agents.exchanges import join_chunks, make_trajectory
from swaplib.files import append_line
from swaplib.provenance import now_utc


class Recorder:
    """Appends one line for each exchange of one client.

    Attributes:
        failed: How many exchanges could not be recorded, or not whole.
    """

    def __init__(self, path: Path, base_url: str, secrets: tuple[str, ...]):
        self.failed = 0
        self._path = path
        self._secrets = secrets
        self._lock = threading.Lock()
        parts = urlsplit(base_url)
        port = f":{parts.port}" if parts.port else ""
        self._endpoint = f"{parts.hostname}{port}{parts.path.rstrip('/')}"

    def wrap(self, create: Callable[..., Any]) -> Callable[..., Any]:
        """A function that calls `create`, records, and returns or raises the same."""

        @functools.wraps(create)
        def call(*args: Any, **kwargs: Any) -> Any:
            exchange = _Exchange(self, kwargs)
            try:
                answer = create(*args, **kwargs)
            except BaseException as error:
                exchange.end(error=error)
                raise
            if inspect.isawaitable(answer):
                return exchange.await_answer(answer)
            return exchange.watch(answer)

        return call

    def keep(
        self, exchange: "_Exchange", response: dict[str, Any] | None, error: str | None
    ) -> None:
        """Write one line."""
        made = make_trajectory(exchange.id, exchange.request, response, error, exchange.started)
        timed = replace(
            made,
            model={"endpoint": self._endpoint, **made.model},
            timing=made.timing | {"latency_ms": round(exchange.latency_ms, 1)},
        )
        line = timed.to_json(self._secrets)
        with self._lock:
            append_line(self._path, line)

    def warn(self, error: Exception) -> None:
        """Count an exchange that was not recorded whole, and warn.

        The error's text may hold what was asked, so only its kind is named.
        """
        with self._lock:
            self.failed += 1
        message = (
            f"capture: {self.failed} exchange(s) could not be recorded whole in {self._path} "
            f"({type(error).__name__})"
        )
        with contextlib.suppress(Warning):  # the call must not fail where warnings are errors
            warnings.warn(message, stacklevel=2)


class _Exchange:
    """One call: what was asked, and when."""

    def __init__(self, recorder: Recorder, request: dict[str, Any]):
        self.recorder = recorder
        self.request: dict[str, Any] = {}
        self.started = now_utc()
        self.start = time.perf_counter()
        self.latency_ms = 0.0
        self.id = f"req-{uuid.uuid4().hex}"
        try:  # copied now, since the caller may change its messages while a stream is read
            self.request = _to_plain(
                {name: value for name, value in request.items() if name != "extra_headers"}
            )
        except Exception as error:
            recorder.warn(error)

    async def await_answer(self, answer: Awaitable[Any]) -> Any:
        """The answer of an async client, recorded as it comes."""
        try:
            came = await answer
        except BaseException as error:
            self.end(error=error)
            raise
        return self.watch(came)

    def watch(self, answer: Any) -> Any:
        """Record an answer now, or a stream when it ends; returns the answer."""
        try:
            from openai import AsyncStream, Stream

            if isinstance(answer, AsyncStream):
                answer._iterator = self._tee_async(answer._iterator)
            elif isinstance(answer, Stream):
                answer._iterator = self._tee(answer._iterator)
            else:
                self.end(answer)
        except Exception as error:
            self.recorder.warn(error)
        return answer

    def _tee(self, chunks: Iterator[Any]) -> Iterator[Any]:
        seen, error = [], None
        try:
            for chunk in chunks:
                seen.append(chunk)
                yield chunk
        except BaseException as caught:
            error = caught
            raise
        finally:
            self.end(seen, error)

    async def _tee_async(self, chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
        seen, error = [], None
        try:
            async for chunk in chunks:
                seen.append(chunk)
                yield chunk
        except BaseException as caught:
            error = caught
            raise
        finally:
            self.end(seen, error)

    def end(self, answer: Any = None, error: BaseException | None = None) -> None:
        """Write the exchange down. Never raises."""
        self.latency_ms = (time.perf_counter() - self.start) * 1000
        try:
            reason = type(error).__name__ if error is not None else None
            is_stream = isinstance(answer, list)
            response = join_chunks(_to_plain(answer)) if is_stream else _read_answer(answer)
            self.recorder.keep(self, response, reason)
        except Exception as problem:
            self.recorder.warn(problem)
            self._leave_mark(f"not recorded ({type(problem).__name__})")

    def _leave_mark(self, reason: str) -> None:
        """Write a line without texts, so that the file still counts the exchange."""
        self.request = {}
        with contextlib.suppress(OSError):  # a warning has reported it already
            self.recorder.keep(self, None, reason)


def _to_plain(value: Any) -> Any:
    """A value as JSON: the SDK's models become dicts, other objects their repr."""

    def describe(thing: Any) -> Any:
        if not hasattr(thing, "model_dump"):
            return repr(thing)
        return thing.model_dump(exclude_unset=True, warnings=False)  # servers send odd shapes

    return json.loads(json.dumps(value, default=describe))


def _read_answer(answer: Any) -> dict[str, Any] | None:
    """A chat completion, also out of `with_raw_response`.

    None where nothing was read, as in `with_streaming_response`.
    """
    from openai._legacy_response import LegacyAPIResponse

    is_raw = isinstance(answer, LegacyAPIResponse)
    if is_raw and "text/event-stream" not in answer.headers.get("content-type", ""):
        answer = answer.parse()
    return _to_plain(answer) if hasattr(answer, "model_dump") else None
