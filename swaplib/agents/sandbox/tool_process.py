"""Your own tools in a walled process of their own, which runs tool_host.py: started, asked, ended.

Whatever a tool does is the reply to its call. A process that hangs, dies or breaks the rules is
ended, and the next call finds the tools as they were when the file was loaded.
"""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swaplib.agents.sandbox import walls
from swaplib.agents.sandbox.calls import UNREADABLE, Broken, Channel, Late, parse_line
from swaplib.agents.sandbox.tool_hosts import CALL_LIMIT_S, MARGIN_S, ToolsFile

PROGRAM = Path(__file__).parent / "tool_host.py"
START_LIMIT_S, DESCRIBE_LIMIT_S = 60.0, 120.0
REPLY_BYTES = 1_000_000
LIMITS = {  # of all calls of one task; memory counts beyond what the file's imports take
    "cpu_s": 60,
    "memory_bytes": 512 * 2**20,
    "file_bytes": 2**20,
    "disk_bytes": 16 * 2**20,
}
ENVIRONMENT = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
NOT_WALLED = (
    "this machine's kernel offers nothing to contain your tools (no namespaces, no seccomp). Allow "
    "that with allow_unwalled=True, or run them in this process with trusted=True"
)
AFRESH = "the tools begin afresh with the next call"


def describe_file(path: Path, sha256: str) -> dict[str, Any]:
    """tools_file.describe, in a process of its own.

    Raises:
        ValueError: The file does not load, or not in time.
    """
    config = {"file": str(path), "sha256": sha256, "is_described": True}
    try:
        done = subprocess.run(
            [sys.executable, "-I", PROGRAM],
            input=json.dumps(config).encode() + b"\n",
            capture_output=True,
            env=ENVIRONMENT,
            cwd="/",
            timeout=DESCRIBE_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"{path} was not loaded within {DESCRIBE_LIMIT_S:g} s. What a file does while it is "
            "loaded must end soon."
        ) from None
    try:
        said: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2][:300]
        raise ValueError(
            f"{path}: the process that describes it ended with status {done.returncode} "
            f"{f'({last})' if last else ''}. Loading the file must not end its process."
        ) from None
    if "problem" in said:
        raise ValueError(said["problem"])
    return said


@dataclass
class _Process:
    """The process with its channel, and the nonce of what is asked."""

    popen: "subprocess.Popen[bytes]"
    channel: Channel

    @classmethod
    def open(cls, config: dict[str, Any]) -> "_Process":
        source, to_host = os.pipe()
        from_host, target = os.pipe()
        popen = subprocess.Popen(
            [sys.executable, "-I", PROGRAM],
            stdin=source,
            stdout=target,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=ENVIRONMENT,
            start_new_session=True,
        )
        for descriptor in (source, target):
            os.close(descriptor)
        process = cls(popen, Channel(from_host, to_host, REPLY_BYTES))
        try:
            process.channel.send(config, time.monotonic() + START_LIMIT_S)
        except Broken:
            process.close()
            raise
        return process

    def ask(self, message: dict[str, Any], deadline: float) -> dict[str, Any]:
        """Send a message, and take the answer apart.

        Raises:
            Broken: There is none in time, or it is not one.
        """
        nonce = secrets.token_hex(16)
        self.channel.check_quiet()
        self.channel.send({"nonce": nonce, **message}, deadline)
        said = _parse(self.channel.receive(deadline))
        if said.pop("nonce", None) != nonce or not _is_reply(said):
            raise Broken(UNREADABLE)
        return said

    def close(self) -> None:
        """End it, and with it its child."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        self.channel.close()


def _parse(line: bytes) -> dict[str, Any]:
    said = parse_line(line)
    if not isinstance(said, dict):
        raise Broken(UNREADABLE)
    return said


def _is_reply(said: dict[str, Any]) -> bool:
    error = said.get("error")
    if set(said) == {"error"} and isinstance(error, list) and len(error) == 2:
        return all(isinstance(text, str) for text in error)
    return set(said) == {"value"}


class ToolProcess:
    """The tools of one task in a walled process, which is started by the first call.

    For one thread: the process ends with the thread that started it.

    Attributes:
        contained: As `Sandbox.contained`; None before the first start.
    """

    def __init__(
        self,
        file: ToolsFile,
        allow_unwalled: bool = False,
        call_limit_s: float = CALL_LIMIT_S,
        try_walls: Sequence[str] = walls.ALL,
    ):
        self.file = file
        self.contained: dict[str, Any] | None = None
        self._allow_unwalled, self._call_limit_s = allow_unwalled, call_limit_s
        self._try_walls = list(try_walls)
        self._process: _Process | None = None

    def start(self) -> None:
        """Start the process, unless it runs.

        Raises:
            RuntimeError: It does not start, or no wall stands and that was not allowed.
        """
        if self._process is None:
            self._process, self.contained = self._open()

    def _open(self) -> tuple[_Process, dict[str, Any]]:
        path = self.file.path
        config: dict[str, Any] = {"file": str(path), "sha256": self.file.sha256}
        config["is_described"] = False
        config |= {"walls": self._try_walls, "limits": LIMITS}
        try:
            process = _Process.open(config)
        except Broken as broken:
            raise RuntimeError(f"the process for {path} did not start: {broken}") from None
        try:
            said = _parse(process.channel.receive(time.monotonic() + START_LIMIT_S))
        except Broken as broken:
            process.close()
            raise RuntimeError(f"the process for {path} did not start: {broken}") from None
        problem, contained = said.get("problem"), said.get("contained", {})
        if problem is None and not contained.get("is_walled") and not self._allow_unwalled:
            problem = NOT_WALLED
        if problem is not None:
            process.close()
            raise RuntimeError(problem)
        return process, contained

    def ask(self, name: str, arguments: Mapping[str, Any], deadline: float) -> dict[str, Any]:
        """As ToolHost.ask.

        Raises:
            RuntimeError: The process does not start: this machine's fault, or the file's.
        """
        self.start()
        limit = min(time.monotonic() + self._call_limit_s, deadline - MARGIN_S)
        message = {"call": {"name": name, "arguments": dict(arguments)}}
        try:
            return self._ask(message, limit)
        except Late:
            text = f"{name} did not end in time and was stopped; {AFRESH}"
            return {"error": ["TimeoutError", text]}
        except Broken as broken:
            return {"error": ["RuntimeError", f"{name}: {broken}; {AFRESH}"]}

    def check(self, name: str, answer: Any, calls: Sequence[Mapping[str, Any]]) -> bool | str:
        """As ToolHost.check; raises as `ask`."""
        self.start()
        message = {"check": {"name": name, "answer": answer, "calls": list(calls)}}
        try:
            said = self._ask(message, time.monotonic() + self._call_limit_s).get("value")
        except Broken as broken:
            return f"{name}: {broken}"
        return said if said is True or isinstance(said, str) else f"{name} gave no verdict"

    def _ask(self, message: dict[str, Any], deadline: float) -> dict[str, Any]:
        process = self._process
        if process is None:
            raise Broken("the tools' process does not run")
        try:
            return process.ask(message, deadline)
        except Broken:
            self.close()
            raise

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.close()
