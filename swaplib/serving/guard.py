"""What stands before `swap serve`'s application: who may ask, how large a body may be, and how long anything may take.

Guard looks at one request: its Host, its key, its body. Connection looks at the socket below: one that says nothing, or says
it drop by drop, is closed after a time, and when there are as many as the process can hold, the idle one that has waited
longest makes room for the next.
"""

import asyncio
import resource
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from swaplib.serving.openai_format import make_error
from swaplib.web import is_loopback

HEADER_LIMIT_S = 10.0  # for a request's line and headers, from the first moment on
BODY_LIMIT_S = 30.0


@dataclass(frozen=True)
class ServeOptions:
    """What a server takes: a key (None for anyone), the largest body in bytes, the longest answer in tokens.

    `max_waiting` is how many requests may wait for a slot. With `is_local`, a request must name this machine as its host: a
    page in a browser that has rebound a name of its own to 127.0.0.1 does not.
    """

    api_key: str | None = field(default=None, repr=False)
    max_body_bytes: int = 1_000_000
    max_new_tokens: int = 4096
    max_waiting: int = 256
    is_local: bool = False


class Guard:
    """Turns away requests from elsewhere, without the key, and bodies that are too large or too slow."""

    def __init__(self, app: ASGIApp, options: ServeOptions):
        self.app, self.options = app, options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that is refused; hand on the others, their bodies counted as they come."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if self.options.is_local and not _names_this_machine(headers.get(b"host", "")):
            refusal = make_error(
                403, "this server answers to localhost and 127.0.0.1 only: ask it by that name"
            )
            return await refusal(scope, receive, send)
        if self.options.api_key and scope["path"] != "/health" and not self._has_key(headers):
            refusal = make_error(
                401, "no valid key: send Authorization: Bearer KEY", code="invalid_api_key"
            )
            return await refusal(scope, receive, send)
        if (
            headers.get(b"content-length", "0").isdigit()
            and int(headers.get(b"content-length", "0")) > self._limit
        ):
            return await make_error(413, self._too_large)(scope, receive, send)
        return await self.app(scope, self._limit_body(receive), send)

    def _limit_body(self, receive: Receive) -> Callable[[], Awaitable[Message]]:
        """A body's parts, up to the limits of size and time; what comes after it, such as a disconnect, has no limit."""
        taken, is_whole, loop = 0, False, asyncio.get_running_loop()
        end = loop.time() + BODY_LIMIT_S

        async def receive_limited() -> Message:
            nonlocal taken, is_whole
            try:
                async with asyncio.timeout_at(None if is_whole else end):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408, f"the body did not come within {BODY_LIMIT_S:g} s"
                ) from None
            taken += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if taken > self._limit:
                raise HTTPException(413, self._too_large)
            return message

        return receive_limited

    @property
    def _limit(self) -> int:
        return self.options.max_body_bytes

    @property
    def _too_large(self) -> str:
        return f"the body is larger than {self._limit} bytes"

    def _has_key(self, headers: dict[bytes, str]) -> bool:
        scheme, _, token = headers.get(b"authorization", "").partition(" ")
        sent = headers.get(b"api-key") or (token.strip() if scheme.lower() == "bearer" else "")
        return secrets.compare_digest(sent.encode(), (self.options.api_key or "").encode())


def _names_this_machine(host: str) -> bool:
    """Whether a Host header names this machine; a client of HTTP/1.0 names none."""
    try:
        return not host or is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


class Connection(H11Protocol):
    """uvicorn's connection, with a time limit for each request's headers and a limit on how many there are."""

    _open: "dict[Connection, None]" = {}  # noqa: RUF012 - all of this process, in the order in which they became idle

    def connection_made(self, transport: Any) -> None:
        """Take a connection on; where there are too many, the one that has been idle longest goes."""
        super().connection_made(transport)
        if len(self._open) >= _count_places():
            (next((c for c in self._open if c.is_idle), None) or self).transport.close()
        self._open[self] = None
        self._timer = self.loop.call_later(HEADER_LIMIT_S, self._close_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self._timer.cancel()
        self._open.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Between requests the time for the next one's headers begins with their first byte."""
        if self.is_idle and self._timer.cancelled():
            self._timer = self.loop.call_later(HEADER_LIMIT_S, self._close_silent)
        super().data_received(data)
        if not self.is_idle:
            self._timer.cancel()

    def on_response_complete(self) -> None:
        """A connection that has been answered is idle again, and the last to go."""
        super().on_response_complete()
        if self._open.pop(self, True) is None:
            self._open[self] = None

    @property
    def is_idle(self) -> bool:
        """Whether no request of this connection is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _close_silent(self) -> None:
        self._timer.cancel()
        if self.is_idle:
            self.transport.close()


def _count_places() -> int:
    """How many connections this process holds: half of what it may open, since some come before others are closed."""
    return count_descriptors() // 2


def count_descriptors() -> int:
    """How many files and sockets this process may have open."""
    return min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 65_536)
