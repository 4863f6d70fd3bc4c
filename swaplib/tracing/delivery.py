"""Sends outboxes to Langfuse, counts what arrived, and says why the rest did not.

A server is asked for its version before anything is sent: only a Langfuse server reports one. A
line sent twice makes no duplicate, because its ids and times stay. A server that does not answer in
time is waited for once in a process.
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
from swaplib.tracing.delivered import forget_delivered, note_delivered, read_delivered
from swaplib.tracing.langfuse_api import find_refusal, find_version, open_langfuse, say_why
from swaplib.tracing.outbox import Line, check_tracing, mask_content
from swaplib.tracing.outbox_index import OutboxIndex

SPANS_PATH = "/api/public/otel/v1/traces"
SCORES_PATH = "/api/public/scores"
LINES_PER_POST = 200
BYTES_PER_POST = 2_000_000
BODY_REFUSED = (400, 413, 422)  # this request's fault: the next one may pass

_SILENT: set[str] = set()  # addresses that this process has waited for in vain


@dataclass(frozen=True)
class Delivery:
    """What became of a trace: spans and scores made, delivered, and failed so far, and why."""

    trace_id: str
    outbox: str
    made: int
    delivered: int
    failed: int
    problem: str | None = None


class Sender:
    """Posts an outbox's lines to Langfuse; with SWAP_TRACING=outbox it only counts them.

    It remembers which lines were delivered. What another process delivers meanwhile is sent twice,
    which makes no duplicate.

    Attributes:
        problem: Why the server did not take a request, or None.
    """

    def __init__(self, settings: Settings, index: OutboxIndex):
        self.problem: str | None = None
        self._settings = settings
        self._index = index
        self._is_sending = settings.swap_tracing == "langfuse"
        self._delivered: set[str] = set()
        if self._is_sending:
            self._delivered |= read_delivered(index.path).get(self._recipient, set())

    @property
    def _recipient(self) -> str:
        """The server, and whose project it is there, without its key."""
        project = hash_text(self._settings.langfuse_public_key or "")[:12]
        return f"{self._settings.find_langfuse()} {project}"

    def count(self) -> Delivery:
        """What was made and delivered so far, each id once."""
        self._index.update()
        counts = self._index.count_ids()
        made = counts.total()
        delivered = sum(n for key, n in counts.items() if key in self._delivered)
        failed = made - delivered if self._is_sending else 0
        return Delivery(
            trace_id=self._index.trace_id,
            outbox=show_path(self._index.path),
            made=made,
            delivered=delivered,
            failed=failed,
            problem=self.problem if failed else None,
        )

    def send(self, is_all: bool = False) -> None:
        """Post the lines that this server has not taken yet, or all of them.

        Never raises for what a server does; `problem` says it.
        """
        if not self._is_sending:
            return
        if is_all:
            forget_delivered(self._index.path, self._recipient)
            self._delivered.clear()
        self._index.update()
        lines = self._index.read_latest(self._delivered)
        if self._settings.swap_trace_content == "off":  # for lines that were made when it was not
            lines = ((key, mask_content(line)) for key, line in lines)
        self.problem = None
        if first := next(lines, None):
            self.problem = self._post(chain([first], lines))

    def _post(self, lines: Iterable[tuple[str, Line]]) -> str | None:
        """Post lines; why not all of them were taken, or None."""
        address = self._settings.find_langfuse()
        if address in _SILENT:
            return "no answer in time, and not asked again by this process"
        problem = None
        try:
            with open_langfuse(self._settings) as client:
                server_version = find_version(client)
                for request in _merge(lines):
                    response = client.post(request.path, json=request.body)
                    reason = find_refusal(response, server_version)
                    if reason is None:
                        note_delivered(self._index.path, self._recipient, request.keys)
                        self._delivered.update(request.keys)
                        continue
                    problem = reason
                    if response.status_code not in BODY_REFUSED:
                        break
        except (httpx2.HTTPError, ConnectionError, ValueError) as error:
            if isinstance(error, httpx2.TimeoutException):
                _SILENT.add(address)
            return say_why(error)
        return problem


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


def push_traces(settings: Settings, is_all: bool = False) -> list[dict[str, Any]]:
    """Send each outbox that no server has taken whole, from where it stopped; or all, whole.

    The runs' metrics files, decisions and run cards get the new counts.

    Args:
        settings: Traces are sent, whatever their `swap_tracing` says.
        is_all: Send the outbox of every run again, all of it.

    Returns:
        One record for each run that was sent: `run_id` and the fields of Delivery.

    Raises:
        ValueError: As check_tracing.
    """
    settings = settings.model_copy(update={"swap_tracing": "langfuse"})
    check_tracing(settings)
    _SILENT.discard(settings.find_langfuse())  # somebody asks for it, so wait once more
    records = []
    for path in sorted(settings.runs.glob("*/trace.jsonl")):
        index = OutboxIndex(path)
        index.update()
        keys = index.count_ids().keys()
        is_delivered = any(keys <= delivered for delivered in read_delivered(path).values())
        if not keys or (is_delivered and not is_all):
            continue
        sender = Sender(settings, index)
        sender.send(is_all)
        delivery = asdict(sender.count())
        run_id = path.parent.name
        for file, content in _find_reports(settings, run_id).items():
            content["run"]["trace"] = delivery
            write_json(file, content)
        records.append({"run_id": run_id, **delivery})
    return records


def _find_reports(settings: Settings, run_id: str) -> dict[Path, dict[str, Any]]:
    """The metrics files, decisions and run cards of a run, with their contents."""
    reports = {}
    for file in (
        *(settings.runs / run_id).glob("*.json"),
        *settings.evaluation.glob("*.json"),
        *(settings.swap_home / "04_ft").glob("*/run_card.json"),
    ):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:  # not ours: left as it is
            continue
        run = content.get("run") if isinstance(content, dict) else None
        if isinstance(run, dict) and run.get("run_id") == run_id and "trace" in run:
            reports[file] = content
    return reports


def describe_delivery(delivery: Delivery, settings: Settings) -> str:
    """One line to print: where the trace is, and what to do when not all of it was delivered."""
    text = f"trace {delivery.trace_id}: {delivery.made} spans and scores in {delivery.outbox}"
    if settings.swap_tracing == "outbox":
        return f"{text}; none sent (SWAP_TRACING=outbox)"
    address = settings.find_langfuse()
    if not delivery.failed:
        return f"{text}; all delivered to {address}"
    why = f" ({delivery.problem})" if delivery.problem else ""
    return f"{text}; {delivery.failed} NOT delivered to {address}{why}. Send them: swap push-traces"
