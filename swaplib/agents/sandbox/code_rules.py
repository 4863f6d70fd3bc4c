"""What code of an agent must not reach for: attributes and names of Python's inside. Such code is not run or trained on.

It looks at the text alone, so it is no wall (those are the kernel's, walls.py): it keeps the habit out of what is learned.
"""

import ast
import re

ALLOWED = {
    "__init__",
    "__name__",
    "__doc__",
    "_asdict",
    "_replace",
    "_fields",
    "_make",
}  # of ordinary code
INSIDE = re.compile(
    r"__(?:class|bases?|mro|subclasses|globals|builtins|import|self|func|code|closure|dict|loader|spec|getattribute"
    r"|reduce|reduce_ex|subclasshook|init_subclass|traceback|context|cause|wrapped)__"
)


def find_private(code: str) -> str | None:
    """The first thing that the code reaches for and must not, with its line; None where there is none, or no Python.

    That is an attribute that begins with an underscore, a name that begins with two, or a text that names one of those
    through which Python's inside is reached (for getattr and str.format).
    """
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    for node in nodes:
        name = _name_private(node)
        if name is not None and name not in ALLOWED:
            return f"{name} (line {node.lineno})"  # type: ignore[attr-defined]
    return None


def _name_private(node: ast.AST) -> str | None:
    match node:
        case ast.Attribute(attr=name) if name.startswith("_"):
            return name
        case ast.Name(id=name) if name.startswith("__"):
            return name
        case ast.Constant(value=str(text)) if found := INSIDE.search(text):
            return found[0]
    return None
