"""Whether an answer is right with the leniency of the Berkeley function-calling leaderboard. It decides nothing.

The strict metrics count (metrics.py); beside them this says how much of what is wrong is a matter of writing:

    gold {"city": "New York, NY", "radius": 5.0}    found {"city": "new york NY", "radius": 5}    right, leniently
"""

import re
from typing import Any

from swaplib.data.facts import RowFacts, list_parts
from swaplib.metrics import JsonDocument, Prediction

_IGNORED = re.compile(r"[ ,./\-_*^]")


def same_value(gold: Any, found: Any, schema: Any = None) -> bool:
    """Whether a value is right with the leniency of the Berkeley leaderboard.

    Strings: case, spaces and the punctuation `,./-_*^` do not count, and `'` is `"`. An int may stand for a float, not the
    other way round, unless the tool declares a float. Lists keep their order; objects have the same keys.

    Args:
        gold: The right value.
        found: The value in question.
        schema: The JSON Schema that the tool declares for it, if one is known.

    Source: "BFCL v1: AST evaluation", gorilla.cs.berkeley.edu/blogs/8_berkeley_function_calling_leaderboard.html, and
    `standardize_string` in its ast_checker.py.
    """
    if isinstance(gold, str) and isinstance(found, str):
        return _standardise(gold) == _standardise(found)
    numbers = [
        not isinstance(value, bool) and isinstance(value, int | float) for value in (gold, found)
    ]
    if all(numbers) and (
        _takes(schema, "number") or (isinstance(gold, float) and isinstance(found, int))
    ):
        return gold == found
    if type(gold) is not type(found):
        return False
    if isinstance(gold, list):
        parts = _list_items(schema, len(gold))
        return len(gold) == len(found) and all(map(same_value, gold, found, parts))
    if isinstance(gold, dict):
        return gold.keys() == found.keys() and all(
            same_value(gold[key], found[key]) for key in gold
        )
    return gold == found


def _list_kinds(schema: Any) -> list[dict[str, Any]]:
    """The alternatives of a schema, itself where it has none."""
    if not isinstance(schema, dict):
        return []
    parts = schema.get("anyOf") or schema.get("oneOf")
    return (
        [kind for part in parts for kind in _list_kinds(part)]
        if isinstance(parts, list)
        else [schema]
    )


def _takes(schema: Any, kind: str) -> bool:
    types = [part.get("type") for part in _list_kinds(schema)]
    return any(
        kind == of_part or (isinstance(of_part, list) and kind in of_part) for of_part in types
    )


def _list_items(schema: Any, n: int) -> list[Any]:
    """The schemas of a list's n items, None where none is known."""
    for part in _list_kinds(schema):
        if isinstance(prefix := part.get("prefixItems"), list):
            return [*prefix, *[None] * n][:n]
        if "items" in part:
            return [part["items"]] * n
    return [None] * n


def _standardise(text: str) -> str:
    return _IGNORED.sub("", text.lower()).replace("'", '"')


def _list_forms(value: Any) -> list[type]:
    """What a document is, and what each item of a list is: a list, an object, or something else."""
    parts = [value, *value] if isinstance(value, list) else [value]
    return [
        next((kind for kind in (list, dict) if isinstance(part, kind)), object) for part in parts
    ]


def is_right_leniently(gold: Prediction, found: Prediction | None, facts: RowFacts | None) -> bool:
    """Whether an answer is right with the leaderboard's leniency for values; facts tell which ones are floats."""
    if found is None or type(gold) is not type(found):
        return False
    if isinstance(gold, JsonDocument) and _list_forms(gold.value) != _list_forms(found.value):
        return False
    types = facts.list_types() if facts else {}
    pairs = [list_parts(side) for side in (gold, found)]
    if [(name, sorted(values)) for name, values in pairs[0]] != [
        (name, sorted(values)) for name, values in pairs[1]
    ]:
        return False
    try:
        return all(
            same_value(value, others[key], types.get(name or "", {}).get(key))
            for (name, values), (_, others) in zip(*pairs, strict=True)
            for key, value in values.items()
        )
    except RecursionError:
        return False
