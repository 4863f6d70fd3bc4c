"""Records what somebody's own `openai` client asks and gets, without changing either. See `capture.record`.

It wraps `chat.completions.create` of one client, sync or async, streamed or not. What the caller gets is the very object
that the client made; a stream is recorded when it ends. When recording fails, the call does not: there is one warning.
"""

import functools
import inspect
import json
import threading
import time
import uuid
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from swaplib.files import append_line
from swaplib.provenance import now_utc
from swaplib.trajectory import Step, Trajectory


class Recorder:
    """Appends one line for each exchange of one client.

    Attributes:
        problem: Why an exchange could not be recorded, or None.
    """

    def __init__(self, path: Path, base_url: str, secrets: tuple[str, ...]):
        self.problem: str | None = None
        self._path, self._secrets, self._lock = path, secrets, threading.Lock()
        parts = urlsplit(base_url)
        self._endpoint = f"{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path.rstrip('/')}"

    def wrap(self, create: Callable[..., Any]) -> Callable[..., Any]:
        """A function that calls `create`, records, and returns what it returned or raises what it raised."""

        @functools.wraps(create)
        def call(*args: Any, **kwargs: Any) -> Any:
            exchange = _Exchange(self, kwargs)
            try:
                answer = create(*args, **kwargs)
            except BaseException as error:
                exchange.end(error=error)
                raise
            return exchange.await_answer(answer) if inspect.isawaitable(answer) else exchange.watch(answer)

        return call

    def keep(self, exchange: "_Exchange", response: dict[str, Any] | None, error: str | None) -> None:
        """Write one line."""
        trajectory = _make_trajectory(exchange, response, error, self._endpoint)
        line = trajectory.to_json(self._secrets)
        with self._lock:
            append_line(self._path, line)

    def warn(self, error: Exception) -> None:
        """Say once that recording failed; the error's text may hold what was asked, so its kind is all that is said."""
        if self.problem is None:
            warnings.warn(f"capture: {self._path} is not being written ({type(error).__name__})", stacklevel=2)
        self.problem = type(error).__name__


class _Exchange:
    """One call: what was asked, and when."""

    def __init__(self, recorder: Recorder, request: dict[str, Any]):
        self.recorder, self.request = recorder, {}
        self.started, self.start, self.latency_ms = now_utc(), time.perf_counter(), 0.0
        self.id = f"req-{uuid.uuid4().hex}"
        try:  # now, since the caller may change its messages while a stream is read
            self.request = _to_plain({name: value for name, value in request.items() if name != "extra_headers"})
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
            response = _read_chunks(answer) if isinstance(answer, list) else _read_answer(answer)
            reason = type(error).__name__ if error is not None else None
            self.recorder.keep(self, response, reason)
        except Exception as problem:
            self.recorder.warn(problem)


def _to_plain(value: Any) -> Any:
    """A value as JSON knows it; the SDK's objects become dicts, its `not given` marks and other objects their names."""
    return json.loads(json.dumps(value, default=lambda o: o.model_dump() if hasattr(o, "model_dump") else repr(o)))


def _read_answer(answer: Any) -> dict[str, Any] | None:
    """A chat completion, also out of `with_raw_response`; None where nothing was read, as in `with_streaming_response`."""
    from openai._legacy_response import LegacyAPIResponse

    if isinstance(answer, LegacyAPIResponse) and "text/event-stream" not in answer.headers.get("content-type", ""):
        answer = answer.parse()
    return _to_plain(answer) if hasattr(answer, "model_dump") else None


def _read_chunks(chunks: list[Any]) -> dict[str, Any]:
    """One response out of a stream's chunks: the first choice's text, and the usage when it was asked for."""
    plain = [_to_plain(chunk) for chunk in chunks]
    choices = [choice for chunk in plain for choice in chunk["choices"] if choice["index"] == 0]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    reason = next((choice["finish_reason"] for choice in reversed(choices) if choice["finish_reason"]), None)
    usage = next((chunk["usage"] for chunk in reversed(plain) if chunk.get("usage")), None)
    calls = [part for choice in choices for part in choice["delta"].get("tool_calls") or []]
    head = {"id": plain[0]["id"], "model": plain[0]["model"]} if plain else {}
    message = {"role": "assistant", "content": text, "tool_calls": _join_calls(calls)}
    return head | {"choices": [{"index": 0, "message": message, "finish_reason": reason}], "usage": usage}


def _join_calls(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tool calls out of their pieces."""
    joined: dict[int, dict[str, Any]] = {}
    for part in parts:
        function = joined.setdefault(part["index"], {"function": {"name": "", "arguments": ""}})["function"]
        for name in function:
            function[name] += (part.get("function") or {}).get(name) or ""
    return [joined[index] for index in sorted(joined)]


def _make_trajectory(
    exchange: _Exchange, response: dict[str, Any] | None, error: str | None, endpoint: str
) -> Trajectory:
    """An exchange as a trajectory of one step, with the whole of it beside."""
    request = exchange.request
    users = [m["content"] for m in request.get("messages", []) if isinstance(m, dict) and m.get("role") == "user"]
    task = users[-1] if users and isinstance(users[-1], str) else json.dumps(users[-1:])
    choices = (response or {}).get("choices") or [{}]
    message = choices[0].get("message") or {}
    text = message.get("content") or ""
    calls = tuple(_read_call(call["function"]) for call in message.get("tool_calls") or [] if call.get("function"))
    usage = (response or {}).get("usage") or {}
    return Trajectory(
        id=exchange.id,
        outcome="exchange",
        task=task,
        tools=tuple(tool["function"]["name"] for tool in request.get("tools") or [] if "function" in tool),
        steps=(Step(text, None, "", error, calls, is_final=error is None),),
        final_answer=text,
        usage={"calls": 1} | {name: usage.get(name) or 0 for name in ("prompt_tokens", "completion_tokens")},
        model={"endpoint": endpoint, "model": request.get("model")},
        timing={"started": exchange.started, "latency_ms": round(exchange.latency_ms, 1)},
        error=error,
        exchange={"request": request, "response": response},
    )


def _read_call(function: dict[str, Any]) -> dict[str, Any]:
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        arguments = function["arguments"]
    return {"name": function["name"], "arguments": arguments}
