"""One Langfuse trace for each request of a server: handed over, written, and delivered behind it.

Requests end in many threads at once. Each hands its trace over and goes on; one thread writes what
has come to the server's outbox (`outbox_parts.py`) and sends it in batches. A process that is
killed loses at most what had come since the last write; `swap push-traces` sends what is written.

    with RequestTraces(settings, new_folder(settings, "route", track)) as traces:
        …                           # in each request: traces.add(RequestTrace(…))
"""

import atexit
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Thread
from types import TracebackType

from swaplib.masking import mask_secrets
from swaplib.settings import Settings, show_path
from swaplib.tracing.outbox import Line, check_tracing
from swaplib.tracing.outbox_parts import OutboxParts
from swaplib.tracing.posting import LINES_PER_POST
from swaplib.tracing.request_record import RequestTrace
from swaplib.tracing.request_spans import RequestSpans

WAITING = 2000  # traces that may wait to be written
WAIT_S = 1.0  # how long a request waits for room where so many do
TRACES_PER_WRITE = 50
SEND_EVERY_S = 2.0
RETRY_S = 30.0  # until a server that took nothing is asked again
CLOSE_S = 60.0  # how long the end waits for what is left to be sent


@dataclass(frozen=True)
class RequestCounts:
    """Traces made by requests so far, and how many were written, delivered, and lost, and why.

    Attributes:
        made: Handed over; what is neither written nor lost waits for it.
        written: On disk.
        delivered: Taken by the server; 0 with SWAP_TRACING=outbox.
        lost: Not written, and not going to be.
        problem: Why some were lost or, where none were, why some were not delivered.
    """

    made: int
    written: int
    delivered: int
    lost: int
    problem: str | None


class RequestTraces:
    """The traces of one server process; `close` or leaving it as a context manager ends it.

    No run may be traced in the same process meanwhile.

    Args:
        settings: `swap_tracing` says whether traces go to a server.
        folder: The folder of a run, which must not exist; its name seeds the ids. A larger outbox
            than outbox_parts.PART_BYTES goes on in another folder beside it.
        secrets: Masked as `***`, like the keys of the settings and what looks like one.

    Raises:
        ValueError: As check_tracing.
        OSError: As OutboxParts.
        RuntimeError: A run, or another server, is traced in this process.
    """

    def __init__(self, settings: Settings, folder: Path, secrets: Sequence[str] = ()):
        check_tracing(settings)
        self._settings = settings
        self._secrets = (*settings.list_secrets(), *secrets)
        self._spans = RequestSpans(folder.name, self._secrets, settings.swap_trace_content == "off")
        try:
            self._parts = OutboxParts(settings, folder)
        except BaseException:
            self._spans.close()
            raise
        self._waiting: deque[RequestTrace] = deque()
        self._changed = Condition()
        self._is_closed = False
        self._made = self._lost = 0
        self._why_lost: str | None = None
        self._told: set[str] = set()
        self._send_at = 0.0
        self._thread = Thread(target=self._work, name="request traces", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # for a process that ends without a word

    def __enter__(self) -> "RequestTraces":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def add(self, trace: RequestTrace) -> None:
        """Hand over the trace of a request that is over.

        It waits for nothing but for room, and at most WAIT_S for that; then the trace is lost,
        which is counted. Disk and server never raise an error here.

        Raises:
            RuntimeError: The traces are closed.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_closed or len(self._waiting) < WAITING, timeout=WAIT_S
            )
            if self._is_closed:
                raise RuntimeError(
                    f"the trace of request {trace.request_id} came after the server's traces were "
                    "closed: close them when all requests are over"
                )
            self._made += 1
            if len(self._waiting) < WAITING:
                self._waiting.append(trace)
                self._changed.notify_all()
                return
        self._lose(1, f"{WAITING} traces wait to be written already")

    def count(self) -> RequestCounts:
        """What was made, written and delivered so far."""
        with self._changed:
            return RequestCounts(
                made=self._made,
                written=self._parts.n_written,
                delivered=self._parts.n_delivered,
                lost=self._lost,
                problem=self._why_lost or self._parts.problem,
            )

    def close(self) -> None:
        """Write all, deliver what the server takes within CLOSE_S, and print the counts."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()
        atexit.unregister(self.close)
        self._spans.close()
        with suppress(OSError):
            self._parts.path.parent.rmdir()  # it is empty where no request came
        print(self.describe(), flush=True)

    def describe(self) -> str:
        """One line to print: what was made, where it is, and what to do about the rest."""
        counts = self.count()
        folder = show_path(self._parts.path.parent)
        text = f"traces of {counts.made} request(s), {counts.written} of them in {folder}"
        if counts.lost:
            text += f"; {counts.lost} LOST ({counts.problem})"
        if self._settings.swap_tracing == "outbox":
            return f"{text}; none sent (SWAP_TRACING=outbox)"
        address = self._settings.find_langfuse()
        if not (failed := counts.written - counts.delivered):
            return f"{text}; all delivered to {address}"
        why = f" ({self._parts.problem})" if self._parts.problem else ""
        return f"{text}; {failed} NOT delivered to {address}{why}. Send them: swap push-traces"

    def _work(self) -> None:
        """The thread's work: write and send until the traces are closed and nothing waits."""
        while True:
            traces, is_closed = self._take()
            if traces:
                self._write(traces)
            elif is_closed:
                break
            if self._parts.has_unsent and time.monotonic() >= self._send_at:
                self._send()
        give_up_at = time.monotonic() + CLOSE_S
        while self._parts.has_unsent and time.monotonic() < give_up_at and self._send():
            pass

    def _take(self) -> tuple[list[RequestTrace], bool]:
        """Some traces, as soon as there are any; none when it is time to send, or at the end."""
        pause = max(0.0, self._send_at - time.monotonic()) if self._parts.has_unsent else None
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed, pause)
            n_traces = min(len(self._waiting), TRACES_PER_WRITE)
            traces = [self._waiting.popleft() for _ in range(n_traces)]
            self._changed.notify_all()
            return traces, self._is_closed

    def _write(self, traces: Sequence[RequestTrace]) -> None:
        # whatever goes wrong with some traces, the thread goes on for the others
        lines: list[Line] = []
        for trace in traces:
            try:
                lines.append(self._spans.make_line(trace))
            except Exception as error:
                self._lose(1, f"{type(error).__name__}: {error}")
        try:
            self._parts.append(lines)
        except Exception as error:
            self._lose(len(lines), f"{type(error).__name__}: {error}")

    def _send(self) -> bool:
        """Send one request's worth, and plan the next; whether the server takes more."""
        try:
            is_there = self._parts.send_some()
        except Exception as error:  # as in _write
            self._parts.problem, is_there = f"{type(error).__name__}: {error}", False
        if not is_there and self._parts.problem:
            self._tell_once("not delivered yet", self._parts.problem)
        is_behind = self._parts.n_written - self._parts.n_tried >= LINES_PER_POST
        pause = RETRY_S if not is_there else 0.0 if is_behind else SEND_EVERY_S
        self._send_at = time.monotonic() + pause
        return is_there

    def _lose(self, n_traces: int, why: str) -> None:
        why = mask_secrets(why, self._secrets)
        with self._changed:
            self._lost += n_traces
            self._why_lost = self._why_lost or why
        self._tell_once("lost", why)

    def _tell_once(self, what: str, why: str) -> None:
        """Print what became of some traces, the first time that it happens."""
        with self._changed:
            is_new = what not in self._told
            self._told.add(what)
        if is_new:
            print(f"traces of requests are {what}: {why}", flush=True)
