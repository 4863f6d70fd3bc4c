"""Posts lines of an outbox to Langfuse, and notes beside the outbox which ones were taken.

A server is asked for its version before anything is sent: only a Langfuse server reports one. A
line sent twice makes no duplicate, because its ids and times stay. A server that does not answer in
time is waited for once in a process, until somebody asks again.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import httpx2

from swaplib.files import hash_text
from swaplib.settings import Settings
from swaplib.tracing.delivered import note_delivered
from swaplib.tracing.langfuse_api import (
    REFUSED_SOME,
    find_refusal,
    find_version,
    open_langfuse,
    say_why,
)
from swaplib.tracing.outbox import Line, mask_content

SPANS_PATH = "/api/public/otel/v1/traces"
SCORES_PATH = "/api/public/scores"
LINES_PER_POST = 200
BYTES_PER_POST = 2_000_000
BODY_REFUSED = (400, 413, 422)  # this request's fault: the next one may pass

_SILENT: set[str] = set()  # addresses that this process has waited for in vain


@dataclass
class Posted:
    """What a server did with lines.

    Attributes:
        taken: The keys of the lines that it took.
        problem: Why it did not take all of them, or None.
        is_there: False where it takes nothing now, so that lines may not have been tried.
    """

    taken: list[str] = field(default_factory=list)
    problem: str | None = None
    is_there: bool = True


def name_recipient(settings: Settings) -> str:
    """The server, and whose project it is there, without its key."""
    project = hash_text(settings.langfuse_public_key or "")[:12]
    return f"{settings.find_langfuse()} {project}"


def ask_again(settings: Settings) -> None:
    """Let a server that gave no answer in time be waited for once more."""
    _SILENT.discard(settings.find_langfuse())


def post_lines(settings: Settings, path: Path, lines: Iterable[tuple[str, Line]]) -> Posted:
    """Post lines of the outbox at a path; no server is asked where there are none.

    Never raises for what a server does.

    Args:
        lines: Lines with their keys; SWAP_TRACE_CONTENT=off also masks those that were made when it
            was on.

    Raises:
        OSError: What was taken cannot be noted.
    """
    posted = Posted()
    lines = iter(lines)
    if (first := next(lines, None)) is None:
        return posted
    lines = chain([first], lines)
    if settings.swap_trace_content == "off":
        lines = ((key, mask_content(line)) for key, line in lines)
    if settings.find_langfuse() in _SILENT:
        return Posted([], "no answer in time, and not asked again by this process", False)
    try:
        _post_all(settings, path, lines, posted)
    except (httpx2.HTTPError, ConnectionError, ValueError) as error:
        if isinstance(error, httpx2.TimeoutException):
            _SILENT.add(settings.find_langfuse())
        posted.problem, posted.is_there = say_why(error), False
    return posted


def _post_all(
    settings: Settings, path: Path, lines: Iterable[tuple[str, Line]], posted: Posted
) -> None:
    """Post lines until the server takes nothing more; what it did goes into `posted`."""
    with open_langfuse(settings) as client:
        server_version = find_version(client)
        for request in _merge(lines):
            response = client.post(request.path, json=request.body)
            reason = find_refusal(response, server_version)
            if reason is None:
                note_delivered(path, name_recipient(settings), request.keys)
                posted.taken += request.keys
                continue
            posted.problem = reason
            if response.status_code not in BODY_REFUSED and reason != REFUSED_SOME:
                posted.is_there = False
                break


@dataclass(frozen=True)
class _Request:
    path: str
    body: Line
    keys: list[str]


def _merge(lines: Iterable[tuple[str, Line]]) -> Iterator[_Request]:
    """Requests of lines of one kind each, in order, bounded in lines and bytes."""
    batch: list[tuple[str, Line]] = []
    size = 0
    for key, line in lines:
        length = len(json.dumps(line))
        is_full = len(batch) == LINES_PER_POST or size + length > BYTES_PER_POST
        if batch and (is_full or type(batch[0][1]) is not type(line)):
            yield _make_request(batch)
            batch, size = [], 0
        batch.append((key, line))
        size += length
    if batch:
        yield _make_request(batch)


def _make_request(batch: list[tuple[str, Line]]) -> _Request:
    keys = [key for key, _ in batch]
    spans: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    for _, line in batch:
        if isinstance(line, dict):
            spans += line["resourceSpans"]
        else:
            scores += line
    if scores:
        return _Request(SCORES_PATH, scores, keys)
    return _Request(SPANS_PATH, {"resourceSpans": spans}, keys)
