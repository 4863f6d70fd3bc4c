"""Runs code that a model wrote in a child process of its own, behind walls of the kernel (walls.py).

Tools and the final answer are asked for on a channel (calls.py): the parent takes every call, has a process of ours carry it
out, and alone writes down what was called and answered. What a cell does is its own observation and never ends more than its
process; the next one has the variables of the steps before, by replay of their code with the results they got.
"""

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from swaplib.agents.sandbox import walls
from swaplib.agents.sandbox.calls import Broken, Ended, Late, parse_said
from swaplib.agents.sandbox.cell_process import Child, describe_end
from swaplib.agents.sandbox.code_rules import find_private
from swaplib.agents.tools import TOOLS, bind_arguments
from swaplib.settings import ROOT

START_LIMIT_S, MAX_CALLS = 30.0, 1_000
LOST = "the variables are lost"
NOT_WALLED = (
    "this machine's kernel offers nothing to contain the agent's code (no namespaces, no seccomp), so code that a model "
    "writes could read your files and use your network. Use a machine or container that allows either, or allow it with "
    "allow_unwalled=True"
)


@dataclass(frozen=True)
class Limits:
    """What the child may use: seconds of one cell, CPU seconds in all, bytes, characters of one printout and one value."""

    cell_s: float = 10.0
    cpu_s: int = 30
    memory_bytes: int = 512 * 2**20
    file_bytes: int = 2**20
    disk_bytes: int = 16 * 2**20
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


@dataclass
class _Cell:
    """One cell in work or done: what it asked of tools with what it got, the calls among that, the answers given."""

    code: str
    replies: list[tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)


class Sandbox:
    """Cells that share variables, in one child process.

    For one thread: the child ends with the thread that started it.

    Attributes:
        contained: `walls`, those around the child, whether they suffice (`is_walled`), the `user` it is. None before the
            first start.
    """

    def __init__(
        self,
        tools: Sequence[str],
        limits: Limits | None = None,
        allow_unwalled: bool = False,
        try_walls: Sequence[str] = walls.ALL,
    ):
        """Nothing is started yet.

        Args:
            tools: Names of `swaplib.agents.tools` that the code may call.
            limits: What it may use.
            allow_unwalled: Run it even where the kernel has no wall to offer.
            try_walls: The walls to try; all of them but for tests.
        """
        self.contained: dict[str, Any] | None = None
        self._tools, self._limits, self._allow_unwalled = (
            list(tools),
            limits or Limits(),
            allow_unwalled,
        )
        self._try_walls = list(try_walls)
        self._child: Child | None = None
        self._cells: list[_Cell] = []

    def run(self, code: str) -> CellResult:
        """Run a cell. Never raises for what the code does: it is in the result's `error`.

        Raises:
            RuntimeError: The process does not start, or no wall stands and that was not allowed: this machine's fault.
        """
        if found := find_private(code):
            return CellResult("", f"{found} is not allowed: use public names only")
        self.start()
        cell = _Cell(code)
        try:
            done = self._exchange(cell, partial(self._carry_out, cell))
        except Broken as broken:
            return CellResult("", self._end(broken))
        self._cells.append(cell)
        has_answer = bool(cell.answers) and done["error"] is None
        answer = cell.answers[-1] if has_answer else None
        return CellResult(done["printed"], done["error"], tuple(cell.calls), has_answer, answer)

    def start(self) -> None:
        """Start the child, unless it runs.

        Raises:
            RuntimeError: As for `run`.
        """
        if self._child is not None:
            return
        self._child = child = Child.open(self._longest_said())
        deadline = time.monotonic() + START_LIMIT_S
        config = {
            "root": str(ROOT),
            "tools": self._tools,
            "walls": self._try_walls,
            "limits": asdict(self._limits),
        }
        try:
            child.tools.send(config, deadline)
            child.runner = json.loads(child.tools.receive(deadline))["pid"]
            self.contained = json.loads(child.cells.receive(deadline))
        except Broken as broken:
            self.close()
            raise RuntimeError(
                f"the process for the agent's code did not start: {broken}; see child.py"
            ) from None
        if not self.contained["is_walled"] and not self._allow_unwalled:
            self.close()
            raise RuntimeError(NOT_WALLED)

    def close(self) -> None:
        """End the child. What it wrote was in memory and goes with it."""
        child, self._child = self._child, None
        if child is not None:
            child.close()

    def _exchange(
        self, cell: _Cell, reply_to: Callable[[dict[str, Any], float], dict[str, Any]]
    ) -> dict[str, Any]:
        """Have a cell run, and reply to its calls; what it printed and its error.

        Raises:
            Broken: The child cannot be used any more.
        """
        deadline, nonce = time.monotonic() + self._limits.cell_s, secrets.token_hex(16)
        channel = self._child.cells  # type: ignore[union-attr]
        channel.check_quiet()
        channel.send({"nonce": nonce, "code": cell.code}, deadline)
        while (said := parse_said(channel.receive(deadline), nonce)).kind != "done":
            if said.kind == "answer":
                cell.answers.append(self._check_size(said.value))
                channel.send({}, deadline)
            else:
                channel.send(reply_to(said.value, deadline), deadline)
        return said.value

    def _carry_out(self, cell: _Cell, call: dict[str, Any], deadline: float) -> dict[str, Any]:
        """Write a call down, then have it carried out: what the child gets for it."""
        if call["name"] not in self._tools or len(cell.replies) >= MAX_CALLS:
            raise Broken(
                f"stopped, since it called what is no tool, or tools more than {MAX_CALLS} times"
            )
        reply = self._carry_out_known(cell, self._check_size(call), deadline)
        cell.replies.append((call, reply))
        return reply

    def _carry_out_known(
        self, cell: _Cell, call: dict[str, Any], deadline: float
    ) -> dict[str, Any]:
        try:
            arguments = bind_arguments(TOOLS[call["name"]], *call["args"], **call["kwargs"])
        except TypeError as error:
            return {"error": ["TypeError", str(error)]}
        made = {"name": call["name"], "arguments": arguments}
        cell.calls.append(made)
        self._child.tools.send(made, deadline)  # type: ignore[union-attr]
        return json.loads(self._child.tools.receive(deadline))  # type: ignore[union-attr]

    def _longest_said(self) -> int:
        """In bytes; JSON writes a character as two escapes at most."""
        return 20_000 + self._limits.value_characters + 12 * self._limits.printed_characters

    def _check_size(self, value: Any) -> Any:
        if len(json.dumps(value)) > self._limits.value_characters:
            raise Broken("stopped, since it gave too long a value")
        return value

    def _end(self, broken: Broken) -> str:
        """What became of the child, and of the variables: one that did not keep to the rules gets none back."""
        text = str(broken)
        if isinstance(broken, Late):
            text = f"stopped after {self._limits.cell_s:g} s"
        elif isinstance(broken, Ended):
            text = describe_end(self._child.end_runner())  # type: ignore[arg-type]
        else:
            self._cells = []
        self.close()
        return f"{text}; {'its variables are lost, those of earlier steps are not' if self._rebuild() else LOST}"

    def _rebuild(self) -> bool:
        """Run the cells so far again in a new child, with the replies they got. Without a child where that fails."""
        try:
            for cell in self._cells:
                self.start()
                self._exchange(_Cell(cell.code), _replay(cell))
        except Broken:
            self.close()
            self._cells = []
        return bool(self._cells)


def _replay(cell: _Cell) -> Callable[[dict[str, Any], float], dict[str, Any]]:
    """Replies to the calls of a cell as they were, as long as it makes the same ones."""
    replies = iter(cell.replies)

    def reply_to(call: dict[str, Any], _: float) -> dict[str, Any]:
        known, reply = next(replies, ({}, {}))
        if known != call:
            raise Broken("another call than before")
        return reply

    return reply_to


def describe_walls(contained: dict[str, Any]) -> str:
    """What contains the agent's code, in words."""
    return f"{', '.join(contained['walls']) or 'no wall of the kernel'}; {contained['user']}"


def find_walls(allow_unwalled: bool = False) -> dict[str, Any]:
    """What contains the agent's code on this machine, as `Sandbox.contained`.

    Raises:
        RuntimeError: As for `Sandbox.run`.
    """
    with contextlib.closing(Sandbox([], allow_unwalled=allow_unwalled)) as sandbox:
        sandbox.start()
        return sandbox.contained  # type: ignore[return-value]
