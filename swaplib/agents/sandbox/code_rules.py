"""What an agent's code must not reach for: attributes and names of Python's internals.

Such code is neither run nor trained on. The check reads the text alone, so it is no wall (those are
the kernel's, walls.py): it keeps the habit out of what is learned.
"""

import ast
import re

# Names with underscores that ordinary code uses.
ALLOWED = {"__init__", "__name__", "__doc__", "_asdict", "_replace", "_fields", "_make"}
INSIDE = re.compile(
    "__(?:class|bases?|mro|subclasses|globals|builtins|import|self|func|code|closure|dict|loader"
    "|spec|getattribute|reduce|reduce_ex|subclasshook|init_subclass|traceback|context|cause"
    "|wrapped)__"
)


def find_private(code: str) -> str | None:
    """The first thing the code reaches for and must not, with its line; None where there is none.

    That is an attribute that begins with an underscore, a name that begins with two, or a text (for
    getattr and str.format) that names one of those through which Python's internals are reached.
    None also for what is not Python.
    """
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    for node in nodes:
        match node:
            case ast.Attribute(attr=name) if name.startswith("_") and name not in ALLOWED:
                return f"{name} (line {node.lineno})"
            case ast.Name(id=name) if name.startswith("__") and name not in ALLOWED:
                return f"{name} (line {node.lineno})"
            case ast.Constant(value=str(text)) if found := INSIDE.search(text):
                return f"{found[0]} (line {node.lineno})"
    return None
