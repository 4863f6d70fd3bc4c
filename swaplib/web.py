"""Every HTTP call of the project: through which proxy it goes, how much of an answer is read, and what went wrong, in words.

This machine is never asked through a proxy, no redirect is followed (a key would go along), and an answer ends at a limit
however it is packed. Clients are of httpx2, which the openai SDK is built on.

    with open_client("http://127.0.0.1:8000/v1") as client:
        parse_body(client.get("/models").content)      {"data": [{"id": "slm"}]}; None for what is no JSON
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
    """A client for one address and what lies below it.

    Args:
        url: The address; paths that are asked for are appended to it.
        timeout_s: Seconds for each step: connecting, sending, the first bytes of an answer, the rest of it.
        options: What else httpx2.Client takes, such as `auth` and `headers`.

    Raises:
        ValueError: As find_proxy.
    """
    transport = _Transport(**_make_options(url))
    return httpx2.Client(
        base_url=url, timeout=timeout_s, transport=transport, trust_env=False, **options
    )


def open_async_client(
    url: str, timeout_s: float, hooks: list[Callable[[httpx2.Response], Any]]
) -> httpx2.AsyncClient:
    """The same for an event loop: what the openai SDK asks through; `hooks` see each answer."""
    transport = _AsyncTransport(**_make_options(url))
    options = {"transport": transport, "trust_env": False, "event_hooks": {"response": hooks}}
    return httpx2.AsyncClient(timeout=timeout_s, follow_redirects=False, **options)


def _make_options(url: str) -> dict[str, Any]:
    # the environment's certificates count (SSL_CERT_FILE); httpx2's own reading of NO_PROXY refuses ranges of IPv6
    context = httpx2.create_ssl_context(trust_env=True)
    return {"proxy": find_proxy(url), "verify": context, "trust_env": False, "limits": _CONNECTIONS}


class _Transport(httpx2.HTTPTransport):
    """Reads every answer whole, up to the limit."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The answer, read and unpacked; raises httpx2.ReadError for one that is too long."""
        answer, pieces = super().handle_request(request), []
        ends_at = time.monotonic() + (
            request.extensions["timeout"]["read"] or TIMEOUT_S
        )  # of all bytes: some servers drip
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
    """The same for an event loop."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The answer, read and unpacked; raises httpx2.ReadError for one that is too long."""
        answer, pieces = await super().handle_async_request(request), []
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
    """An answer with its content at hand, and no header that tells how it was packed."""
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
    """The proxy that the environment names for an address, or None; this machine is always asked directly.

    NO_PROXY holds names, their ends, and ranges of addresses such as 10.0.0.0/8.

    Raises:
        ValueError: The proxy's address is of a kind that no client here can go through; it is not shown, as it may hold a
            password.
    """
    parts = urlsplit(url)
    host, found = parts.hostname or "", getproxies()
    proxy = found.get(parts.scheme) or found.get("all")
    is_direct = (
        is_loopback(host)
        or proxy_bypass(parts.netloc.rpartition("@")[2])
        or _is_in_range(host, found.get("no", ""))
    )
    if not proxy or is_direct:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if urlsplit(proxy).scheme not in _PROXY_SCHEMES or not urlsplit(proxy).hostname:
        raise ValueError(
            f"the proxy for {parts.scheme}://{host} (HTTPS_PROXY, HTTP_PROXY or ALL_PROXY) is no address with one of "
            f"{', '.join(_PROXY_SCHEMES)}. Mend it, or name the host in NO_PROXY."
        )
    return proxy


def _is_in_range(host: str, ranges: str) -> bool:
    """Whether an address lies in one of NO_PROXY's ranges, which urllib takes for names."""
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
    """What a server sent, as JSON; None where it is none. Never raises: not for bytes of any kind, nor for any depth."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def explain(error: BaseException) -> str:
    """Why a call got no answer, in words that name no key and no address.

    Args:
        error: What the client raised; its causes tell more than itself.
    """
    chain = list(_walk_causes(error))
    for cause in chain:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({cause.verify_message}): name your CA's file in SSL_CERT_FILE"
        if isinstance(cause, ssl.SSLError):
            return f"it does not speak TLS as expected ({cause.reason}): is it http:// rather than https://?"
    for kind, said in _MEANINGS.items():
        if found := next((cause for cause in chain if isinstance(cause, kind)), None):
            return said.format(found)
    return type(error).__name__


def is_lasting(error: BaseException) -> bool:
    """Whether no second try can mend it: a certificate, http for https, or a header that cannot be sent.

    Args:
        error: What the client raised, with its causes.
    """
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
    httpx2.LocalProtocolError: "nothing was sent: the key or a header holds a character that HTTP does not allow",
    httpx2.RemoteProtocolError: "what answered does not speak HTTP as expected: is it https:// rather than http://?",
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
