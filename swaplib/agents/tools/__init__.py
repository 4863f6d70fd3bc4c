"""The pure functions among xLAM's tools that can be carried out faithfully: names and parameters are the data's own.

Standard library only, since the child process that runs an agent's code loads them without site-packages. Where a tool's
description leaves a reading open, its docstring says which one is taken. A tool is known by its name and its parameters,
because xLAM has several tools of one name: `is_prime(num)` is here, `is_prime(number)` asks a web service and is not.
"""

import inspect
from collections.abc import Callable
from typing import Any

from swaplib.agents.tools import arithmetic, finance, lists, measures, text

TOOLS: dict[str, Callable[..., Any]] = {
    name: function
    for module in (text, arithmetic, lists, measures, finance)
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__ == module.__name__ and not name.startswith("_")
}


def find_tool(definition: dict[str, Any]) -> Callable[..., Any] | None:
    """The function that carries out a tool, or None when there is none of this name with exactly these parameters.

    Args:
        definition: A tool as the data has it: `{"name", "description", "parameters": {name: {…}}}`.
    """
    function = TOOLS.get(definition["name"])
    if function is None or set(inspect.signature(function).parameters) != set(
        definition["parameters"]
    ):
        return None
    return function


def bind_arguments(function: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The arguments of a call by parameter name; defaults that the call leaves out stay out.

    Raises:
        TypeError: The call does not fit the function's parameters.
    """
    return dict(inspect.signature(function).bind(*args, **kwargs).arguments)
