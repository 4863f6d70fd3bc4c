"""A run's outbox, `trace.jsonl`: what its lines hold, and how the texts of rows are hidden.

A line is the body of a request that Langfuse takes as it is: OTLP/JSON spans (an object) or scores
(a list). Lines are appended with fsync before anything is sent. A resumed run may write an id
again; then its last line counts. The three kinds of lines that the evaluation of one row leaves,
shortened and wrapped:

    {"resourceSpans": [{"resource": …, "scopeSpans": [{"scope": {"name": "langfuse-sdk", …},
     "spans": [{"traceId": "90fa2c860f291de770cfc5f227231422",
      "spanId": "7426e0025c43ca71", "parentSpanId": "6f83059c01ea8141", "name": "row 0",
      "startTimeUnixNano": "1795675146605369916", "endTimeUnixNano": "1795675146649945466",
      "attributes": [
       {"key": "langfuse.observation.type", "value": {"stringValue": "generation"}},
       {"key": "langfuse.observation.input", "value": {"stringValue": "[{\\"role\\": …}]"}},
       {"key": "langfuse.observation.output", "value": {"stringValue": "<tool_call …>"}}, …]}]}]}]}
    {"resourceSpans": …}        the root span, 6f83059c01ea8141: written last, since it ends last
    [{"id": "369598524c89f269", "name": "valid_call_rate", "value": 1.0,
      "traceId": "90fa2c860f291de770cfc5f227231422", "timestamp": "2026-11-26T06:39:07.689+00:00"}]
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

from swaplib.files import hash_text, read_appended
from swaplib.settings import Settings

Line = dict[str, Any] | list[dict[str, Any]]  # spans, or scores

_OBSERVATION = "langfuse.observation."
_MARK = f"{_OBSERVATION}metadata.is_hidden"


def check_tracing(settings: Settings) -> None:
    """Stop when a run could not be traced.

    Raises:
        ValueError: Langfuse's address or keys are missing, and SWAP_TRACING=outbox does not say
            that the local outbox alone is wanted; or LANGFUSE_BASE_URL is not an address, or
            LANGFUSE_HOST names another.
    """
    if settings.swap_tracing == "outbox":
        return
    address = settings.find_langfuse()
    names = ["LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY"]
    if not address:
        names.append("LANGFUSE_BASE_URL")
    try:
        settings.require(*names)
    except ValueError as error:
        raise ValueError(
            f"{error}\nOr set SWAP_TRACING=outbox to keep traces in the local outbox alone."
        ) from None
    if not _is_server_address(address):
        raise ValueError(
            "LANGFUSE_BASE_URL (or LANGFUSE_HOST): expected an address like "
            "https://cloud.langfuse.com, without a user"
        )


def _is_server_address(address: str) -> bool:
    """Whether an address has a host and no user: it is printed and written to files."""
    try:
        url = httpx2.URL(address)
    except httpx2.InvalidURL:
        return False
    return url.scheme in ("http", "https") and bool(url.host) and not url.userinfo


def parse_line(text: str) -> Line | None:
    """One line of an outbox; None for a line that a kill left torn."""
    try:
        line: Line = json.loads(text)
    except ValueError:
        return None
    return line


def decode_line(data: bytes) -> str:
    """A line's text without its end; a torn line may hold any bytes."""
    return data.decode("utf-8", "replace").removesuffix("\n")


def make_key(text: str) -> str:
    """The key by which `delivered.jsonl` names a line: a hash of its text alone."""
    return hash_text(text)[:16]


def read_outbox(path: Path) -> Iterator[Line]:
    """The lines of an outbox but torn ones, whose rows are traced again on resume."""
    for text in read_appended(path):
        if (line := parse_line(text)) is not None:
            yield line


def list_spans(line: Line) -> Iterator[dict[str, Any]]:
    """The spans of one OTLP/JSON line; none for a line of scores."""
    if isinstance(line, dict):
        for resource in line["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                yield from scope["spans"]


def list_ids(line: Line) -> list[str]:
    """The ids of a line's spans or scores."""
    if isinstance(line, list):
        return [score["id"] for score in line]
    return [span["spanId"] for span in list_spans(line)]


def drop_others(line: Line, ids: set[str]) -> None:
    """Drop the spans or scores of a line whose ids are not among these."""
    if isinstance(line, list):
        line[:] = [score for score in line if score["id"] in ids]
        return
    for resource in line["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            scope["spans"] = [span for span in scope["spans"] if span["spanId"] in ids]


def mask_content(line: Line) -> Line:
    """A line in which the texts of rows are replaced by their sha256 and length, in place.

    Texts of rows are the input and output of every observation but spans and events, which hold
    parameters and metrics; and the `reason` for which an answer was refused, which may quote it. A
    masked span is marked as such, so that it is never masked twice.
    """
    for span in list_spans(line):
        attributes = span.get("attributes", [])
        values = {attribute["key"]: attribute["value"] for attribute in attributes}
        kind = values.get(f"{_OBSERVATION}type", {}).get("stringValue")
        if _MARK in values or kind in ("span", "event"):
            continue
        for name in ("input", "output", "metadata.reason"):
            if (value := values.get(f"{_OBSERVATION}{name}")) is None:
                continue
            text = value.get("stringValue", json.dumps(value))
            value.clear()
            value["stringValue"] = json.dumps({"sha256": hash_text(text), "characters": len(text)})
        span["attributes"] = [*attributes, {"key": _MARK, "value": {"stringValue": "true"}}]
    return line
