"""Runs code that a model wrote in a child process of its own. Containment, not a security boundary.

It keeps a careless or confused model from harming the machine, and reports what it tried: limits on time, memory,
processes and files, an allow-list of imports, no network, an empty environment, a throw-away folder. Whoever must run an
attacker's code needs a virtual machine.
"""

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from swaplib.settings import ROOT

CHILD = Path(__file__).parent / "sandbox_child.py"
START_LIMIT_S, MESSAGE_BYTES = 30.0, 4_000_000


@dataclass(frozen=True)
class Limits:
    """What the child may use: seconds of one cell, CPU seconds in all, bytes, characters of one printout and one value."""

    cell_s: float = 10.0
    cpu_s: int = 30
    memory_bytes: int = 512 * 2**20
    file_bytes: int = 2**20
    printed_characters: int = 1_000
    value_characters: int = 4_000


@dataclass(frozen=True)
class CellResult:
    """What came of one cell: what it printed, its error, the tool calls it made, and its final answer, if it gave one."""

    printed: str
    error: str | None
    calls: tuple[dict[str, Any], ...] = ()
    has_answer: bool = False
    answer: Any = None


class Sandbox:
    """Cells that share variables, in one child process; when it dies the next cell starts a new one, without variables.

    For one thread: the child ends with the thread that started it.

    Attributes:
        contained: What the child achieved: `network` and `user`. None before the first cell.
    """

    def __init__(self, tools: Sequence[str], limits: Limits | None = None):
        self.contained: dict[str, str] | None = None
        self._tools, self._limits = list(tools), limits or Limits()
        self._folder = tempfile.mkdtemp(prefix="swap-cell-")
        self._child: subprocess.Popen | None = None

    def run(self, code: str) -> CellResult:
        """Run a cell. Never raises for what the code does: it is in the result's `error`."""
        message = self._exchange(code)
        if isinstance(message, str):
            self._stop()
            return CellResult("", f"{message}; the variables are lost")
        answer = message["answer"]
        return CellResult(
            message["printed"], message["error"], tuple(message["calls"]), bool(answer), answer[0] if answer else None
        )

    def close(self) -> None:
        """End the child and remove its folder."""
        self._stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _exchange(self, code: str) -> dict[str, Any] | str:
        """One cell's result, or why there is none."""
        if self._child is None:
            self._start()
        try:
            self._send({"code": code})
        except OSError:
            return "the process had ended"
        return self._receive(self._limits.cell_s)

    def _start(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-S", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd=self._folder,
            env={},
            start_new_session=True,
        )
        limits = asdict(self._limits)
        self._send({"root": str(ROOT), "folder": self._folder, "tools": self._tools, "limits": limits})
        message = self._receive(START_LIMIT_S)
        if isinstance(message, str):
            self._stop()
            raise RuntimeError(
                f"the process for the agent's code did not start ({message}). As root it must be able to become another "
                f"user; look into {CHILD.name}, `contain`."
            )
        self.contained = message["contained"]

    def _send(self, message: dict[str, Any]) -> None:
        data = memoryview(json.dumps(message).encode() + b"\n")
        while data:
            data = data[self._child.stdin.write(data) :]  # type: ignore[union-attr]

    def _receive(self, limit_s: float) -> dict[str, Any] | str:
        """The child's next line, or why there is none."""
        child, data, deadline = self._child, b"", time.monotonic() + limit_s
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)  # type: ignore[union-attr]
            while not data.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return f"stopped after {limit_s:g} s"
                chunk = os.read(child.stdout.fileno(), 2**16)  # type: ignore[union-attr]
                data += chunk
                if not chunk:
                    return _describe_end(child.wait(timeout=10))  # type: ignore[union-attr]
                if len(data) > MESSAGE_BYTES:
                    return "stopped, since its result is too long"
        try:
            message = json.loads(data)
            return message if {"printed", "error", "answer", "calls"} <= set(message) or "contained" in message else ""
        except (ValueError, TypeError):
            return "the process gave no result that can be read"

    def _stop(self) -> None:
        """Kill the child's whole process group."""
        if self._child is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        self._child = None


def _describe_end(status: int) -> str:
    if status >= 0:
        return f"the process ended with status {status}"
    return f"the process was ended by {signal.Signals(-status).name}"
