"""Runs code that a model wrote in a child process, behind walls of the kernel (walls.py).

The code asks for tools and gives its final answer on a channel (calls.py). The parent receives
every call, has a process of ours execute it, and alone records what was called and answered. What a
cell does is its own observation, and ends its process at most; the next process gets the variables
of earlier cells by running their code again with the results that they got.
"""

import contextlib
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from swaplib.agents.sandbox import walls
from swaplib.agents.sandbox.calls import Broken, Ended, Late, parse_said
from swaplib.agents.sandbox.cell_process import Child, describe_end
from swaplib.agents.sandbox.cell_record import Cell, Message, ReplyTo
from swaplib.agents.sandbox.code_rules import find_private
from swaplib.agents.sandbox.tool_hosts import ToolHost

MAX_CALLS = 1_000  # of one cell
LOST = "the variables are lost"
KEPT = "its variables are lost, those of earlier steps are not"
NOT_WALLED = (
    "this machine's kernel offers nothing to contain the agent's code (no namespaces, no seccomp), "
    "so code that a model writes could read your files and use your network. Use a machine or "
    "container that allows either, or allow it with allow_unwalled=True"
)


@dataclass(frozen=True)
class Limits:
    """What the child may use."""

    cell_s: float = 10.0  # wall time of one cell
    cpu_s: int = 30  # of the whole process
    memory_bytes: int = 512 * 2**20
    file_bytes: int = 2**20  # of one file
    disk_bytes: int = 16 * 2**20  # of all files, which are in memory
    printed_characters: int = 1_000  # of one cell
    value_characters: int = 4_000  # of one argument list or answer, as JSON


@dataclass(frozen=True)
class CellResult:
    """One cell's output and error, the tool calls it made, and its final answer if it gave one."""

    printed: str
    error: str | None
    calls: tuple[dict[str, Any], ...] = ()
    has_answer: bool = False
    answer: Any = None


class Sandbox:
    """Cells that share variables, in one child process.

    For one thread: the child ends with the thread that started it.

    Attributes:
        contained: `walls`, those around the child; `is_walled`, whether they suffice; `user`, the
            user it runs as. None before the first start.
    """

    def __init__(
        self,
        tools: Sequence[str],
        limits: Limits | None = None,
        allow_unwalled: bool = False,
        try_walls: Sequence[str] = walls.ALL,
        *,
        host: ToolHost | None = None,
    ):
        """Nothing is started yet.

        Args:
            tools: Names of tools that the code may call: of `swaplib.agents.tools`, or of the host.
            limits: What it may use.
            allow_unwalled: Run it even where the kernel has no wall to offer.
            try_walls: The walls to try; tests leave some out.
            host: Who runs tools of your own; it stays open when this is closed.
        """
        self.contained: dict[str, Any] | None = None
        self._tools = list(tools)
        self._limits = limits or Limits()
        self._allow_unwalled = allow_unwalled
        self._try_walls = list(try_walls)
        self._host = host
        self._child: Child | None = None
        self._cells: list[Cell] = []

    def run(self, code: str) -> CellResult:
        """Run a cell. Never raises for what the code does: it is in the result's `error`.

        Raises:
            RuntimeError: The process does not start, or there is no wall and that was not allowed:
                this machine's fault.
        """
        if found := find_private(code):
            return CellResult("", f"{found} is not allowed: use public names only")
        child, cell = self.start(), Cell(code)
        try:
            done = self._exchange(child, cell, partial(self._reply, child, cell))
        except Broken as broken:
            return CellResult("", self._end(child, broken))
        self._cells.append(cell)
        has_answer = bool(cell.answers) and done["error"] is None
        answer = cell.answers[-1] if has_answer else None
        return CellResult(done["printed"], done["error"], tuple(cell.calls), has_answer, answer)

    def start(self) -> Child:
        """The child; it is started unless it is running.

        Raises:
            RuntimeError: As for `run`.
        """
        if self._child is not None:
            return self._child
        config = {
            "tools": self._tools,
            "walls": self._try_walls,
            "limits": asdict(self._limits),
        }
        try:
            self._child = child = Child.open(config, self._measure_longest_line())
        except Broken as broken:
            raise RuntimeError(
                f"the process for the agent's code did not start: {broken}; see child.py"
            ) from None
        self.contained = child.contained
        if not self.contained["is_walled"] and not self._allow_unwalled:
            self.close()
            raise RuntimeError(NOT_WALLED)
        return child

    def close(self) -> None:
        """End the child. What it wrote was in memory and goes with it."""
        child, self._child = self._child, None
        if child is not None:
            child.close()

    def _exchange(self, child: Child, cell: Cell, reply_to: ReplyTo) -> Message:
        """Have the child run a cell, and reply to its calls; returns its `printed` and `error`.

        Raises:
            Broken: The child cannot be used any more.
        """
        deadline, nonce = time.monotonic() + self._limits.cell_s, secrets.token_hex(16)
        child.cells.check_quiet()
        child.cells.send({"nonce": nonce, "code": cell.code}, deadline)
        while (said := parse_said(child.cells.receive(deadline), nonce)).kind != "done":
            if said.kind == "answer":
                cell.answers.append(self._check_size(said.value))
                child.cells.send({}, deadline)
            else:
                child.cells.send(reply_to(said.value, deadline), deadline)
        return said.value

    def _reply(self, child: Child, cell: Cell, call: Message, deadline: float) -> Message:
        """Have a call executed, if it may be."""
        if call["name"] not in self._tools or len(cell.replies) >= MAX_CALLS:
            raise Broken(
                f"stopped, since it called what is no tool, or tools more than {MAX_CALLS} times"
            )
        return cell.execute(self._check_size(call), self._host or child.tools, deadline)

    def _measure_longest_line(self) -> int:
        """The limit in bytes of a line from the child; JSON takes 12 at most for a character."""
        return 20_000 + self._limits.value_characters + 12 * self._limits.printed_characters

    def _check_size(self, value: Any) -> Any:
        if len(json.dumps(value)) > self._limits.value_characters:
            raise Broken("stopped, since it gave too long a value")
        return value

    def _end(self, child: Child, broken: Broken) -> str:
        """End a child that broke off; says what became of it and of the variables.

        Variables are rebuilt after a child that was late or ended, not after one that sent
        something it should not have sent.
        """
        text = str(broken)
        if isinstance(broken, Late):
            text = f"stopped after {self._limits.cell_s:g} s"
        elif isinstance(broken, Ended):
            text = describe_end(child.end_runner())
        else:
            self._cells = []
        self.close()
        return f"{text}; {KEPT if self._rebuild() else LOST}"

    def _rebuild(self) -> bool:
        """Whether the cells so far could be run again in a new child, with the replies they got.

        Where they could not, there is no child, and the next cell starts with no variables.
        """
        try:
            for cell in self._cells:
                self._exchange(self.start(), Cell(cell.code), cell.replay())
        except Broken:
            self.close()
            self._cells = []
        return bool(self._cells)


def describe_walls(contained: Mapping[str, Any]) -> str:
    """What contains the agent's code, in words."""
    return f"{', '.join(contained['walls']) or 'no wall of the kernel'}; {contained['user']}"


def find_walls(allow_unwalled: bool = False) -> dict[str, Any]:
    """What contains the agent's code on this machine, as `Sandbox.contained`.

    Raises:
        RuntimeError: As for `Sandbox.run`.
    """
    with contextlib.closing(Sandbox([], allow_unwalled=allow_unwalled)) as sandbox:
        return sandbox.start().contained
