"""What the process for the agent's code may say, and how long anything may take: lines of JSON, taken apart strictly.

The parent asks with a cell's code and a nonce; the child says one thing at a time and waits for the reply:

    {"nonce": "5f0c…", "kind": "call", "value": {"name": "circle_area", "args": [], "kwargs": {"radius": 1.5}}}
    {"nonce": "5f0c…", "kind": "answer", "value": 31.155}
    {"nonce": "5f0c…", "kind": "done", "value": {"printed": "31.155", "error": null}}

Whatever else comes is Broken and ends the child. Standard library only.
"""

import json
import math
import os
import selectors
import time
from dataclasses import dataclass
from typing import Any, Literal

from swaplib.masking import replace_surrogates

MAX_DEPTH = 64
KINDS = ("call", "answer", "done")


class Broken(Exception):  # noqa: N818 - as CallFailed: what happened
    """The other process said something unexpected; the text says what became of it."""


class Late(Broken):
    """It said nothing in time, or took nothing."""


class Ended(Broken):
    """It is gone."""


@dataclass(frozen=True, slots=True)
class Said:
    """One thing that a child said."""

    kind: Literal["call", "answer", "done"]
    value: Any


class Channel:
    """Lines to and from another process, each way with a deadline, on two pipes of which this end is ours."""

    def __init__(self, source: int, target: int, limit_bytes: int):
        self._source, self._target, self._limit = source, target, limit_bytes
        for descriptor in (source, target):
            os.set_blocking(descriptor, False)

    def send(self, message: dict[str, Any], deadline: float) -> None:
        """Write one line.

        Raises:
            Late, Ended: It was not taken in time, or there is nobody to take it.
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
        """The next line, behind which nothing may stand.

        Raises:
            Broken: There is none (Late, Ended), it is too long, or more came than one line.
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
        """Raise Broken when something came that nobody has asked for."""
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
    """Take a child's line apart; halves of surrogate pairs are replaced.

    Raises:
        Broken: It is anything but one of the three messages, with this nonce.
    """
    try:
        message = json.loads(
            line.decode(), parse_constant=_refuse_constant, parse_float=_parse_float
        )
        check_depth(message)
    except (ValueError, RecursionError, MemoryError):
        raise Broken("the process gave no result that can be read") from None
    message = replace_surrogates(message)
    if (
        not isinstance(message, dict)
        or set(message) != {"nonce", "kind", "value"}
        or message["nonce"] != nonce
    ):
        raise Broken("the process gave no result that can be read")
    kind, value = message["kind"], message["value"]
    if kind not in KINDS or not _fits(kind, value):
        raise Broken("the process gave no result that can be read")
    return Said(kind, value)


def _fits(kind: str, value: Any) -> bool:
    if kind == "answer":
        return True
    types: dict[str, Any] = {"printed": str, "error": str | None}
    if kind == "call":
        types = {"name": str, "args": list, "kwargs": dict}
    return (
        isinstance(value, dict)
        and set(value) == set(types)
        and all(isinstance(value[name], known) for name, known in types.items())
    )


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def check_depth(value: Any) -> None:
    """Raise ValueError for a plain value that is nested deeper than 64 lists or objects; does not recurse."""
    level, depth = [value], 0
    while level := [
        part for parts in level if isinstance(parts, dict | list) for part in _list_parts(parts)
    ]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"a value is nested too deep: at most {MAX_DEPTH} lists or objects")


def _list_parts(value: dict[str, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value
