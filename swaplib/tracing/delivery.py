"""Sends what lies in outboxes to Langfuse, counts what arrived, and says why the rest did not.

A server is asked for its version before anything is sent: only a Langfuse server tells one. A line sent twice makes no
duplicate, because its ids and times stay. One that does not answer in time is waited for once in a process.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import httpx2

from swaplib.files import hash_text, write_json
from swaplib.settings import Settings, show_path
from swaplib.tracing.langfuse_api import find_refusal, find_version, open_langfuse, say_why
from swaplib.tracing.outbox import (
    check_tracing,
    forget_delivered,
    list_ids,
    list_spans,
    mask_content,
    note_delivered,
    read_delivered,
    read_latest,
)

SPANS_PATH, SCORES_PATH = "/api/public/otel/v1/traces", "/api/public/scores"
LINES_PER_POST, BYTES_PER_POST = 200, 2_000_000
BODY_REFUSED = (400, 413, 422)  # this request's fault: the next one may pass

_SILENT: set[str] = set()  # addresses that this process has waited for in vain


@dataclass(frozen=True)
class Delivery:
    """What became of a trace: spans and scores made, delivered to the server, and failed so far, and why."""

    trace_id: str
    outbox: str
    made: int
    delivered: int
    failed: int
    problem: str | None = None


class Sender:
    """Posts an outbox's lines to Langfuse; with SWAP_TRACING=outbox it only counts them.

    Attributes:
        problem: Why the server did not take a request, or None.
    """

    def __init__(self, settings: Settings, path: Path):
        self.path = path
        self.problem: str | None = None
        self._settings = settings

    @property
    def _recipient(self) -> str:
        """The server, and whose project it is there, without its key."""
        return f"{self._settings.find_langfuse()} {hash_text(self._settings.langfuse_public_key or '')[:12]}"

    def count(self) -> Delivery:
        """What was made and delivered so far, each id once."""
        is_sending = self._settings.swap_tracing == "langfuse"
        taken = read_delivered(self.path).get(self._recipient, set()) if is_sending else set()
        made, delivered, trace_id = 0, 0, ""
        for key, line in read_latest(self.path):
            made += len(ids := list_ids(line))
            delivered += len(ids) if key in taken else 0
            trace_id = trace_id or next((span["traceId"] for span in list_spans(line)), "")
        failed = made - delivered if is_sending else 0
        return Delivery(
            trace_id,
            show_path(self.path),
            made,
            delivered,
            failed,
            self.problem if failed else None,
        )

    def send(self, is_all: bool = False) -> None:
        """Post the lines that this server has not taken yet, or all. Never raises for what a server does."""
        if self._settings.swap_tracing == "outbox":
            return
        if is_all:
            forget_delivered(self.path, self._recipient)
        taken = read_delivered(self.path).get(self._recipient, set())
        lines = ((key, line) for key, line in read_latest(self.path) if key not in taken)
        if self._settings.swap_trace_content == "off":  # for lines that were made when it was not
            lines = ((key, mask_content(line)) for key, line in lines)
        self.problem = None
        if first := next(lines, None):
            self.problem = self._post(chain([first], lines))

    def _post(self, lines: Iterable[tuple[str, Any]]) -> str | None:
        """Post lines; why not all of them were taken, or None."""
        problem, address = None, self._settings.find_langfuse()
        if address in _SILENT:
            return "no answer in time, and not asked again by this process"
        try:
            with open_langfuse(self._settings) as client:
                found = find_version(client)
                for path, body, keys in _merge(lines):
                    answer = client.post(path, json=body)
                    if (reason := find_refusal(answer, found)) is None:
                        note_delivered(self.path, self._recipient, keys)
                        continue
                    problem = reason
                    if answer.status_code not in BODY_REFUSED:
                        break
        except (httpx2.HTTPError, ConnectionError, ValueError) as error:
            if isinstance(error, httpx2.TimeoutException):
                _SILENT.add(address)
            return say_why(error)
        return problem


def _merge(lines: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any, list[str]]]:
    """Requests of lines of one kind, in order, bounded in lines and bytes: path, body, and the lines' keys."""
    batch: list[tuple[str, Any]] = []
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


def _make_request(batch: list[tuple[str, Any]]) -> tuple[str, Any, list[str]]:
    keys = [key for key, _ in batch]
    if isinstance(batch[0][1], dict):
        return (
            SPANS_PATH,
            {
                "resourceSpans": [
                    resource for _, line in batch for resource in line["resourceSpans"]
                ]
            },
            keys,
        )
    return SCORES_PATH, [score for _, line in batch for score in line], keys


def push_traces(settings: Settings, is_all: bool = False) -> list[dict[str, Any]]:
    """Send the outbox of every run that no server has taken whole, from where it stopped; or of every run, all of it.

    The runs' metrics files, decisions and run cards get the new counts.

    Returns:
        One record for each run that was sent: `run_id` and the fields of Delivery.

    Raises:
        ValueError: As check_tracing.
    """
    settings = settings.model_copy(update={"swap_tracing": "langfuse"})
    check_tracing(settings)
    _SILENT.discard(settings.find_langfuse())  # a person asks
    records = []
    for path in sorted(settings.runs.glob("*/trace.jsonl")):
        run_id, keys = path.parent.name, {key for key, _ in read_latest(path)}
        if not keys or (
            not is_all and any(keys <= taken for taken in read_delivered(path).values())
        ):
            continue
        sender = Sender(settings, path)
        sender.send(is_all)
        delivery = asdict(sender.count())
        for file, content in _find_files_of(settings, run_id).items():
            content["run"]["trace"] = delivery
            write_json(file, content)
        records.append({"run_id": run_id, **delivery})
    return records


def _find_files_of(settings: Settings, run_id: str) -> dict[Path, dict[str, Any]]:
    """Metrics files, decisions and run cards that tell of a run, with their contents; other JSON files are left alone."""
    files = {}
    adapters = (settings.swap_home / "04_ft").glob("*/run_card.json")
    for file in (
        *(settings.runs / run_id).glob("*.json"),
        *settings.evaluation.glob("*.json"),
        *adapters,
    ):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            continue
        run = content.get("run") if isinstance(content, dict) else None
        if isinstance(run, dict) and run.get("run_id") == run_id and "trace" in run:
            files[file] = content
    return files


def describe_delivery(delivery: Delivery, settings: Settings) -> str:
    """One line for a person: where the trace is, and what to do when the server did not take all of it."""
    text = f"trace {delivery.trace_id}: {delivery.made} spans and scores in {delivery.outbox}"
    if settings.swap_tracing == "outbox":
        return f"{text}; none sent (SWAP_TRACING=outbox)"
    address = settings.find_langfuse()
    if delivery.failed:
        why = f" ({delivery.problem})" if delivery.problem else ""
        return f"{text}; {delivery.failed} NOT delivered to {address}{why}. Send them: swap push-traces"
    return f"{text}; all delivered to {address}"
