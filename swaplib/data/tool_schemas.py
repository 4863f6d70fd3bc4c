"""Tools: read in xLAM's form or as JSON Schema, shown in prompts, written for the OpenAI API.

A tool here is a name, a description and its parameters; each parameter has xLAM's `type` (a Python
type, followed by `, optional` where it may be left out), a description, and a `default` where it
has one:

    {"name": "area", "description": "Area of a circle.",
     "parameters": {"radius": {"type": "float", "description": "The radius."},
                    "unit": {"type": "str, optional", "description": "The unit.", "default": "cm"}}}

For the API it is `{"type": "function", "function": {"name", "description", "parameters"}}`, its
parameters as JSON Schema.
"""

import json
import re
from typing import Any

from swaplib.data.nested_schemas import (
    PYTHON_NAMES,
    describe_value,
    list_nested,
    name_type,
    resolve,
)

Tool = dict[str, Any]

_KINDS = ("string", "integer", "number", "boolean")
_SIMPLE = {PYTHON_NAMES[kind]: kind for kind in _KINDS} | {kind: kind for kind in _KINDS}
_TAIL = re.compile(r"(,\s*(optional|default\b.*))+$")
_ARRAYS = ("list", "tuple", "set", "sequence", "iterable", "array")
_OBJECTS = ("dict", "mapping", "object")
_CLASSES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "array": (list,),
    "object": (dict,),
}


def parse_tool(raw: Any) -> Tool:
    """Read a tool in xLAM's form or as JSON Schema.

    Args:
        raw: Any JSON value; with JSON Schema it may be wrapped in `{"function": …}`.

    Returns:
        The tool in xLAM's form. A parameter that came as JSON Schema keeps that in `schema`; what
        else the tool's schema holds (`$defs`, `additionalProperties`) is in the tool's `rest`.

    Raises:
        ValueError: It is neither; says which tool and parameter, what was expected and found.
    """
    is_wrapped = isinstance(raw, dict) and isinstance(raw.get("function"), dict)
    tool = raw["function"] if is_wrapped else raw
    if not isinstance(tool, dict) or not isinstance(tool.get("name"), str) or not tool["name"]:
        raise ValueError(f"expected a tool with a name, found {_show(raw)}")
    description = tool.get("description") or ""
    if not isinstance(description, str):
        raise ValueError(
            f"tool {tool['name']}: expected a text as its description, found {_show(description)}"
        )
    parameters = tool.get("parameters")
    if parameters is None:  # a tool may have none
        parameters = {}
    if not isinstance(parameters, dict):
        raise ValueError(
            f"tool {tool['name']}: expected an object of parameters, found {_show(parameters)}"
        )
    head = {"name": tool["name"], "description": description}
    if _is_schema(parameters):
        _check_schema(tool["name"], parameters)
        read = ("type", "properties", "required")
        rest = {key: value for key, value in parameters.items() if key not in read}
        return head | {"parameters": _parse_schema(parameters)} | ({"rest": rest} if rest else {})
    parsed = {
        name: _parse_parameter(tool["name"], name, parameter)
        for name, parameter in parameters.items()
    }
    return head | {"parameters": parsed}


def _is_schema(parameters: dict[str, Any]) -> bool:
    """Whether parameters are an object schema, and not xLAM's that are named like its keys."""
    if parameters.get("type") in ("object", ["object"]):
        return True
    is_declared = isinstance(parameters.get("$schema"), str)
    is_listed = isinstance(parameters.get("required"), list)
    return isinstance(parameters.get("properties"), dict) and (is_listed or is_declared)


def _check_schema(tool: str, parameters: dict[str, Any]) -> None:
    import jsonschema

    try:
        jsonschema.Draft202012Validator.check_schema(parameters)
    except jsonschema.SchemaError as error:
        problem = f"{error.json_path}: {error.message[:120]}"
        raise ValueError(f"tool {tool}: its parameters are no JSON Schema ({problem})") from None


def _parse_parameter(tool: str, name: str, parameter: Any) -> dict[str, Any]:
    place = f"tool {tool}, parameter {name}"
    if not isinstance(parameter, dict) or not isinstance(parameter.get("type"), str):
        raise ValueError(f"{place}: expected an object with a type, found {_show(parameter)}")
    description = parameter.get("description") or ""
    if not isinstance(description, str):
        raise ValueError(f"{place}: expected a text as its description, found {_show(description)}")
    default = {"default": parameter["default"]} if "default" in parameter else {}
    return {"type": parameter["type"], "description": description, **default}


def _parse_schema(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    properties = schema.get("properties") or {}
    required = schema.get("required") or []
    parsed = {}
    for name, part in properties.items():
        part = part if isinstance(part, dict) else {}
        found, kind = resolve(part, schema), name_type(part, schema)
        default = {"default": found["default"]} if "default" in found else {}
        parameter = {
            "type": kind if name in required else f"{kind}, optional",
            "description": describe_value(found),
        }
        parsed[name] = parameter | default | {"schema": part}
    return parsed


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 120 else f"{text[:120]} …"


def read_type(parameter: dict[str, Any]) -> tuple[str, bool]:
    """A parameter's Python type, and whether it may be left out."""
    kind = _TAIL.sub("", parameter["type"])
    return kind, "optional" in parameter["type"].removeprefix(kind)


def format_signature(tool: Tool) -> str:
    """A tool as a prompt shows it: name and description, then one line for each parameter.

    xLAM's type `"str, optional"` becomes two words, since models copy the word `optional` into the
    call. The default is shown because golds use it; the parameter's description because it holds
    formats such as YYYY-MM-DD.
    """
    lines = [f"{tool['name']}: {tool.get('description', '')}"]
    for name, parameter in tool["parameters"].items():
        kind, is_optional = read_type(parameter)
        facts = [kind] + ["optional"] * is_optional
        if "default" in parameter:
            facts.append(f"default {json.dumps(parameter['default'], ensure_ascii=False)}")
        lines.append(f"- {name} ({', '.join(facts)}): {parameter['description']}")
        lines += list_nested(parameter.get("schema"), tool.get("rest", {}))
    return "\n".join(lines)


def to_openai(tool: Tool) -> dict[str, Any]:
    """A tool for the OpenAI API. Required is what is neither optional nor has a default."""
    properties: dict[str, Any] = {}
    required: list[str] = []
    for name, parameter in tool["parameters"].items():
        kind, is_optional = read_type(parameter)
        described = {"description": parameter["description"]} if parameter["description"] else {}
        default = {"default": parameter["default"]} if "default" in parameter else {}
        properties[name] = parameter.get("schema") or {**to_schema(kind), **described, **default}
        if not is_optional and ("default" not in parameter or "schema" in parameter):
            required.append(name)
    schema = tool.get("rest", {}) | {
        "type": "object",
        "properties": properties,
        "required": required,
    }
    function = {"name": tool["name"], "description": tool["description"], "parameters": schema}
    return {"type": "function", "function": function}


def to_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of a Python type as xLAM writes it; `{}`, which takes anything, if unknown.

    A function, such as `Callable[[float], float]`, is written as its text.
    """
    head, bracket, inner = kind.partition("[")
    name = head.strip().lower().removeprefix("typing.")
    parts = _split_parts(inner.removesuffix("]")) if bracket else []
    if name in _SIMPLE:
        return {"type": _SIMPLE[name]}
    if name in ("union", "optional") and parts:
        nulls = [{"type": "null"}] if name == "optional" else []
        return {"anyOf": [*map(to_schema, parts), *nulls]}
    if name == "tuple" and parts and "..." not in parts:
        items = list(map(to_schema, parts))
        return {
            "type": "array",
            "prefixItems": items,
            "minItems": len(items),
            "maxItems": len(items),
        }
    if name in _ARRAYS:
        return {"type": "array"} | ({"items": to_schema(parts[0])} if parts else {})
    if name in _OBJECTS:
        return {"type": "object"}
    return {"callable": {"type": "string"}, "none": {"type": "null"}}.get(name, {})


def _split_parts(text: str) -> list[str]:
    """The parts between the outermost commas of `int, List[str, int]`."""
    parts, depth = [""], 0
    for character in text:
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def fits_type(value: Any, parameter: dict[str, Any]) -> bool:
    """Whether a JSON value is of the type that a parameter declares; of a list only the outer one.

    An int is a float, a bool is not an int, and null fits only a parameter that may be null.
    """
    schema = parameter.get("schema") or to_schema(read_type(parameter)[0])
    kinds: list[str | None] = []
    for part in schema.get("anyOf", [schema]):
        kind = part.get("type") if isinstance(part, dict) else None
        kinds += kind if isinstance(kind, list) else [kind]
    return any(kind is None or _is_of(value, kind) for kind in kinds)


def _is_of(value: Any, kind: str) -> bool:
    if value is None:
        return kind == "null"
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _CLASSES.get(kind, ()))
