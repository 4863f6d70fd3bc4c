"""A notebook's parameters: words typed on a command line, read by the types that it states.

They are checked before a notebook runs, because papermill only warns about a name that does not
exist, and runs on defaults. A notebook's parameters cell, as papermill reads it:

    track: str = "toolcall"  # "toolcall" or "structured"
    limit: int | None = None
"""

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swaplib.models.names import ModelName, parse_models
from swaplib.rows import SPLITS

Parameters = Mapping[str, Mapping[str, Any]]  # by name: default, inferred_type_name, …, all texts
Assignment = tuple[str, str]  # a name and its value, as typed


def read_parameters(notebook: Path) -> Parameters:
    """The parameters that a notebook states."""
    import papermill

    parameters: Parameters = papermill.inspect_notebook(str(notebook))
    return parameters


def read_default(known: Parameters, name: str) -> Any:
    """The value that a notebook gives a parameter; None where it has no such parameter."""
    return ast.literal_eval(known[name]["default"]) if name in known else None


def parse_parameters(known: Parameters, assignments: Sequence[Assignment]) -> dict[str, Any]:
    """Turn typed words into parameters, by the types that the notebook's parameters cell states.

    Raises:
        ValueError: A name is not a parameter (the known ones are listed), or a value does not fit
            its type.
    """
    parameters = {}
    for name, text in assignments:
        if name not in known:
            raise ValueError(
                f"unknown parameter {name!r}: this notebook has {', '.join(known) or 'none'}"
            )
        parameters[name] = _parse_value(known, name, text)
    return parameters


def _parse_value(known: Parameters, name: str, text: str) -> Any:
    default = read_default(known, name)
    if isinstance(default, str):
        return text
    kind = (known[name]["inferred_type_name"] or type(default).__name__).strip()
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    is_none = value is None and default is None
    if not is_none and type(value).__name__ not in kind.replace("float", "float int"):
        raise ValueError(
            f"parameter {name}={text}: expected {kind}, for example {known[name]['default']}"
        )
    return value


def name_question(known: Parameters, parameters: Mapping[str, Any], usual: str) -> str:
    """The end of a report's name: what makes it another question than by default; mostly nothing.

    Examples in the prompts of all models are `-shots4`, other models `-azure+slm-full`, other
    values `-val`, `-native` or `-by-hand`.

    Args:
        known: The notebook's parameters.
        parameters: Those that were typed, as values.
        usual: The models that are run where none are named.

    Raises:
        ValueError: A model's name cannot be read, or there is no such split.
    """
    defaults = {name: read_default(known, name) for name in known}
    changed = {name: value for name, value in parameters.items() if defaults[name] != value}
    words: list[str] = []
    if {"models", "shots"} & changed.keys():
        values = defaults | dict(parameters)
        models = parse_models(values["models"] or usual, values["shots"])
        shots = models[0].shots
        is_usual = set(models) == set(parse_models(usual, shots))
        if shots or not is_usual:
            words.append(f"shots{shots}" if is_usual else "+".join(map(str, models)))
    if "split" in changed:
        if changed["split"] not in SPLITS:
            raise ValueError(
                f"unknown split {changed['split']!r}: expected one of {', '.join(SPLITS)}"
            )
        words.append(changed["split"])
    if changed.get("native") not in (None, parse_models(usual)[0].is_native):
        words.append("native" if changed["native"] else "by-hand")
    if changed.get("model"):
        words.append(str(ModelName.parse(changed["model"])))
    if "fold" in changed:
        words.append(f"fold{changed['fold']}")
    return "".join(f"-{word}" for word in words)
