"""Every HTTP call of the project: its proxy, how much of an answer is read, and errors in words.

This machine is never asked through a proxy, no redirect is followed (a key would go along), and an
answer ends at a limit however it is packed. Clients are httpx2's, as those of the openai SDK are.

    with open_client("http://127.0.0.1:8000/v1") as client:
        parse_body(client.get("/models").content)      {"data": [{"id": "slm"}]}; None if not JSON
"""

import ipaddress
import json
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2

LIMIT_BYTES = 16 * 2**20
TIMEOUT_S = 30.0

_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
_CONNECTIONS = httpx2.Limits(max_connections=1000, max_keepalive_connections=100)


def open_client(url: str, timeout_s: float = TIMEOUT_S, **options: Any) -> httpx2.Client:
    """A client for one address and the paths below it.

    Args:
        url: The address; paths that are asked for are appended to it.
        timeout_s: Seconds for each step: connecting, sending, the first bytes of an answer, the
            rest of it.
        **options: What else httpx2.Client takes, such as `auth` and `headers`.

    Raises:
        ValueError: As find_proxy.
    """
    transport = _Transport(
        proxy=find_proxy(url), verify=_trust(), trust_env=False, limits=_CONNECTIONS
    )
    return httpx2.Client(
        base_url=url, timeout=timeout_s, transport=transport, trust_env=False, **options
    )


def open_async_client(
    url: str, timeout_s: float, hooks: list[Callable[[httpx2.Response], Any]]
) -> httpx2.AsyncClient:
    """A client for an event loop, for the openai SDK; `hooks` see each answer."""
    transport = _AsyncTransport(
        proxy=find_proxy(url), verify=_trust(), trust_env=False, limits=_CONNECTIONS
    )
    return httpx2.AsyncClient(
        timeout=timeout_s,
        transport=transport,
        trust_env=False,
        follow_redirects=False,
        event_hooks={"response": hooks},
    )


def _trust() -> ssl.SSLContext:
    """The certificates to trust, SSL_CERT_FILE's among them.

    Of the environment only these are left to httpx2: its own reading of NO_PROXY refuses ranges of
    IPv6.
    """
    return httpx2.create_ssl_context(trust_env=True)


class _Transport(httpx2.HTTPTransport):
    """Reads every answer whole, up to the limit."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The answer, read and unpacked; raises httpx2.ReadError for one that is too long."""
        answer = super().handle_request(request)
        pieces: list[bytes] = []
        # the time for all bytes together, since some servers send one at a time
        ends_at = time.monotonic() + (request.extensions["timeout"]["read"] or TIMEOUT_S)
        try:
            for piece in answer.iter_bytes():
                pieces.append(piece)
                _check_length(pieces)
                if time.monotonic() > ends_at:
                    raise httpx2.ReadTimeout("the answer drips")
        finally:
            answer.close()
        return _rebuild(answer, pieces)


class _AsyncTransport(httpx2.AsyncHTTPTransport):
    """As _Transport, for an event loop."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The answer, read and unpacked; raises httpx2.ReadError for one that is too long."""
        answer = await super().handle_async_request(request)
        pieces: list[bytes] = []
        try:
            async for piece in answer.aiter_bytes():
                pieces.append(piece)
                _check_length(pieces)
        finally:
            await answer.aclose()
        return _rebuild(answer, pieces)


def _check_length(pieces: list[bytes]) -> None:
    if sum(map(len, pieces)) > LIMIT_BYTES:
        raise httpx2.ReadError(f"the answer is longer than {LIMIT_BYTES // 2**20} MiB")


def _rebuild(answer: httpx2.Response, pieces: list[bytes]) -> httpx2.Response:
    """An answer with its content at hand, without the headers that say how it was packed."""
    packed = ("content-encoding", "content-length", "transfer-encoding")
    headers = [
        (name, value) for name, value in answer.headers.multi_items() if name.lower() not in packed
    ]
    return httpx2.Response(
        answer.status_code, headers=headers, content=b"".join(pieces), extensions=answer.extensions
    )


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own: localhost, 127.x.x.x, ::1."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"


def find_proxy(url: str) -> str | None:
    """The proxy that the environment names for an address, or None.

    This machine is always asked directly. NO_PROXY holds names, their ends, and ranges of addresses
    such as 10.0.0.0/8.

    Raises:
        ValueError: No client here can go through the proxy; its address is not shown, as it may
            hold a password.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    is_direct = (
        is_loopback(host)
        or proxy_bypass(parts.netloc.rpartition("@")[2])
        or _is_in_range(host, proxies.get("no", ""))
    )
    if not proxy or is_direct:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if urlsplit(proxy).scheme not in _PROXY_SCHEMES or not urlsplit(proxy).hostname:
        raise ValueError(
            f"the proxy for {parts.scheme}://{host} (HTTPS_PROXY, HTTP_PROXY or ALL_PROXY) is no "
            f"address with one of {', '.join(_PROXY_SCHEMES)}. Mend it, or name the host in "
            "NO_PROXY."
        )
    return proxy


def _is_in_range(host: str, ranges: str) -> bool:
    """Whether an address is in one of NO_PROXY's ranges, which urllib takes for names."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for text in ranges.split(","):
        try:
            if address in ipaddress.ip_network(text.strip().strip("[]"), strict=False):
                return True
        except ValueError:
            continue
    return False


def parse_body(content: bytes) -> Any:
    """What a server sent, as JSON; None where it is not JSON. Never raises for any bytes."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def explain(error: BaseException) -> str:
    """Why a call got no answer, by the causes of what the client raised.

    The words name no key and no address.
    """
    chain = list(_walk_causes(error))
    for cause in chain:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"its certificate is not trusted ({cause.verify_message}): name your CA's file in "
                "SSL_CERT_FILE"
            )
        if isinstance(cause, ssl.SSLError):
            return (
                f"it does not speak TLS as expected ({cause.reason}): is it http:// rather than "
                "https://?"
            )
    for kind, meaning in _MEANINGS.items():
        if met := next((cause for cause in chain if isinstance(cause, kind)), None):
            return meaning.format(met)
    return type(error).__name__


def is_lasting(error: BaseException) -> bool:
    """Whether a second try cannot help: a certificate, http for https, an impossible header."""
    return any(
        isinstance(cause, _LASTING) and not isinstance(cause, _CUT_OFF)
        for cause in _walk_causes(error)
    )


def _walk_causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


_MEANINGS: dict[type[BaseException], str] = {
    httpx2.LocalProtocolError: (
        "nothing was sent: the key or a header holds a character that HTTP does not allow"
    ),
    httpx2.RemoteProtocolError: (
        "what answered does not speak HTTP as expected: is it https:// rather than http://?"
    ),
    httpx2.ProxyError: "the proxy refused ({})",
    ConnectionRefusedError: "nothing listens there",
    httpx2.TimeoutException: "no answer in time",
    TimeoutError: "no answer in time",
    httpx2.ReadError: "the answer broke off ({})",
    httpx2.DecodingError: "the answer cannot be unpacked",
    httpx2.ConnectError: "no connection ({})",
}
_LASTING = (ssl.SSLError, httpx2.LocalProtocolError, httpx2.UnsupportedProtocol)
_CUT_OFF = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
