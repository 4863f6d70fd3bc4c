"""The child process of `sandbox.py`: runs an agent's code, cell by cell, behind the limits it puts on itself first.

Started as `python -I -S sandbox_child.py` with one JSON object on its standard input (`root`, `folder`, `tools`, `limits`),
then one `{"code"}` a line; it answers each with one line. Its environment is empty. It is no part of the package's API.
"""

import ast
import builtins
import ctypes
import importlib
import io
import json
import os
import resource
import signal
import sys

MODULES = (
    *("collections", "datetime", "decimal", "fractions", "functools", "itertools", "json", "math", "operator"),
    *("random", "re", "statistics", "string", "textwrap"),
)
NO_BUILTINS = ("breakpoint", "input", "exit", "quit", "help", "copyright", "credits", "license")
CLONE_NEWUSER, CLONE_NEWNET, PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 0x10000000, 0x40000000, 1, 38
FILE_EVENTS = (
    *("open", "os.listdir", "os.scandir", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink"),
    *("os.truncate", "os.utime", "os.listxattr", "os.getxattr", "os.walk", "glob.glob", "pathlib.Path.glob"),
)
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
        "fcntl.",
    ),
    *("os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.kill", "os.ch", "os.setxattr", "resource."),
    *("os.putenv", "os.unsetenv", "os.removexattr", "os.lockf", "os.startfile", "os.add_dll", "code.__new__"),
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


def contain(folder: str, limits: dict) -> dict:
    """Give up the network, root, more processes, and everything above the limits; returns what was achieved."""
    libc = ctypes.CDLL(None, use_errno=True)
    is_root = os.geteuid() == 0
    has_namespace = libc.unshare(CLONE_NEWNET if is_root else CLONE_NEWUSER | CLONE_NEWNET) == 0
    os.chdir(folder)
    user = give_up_root() if is_root else "the caller's uid"
    for prctl in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)):
        libc.prctl(*prctl)
    for name, value in {"CPU": limits["cpu_s"], "AS": limits["memory_bytes"], "FSIZE": limits["file_bytes"]}.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    for name, value in {"NPROC": 0, "CORE": 0, "NOFILE": 32}.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    sys.addaudithook(make_hook(os.path.realpath(folder)))
    network = "namespace and audit hook" if has_namespace else "audit hook"
    return {"network": network, "user": user}


def give_up_root() -> str:
    """Become a user that owns the working folder and nothing else; says which."""
    own, nobody = 2_000_000_000 + os.getpid(), 65534
    try:
        os.chown(".", own, own)
    except OSError:  # a container that knows 65,536 users only
        os.chown(".", nobody, nobody)
    uid = os.stat(".").st_uid
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    return "own uid" if uid == own else "nobody"


def make_hook(folder: str):
    """An audit hook that refuses processes, sockets, native code, and files outside of the folder."""
    library = os.path.dirname(os.path.realpath(os.__file__))

    def is_inside(path: object, parent: str) -> bool:
        try:
            real = os.path.realpath(os.fsdecode(path))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return False  # a file descriptor, or nothing
        return real == parent or real.startswith(parent + os.sep)

    def hook(event: str, arguments: tuple) -> None:
        if event.startswith(REFUSED_EVENTS):
            raise PermissionError(f"{event} is not allowed here")
        if event in FILE_EVENTS:
            paths = arguments[:2] if event in ("os.rename", "os.link", "os.symlink") else arguments[:1]
            is_reading = event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if is_reading and is_inside(paths[0], library):  # a module's own parts
                return
            if not all(is_inside(path, folder) for path in paths):
                raise PermissionError(f"{event} outside of the working folder is not allowed here")

    return hook


def guarded_import(name: str, *arguments, **keywords):
    """`import` for the agent's code."""
    if name.partition(".")[0] not in MODULES:
        raise ImportError(f"import of {name} is not allowed here")
    return builtins.__import__(name, *arguments, **keywords)


def to_json(value: object, limit: int) -> str:
    """A plain value as JSON text; ValueError or TypeError for anything else, and for too long a text."""
    text = json.dumps(value, allow_nan=False)
    if len(text) > limit:
        raise ValueError(f"a value of {len(text)} characters is too long: at most {limit}")
    return text


class Tool:
    """A tool that writes down each call that fits its parameters before it makes it."""

    def __init__(self, name: str, function, cells: "Cells"):
        self.name, self.function, self.cells = name, function, cells

    def __call__(self, *args, **kwargs):
        """Make a call."""
        bound = self.cells.bind(self.function, *args, **kwargs)
        arguments = json.loads(to_json(bound, self.cells.limits["value_characters"]))
        self.cells.calls.append({"name": self.name, "arguments": arguments})
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<tool {self.name}>"  # no address, so that observations are the same every time


class Cells:
    """Runs cells in one namespace: variables stay from one to the next."""

    def __init__(self, functions: dict, bind, limits: dict):
        self.limits, self.bind = limits, bind
        self.calls: list[dict] = []
        self.answer: list = []
        kept = {name: value for name, value in vars(builtins).items() if name not in NO_BUILTINS}
        self.namespace = {"__builtins__": kept | {"__import__": guarded_import}, "__name__": "agent"}
        self.namespace |= {name: Tool(name, function, self) for name, function in functions.items()}
        self.namespace["final_answer"] = self.finish

    def finish(self, value):
        """final_answer(value)."""
        self.answer = [json.loads(to_json(value, self.limits["value_characters"]))]
        raise Finished

    def run(self, code: str) -> dict:
        """Run one cell; whatever it does, as long as this process lives, there is a result."""
        self.calls, self.answer, error = [], [], None
        sys.stdout = sys.stderr = printed = Printed(self.limits["printed_characters"])
        try:
            self.execute(code)
        except Finished:
            pass
        except BaseException as caught:  # SystemExit and KeyboardInterrupt, too, are the code's own
            error = describe(caught)
        return {"printed": printed.show(), "error": error, "answer": self.answer, "calls": self.calls}

    def execute(self, code: str) -> None:
        """Execute statements; the value of a last expression is printed, as notebooks do."""
        tree = ast.parse(code, "<code>")
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "<code>", "exec"), self.namespace)  # noqa: S102 - what this process is for
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "<code>", "eval"), self.namespace)  # noqa: S307
            if value is not None:
                print(repr(value))


def describe(error: BaseException) -> str:
    """An exception in one line, with the line of the agent's code."""
    line = error.lineno if isinstance(error, SyntaxError) else None
    trace = error.__traceback__
    while trace is not None:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == "<code>" else line
        trace = trace.tb_next
    text = f"{type(error).__name__}: {error}".split("\n")[0][:500]
    return f"{text} (line {line})" if line else text


def send(channel: int, message: dict) -> None:
    """Write one line."""
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(channel, data) :]


def main() -> None:
    """Load the tools, contain this process, then answer cells until the input ends."""
    source, channel = os.fdopen(os.dup(0), "rb"), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    config = json.loads(source.readline())
    sys.path.insert(0, config["root"])
    from swaplib import tools

    for name in (*MODULES, "_strptime", "encodings.idna", "unicodedata"):
        importlib.import_module(name)
    sys.path.remove(config["root"])
    cells = Cells({name: tools.TOOLS[name] for name in config["tools"]}, tools.bind_arguments, config["limits"])
    send(channel, {"contained": contain(config["folder"], config["limits"])})
    for line in source:
        send(channel, cells.run(json.loads(line)["code"]))


if __name__ == "__main__":
    main()
