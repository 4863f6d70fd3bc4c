"""The processes behind a Sandbox, started and ended: one that carries out tools, and its child, which runs cells."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from swaplib.agents.sandbox.calls import Broken, Channel

PROGRAM = Path(__file__).parent / "child.py"
END_LIMIT_S, REPLY_BYTES = 2.0, 4_000_000


@dataclass
class Child:
    """The process that carries out tools with the channel to it; the channel to its child, and that one's pid once known."""

    process: subprocess.Popen
    tools: Channel
    cells: Channel
    runner: int | None = None

    @classmethod
    def open(cls, longest_said: int) -> "Child":
        """Start them; a line of what cells say may have so many bytes."""
        tools_source, to_tools = os.pipe()
        from_tools, tools_target = os.pipe()
        cells_source, to_cells = os.pipe()
        from_cells, cells_target = os.pipe()
        theirs = tools_source, tools_target, cells_source, cells_target
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
        for descriptor in theirs:
            os.close(descriptor)
        return cls(
            process,
            Channel(from_tools, to_tools, REPLY_BYTES),
            Channel(from_cells, to_cells, longest_said),
        )

    def end_runner(self) -> int | None:
        """End and reap the process that runs cells; its status, None when that is not known."""
        deadline = time.monotonic() + END_LIMIT_S
        try:
            self.tools.send({"end": True}, deadline)
            while "status" not in (reply := json.loads(self.tools.receive(deadline))):
                pass  # of a tool that was waited for no more
        except Broken:  # a tool is carried out that does not end, or there is nobody any more
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
