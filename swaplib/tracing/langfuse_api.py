"""The Langfuse server as this project asks it: with which headers, which version it tells, and why it refuses, in words.

The doctor, a run and `swap push-traces` say the same sentences, which are made here.
"""

import re
from importlib.metadata import version

import httpx2

from swaplib.settings import Settings
from swaplib.web import explain, open_client, parse_body

HEALTH_PATH = "/api/public/health"
TIMEOUT_S = 5.0
OLDEST = (4, 59)


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
    """The version that a Langfuse server tells of itself; raises ConnectionError where none is told."""
    answer = client.get(HEALTH_PATH)
    body = parse_body(answer.content)
    told = body.get("version") if isinstance(body, dict) else None
    if found := re.match(
        r"v?([0-9]{1,4}\.[0-9]{1,4}(?:\.[0-9]{1,4})?)", told if isinstance(told, str) else ""
    ):
        return found[1]
    raise ConnectionError(
        f"it does not answer as a Langfuse server does ({HEALTH_PATH}: status {answer.status_code} without a version). "
        "Check LANGFUSE_BASE_URL"
    )


def say_why(error: Exception) -> str:
    """Why the server was not reached, or is none: what the client met, or the words of find_version and of find_proxy."""
    return explain(error) if isinstance(error, httpx2.HTTPError) else str(error)


def find_refusal(answer: httpx2.Response, found: str) -> str | None:
    """Why Langfuse did not take a whole request, or None when it did."""
    if answer.status_code not in (200, 202, 207):
        return _explain_status(answer.status_code, found)
    body = parse_body(answer.content) if answer.content else {}
    if not isinstance(body, dict):
        return f"status {answer.status_code} without a JSON object. Check LANGFUSE_BASE_URL: is it a Langfuse server?"
    partial = body.get("partialSuccess") or {}
    # a number, or its text; whatever else it is, it does not say that all were taken
    rejected = partial.get("rejectedSpans") or 0 if isinstance(partial, dict) else None
    return (
        "it refused some of the spans or scores"
        if body.get("errors") or rejected not in (0, "0")
        else None
    )


def _explain_status(status: int, found: str) -> str:
    """What a status says of the server, of a version, or of the keys."""
    if status in (401, 403):
        return f"status {status}: check the two Langfuse keys"
    if status == 400 and _is_old(found):
        return f"status {status}: {_describe_old(found)}"
    return f"status {status}"


def _is_old(found: str) -> bool:
    return tuple(map(int, found.split(".")[:2])) < OLDEST


def _describe_old(found: str) -> str:
    return f"Langfuse {found} loses this SDK's scores: update it to {'.'.join(map(str, OLDEST))} or newer"


def check_server(settings: Settings) -> str:
    """Whether the server is reachable, new enough, and takes the keys; the line of `swap doctor`.

    Raises:
        ConnectionError: It does not answer, or is no Langfuse server.
        ValueError: It is too old; or as find_proxy.
        PermissionError: It refuses the keys.
    """
    address = settings.find_langfuse()
    try:
        with open_langfuse(settings) as client:
            found = find_version(client)
            status = client.get("/api/public/projects").status_code
    except (httpx2.HTTPError, ConnectionError) as error:
        raise ConnectionError(f"{address}: {say_why(error)}") from None
    if _is_old(found):
        raise ValueError(f"{address}: {_describe_old(found)}")
    if status != 200:
        raise PermissionError(f"{address}: {_explain_status(status, found)}")
    return f"{address}, version {found}, keys accepted"
