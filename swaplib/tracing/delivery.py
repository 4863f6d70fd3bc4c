"""Sends whole outboxes to Langfuse, counts what arrived, and says why the rest did not."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from swaplib.files import write_json
from swaplib.settings import Settings, show_path
from swaplib.tracing.delivered import forget_delivered, read_delivered
from swaplib.tracing.outbox import check_tracing
from swaplib.tracing.outbox_index import OutboxIndex
from swaplib.tracing.posting import ask_again, name_recipient, post_lines


@dataclass(frozen=True)
class Delivery:
    """What became of an outbox: spans and scores made, delivered, and failed so far, and why.

    `trace_id` is empty where it holds many traces.
    """

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
            recipient = name_recipient(settings)
            self._delivered |= read_delivered(index.path).get(recipient, set())

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
            forget_delivered(self._index.path, name_recipient(self._settings))
            self._delivered.clear()
        self._index.update()
        posted = post_lines(
            self._settings, self._index.path, self._index.read_latest(self._delivered)
        )
        self._delivered.update(posted.taken)
        self.problem = posted.problem


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
    ask_again(settings)  # somebody wants it, so wait once more
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
