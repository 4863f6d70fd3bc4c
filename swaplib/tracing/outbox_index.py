"""What an outbox holds, by line, kept up to date while the file grows.

Each line is parsed once for the index, however often the index is updated, and once more when it is
read to be sent: what a run costs grows with its rows, not with their square.
"""

import os
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from swaplib.tracing.outbox import (
    Line,
    decode_line,
    drop_others,
    list_ids,
    list_spans,
    make_key,
    parse_line,
)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a line is in the file, in bytes; its key is make_key's."""

    key: str
    start: int
    length: int
    ids: tuple[str, ...]


class OutboxIndex:
    """The keys and ids of an outbox's lines, and when their spans and scores began.

    A server keeps a row by its id and its time, so what is written again must have the time that it
    had. A file that has become shorter is indexed from its beginning.

    Attributes:
        path: The outbox, which need not exist yet.
        span_starts: When each span began, in Unix nanoseconds, by id.
        score_times: When each score was made, as ISO 8601, by id.
    """

    def __init__(self, path: Path):
        self.path = path
        self._forget()

    def _forget(self) -> None:
        self._trace_id, self._is_of_many = "", False
        self.span_starts: dict[str, int] = {}
        self.score_times: dict[str, str] = {}
        self._places: list[_Place] = []
        self._last: dict[str, int] = {}  # for each id the number of the last line that has it
        self._end = 0

    @property
    def trace_id(self) -> str:
        """The trace of the spans; empty while there are none, and where they are of several."""
        return "" if self._is_of_many else self._trace_id

    def update(self) -> None:
        """Index the lines that were appended since the last update."""
        if not self.path.is_file():
            self._forget()
            return
        with self.path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < self._end:
                self._forget()
            file.seek(self._end)
            for data in file:
                text = decode_line(data)
                if (line := parse_line(text)) is not None:
                    self._add(text, line, len(data))
                elif not data.endswith(b"\n"):
                    return  # it may still be in the middle of being written
                self._end += len(data)

    def _add(self, text: str, line: Line, length: int) -> None:
        ids = list_ids(line)
        self._last |= dict.fromkeys(ids, len(self._places))
        self._places.append(_Place(make_key(text), self._end, length, tuple(ids)))
        if isinstance(line, list):
            self.score_times |= {score["id"]: score["timestamp"] for score in line}
        for span in list_spans(line):
            self._trace_id = self._trace_id or span["traceId"]
            self._is_of_many |= span["traceId"] != self._trace_id
            self.span_starts[span["spanId"]] = int(span["startTimeUnixNano"])

    def count_ids(self) -> Counter[str]:
        """How many ids each line has that no later line repeats, by the line's key."""
        return Counter(self._places[number].key for number in self._last.values())

    def read_latest(self, delivered: Container[str]) -> Iterator[tuple[str, Line]]:
        """The lines not delivered yet, with their keys, without what a later line repeats."""
        if not self._places:
            return
        with self.path.open("rb") as file:
            for number, place in enumerate(self._places):
                ids = {name for name in place.ids if self._last[name] == number}
                if place.key in delivered or not ids:
                    continue
                file.seek(place.start)
                if (line := parse_line(decode_line(file.read(place.length)))) is not None:
                    drop_others(line, ids)
                    yield place.key, line
