"""What the cell process may say, and how long anything may take: lines of JSON, strictly parsed.

The parent sends a cell's code with a nonce; the child sends one message at a time, and waits for
the reply to a call or an answer before it continues. The code `a = circle_area(radius=1.5)`, then
`final_answer(a)`, leads to these lines:

    to the child     {"nonce": "5f0c…", "code": "a = circle_area(radius=1.5)\\nfinal_answer(a)"}
    from the child   {"nonce": "5f0c…", "kind": "call",
                      "value": {"name": "circle_area", "args": [], "kwargs": {"radius": 1.5}}}
    to the child     {"value": "Z7uyzL46RhxA"}
    from the child   {"nonce": "5f0c…", "kind": "answer", "value": 7.0685834705770345}
    to the child     {}
    from the child   {"nonce": "5f0c…", "kind": "done", "value": {"printed": "", "error": null}}

Anything else from the child is Broken and ends it. What a reply's `value` and `error` hold is in
child.py. Standard library only.
"""

import json
import math
import os
import selectors
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from swaplib.masking import replace_surrogates

MAX_DEPTH = 64
UNREADABLE = "the process gave no result that can be read"


class Broken(Exception):  # noqa: N818 - named for what happened, as CallFailed is
    """The other process sent something unexpected; the text says what became of it."""


class Late(Broken):
    """The other process sent nothing in time, or read nothing."""


class Ended(Broken):
    """The other process is gone."""


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a child."""

    kind: Literal["call", "answer", "done"]
    value: Any


class Channel:
    """Lines to and from another process, each with a deadline, over this end of two pipes."""

    def __init__(self, source: int, target: int, limit_bytes: int):
        self._source, self._target, self._limit = source, target, limit_bytes
        for descriptor in (source, target):
            os.set_blocking(descriptor, False)

    def send(self, message: Mapping[str, Any], deadline: float) -> None:
        """Write one line.

        Raises:
            Late, Ended: It was not read in time, or the reader is gone.
        """
        data = memoryview(json.dumps(message).encode() + b"\n")
        while data:
            _wait(self._target, selectors.EVENT_WRITE, deadline)
            try:
                data = data[os.write(self._target, data) :]
            except BlockingIOError:
                continue
            except OSError:
                raise Ended("the process had ended") from None

    def receive(self, deadline: float) -> bytes:
        """The next line, after which nothing else may have come.

        Raises:
            Broken: There is no line (Late, Ended), it is too long, or more than one came.
        """
        data = bytearray()
        while b"\n" not in data[-(2**16) :]:
            _wait(self._source, selectors.EVENT_READ, deadline)
            chunk = os.read(self._source, 2**16)
            if not chunk:
                raise Ended("the process had ended")
            data += chunk
            if len(data) > self._limit:
                raise Broken("stopped, since its result is too long")
        if data.index(b"\n") < len(data) - 1:
            raise Broken("stopped, since it said more than was asked")
        return bytes(data)

    def check_quiet(self) -> None:
        """Raise Broken when something came that was not asked for."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._source, selectors.EVENT_READ)
            if selector.select(0):
                raise Broken("stopped, since it said more than was asked")

    def close(self) -> None:
        """Close both ends."""
        for descriptor in (self._source, self._target):
            os.close(descriptor)


def _wait(descriptor: int, event: int, deadline: float) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, event)
        if not selector.select(max(0.0, deadline - time.monotonic())):
            raise Late("stopped after the time limit")


def parse_said(line: bytes, nonce: str) -> Said:
    """Parse a child's line.

    Raises:
        Broken: It is anything but one of the three messages, with this nonce.
    """
    match parse_line(line):
        case {"nonce": found, "kind": kind, "value": value, **others}:
            if found == nonce and not others and _fits(kind, value):
                return Said(kind, value)
    raise Broken(UNREADABLE)


def parse_line(line: bytes) -> Any:
    """What a process wrote, as JSON; halves of surrogate pairs are replaced.

    Raises:
        Broken: It is no JSON, holds a number that is none, or is nested too deep.
    """
    try:
        message = json.loads(
            line.decode(), parse_constant=_refuse_constant, parse_float=_parse_float
        )
        _check_depth(message)
    except (ValueError, RecursionError, MemoryError):
        raise Broken(UNREADABLE) from None
    return replace_surrogates(message)


def _fits(kind: Any, value: Any) -> bool:
    """Whether this is one of the three messages, each part of the type that it must have."""
    match kind, value:
        case "answer", _:
            return True
        case "call", {"name": str(), "args": list(), "kwargs": dict()}:
            return len(value) == 3
        case "done", {"printed": str(), "error": str() | None}:
            return len(value) == 2
    return False


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def check_plain(value: object, limit: int) -> None:
    """Raise ValueError or TypeError for a value that cannot be sent.

    That is one that JSON cannot hold, that has more than `limit` characters as JSON, or is nested
    too deep.
    """
    text = json.dumps(value, allow_nan=False)
    if len(text) > limit:
        raise ValueError(f"a value of {len(text)} characters is too long: at most {limit}")
    _check_depth(json.loads(text))


def _check_depth(value: Any) -> None:
    """Raise ValueError for more than MAX_DEPTH lists or objects in each other; does not recurse."""
    level, depth = [value], 0
    while level := [part for parts in level for part in _list_parts(parts)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"a value is nested too deep: at most {MAX_DEPTH} lists or objects")


def _list_parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
