"""A file of your own tools: loaded, described, its functions called; processes are not its concern.

Public functions of the file are tools, those named `check_…` check a task's outcome. For example:

    def find_book(title: str) -> str | None:
        \"\"\"Find the shelf mark of a book.

        Args:
            title: The title, as on the cover.
        \"\"\"

Standard library only, but for `describe`, which takes transformers' get_json_schema.
"""

import builtins
import hashlib
import inspect
import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from swaplib.agents.sandbox.calls import check_plain

CHECK = "check_"
MAX_VALUE = 100_000  # characters of what a tool returns, as JSON
TAKEN = {"final_answer", *dir(builtins)}  # names that an agent's code knows already
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def load_file(path: Path, sha256: str | None = None) -> ModuleType:
    """Execute a file as a module of its own, which may import its neighbours meanwhile.

    Args:
        path: The file.
        sha256: What its content must have.

    Raises:
        ValueError: It is another file now, no Python, or fails while it is executed.
    """
    source = path.read_bytes()
    found = hashlib.sha256(source).hexdigest()
    if sha256 not in (None, found):
        raise ValueError(f"{path} has changed since it was described. Run this again.")
    module = ModuleType(f"own_tools_{found[:8]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    sys.path.append(str(path.parent))  # last, so that it hides no module of others
    try:
        exec(compile(source, str(path), "exec"), vars(module))  # noqa: S102 - the file of a person
    except SyntaxError as error:
        raise ValueError(
            f"{error.filename}:{error.lineno}: not Python ({error.msg}). Mend this line."
        ) from None
    except BaseException as error:  # SystemExit, too, is the file's own
        line = _find_line(error, str(path))
        raise ValueError(
            f"{path}{line} fails while it is loaded: {describe_error(error)}. It must load "
            "without arguments, keys or a terminal; mend it."
        ) from None
    finally:
        sys.path.remove(str(path.parent))
    return module


def _find_line(error: BaseException, path: str) -> str:
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    return f":{lines[-1]}" if lines else ""


def list_functions(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """The public functions that a file defines itself, by name, in the order of the file."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }


def describe(module: ModuleType) -> dict[str, Any]:
    """The tools of a file as the OpenAI API has them, or what is wrong with them.

    Returns:
        `tools`; `parameters` of each tool, as `[name, kind, has_default]`; names of `checks`; and
        `problems`, each a sentence that names the function and says what to do.
    """
    found: dict[str, Any] = {"tools": [], "parameters": {}, "checks": [], "problems": []}
    for name, function in list_functions(module).items():
        is_check = name.startswith(CHECK)
        problems = _find_problems(name, function, is_check)
        if not problems and not is_check:
            try:
                found["tools"].append(_make_schema(name, function))
            except Exception as error:  # a hint or docstring may be anything
                text = str(error).split("\n")[0]
                problems = [f"{name}: it cannot be described ({text}). Use plain type hints"]
        found["problems"] += problems
        if is_check:
            found["checks"].append(name)
            continue
        found["parameters"][name] = [
            [p.name, p.kind.name, p.default is not p.empty]
            for p in inspect.signature(function).parameters.values()
        ]
    if not found["parameters"]:
        found["problems"].append(
            "no tool found: expected public functions, defined in this file, with type hints and "
            "a Google docstring"
        )
    return found


def _find_problems(name: str, function: Callable[..., Any], is_check: bool) -> list[str]:
    """What keeps a function from being a tool, or a check."""
    parameters = inspect.signature(function).parameters.values()
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        return [f"{name}: async functions and generators are not called. Return the value"]
    if is_check:
        try:
            inspect.signature(function).bind(answer=None, calls=[])
        except TypeError:
            return [f"{name}: a check is called as {name}(answer=…, calls=…). Take these two"]
        return []
    if name in TAKEN:
        return [f"{name}: an agent's code knows another function of this name. Rename it"]
    if not inspect.getdoc(function):
        return [
            f"{name}: no docstring. Say what it does, and below `Args:` what each parameter is "
            f"(or name it _{name}, if it is no tool)"
        ]
    named = [p for p in parameters if p.kind in NAMED]
    problems = [
        f"{name}: {p} has no name to call it by. Give each parameter a name of its own"
        for p in parameters
        if p not in named
    ]
    return problems + [
        f"{name}: the parameter {p.name} has no type hint. Write one, such as {p.name}: str"
        for p in named
        if p.annotation is p.empty
    ]


def _make_schema(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    """get_json_schema, with defaults, and with null as JSON Schema writes it."""
    from transformers.utils.chat_template_utils import DocstringParsingException, get_json_schema

    try:
        schema: dict[str, Any] = get_json_schema(function)["function"]
    except DocstringParsingException as error:
        raise ValueError(f"{error}; describe each parameter below `Args:`") from None
    for parameter in inspect.signature(function).parameters.values():
        described = _write_null(schema["parameters"]["properties"][parameter.name])
        if parameter.default is not parameter.empty and is_plain(parameter.default):
            described["default"] = parameter.default
        schema["parameters"]["properties"][parameter.name] = described
    text = " ".join(schema["description"].split())
    tool = {"name": name, "description": text, "parameters": schema["parameters"]}
    return {"type": "function", "function": tool}


def _write_null(schema: Any) -> Any:
    """A schema with `nullable`, as get_json_schema writes it, said in JSON Schema's own words."""
    if not isinstance(schema, dict):
        return schema
    made = {key: _write_null(part) for key, part in schema.items() if key != "nullable"}
    if isinstance(made.get("anyOf"), list):
        made["anyOf"] = [_write_null(part) for part in made["anyOf"]]
    if schema.get("nullable"):
        kind = made.get("type")
        if "anyOf" in made:
            made["anyOf"].append({"type": "null"})
        elif kind is not None:
            made["type"] = [*(kind if isinstance(kind, list) else [kind]), "null"]
    return made


def is_plain(value: object) -> bool:
    """Whether JSON can hold a value."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def call(name: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a tool gives: `value`, as JSON holds it, or `error`, an exception's name and text."""
    try:
        value = function(**arguments)
    except BaseException as error:  # SystemExit and KeyboardInterrupt, too, are the tool's own
        return {"error": [type(error).__name__, describe_error(error, with_name=False)]}
    try:
        check_plain(value, MAX_VALUE)
    except (TypeError, ValueError, RecursionError) as error:
        return {"error": ["TypeError", f"{name} returned what cannot be sent: {error}"]}
    return {"value": json.loads(json.dumps(value))}


def check(
    name: str, function: Callable[..., Any], answer: Any, calls: Sequence[Mapping[str, Any]]
) -> bool | str:
    """What a check says of an outcome: True, or why not."""
    try:
        said = function(answer=answer, calls=list(calls))
    except BaseException as error:  # as for a tool
        return f"{name} raised {describe_error(error)}"
    if said is True:
        return True
    if isinstance(said, str) and said.strip():
        return f"{name}: {' '.join(said.split())[:200]}"
    if said is False:
        return f"{name}: False"
    return f"{name} returned {type(said).__name__}; expected True, False or a reason"


def describe_error(error: BaseException, with_name: bool = True) -> str:
    """An exception in one line."""
    try:
        text = " ".join(str(error).split())[:500]
    except Exception:  # its own __str__ fails
        text = "(its text cannot be shown)"
    if not with_name:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
