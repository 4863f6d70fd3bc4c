"""The outboxes of one server, each a run's folder of its own, and how far they were sent.

    05_eval/runs/20261126T063907689Z-route-toolcall/trace.jsonl            64 MB, then
    05_eval/runs/20261126T063907689Z-route-toolcall-part2/trace.jsonl      the next

Of the lines nothing is kept in memory but where the first is that was not sent. What this process
cannot deliver, `swap push-traces` does.
"""

import json
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, islice
from os import truncate
from pathlib import Path

from swaplib.files import append_lines
from swaplib.settings import Settings
from swaplib.tracing.outbox import Line, decode_line, make_key, parse_line
from swaplib.tracing.posting import BYTES_PER_POST, LINES_PER_POST, ask_again, post_lines

PART_BYTES = 64_000_000


@dataclass
class _Part:
    """An outbox with lines that were not tried yet, and where in the file they begin."""

    path: Path
    start: int = 0


class OutboxParts:
    """Appends lines to the newest outbox, and sends from the oldest that has any left.

    Attributes:
        path: The outbox that is written now.
        n_written: Lines on disk.
        n_tried: Those of them that the server has taken or refused.
        n_delivered: Those of them that it has taken.
        problem: Why the server did not take what it was sent last, or None.
    """

    def __init__(self, settings: Settings, folder: Path):
        """The first outbox, in a folder that is made.

        Raises:
            FileExistsError: There is such a folder: it is another server's.
            OSError: It cannot be made.
        """
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise FileExistsError(
                f"{folder}: expected no such folder yet, since each server has one of its own. "
                "Start the server again"
            ) from None
        self.path = folder / "trace.jsonl"
        self.n_written = self.n_tried = self.n_delivered = 0
        self.problem: str | None = None
        self._settings = settings
        self._is_sending = settings.swap_tracing == "langfuse"
        self._folders = (folder.with_name(f"{folder.name}-part{n}") for n in count(2))
        self._parts = deque([_Part(self.path)])
        self._size = 0

    @property
    def has_unsent(self) -> bool:
        """Whether there are lines that are to be sent and were not tried yet."""
        is_behind = len(self._parts) > 1 or self._parts[0].start < self._size
        return self._is_sending and is_behind

    def append(self, lines: Sequence[Line]) -> None:
        """Append all of some lines, or none.

        Raises:
            OSError: They cannot be written.
        """
        if self._size >= PART_BYTES:
            self._begin_part()
        texts = [json.dumps(line) for line in lines]
        try:
            append_lines(self.path, texts)
        except OSError:
            with suppress(OSError):  # what was written of them would be sent, but is not counted
                truncate(self.path, self._size)
            raise
        self._size = self.path.stat().st_size
        self.n_written += len(lines)

    def _begin_part(self) -> None:
        self.path, self._size = next(self._folders) / "trace.jsonl", 0
        self._parts.append(_Part(self.path))
        if not self._is_sending:
            self._parts.popleft()

    def send_some(self) -> bool:
        """Send as many lines as fit into one request, the oldest first.

        A request that is refused for what it holds is not sent again: later ones may pass.

        Returns:
            Whether the next ones can be sent; False where the server takes nothing now.

        Raises:
            OSError: An outbox cannot be read, or what was taken cannot be noted.
        """
        part = self._parts[0]
        lines, end = _read_lines(part)
        if end == part.start:  # it is sent whole, or is gone
            if is_old := len(self._parts) > 1:
                self._parts.popleft()
            return is_old
        ask_again(self._settings)
        posted = post_lines(self._settings, part.path, lines)
        self.n_delivered += len(posted.taken)
        self.problem = posted.problem
        if posted.is_there:
            part.start = end
            self.n_tried += len(lines)
        return posted.is_there


def _read_lines(part: _Part) -> tuple[list[tuple[str, Line]], int]:
    """The next lines that fit into one request, with their keys, and where they end."""
    lines: list[tuple[str, Line]] = []
    end = part.start
    if not part.path.is_file():
        return lines, end
    with part.path.open("rb") as file:
        file.seek(part.start)
        for data in islice(file, LINES_PER_POST):
            is_full = end > part.start and end + len(data) - part.start > BYTES_PER_POST
            if is_full or not data.endswith(b"\n"):
                break
            text = decode_line(data)
            if (line := parse_line(text)) is not None:
                lines.append((make_key(text), line))
            end += len(data)
    return lines, end
