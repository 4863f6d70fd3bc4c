"""Python's own guards in the process that runs an agent's code: a list of imports, an audit hook.

They are no walls, since code can reach and replace them; the walls are the kernel's (walls.py). The
guards turn an attempt into an error that a model can read, for example
`PermissionError: os.fork is not allowed here`. Standard library only.
"""

import builtins
from collections.abc import Callable
from typing import Any

MODULES = (
    "collections",
    "datetime",
    "decimal",
    "fractions",
    "functools",
    "itertools",
    "json",
    "math",
    "operator",
    "random",
    "re",
    "statistics",
    "string",
    "textwrap",
)
# What Python would look for on first use, when there are no files left to find it in.
NEEDED_LATER = (
    "_strptime",
    "unicodedata",
    "encodings.idna",
    "encodings.ascii",
    "encodings.latin_1",
    "encodings.cp1252",
    "encodings.utf_16",
    "encodings.utf_32",
    "encodings.rot_13",
    "encodings.hex_codec",
    "encodings.base64_codec",
)
NO_BUILTINS = (
    "breakpoint",
    "input",
    "exit",
    "quit",
    "help",
    "copyright",
    "credits",
    "license",
)

# The beginnings of audit events: https://docs.python.org/3/library/audit_events.html
FILE_EVENTS = (
    "open",
    "os.",
    "glob.",
    "pathlib.",
)
REFUSED_EVENTS = (
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
    "resource.",
    "code.__new__",
    "os.fork",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "os.kill",
    "os.ch",
    "os.setxattr",
    "os.removexattr",
    "os.putenv",
    "os.unsetenv",
    "os.lockf",
    "os.startfile",
    "os.add_dll",
)


def make_hook(has_files: bool) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that refuses events by their names.

    Args:
        has_files: Whether the process has a file system of its own; without one no file is opened.
    """

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(REFUSED_EVENTS):
            raise PermissionError(f"{event} is not allowed here")
        if not has_files and event.startswith(FILE_EVENTS):
            raise PermissionError(f"{event} is not allowed here: there are no files")

    return hook


def make_builtins() -> dict[str, Any]:
    """The builtins of an agent's code: Python's, but for NO_BUILTINS, and with our `import`."""
    allowed = {name: value for name, value in vars(builtins).items() if name not in NO_BUILTINS}
    return allowed | {"__import__": guarded_import}


def guarded_import(name: str, *arguments: Any, **keywords: Any) -> Any:
    """`import` for the agent's code."""
    if name.partition(".")[0] not in MODULES:
        raise ImportError(f"import of {name} is not allowed here")
    return builtins.__import__(name, *arguments, **keywords)
