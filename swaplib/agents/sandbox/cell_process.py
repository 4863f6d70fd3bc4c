"""The processes behind a Sandbox, started and ended: one executes tools, its child runs cells."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swaplib.agents.sandbox.calls import Broken, Channel

PROGRAM = Path(__file__).parent / "child.py"
START_LIMIT_S = 30.0
END_LIMIT_S = 2.0
REPLY_BYTES = 4_000_000


@dataclass
class Child:
    """The two processes of child.py, and the channels to them.

    Attributes:
        process: The one that executes tools.
        tools: The channel to it.
        cells: The channel to its child, which runs cells.
        runner: That child's pid, once known.
        contained: What that child says of its walls; see Sandbox.
    """

    process: subprocess.Popen[bytes]
    tools: Channel
    cells: Channel
    runner: int | None = None
    contained: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, config: Mapping[str, Any], longest_line: int) -> "Child":
        """Start both, and wait until cells can be run.

        Args:
            config: What child.py reads from its standard input.
            longest_line: The limit of one line that cells send, in bytes.

        Raises:
            Broken: They do not start.
        """
        child = cls._start(longest_line)
        deadline = time.monotonic() + START_LIMIT_S
        try:
            child.tools.send(config, deadline)
            child.runner = json.loads(child.tools.receive(deadline))["pid"]
            child.contained = json.loads(child.cells.receive(deadline))
        except BaseException:  # an interrupt, too
            child.close()
            raise
        return child

    @classmethod
    def _start(cls, longest_line: int) -> "Child":
        tools_source, to_tools = os.pipe()
        from_tools, tools_target = os.pipe()
        cells_source, to_cells = os.pipe()
        from_cells, cells_target = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", PROGRAM, str(cells_source), str(cells_target)],
            stdin=tools_source,
            stdout=tools_target,
            stderr=subprocess.DEVNULL,
            pass_fds=(cells_source, cells_target),
            cwd="/",
            env={},
            start_new_session=True,
        )
        for descriptor in (tools_source, tools_target, cells_source, cells_target):
            os.close(descriptor)
        tools = Channel(from_tools, to_tools, REPLY_BYTES)
        return cls(process, tools, Channel(from_cells, to_cells, longest_line))

    def end_runner(self) -> int | None:
        """End and reap the process that runs cells; its status, None when that is not known."""
        deadline = time.monotonic() + END_LIMIT_S
        try:
            self.tools.send({"end": True}, deadline)
            while "status" not in (reply := json.loads(self.tools.receive(deadline))):
                pass  # the reply of a tool that the parent no longer waits for
        except Broken:  # a tool that does not end is running, or the process is gone
            return None
        self.runner = None
        return reply["status"]

    def close(self) -> None:
        """End both."""
        if self.runner and self.end_runner() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.runner, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        self.tools.close()
        self.cells.close()


def describe_end(status: int | None) -> str:
    """What became of a process, in words."""
    if status is None:
        return "the process ended"
    if status >= 0:
        return f"the process ended with status {status}"
    return f"the process was ended by {signal.Signals(-status).name}"
