"""The Langfuse server as this project asks it: its headers, its version, and its refusals in words.

The doctor, a run and `swap push-traces` say the same sentences, which are made here.
"""

import re
from importlib.metadata import version

import httpx2

from swaplib.settings import Settings
from swaplib.web import explain, open_client, parse_body

HEALTH_PATH = "/api/public/health"
TIMEOUT_S = 5.0
REFUSED_SOME = "it refused some of the spans or scores"
OLDEST = (4, 59)  # earlier servers refuse an array of scores

_VERSION = re.compile(r"v?([0-9]{1,4}\.[0-9]{1,4}(?:\.[0-9]{1,4})?)")


def open_langfuse(settings: Settings) -> httpx2.Client:
    """A client for the server, which sends what the SDK's own exporter would send along."""
    headers = {
        "x-langfuse-ingestion-version": "4",
        "x-langfuse-sdk-name": "python",
        "x-langfuse-sdk-version": version("langfuse"),
    }
    auth = (settings.langfuse_public_key or "", settings.langfuse_secret_key or "")
    return open_client(settings.find_langfuse(), TIMEOUT_S, auth=auth, headers=headers)


def find_version(client: httpx2.Client) -> str:
    """The version that a Langfuse server reports, such as `4.70.1`.

    Raises:
        ConnectionError: It reports none, so it is another kind of server.
    """
    response = client.get(HEALTH_PATH)
    body = parse_body(response.content)
    reported = body.get("version") if isinstance(body, dict) else None
    if isinstance(reported, str) and (match := _VERSION.match(reported)):
        return match[1]
    raise ConnectionError(
        f"it does not answer as a Langfuse server does ({HEALTH_PATH}: "
        f"status {response.status_code} without a version). Check LANGFUSE_BASE_URL"
    )


def say_why(error: Exception) -> str:
    """Why the server was not reached, in words: an HTTP client's error is explained."""
    return explain(error) if isinstance(error, httpx2.HTTPError) else str(error)


def find_refusal(response: httpx2.Response, server_version: str) -> str | None:
    """Why Langfuse did not take a whole request, or None when it did."""
    if response.status_code not in (200, 202, 207):
        return _explain_status(response.status_code, server_version)
    body = parse_body(response.content) if response.content else {}
    if not isinstance(body, dict):
        return (
            f"status {response.status_code} without a JSON object. Check LANGFUSE_BASE_URL: is it "
            "a Langfuse server?"
        )
    partial = body.get("partialSuccess") or {}
    # a number, or its text; anything else does not say that all spans were taken
    rejected = partial.get("rejectedSpans") or 0 if isinstance(partial, dict) else None
    if body.get("errors") or rejected not in (0, "0"):
        return REFUSED_SOME
    return None


def _explain_status(status: int, server_version: str) -> str:
    """What a status says of the server, its version, or the keys."""
    if status in (401, 403):
        return f"status {status}: check the two Langfuse keys"
    if status == 400 and _is_old(server_version):
        return f"status {status}: {_describe_old(server_version)}"
    return f"status {status}"


def _is_old(server_version: str) -> bool:
    return tuple(map(int, server_version.split(".")[:2])) < OLDEST


def _describe_old(server_version: str) -> str:
    oldest = ".".join(map(str, OLDEST))
    return f"Langfuse {server_version} loses this SDK's scores: update it to {oldest} or newer"


def check_server(settings: Settings) -> str:
    """Check that the server is reachable, new enough, and accepts the keys.

    Returns:
        The line that `swap doctor` prints.

    Raises:
        ConnectionError: It does not answer, or is not a Langfuse server.
        ValueError: It is too old; or as find_proxy.
        PermissionError: It refuses the keys.
    """
    address = settings.find_langfuse()
    try:
        with open_langfuse(settings) as client:
            server_version = find_version(client)
            status = client.get("/api/public/projects").status_code
    except (httpx2.HTTPError, ConnectionError) as error:
        raise ConnectionError(f"{address}: {say_why(error)}") from None
    if _is_old(server_version):
        raise ValueError(f"{address}: {_describe_old(server_version)}")
    if status != 200:
        raise PermissionError(f"{address}: {_explain_status(status, server_version)}")
    return f"{address}, version {server_version}, keys accepted"
