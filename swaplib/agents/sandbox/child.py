"""The program behind `session.py`: a process that executes tools, and its child, which runs cells.

Started as `python -I -S child.py READ WRITE`, with one JSON object on standard input (`tools`,
`walls`, `limits`). It loads what is needed, raises its walls (walls.py), then forks. The tool
process reads calls from standard input and writes what they returned; these are our own functions.
The cell process reads an agent's code, cell by cell, from the descriptor READ, runs it, and writes
to WRITE; calls.py parses whatever comes from there. Both talk to the parent only. One cell that
makes one call:

    parent -> cells   {"nonce": "5f0c…", "code": "print(circle_area(radius=1))"}
    cells -> parent   {"nonce": "5f0c…", "kind": "call",
                       "value": {"name": "circle_area", "args": [], "kwargs": {"radius": 1}}}
    parent -> tools   {"name": "circle_area", "arguments": {"radius": 1}}
    tools -> parent   {"value": "ZxgtRFT7IQlA"}
    parent -> cells   {"value": "ZxgtRFT7IQlA"}
    cells -> parent   {"nonce": "5f0c…", "kind": "done",
                       "value": {"printed": "3.141592653589793", "error": null}}

A returned value is base64 of marshal, which keeps types that JSON would lose: a tuple, a dict whose
keys are numbers. A tool that raised replies {"error": ["ZeroDivisionError", "division by zero"]}.
"""

import ast
import base64
import builtins
import importlib
import io
import json
import marshal
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# The checkout, which -I leaves out; main takes it away again once everything is loaded.
sys.path.insert(0, os.path.abspath(f"{__file__}/../../../.."))

from swaplib.agents.sandbox import walls
from swaplib.agents.sandbox.calls import check_plain
from swaplib.agents.sandbox.guards import MODULES, NEEDED_LATER, make_builtins, make_hook
from swaplib.agents.tools import TOOLS


class Finished(BaseException):
    """Ends a cell at final_answer."""


class Printed(io.TextIOBase):
    """Keeps the first characters that were printed, and says when there were more."""

    def __init__(self, limit: int):
        self.text, self.limit, self.is_cut = "", limit, False

    def write(self, text: str) -> int:
        """Keep what fits."""
        room = self.limit - len(self.text)
        self.is_cut = self.is_cut or len(text) > room
        self.text += text[:room]
        return len(text)

    def show(self) -> str:
        """What was printed, as the agent sees it."""
        return self.text.rstrip() + ("\n… (cut)" if self.is_cut else "")


class Cells:
    """Runs cells in one namespace, where variables stay from one cell to the next.

    Args:
        source: Where cells and replies come from.
        target: The descriptor that requests and results are written to.
        tools: The names of the tools that the code may call.
        limits: `printed_characters` of a cell, `value_characters` of one value.
    """

    def __init__(
        self,
        source: io.BufferedReader,
        target: int,
        tools: Sequence[str],
        limits: Mapping[str, int],
    ):
        self.source, self.target = source, target
        self.limits, self.nonce = limits, ""
        self.namespace: dict[str, Any] = {
            "__builtins__": make_builtins(),
            "__name__": "agent",
            **{name: Tool(name, self.ask) for name in tools},
            "final_answer": self.finish,
        }

    def serve(self) -> None:
        """Run cells until there are no more."""
        for line in self.source:
            message = json.loads(line)
            self.nonce = message["nonce"]
            self.send("done", self.run(message["code"]))

    def send(self, kind: str, value: object) -> None:
        """Write one line of the cell that is running."""
        send(self.target, {"nonce": self.nonce, "kind": kind, "value": value})

    def ask(self, kind: str, value: object) -> Any:
        """The parent's reply to a call or an answer; raises what the tool raised."""
        check_plain(value, self.limits["value_characters"])
        self.send(kind, value)
        reply = json.loads(self.source.readline())
        if "error" in reply:
            raise make_error(*reply["error"])
        if "value" not in reply:
            return None
        return marshal.loads(base64.b64decode(reply["value"]))  # noqa: S302 - our own process wrote it

    def finish(self, value: object) -> None:
        """final_answer(value)."""
        self.ask("answer", value)
        raise Finished

    def run(self, code: str) -> dict[str, str | None]:
        """Run one cell; whatever it does, there is a result as long as this process lives."""
        error = None
        sys.stdout = sys.stderr = printed = Printed(self.limits["printed_characters"])
        try:
            self.execute(code)
        except Finished:
            pass
        except BaseException as caught:  # SystemExit and KeyboardInterrupt are the code's own, too
            error = describe(caught)
        return {"printed": printed.show(), "error": error}

    def execute(self, code: str) -> None:
        """Execute statements; the value of a last expression is printed, as notebooks do."""
        tree = ast.parse(code, "<code>")
        last = tree.body[-1] if tree.body else None
        if isinstance(last, ast.Expr):
            tree.body.pop()
        exec(compile(tree, "<code>", "exec"), self.namespace)  # noqa: S102 - what this process is for
        if isinstance(last, ast.Expr):
            expression = compile(ast.Expression(last.value), "<code>", "eval")
            value = eval(expression, self.namespace)  # noqa: S307 - as above
            if value is not None:
                print(repr(value))


class Tool:
    """A tool, as the agent's code sees it: a call is executed in another process."""

    def __init__(self, name: str, ask: Callable[[str, object], Any]):
        self.name, self.ask = name, ask

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make a call."""
        return self.ask("call", {"name": self.name, "args": args, "kwargs": kwargs})

    def __repr__(self) -> str:
        return f"<tool {self.name}>"  # no address, so that observations are the same every time


def make_error(name: str, text: str) -> Exception:
    """A tool's exception again: its name and text, caught by the same `except`."""
    known = getattr(builtins, name, None)
    base = known if isinstance(known, type) and issubclass(known, Exception) else Exception
    made: type[Exception] = type(name, (base,), {"__str__": lambda self: text})
    return base.__new__(made)  # without __init__, which may want arguments


def describe(error: BaseException) -> str:
    """An exception in one line, with the line of the agent's code."""
    line = error.lineno if isinstance(error, SyntaxError) else None
    trace = error.__traceback__
    while trace is not None:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == "<code>" else line
        trace = trace.tb_next
    text = f"{type(error).__name__}: {error}".split("\n")[0][:500]
    return f"{text} (line {line})" if line else text


def send(target: int, message: Mapping[str, Any]) -> None:
    """Write one line."""
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(target, data) :]


def execute_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """Execute a tool: the value that it returned, or the name and text of its exception."""
    try:
        value = marshal.dumps(TOOLS[call["name"]](**call["arguments"]))
    except Exception as error:  # a tool may raise anything when an argument has the wrong type
        return {"error": [type(error).__name__, str(error)[:500]]}
    return {"value": base64.b64encode(value).decode()}


def serve_tools(source: io.BufferedReader, target: int, child: int) -> None:
    """Execute calls until there are no more; asked to end the child, reply with its exit status."""
    for line in source:
        message = json.loads(line)
        if "end" in message:
            os.kill(child, 9)
            send(target, {"status": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])})
        else:
            send(target, execute_call(message))


def main() -> None:
    """Load what is needed, raise the walls, fork; the child raises the last walls, runs cells."""
    source, target = os.fdopen(os.dup(0), "rb"), os.dup(1)
    cells_source, cells_target = int(sys.argv[1]), int(sys.argv[2])
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    config = json.loads(source.readline())
    limits = config["limits"]
    for name in (*MODULES, *NEEDED_LATER):
        importlib.import_module(name)
    sys.path.pop(0)
    contained = walls.step_apart(config["walls"], limits["disk_bytes"])
    has_files = bool(contained["walls"])
    child = os.fork()
    if child:
        for descriptor in (cells_source, cells_target):
            os.close(descriptor)
        walls.limit(limits, has_files)
        send(target, {"pid": child})
        return serve_tools(source, target, child)
    os.setsid()  # so that a signal to its own group reaches nobody else
    walls.end_with_parent()
    for descriptor in {source.fileno(), target, nowhere}:
        os.close(descriptor)
    cells = os.fdopen(cells_source, "rb")
    walls.limit(limits, has_files)
    contained["walls"] += walls.refuse_calls(config["walls"], has_files)
    contained["is_walled"] = not walls.SUFFICIENT.isdisjoint(contained["walls"])
    sys.addaudithook(make_hook(has_files))
    send(cells_target, contained)
    Cells(cells, cells_target, config["tools"], limits).serve()


if __name__ == "__main__":
    main()
