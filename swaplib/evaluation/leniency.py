"""Whether an answer is right with the leniency of the Berkeley function-calling leaderboard.

It decides nothing: the strict metrics count (metrics.py). Beside them this says how much of what is
wrong is a matter of writing:

    gold    {"city": "New York, NY", "radius": 5.0}
    answer  {"city": "new york NY", "radius": 5}        right, leniently
"""

import re
from typing import Any

from swaplib.data.facts import RowFacts, list_parts
from swaplib.metrics import JsonDocument, Prediction

Parts = list[tuple[str | None, dict[str, Any]]]  # as facts.list_parts gives them

_IGNORED = re.compile(r"[ ,./\-_*^]")


def same_value(gold: Any, found: Any, schema: Any = None) -> bool:
    """Whether a value is right with the leniency of the Berkeley leaderboard.

    Strings: case, spaces and the punctuation `,./-_*^` do not count, and `'` is `"`. An int may
    stand for a float, not the other way round, unless the tool declares a float. Lists keep their
    order; objects have the same keys.

    Args:
        gold: The right value.
        found: The value in question.
        schema: The JSON Schema that the tool declares for it, if one is known.

    Source: "BFCL v1: AST evaluation",
    gorilla.cs.berkeley.edu/blogs/8_berkeley_function_calling_leaderboard.html, and
    `standardize_string` in its ast_checker.py.
    """
    if isinstance(gold, str) and isinstance(found, str):
        return _standardise(gold) == _standardise(found)
    if _is_number(gold) and _is_number(found):
        is_int_for_float = isinstance(gold, float) and isinstance(found, int)
        if is_int_for_float or _takes(schema, "number"):
            return bool(gold == found)
    if type(gold) is not type(found):
        return False
    if isinstance(gold, list):
        parts = _list_items(schema, len(gold))
        return len(gold) == len(found) and all(map(same_value, gold, found, parts))
    if isinstance(gold, dict):
        return gold.keys() == found.keys() and all(same_value(gold[k], found[k]) for k in gold)
    return bool(gold == found)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _list_kinds(schema: Any) -> list[dict[str, Any]]:
    """The alternatives of a schema, itself where it has none."""
    if not isinstance(schema, dict):
        return []
    parts = schema.get("anyOf") or schema.get("oneOf")
    if not isinstance(parts, list):
        return [schema]
    return [kind for part in parts for kind in _list_kinds(part)]


def _takes(schema: Any, kind: str) -> bool:
    """Whether a schema, or one of its alternatives, is of a type."""
    types = [part.get("type") for part in _list_kinds(schema)]
    return any(of == kind or (isinstance(of, list) and kind in of) for of in types)


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
    return [list if isinstance(p, list) else dict if isinstance(p, dict) else object for p in parts]


def is_right_leniently(gold: Prediction, found: Prediction, facts: RowFacts | None) -> bool:
    """Whether an answer is right leniently; facts tell which parameters are floats."""
    if type(gold) is not type(found):
        return False
    documents = [side.value for side in (gold, found) if isinstance(side, JsonDocument)]
    if len({tuple(_list_forms(value)) for value in documents}) > 1:
        return False
    types = facts.list_types() if facts else {}
    expected, actual = list_parts(gold), list_parts(found)
    if _list_keys(expected) != _list_keys(actual):
        return False
    try:
        return all(
            same_value(value, others[key], types.get(name or "", {}).get(key))
            for (name, values), (_, others) in zip(expected, actual, strict=True)
            for key, value in values.items()
        )
    except RecursionError:
        return False


def _list_keys(parts: Parts) -> list[tuple[str | None, list[str]]]:
    return [(name, sorted(values)) for name, values in parts]
