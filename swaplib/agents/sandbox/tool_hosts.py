"""Who runs your own tools for one task, and what an agent's code gets for a call of one.

tool_process.py runs them in a walled process, the default; TrustedTools in this one.
"""

import base64
import inspect
import marshal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from swaplib.agents.sandbox import tools_file
from swaplib.masking import replace_surrogates

CALL_LIMIT_S, MARGIN_S = 5.0, 0.5  # of one call; what is left of a cell's time to hear of it
Given = TypeVar("Given")


@dataclass(frozen=True)
class ToolsFile:
    """A file of tools that has been described: where it is, its content's hash, its functions."""

    path: Path
    sha256: str
    signatures: Mapping[str, inspect.Signature]


class ToolHost(Protocol):
    """Who runs your own tools for one task; their state lasts from call to call.

    `contained` says what contains them, as `Sandbox.contained`; None where nothing does.
    """

    file: ToolsFile
    contained: dict[str, Any] | None

    def ask(self, name: str, arguments: Mapping[str, Any], deadline: float) -> dict[str, Any]:
        """What a tool gives: `value`, or `error`. It never raises for what a tool does."""

    def check(self, name: str, answer: Any, calls: Sequence[Mapping[str, Any]]) -> bool | str:
        """What a check says: True, or why not."""

    def close(self) -> None:
        """End it."""


def bind(host: ToolHost, call: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by parameter name; defaults that it leaves out stay out.

    Raises:
        TypeError: The call does not fit the tool's parameters.
    """
    bound = host.file.signatures[call["name"]].bind(*call["args"], **call["kwargs"])
    return dict(bound.arguments)


def reply(host: ToolHost, call: Mapping[str, Any], deadline: float) -> dict[str, Any]:
    """What the agent's code gets for a call, in the form that child.py reads."""
    given = host.ask(call["name"], call["arguments"], deadline)
    if "error" in given:
        return given
    return {"value": base64.b64encode(marshal.dumps(given["value"])).decode()}


class TrustedTools:
    """The tools of one task in this process: with its files, its network and its environment.

    The file is loaded anew for each task. A tool that does not end is left to itself.
    """

    def __init__(self, file: ToolsFile, call_limit_s: float = CALL_LIMIT_S):
        self.file, self._call_limit_s = file, call_limit_s
        self.contained: dict[str, Any] | None = None
        self._functions: dict[str, Callable[..., Any]] = {}

    def ask(self, name: str, arguments: Mapping[str, Any], deadline: float) -> dict[str, Any]:
        """As ToolHost.ask; raises ValueError when the file does not load any more."""
        limit_s = min(self._call_limit_s, deadline - MARGIN_S - time.monotonic())
        function = self._load(name)
        given = _run_for(lambda: tools_file.call(name, function, arguments), limit_s)
        late = ["TimeoutError", f"{name} did not end in time"]
        return {"error": late} if given is None else dict(replace_surrogates(given))

    def check(self, name: str, answer: Any, calls: Sequence[Mapping[str, Any]]) -> bool | str:
        """As ToolHost.check."""
        function = self._load(name)
        said = _run_for(lambda: tools_file.check(name, function, answer, calls), self._call_limit_s)
        return f"{name}: stopped after the time limit" if said is None else said

    def _load(self, name: str) -> Callable[..., Any]:
        if not self._functions:
            module = tools_file.load_file(self.file.path, self.file.sha256)
            self._functions = tools_file.list_functions(module)
        return self._functions[name]

    def close(self) -> None:
        """Forget the file."""
        self._functions = {}


def _run_for(work: Callable[[], Given], limit_s: float) -> Given | None:
    """What work gives, or None when it does not end in time."""
    found: list[Given] = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    thread.join(max(0.0, limit_s))
    return found[0] if found else None
