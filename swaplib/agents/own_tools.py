"""Tools of your own: a Python file whose public functions an agent may call, described for it.

    tools = read_own_tools(Path("tools.py"))
    tools.tools[0]["name"]     # of the first function; `tool_schemas.format_signature` shows it
    with closing(tools.open()) as host: …

Functions named `check_…` are not offered: they say whether a task's outcome is right.
"""

import hashlib
import inspect
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swaplib.agents.sandbox import tools_file
from swaplib.agents.sandbox.tool_hosts import ToolHost, ToolsFile, TrustedTools
from swaplib.agents.sandbox.tool_process import ToolProcess, describe_file
from swaplib.data.tool_schemas import Tool, parse_tool
from swaplib.settings import ROOT

if TYPE_CHECKING:
    from swaplib.agents.tasks import Task


@dataclass(frozen=True)
class OwnTools:
    """A described file of tools. `checks` are the names of its checks.

    `is_trusted` says that its functions run in this process, without walls.
    """

    file: ToolsFile
    tools: tuple[Tool, ...]
    checks: tuple[str, ...]
    is_trusted: bool

    def open(self, allow_unwalled: bool = False) -> ToolHost:
        """Who runs the tools for one task, as they are when the file is loaded; to be closed.

        Raises:
            RuntimeError: The process does not start, or nothing would contain it.
        """
        if self.is_trusted:
            return TrustedTools(self.file)
        process = ToolProcess(self.file, allow_unwalled)
        process.start()
        return process


def read_own_tools(path: str | Path, is_trusted: bool = False) -> OwnTools:
    """Describe a file of tools: in a process of its own, or, trusted, in this one.

    Args:
        path: The file; a relative path begins at the repository's root.
        is_trusted: Whether the file may run in this process.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It does not load, holds no tool, or functions cannot be described; all
            problems are listed, each with its function and what to do.
    """
    file = ROOT / Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"no tools at {file}: expected a Python file of functions")
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    if is_trusted:
        found = tools_file.describe(tools_file.load_file(file, sha256))
    else:
        found = describe_file(file, sha256)
    if found["problems"]:
        listed = "\n".join(f"  {problem}." for problem in found["problems"])
        raise ValueError(f"{file}: {len(found['problems'])} problem(s) with its tools:\n{listed}")
    signatures = {name: _make_signature(known) for name, known in found["parameters"].items()}
    described = ToolsFile(file, sha256, signatures)
    tools = tuple(parse_tool(tool) for tool in found["tools"])
    return OwnTools(described, tools, tuple(found["checks"]), is_trusted)


def describe_own(tasks: Sequence["Task"]) -> dict[str, Any]:
    """What makes a run over tasks of your own another question: their tools and checks, as `own`.

    Empty for xLAM's tasks.
    """
    own = next((task.own for task in tasks if task.own), None)
    if own is None:
        return {}
    checks = {task.id: task.gold.check for task in tasks if task.gold.check}
    known = {"tools_sha256": own.file.sha256, "is_trusted": own.is_trusted, "checks": checks}
    return {"own": known}


def find_tool_walls(tasks: Sequence["Task"], allow_unwalled: bool) -> dict[str, Any]:
    """What contains the tools of some tasks, as `tools_contained`; empty for xLAM's.

    Raises:
        RuntimeError: As for OwnTools.open.
    """
    own = next((task.own for task in tasks if task.own), None)
    if own is None:
        return {}
    with closing(own.open(allow_unwalled)) as host:
        return {"tools_contained": host.contained}


def _make_signature(parameters: list[list[Any]]) -> inspect.Signature:
    """A function's signature, as far as calls must fit it."""
    return inspect.Signature(
        [
            inspect.Parameter(
                name,
                getattr(inspect.Parameter, kind),
                default=None if has_default else inspect.Parameter.empty,
            )
            for name, kind, has_default in parameters
        ]
    )
