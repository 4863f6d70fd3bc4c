"""What protects `swap serve`: who may ask, how large a body may be, how long anything may take.

Guard checks one request: its Host, its key, its body. Connection checks the socket below: one that
sends nothing, or very slowly, is closed after a time limit; when there are as many as the process
can hold, the one that has been idle longest is closed for the next.
"""

import asyncio
import resource
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from swaplib.serving.openai_format import make_error
from swaplib.web import is_loopback

HEADER_LIMIT_S = 10.0  # for a request's line and headers; of the first, from connecting on
BODY_LIMIT_S = 30.0


@dataclass(frozen=True)
class ServeOptions:
    """What a server accepts.

    Attributes:
        api_key: The key that requests must bring; None for no key.
        max_body_bytes: The largest body.
        max_new_tokens: The longest answer that a request may ask for.
        max_waiting: How many requests may wait for a slot.
        is_local: Whether requests must name this machine as their host. A page in a browser that
            has rebound its own name to 127.0.0.1 does not.
    """

    api_key: str | None = field(default=None, repr=False)
    max_body_bytes: int = 1_000_000
    max_new_tokens: int = 4096
    max_waiting: int = 256
    is_local: bool = False


class Guard:
    """Refuses requests from elsewhere, without the key, or with too large or too slow a body."""

    def __init__(self, app: ASGIApp, options: ServeOptions):
        self.app, self.options = app, options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that is refused; pass on the others, with limits on their bodies."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if refusal := self._refuse(scope["path"], headers):
            return await refusal(scope, receive, send)
        return await self.app(scope, self._limit_body(receive), send)

    def _refuse(self, path: str, headers: Mapping[bytes, str]) -> JSONResponse | None:
        """The refusal of a request by its headers, if any."""
        if self.options.is_local and not _names_this_machine(headers.get(b"host", "")):
            message = "this server answers to localhost and 127.0.0.1 only: ask it by that name"
            return make_error(403, message)
        if self.options.api_key and path != "/health" and not self._has_key(headers):
            message = "no valid key: send Authorization: Bearer KEY"
            return make_error(401, message, code="invalid_api_key")
        length = headers.get(b"content-length", "0")
        if length.isdigit() and int(length) > self.options.max_body_bytes:
            return make_error(413, self._too_large)
        return None

    def _limit_body(self, receive: Receive) -> Callable[[], Awaitable[Message]]:
        """Receives a body within the limits of size and time; what comes after it has no limit."""
        n_bytes, is_whole = 0, False
        deadline = asyncio.get_running_loop().time() + BODY_LIMIT_S

        async def receive_limited() -> Message:
            nonlocal n_bytes, is_whole
            try:
                async with asyncio.timeout_at(None if is_whole else deadline):
                    message = await receive()
            except TimeoutError:
                problem = f"the body did not arrive within {BODY_LIMIT_S:g} s"
                raise HTTPException(408, problem) from None
            n_bytes += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if n_bytes > self.options.max_body_bytes:
                raise HTTPException(413, self._too_large)
            return message

        return receive_limited

    @property
    def _too_large(self) -> str:
        return f"the body is larger than {self.options.max_body_bytes} bytes"

    def _has_key(self, headers: Mapping[bytes, str]) -> bool:
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
    """uvicorn's connection, with a time limit for headers and a limit on how many there are."""

    # All connections of this process, in the order in which they became idle.
    _open: ClassVar["dict[Connection, None]"] = {}

    def connection_made(  # type: ignore[override] # as uvicorn's, which narrows asyncio's
        self, transport: asyncio.Transport
    ) -> None:
        """Accept a connection; where there are too many, close the one that is idle longest."""
        super().connection_made(transport)
        if len(self._open) >= _count_places():
            longest_idle = next((c for c in self._open if c.is_idle), self)
            longest_idle.transport.close()
        self._open[self] = None
        self._timer = self.loop.call_later(HEADER_LIMIT_S, self._close_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self._timer.cancel()
        self._open.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Start the next request's time for headers with their first byte."""
        if self.is_idle and self._timer.cancelled():
            self._timer = self.loop.call_later(HEADER_LIMIT_S, self._close_silent)
        super().data_received(data)
        if not self.is_idle:
            self._timer.cancel()

    def on_response_complete(self) -> None:
        """Note that this connection is idle again, the last to be closed."""
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
    """How many connections this process holds: half of its descriptors.

    The other half is for connections that arrive before others are closed.
    """
    return count_descriptors() // 2


def count_descriptors() -> int:
    """How many files and sockets this process may have open."""
    return min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 65_536)
