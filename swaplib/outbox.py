"""A run's `trace.jsonl`: what the Langfuse SDK made, kept line by line, sent to the server and counted.

A line is the body of a request that Langfuse takes as it is: OTLP/JSON spans (an object) or scores (a list). Lines are
appended with fsync before anything is sent; a line sent twice makes no duplicate, because its ids stay.
"""

import json
from collections.abc import Container, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from swaplib.files import hash_text, read_appended, write_json
from swaplib.settings import Settings, show_path

SPANS_PATH, SCORES_PATH = "/api/public/otel/v1/traces", "/api/public/scores"
LINES_PER_POST, BYTES_PER_POST = 200, 2_000_000
TIMEOUT_S = 10.0
BODY_REFUSED = (400, 413, 422)  # this request's fault: the next one may pass

_OBSERVATION = "langfuse.observation."
_MARK = f"{_OBSERVATION}metadata.is_hidden"


@dataclass(frozen=True)
class Delivery:
    """What became of a trace: spans and scores made, delivered to the server, and failed so far."""

    trace_id: str
    outbox: str
    made: int
    delivered: int
    failed: int


def check_tracing(settings: Settings) -> None:
    """Stop when a run could not be traced.

    Raises:
        ValueError: Langfuse keys are missing, and SWAP_TRACING=outbox does not say that the local outbox alone is wanted;
            or LANGFUSE_HOST is no address.
    """
    if settings.swap_tracing == "outbox":
        return
    try:
        settings.require("LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY")
    except ValueError as error:
        raise ValueError(f"{error}\nOr set SWAP_TRACING=outbox to keep traces in the local outbox alone.") from None
    try:
        address = httpx.URL(settings.langfuse_host)
        has_host = address.scheme in ("http", "https") and not address.userinfo  # it is printed and written down
    except httpx.InvalidURL:
        has_host = False
    if not has_host:
        raise ValueError("LANGFUSE_HOST: expected an address like https://cloud.langfuse.com, without a user")


def read_outbox(path: Path) -> Iterator[Any]:
    """The lines of an outbox; a line left torn by a kill is passed over, its row is traced again on resume."""
    return (line for _, line in _read_numbered(path))


def _read_numbered(path: Path, known: Container[int] = ()) -> Iterator[tuple[int, Any]]:
    """Numbers and lines of an outbox, but for those whose numbers are known."""
    for number, text in enumerate(read_appended(path)):
        if number in known:
            continue
        try:
            line = json.loads(text)
        except ValueError:
            continue
        yield number, line


def list_spans(line: Any) -> Iterator[dict[str, Any]]:
    """The spans of one OTLP/JSON line; none for a line of scores."""
    if isinstance(line, dict):
        for resource in line["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                yield from scope["spans"]


def mask_content(line: Any) -> Any:
    """An outbox line in which the texts of rows are their sha256 and length, and their spans say so; never hidden twice.

    Texts of rows are the input and output of every observation but spans and events: those hold parameters and metrics.
    """
    for span in list_spans(line):
        attributes = span.get("attributes", [])
        found = {attribute["key"]: attribute["value"] for attribute in attributes}
        if _MARK in found or found.get(f"{_OBSERVATION}type", {}).get("stringValue") in ("span", "event"):
            continue
        for name in ("input", "output"):
            if (value := found.get(f"{_OBSERVATION}{name}")) is None:
                continue
            text = value.get("stringValue", json.dumps(value))
            value.clear()
            value["stringValue"] = json.dumps({"sha256": hash_text(text), "characters": len(text)})
        span["attributes"] = [*attributes, {"key": _MARK, "value": {"stringValue": "true"}}]
    return line


def _list_ids(line: Any) -> list[str]:
    """The ids of a line's spans or scores."""
    return [score["id"] for score in line] if isinstance(line, list) else [span["spanId"] for span in list_spans(line)]


class Sender:
    """Posts an outbox's lines to Langfuse; with SWAP_TRACING=outbox it only counts them.

    Attributes:
        problem: Why the server did not take a request, or None.
    """

    def __init__(self, settings: Settings, path: Path):
        self.path = path
        self.problem: str | None = None
        self._settings = settings
        self._delivered: set[int] = set()  # numbers of lines

    def count(self) -> Delivery:
        """What was made and delivered so far, each id once."""
        made: set[str] = set()
        delivered: set[str] = set()
        trace_id = ""
        for number, line in _read_numbered(self.path):
            made.update(ids := _list_ids(line))
            delivered.update(ids if number in self._delivered else ())
            trace_id = trace_id or next((span["traceId"] for span in list_spans(line)), "")
        failed = len(made) - len(delivered) if self._settings.swap_tracing == "langfuse" else 0
        return Delivery(trace_id, show_path(self.path), len(made), len(delivered), failed)

    def send(self) -> None:
        """Post the lines that were not delivered yet. Never raises for what a server does."""
        if self._settings.swap_tracing == "outbox":
            return
        self.problem = None
        lines = _read_numbered(self.path, self._delivered)
        if self._settings.swap_trace_content == "off":  # for lines that were made when it was not
            lines = ((number, mask_content(line)) for number, line in lines)
        auth = (self._settings.langfuse_public_key or "", self._settings.langfuse_secret_key or "")
        headers = {"x-langfuse-ingestion-version": "4", "x-langfuse-sdk-name": "python"}
        options = {"base_url": self._settings.langfuse_host, "auth": auth, "headers": headers, "timeout": TIMEOUT_S}
        with httpx.Client(**options) as client:
            for path, body, positions in _merge(lines):
                try:
                    answer = client.post(path, json=body)
                except httpx.HTTPError as error:
                    self.problem = type(error).__name__
                    return
                if (reason := _find_refusal(answer)) is None:
                    self._delivered.update(positions)
                    continue
                self.problem = reason
                if answer.status_code not in BODY_REFUSED:
                    return


def _find_refusal(answer: httpx.Response) -> str | None:
    """Why Langfuse did not take a whole request, or None when it did."""
    if answer.status_code not in (200, 202, 207):
        return f"status {answer.status_code}"
    try:
        body = answer.json() if answer.content else {}
    except ValueError:
        return f"status {answer.status_code} without JSON: is LANGFUSE_HOST a Langfuse server?"
    if not isinstance(body, dict):
        return None
    rejected = (body.get("partialSuccess") or {}).get("rejectedSpans") or 0  # a number, or its text
    return "refused some of the spans or scores" if body.get("errors") or int(rejected) else None


def _merge(lines: Iterable[tuple[int, Any]]) -> Iterator[tuple[str, Any, list[int]]]:
    """Requests of lines of one kind, in order, bounded in lines and bytes: path, body, and the lines' positions."""
    batch: list[tuple[int, Any]] = []
    size = 0
    for position, line in lines:
        length = len(json.dumps(line))
        is_full = len(batch) == LINES_PER_POST or size + length > BYTES_PER_POST
        if batch and (is_full or type(batch[0][1]) is not type(line)):
            yield _make_request(batch)
            batch, size = [], 0
        batch.append((position, line))
        size += length
    if batch:
        yield _make_request(batch)


def _make_request(batch: list[tuple[int, Any]]) -> tuple[str, Any, list[int]]:
    positions = [position for position, _ in batch]
    if isinstance(batch[0][1], dict):
        spans = [resource for _, line in batch for resource in line["resourceSpans"]]
        return SPANS_PATH, {"resourceSpans": spans}, positions
    return SCORES_PATH, [score for _, line in batch for score in line], positions


def push_traces(settings: Settings) -> list[dict[str, Any]]:
    """Send the outbox of every run that is not on the server yet; what is there already is not doubled.

    The runs' metrics files, decisions and run cards get the new counts.

    Returns:
        One record for each run that was sent: `run_id`, the fields of Delivery, and the server's `problem` or None.

    Raises:
        ValueError: Langfuse keys are missing.
    """
    settings = settings.model_copy(update={"swap_tracing": "langfuse"})
    check_tracing(settings)
    records = []
    for path in sorted(settings.runs.glob("*/trace.jsonl")):
        run_id, sender = path.parent.name, Sender(settings, path)
        files = _find_files_of(settings, run_id)
        if files and all(c["run"]["trace"]["delivered"] == c["run"]["trace"]["made"] for c in files.values()):
            continue
        sender.send()
        delivery = asdict(sender.count())
        for file, content in _find_files_of(settings, run_id).items():  # read anew: a run may have gone on meanwhile
            content["run"]["trace"] = delivery
            write_json(file, content)
        records.append({"run_id": run_id, **delivery, "problem": sender.problem})
    return records


def _find_files_of(settings: Settings, run_id: str) -> dict[Path, dict[str, Any]]:
    """Metrics files, decisions and run cards that tell of a run, with their contents; other JSON files are left alone."""
    files = {}
    adapters = (settings.swap_home / "04_ft").glob("*/run_card.json")
    for file in (*(settings.runs / run_id).glob("*.json"), *settings.evaluation.glob("*.json"), *adapters):
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
    if delivery.failed:
        return f"{text}; {delivery.failed} NOT delivered to {settings.langfuse_host}. Send them: swap push-traces"
    return f"{text}; all delivered to {settings.langfuse_host}"
