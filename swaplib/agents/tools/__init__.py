"""Those of xLAM's tools that are pure functions and so can be executed; names are the data's own.

Standard library only, since the sandbox loads them without site-packages. Where a tool's
description is ambiguous, its docstring says how it was read. A tool is identified by its name and
the names of its parameters, because xLAM has several tools of one name: `is_prime(num)` is here,
`is_prime(number)` asks a web service and is not.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from swaplib.agents.tools import arithmetic, finance, lists, measures, text

TOOLS: dict[str, Callable[..., Any]] = {
    name: function
    for module in (text, arithmetic, lists, measures, finance)
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__ == module.__name__ and not name.startswith("_")
}


def find_tool(definition: Mapping[str, Any]) -> Callable[..., Any] | None:
    """The function that executes a tool; None where none has its name and exactly its parameters.

    Args:
        definition: A tool as the data has it: `{"name", "description", "parameters": {name: {…}}}`.
    """
    function = TOOLS.get(definition["name"])
    if function is None:
        return None
    has_same_parameters = {*inspect.signature(function).parameters} == {*definition["parameters"]}
    return function if has_same_parameters else None


def bind_arguments(function: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The arguments of a call by parameter name; defaults that the call leaves out stay out.

    Raises:
        TypeError: The call does not fit the function's parameters.
    """
    return dict(inspect.signature(function).bind(*args, **kwargs).arguments)
