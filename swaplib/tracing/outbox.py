"""A run's `trace.jsonl`: what the Langfuse SDK made, line by line; and beside it `delivered.jsonl`: what was sent, to whom.

A line is the body of a request that Langfuse takes as it is: OTLP/JSON spans (an object) or scores (a list). Lines are
appended with fsync before anything is sent. A run that goes on may write an id once more; then its last line counts.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

from swaplib.files import append_line, hash_text, read_appended, write_text
from swaplib.settings import Settings

_OBSERVATION = "langfuse.observation."
_MARK = f"{_OBSERVATION}metadata.is_hidden"


def check_tracing(settings: Settings) -> None:
    """Stop when a run could not be traced.

    Raises:
        ValueError: Langfuse's address or keys are missing, and SWAP_TRACING=outbox does not say that the local outbox alone
            is wanted; or LANGFUSE_BASE_URL is no address, or LANGFUSE_HOST names another.
    """
    if settings.swap_tracing == "outbox":
        return
    address = settings.find_langfuse()
    try:
        settings.require(
            "LANGFUSE_PUBLIC_KEY",
            "LANGFUSE_SECRET_KEY",
            *([] if address else ["LANGFUSE_BASE_URL"]),
        )
    except ValueError as error:
        raise ValueError(
            f"{error}\nOr set SWAP_TRACING=outbox to keep traces in the local outbox alone."
        ) from None
    try:
        url = httpx2.URL(address)
        has_host = (
            url.scheme in ("http", "https") and url.host and not url.userinfo
        )  # it is printed and written down
    except httpx2.InvalidURL:
        has_host = False
    if not has_host:
        raise ValueError(
            "LANGFUSE_BASE_URL (or LANGFUSE_HOST): expected an address like https://cloud.langfuse.com, without a user"
        )


def read_outbox(path: Path) -> Iterator[Any]:
    """The lines of an outbox; a line left torn by a kill is passed over, its row is traced again on resume."""
    return (line for _, line in _read_keyed(path))


def _read_keyed(path: Path) -> Iterator[tuple[str, Any]]:
    """The lines with their keys: a hash of the text, which stays with it whatever is cut off or appended."""
    for text in read_appended(path):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        yield hash_text(text)[:16], line


def read_latest(path: Path) -> Iterator[tuple[str, Any]]:
    """Keys and lines of an outbox without what a later line says anew; a line of which nothing is left is passed over."""
    last = {
        name: number for number, line in enumerate(read_outbox(path)) for name in list_ids(line)
    }
    for number, (key, line) in enumerate(_read_keyed(path)):
        _keep(line, {name for name in list_ids(line) if last.get(name, number) == number})
        if list_ids(line):
            yield key, line


def _keep(line: Any, ids: set[str]) -> None:
    """Drop the spans or scores of a line that have other ids."""
    if isinstance(line, list):
        line[:] = [score for score in line if score["id"] in ids]
        return
    for resource in line["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            scope["spans"] = [span for span in scope["spans"] if span["spanId"] in ids]


def list_spans(line: Any) -> Iterator[dict[str, Any]]:
    """The spans of one OTLP/JSON line; none for a line of scores."""
    if isinstance(line, dict):
        for resource in line["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                yield from scope["spans"]


def list_ids(line: Any) -> list[str]:
    """The ids of a line's spans or scores."""
    return (
        [score["id"] for score in line]
        if isinstance(line, list)
        else [span["spanId"] for span in list_spans(line)]
    )


def read_starts(path: Path) -> dict[str, int | str]:
    """When each span or score of an outbox began, by id: nanoseconds of spans, ISO 8601 of scores.

    A server keeps a row by its id and its time, so what is written again must have the time that it had.
    """
    starts: dict[str, int | str] = {}
    for line in read_outbox(path):
        if isinstance(line, list):
            starts |= {score["id"]: score["timestamp"] for score in line}
        else:
            starts |= {span["spanId"]: int(span["startTimeUnixNano"]) for span in list_spans(line)}
    return starts


def mask_content(line: Any) -> Any:
    """An outbox line in which the texts of rows are their sha256 and length, and their spans say so; never hidden twice.

    Texts of rows are the input and output of every observation but spans and events: those hold parameters and metrics.
    """
    for span in list_spans(line):
        attributes = span.get("attributes", [])
        found = {attribute["key"]: attribute["value"] for attribute in attributes}
        if _MARK in found or found.get(f"{_OBSERVATION}type", {}).get("stringValue") in (
            "span",
            "event",
        ):
            continue
        for name in ("input", "output"):
            if (value := found.get(f"{_OBSERVATION}{name}")) is None:
                continue
            text = value.get("stringValue", json.dumps(value))
            value.clear()
            value["stringValue"] = json.dumps({"sha256": hash_text(text), "characters": len(text)})
        span["attributes"] = [*attributes, {"key": _MARK, "value": {"stringValue": "true"}}]
    return line


def read_delivered(path: Path) -> dict[str, set[str]]:
    """The keys of the lines of an outbox that were delivered, by recipient."""
    delivered: dict[str, set[str]] = {}
    for text in read_appended(_file_beside(path)):
        try:
            record = json.loads(text)
        except ValueError:  # torn: these lines are sent again
            continue
        delivered.setdefault(record["to"], set()).update(record["lines"])
    return delivered


def note_delivered(path: Path, recipient: str, keys: list[str]) -> None:
    """Keep that a recipient has taken lines of an outbox."""
    append_line(_file_beside(path), json.dumps({"to": recipient, "lines": keys}))


def forget_delivered(path: Path, recipient: str) -> None:
    """Forget what a recipient has taken of an outbox: all of it is to be sent anew."""
    others = {to: sorted(keys) for to, keys in read_delivered(path).items() if to != recipient}
    write_text(
        _file_beside(path),
        "".join(json.dumps({"to": to, "lines": keys}) + "\n" for to, keys in others.items()),
    )


def _file_beside(path: Path) -> Path:
    return path.with_name("delivered.jsonl")
