"""Shows what is inside a parameter: objects, lists of objects, alternatives, references.

A parameter `guests`, a list of objects, is followed in the prompt by a line for each of their keys:

    - guests (List[dict]): Who comes.
      each:
      - name (str): The full name.
      - diet (str, optional): One of "any", "vegan".

Flat parameters have no such lines.
"""

import json
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

DEEPEST = 4  # levels that are shown; what is deeper is named by its type alone
PYTHON_NAMES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}
PYTHON_NAMES |= {"array": "list", "object": "dict", "null": "None"}


def resolve(schema: Any, root: Schema) -> dict[str, Any]:
    """A schema with its reference followed, and the parts of an `allOf` put together.

    Args:
        schema: A schema; one that is a plain true or false allows anything here.
        root: The schema that holds the definitions, as `{"$defs": {…}}`.

    Returns:
        The schema; an empty one for a reference that leads nowhere or in a circle.
    """
    followed: set[str] = set()
    found = dict(schema) if isinstance(schema, Mapping) else {}
    while isinstance(found.get("$ref"), str):
        reference = found.pop("$ref")
        if reference in followed:
            return {}
        followed.add(reference)
        found = dict(_look_up(reference, root)) | found
    parts = [resolve(part, root) for part in found.pop("allOf", [])]
    for part in parts:
        properties = found.get("properties", {}) | part.get("properties", {})
        required = [*found.get("required", []), *part.get("required", [])]
        found = part | found
        found |= {"properties": properties} if properties else {}
        found |= {"required": required} if required else {}
    return found


def _look_up(reference: str, root: Schema) -> Schema:
    """What a reference such as `#/$defs/place` points at."""
    found: Any = root
    for step in reference.removeprefix("#/").split("/"):
        step = step.replace("~1", "/").replace("~0", "~")
        found = found.get(step) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def list_alternatives(schema: Schema, root: Schema) -> list[dict[str, Any]]:
    """The schemas of which a value fits one; none where there is no choice."""
    parts = schema.get("anyOf") or schema.get("oneOf") or []
    return [resolve(part, root) for part in parts]


def name_type(schema: Any, root: Schema) -> str:
    """The Python type that a prompt shows for a JSON Schema."""
    found = resolve(schema, root)
    if alternatives := list_alternatives(found, root):
        return f"Union[{', '.join(name_type(part, root) for part in alternatives)}]"
    kind = found.get("type")
    if isinstance(kind, list):
        return f"Union[{', '.join(PYTHON_NAMES.get(k, 'Any') for k in kind)}]"
    if kind == "array" and "items" in found:
        return f"List[{name_type(found['items'], root)}]"
    if isinstance(kind, str) and kind in PYTHON_NAMES:
        return PYTHON_NAMES[kind]
    return "dict" if "properties" in found else "str" if "enum" in found else "Any"


def describe_value(schema: Schema) -> str:
    """What a schema says of its value: the description, and the values that it may take."""
    words = [str(schema.get("description") or "")]
    if "enum" in schema:
        words.append(f"One of {', '.join(map(_write, schema['enum']))}.")
    if "const" in schema:
        words.append(f"Always {_write(schema['const'])}.")
    return " ".join(words).strip()


def _write(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def list_nested(schema: Any, root: Schema, depth: int = 1) -> list[str]:
    """The lines about what is inside of a parameter, indented under it; none for a flat one."""
    found, indent = resolve(schema, root), "  " * depth
    if depth > DEEPEST:
        return []
    if "items" in found:
        return _list_items(found, root, depth)
    alternatives = [part for part in list_alternatives(found, root) if _is_nested(part, root)]
    if alternatives:
        lines = []
        for part in alternatives:
            title = describe_value(part)
            lines.append(f"{indent}either {name_type(part, root)}{title and f': {title}'}")
            lines += list_nested(part, root, depth)
        return lines
    return _list_properties(found, root, depth)


def _list_items(array: Schema, root: Schema, depth: int) -> list[str]:
    item, told = resolve(array["items"], root), str(array.get("description") or "")
    lines, title = list_nested(item, root, depth), describe_value(item)
    if "enum" in item and all(str(value) in told for value in item["enum"]):
        title = str(item.get("description") or "")  # the list's own description names the values
    if not lines and not title:
        return []
    return [f"{'  ' * depth}each:{title and f' {title}'}", *lines]


def _list_properties(schema: Schema, root: Schema, depth: int) -> list[str]:
    lines, indent = [], "  " * depth
    required = schema.get("required") or []
    for name, part in (schema.get("properties") or {}).items():
        inner = resolve(part, root)
        facts = [name_type(inner, root)] + ["optional"] * (name not in required)
        if "default" in inner:
            facts.append(f"default {_write(inner['default'])}")
        lines.append(f"{indent}- {name} ({', '.join(facts)}): {describe_value(inner)}".rstrip())
        lines += list_nested(inner, root, depth + 1)
    others = schema.get("additionalProperties")
    if isinstance(others, Mapping) and others:
        lines.append(f"{indent}- any other key ({name_type(others, root)})")
        lines += list_nested(others, root, depth + 1)
    return lines


def _is_nested(schema: Schema, root: Schema) -> bool:
    return bool(list_nested(schema, root))
