"""The processes behind `session.py`: one that carries out tools, and its child, which runs an agent's code cell by cell.

Started as `python -I -S child.py READ WRITE` with one JSON object on its standard input (`root`, `tools`, `walls`,
`limits`). It steps apart (walls.py), then forks. The first process reads calls of tools from its standard input, and answers
with what they gave; these are our own functions. The second reads `{"nonce", "code"}` from the descriptor READ, runs the
code, and asks and answers on WRITE; whatever it says is taken apart by `calls.py`. It is no part of the package's API.
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
from collections.abc import Callable
from typing import Any

MODULES = (
    *(
        "collections",
        "datetime",
        "decimal",
        "fractions",
        "functools",
        "itertools",
        "json",
        "math",
        "operator",
    ),
    *("random", "re", "statistics", "string", "textwrap"),
)
NEEDED_LATER = (  # what Python would else look for when there are no files any more
    *(
        "_strptime",
        "unicodedata",
        "encodings.idna",
        "encodings.ascii",
        "encodings.latin_1",
        "encodings.cp1252",
    ),
    *(
        "encodings.utf_16",
        "encodings.utf_32",
        "encodings.rot_13",
        "encodings.hex_codec",
        "encodings.base64_codec",
    ),
)
NO_BUILTINS = ("breakpoint", "input", "exit", "quit", "help", "copyright", "credits", "license")
FILE_EVENTS = ("open", "os.", "glob.", "pathlib.")
REFUSED_EVENTS = (
    *(
        "socket.",
        "subprocess.",
        "ctypes.",
        "mmap.",
        "shutil.",
        "signal.",
        "sqlite3.",
        "urllib.",
        "gc.",
        "pty.",
    ),
    *(
        "fcntl.",
        "resource.",
        "code.__new__",
        "os.fork",
        "os.exec",
        "os.posix_spawn",
        "os.spawn",
        "os.system",
        "os.kill",
    ),
    *(
        "os.ch",
        "os.setxattr",
        "os.removexattr",
        "os.putenv",
        "os.unsetenv",
        "os.lockf",
        "os.startfile",
        "os.add_dll",
    ),
)


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


def make_hook(has_files: bool) -> Callable[[str, tuple], None]:
    """An audit hook that says what is not allowed. The walls are the kernel's: this only makes errors that can be read."""

    def hook(event: str, arguments: tuple) -> None:
        if event.startswith(REFUSED_EVENTS):
            raise PermissionError(f"{event} is not allowed here")
        if not has_files and event.startswith(FILE_EVENTS):
            raise PermissionError(f"{event} is not allowed here: there are no files")

    return hook


def guarded_import(name: str, *arguments: Any, **keywords: Any) -> Any:
    """`import` for the agent's code."""
    if name.partition(".")[0] not in MODULES:
        raise ImportError(f"import of {name} is not allowed here")
    return builtins.__import__(name, *arguments, **keywords)


def check_plain(value: object, limit: int) -> None:
    """ValueError or TypeError for what is no plain value, too long, or nested too deep: the parent would not take it."""
    text = json.dumps(value, allow_nan=False)
    if len(text) > limit:
        raise ValueError(f"a value of {len(text)} characters is too long: at most {limit}")
    calls.check_depth(json.loads(text))


class Cells:
    """Runs cells in one namespace: variables stay from one to the next. Tools and the answer are asked for on a channel."""

    def __init__(
        self, channel: tuple[io.BufferedReader, int], tools: list[str], limits: dict[str, int]
    ):
        self.source, self.target = channel
        self.limits, self.nonce = limits, ""
        kept = {name: value for name, value in vars(builtins).items() if name not in NO_BUILTINS}
        self.namespace = {
            "__builtins__": kept | {"__import__": guarded_import},
            "__name__": "agent",
        }
        self.namespace |= {name: Tool(name, self.ask) for name in tools} | {
            "final_answer": self.finish
        }

    def serve(self) -> None:
        """Run cells until there are no more."""
        for line in self.source:
            message = json.loads(line)
            self.nonce = message["nonce"]
            self.send("done", self.run(message["code"]))

    def send(self, kind: str, value: object) -> None:
        """Write one line."""
        send(self.target, {"nonce": self.nonce, "kind": kind, "value": value})

    def ask(self, kind: str, value: object) -> Any:
        """What the parent gives for a call or an answer; raises what the tool raised."""
        check_plain(value, self.limits["value_characters"])
        self.send(kind, value)
        reply = json.loads(self.source.readline())
        if "error" in reply:
            raise make_error(*reply["error"])
        return marshal.loads(base64.b64decode(reply["value"])) if "value" in reply else None  # noqa: S302 - our own

    def finish(self, value: object) -> None:
        """final_answer(value)."""
        self.ask("answer", value)
        raise Finished

    def run(self, code: str) -> dict[str, str | None]:
        """Run one cell; whatever it does, as long as this process lives, there is a result."""
        error = None
        sys.stdout = sys.stderr = printed = Printed(self.limits["printed_characters"])
        try:
            self.execute(code)
        except Finished:
            pass
        except BaseException as caught:  # SystemExit and KeyboardInterrupt, too, are the code's own
            error = describe(caught)
        return {"printed": printed.show(), "error": error}

    def execute(self, code: str) -> None:
        """Execute statements; the value of a last expression is printed, as notebooks do."""
        tree = ast.parse(code, "<code>")
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "<code>", "exec"), self.namespace)  # noqa: S102 - what this process is for
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "<code>", "eval"), self.namespace)  # noqa: S307
            if value is not None:
                print(repr(value))


class Tool:
    """A tool, as the agent's code sees it: `call(name, arguments)` in another process."""

    def __init__(self, name: str, ask: Callable[[str, object], Any]):
        self.name, self.ask = name, ask

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make a call."""
        return self.ask("call", {"name": self.name, "args": args, "kwargs": kwargs})

    def __repr__(self) -> str:
        return f"<tool {self.name}>"  # no address, so that observations are the same every time


def make_error(name: str, text: str) -> Exception:
    """An exception as the tool raised it: of the same name, caught by the same `except`, with the same text."""
    base = getattr(builtins, name, None)
    base = base if isinstance(base, type) and issubclass(base, Exception) else Exception
    made = type(name, (base,), {"__str__": lambda self: text})
    return made.__new__(made)  # without __init__, which may want arguments


def describe(error: BaseException) -> str:
    """An exception in one line, with the line of the agent's code."""
    line = error.lineno if isinstance(error, SyntaxError) else None
    trace = error.__traceback__
    while trace is not None:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == "<code>" else line
        trace = trace.tb_next
    text = f"{type(error).__name__}: {error}".split("\n")[0][:500]
    return f"{text} (line {line})" if line else text


def send(target: int, message: dict[str, Any]) -> None:
    """Write one line."""
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(target, data) :]


def carry_out(functions: dict[str, Callable[..., Any]], call: dict[str, Any]) -> dict[str, Any]:
    """What a tool gave, as marshal has it (types stay as they are), or its exception."""
    try:
        value = marshal.dumps(functions[call["name"]](**call["arguments"]))
    except (
        Exception
    ) as error:  # a tool may raise anything for arguments that are not what it asks for
        return {"error": [type(error).__name__, str(error)[:500]]}
    return {"value": base64.b64encode(value).decode()}


def serve_tools(
    source: io.BufferedReader, target: int, functions: dict[str, Callable[..., Any]], child: int
) -> None:
    """Carry out calls until there are no more, or the child is to be ended: then its status is the answer."""
    for line in source:
        message = json.loads(line)
        if "end" in message:
            os.kill(child, 9)
            send(target, {"status": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])})
        else:
            send(target, carry_out(functions, message))


def main() -> None:
    """Load what is needed, step apart, fork; the child raises the last walls and runs cells."""
    source, target = os.fdopen(os.dup(0), "rb"), os.dup(1)
    cells_source, cells_target = int(sys.argv[1]), int(sys.argv[2])
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    config = json.loads(source.readline())
    sys.path.insert(0, config["root"])
    global calls  # there is no swaplib to import from before `root` is known
    from swaplib.agents import tools
    from swaplib.agents.sandbox import calls, walls

    for name in (*MODULES, *NEEDED_LATER):
        importlib.import_module(name)
    sys.path.remove(config["root"])
    contained = walls.step_apart(config["walls"], config["limits"]["disk_bytes"])
    has_files = bool(contained["walls"])
    child = os.fork()
    if child:
        for descriptor in (cells_source, cells_target):
            os.close(descriptor)
        walls.limit(config["limits"], has_files)
        send(target, {"pid": child})
        return serve_tools(source, target, tools.TOOLS, child)
    os.setsid()  # so that a signal to its own group reaches nobody else
    walls.end_with_parent()
    for descriptor in {source.fileno(), target, nowhere}:
        os.close(descriptor)
    channel = os.fdopen(cells_source, "rb"), cells_target
    walls.limit(config["limits"], has_files)
    contained["walls"] += walls.refuse_calls(config["walls"], has_files)
    contained["is_walled"] = not walls.SUFFICIENT.isdisjoint(contained["walls"])
    sys.addaudithook(make_hook(has_files))
    send(cells_target, contained)
    Cells(channel, config["tools"], config["limits"]).serve()


if __name__ == "__main__":
    main()
