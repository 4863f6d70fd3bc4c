"""What is likely to go wrong with rows, as their texts alone tell: prompts, golds, tools, sizes.

It reads no file and changes no row. A warning, for example:

    {"warning": "golds without a key that others have", "rows": 12, "of": 180,
     "meaning": "The prompt must say when a key is left out: currency."}
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from swaplib.data.audit import called_tools
from swaplib.data.facts import RowFacts, list_parts
from swaplib.evaluation.intervals import wilson_interval
from swaplib.metrics import (
    JsonDocument,
    Prediction,
    ToolCall,
    Track,
    canonical_json,
    format_tool_call,
    parse_gold,
)
from swaplib.rows import Row

FEWEST_TEST_ROWS = 50
_FORM = re.compile(r"\b(json|arrays?|objects?)\b", re.IGNORECASE)

Warnings = list[dict[str, Any]]
Splits = Mapping[str, Sequence[Row]]


def warn(warning: str, rows: int, of: int, meaning: str) -> dict[str, Any]:
    """A warning about some rows, of so many that were looked at."""
    return {"warning": warning, "rows": rows, "of": of, "meaning": meaning}


def look_at_prompts(track: Track, rows: Sequence[Row]) -> Warnings:
    """Prompts that do not say which form the answer has."""
    if track == "structured":
        warning = "prompts with none of the words JSON, array, object"
        n = sum(not _FORM.search(row.prompt) for row in rows)
        meaning = (
            "Only the system message asks for JSON then: say in the prompt what it is and which "
            "keys it has."
        )
    else:
        warning = "prompts without <tool_call"
        n = sum("<tool_call" not in row.prompt for row in rows)
        meaning = (
            "Models cannot know the wrapper: show a finished call of another tool in the prompt."
        )
    return [warn(warning, n, len(rows), meaning)]


def look_at_golds(track: Track, rows: Sequence[Row]) -> Warnings:
    """Golds that are not written as canonical JSON."""
    n = sum(not _is_canonical(parse_gold(track, row.completion), row.completion) for row in rows)
    meaning = (
        "Harmless: scoring compares canonically. Examples in a prompt and training show them as "
        "they are written."
    )
    warning = "golds that are not canonical JSON (keys sorted, no spaces)"
    return [warn(warning, n, len(rows), meaning)]


def _is_canonical(gold: Prediction, completion: str) -> bool:
    """Whether a gold has sorted keys and no spaces; non-ASCII letters may be escaped or not."""
    if isinstance(gold, ToolCall):
        before, _, after = format_tool_call(gold.name, {}).rpartition("{}")
        value: Any = gold.arguments
    else:
        before, after, value = "", "", gold.value
    plain = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return completion in {f"{before}{body}{after}" for body in (plain, canonical_json(value))}


def look_at_keys(track: Track, rows: Sequence[Row]) -> Warnings:
    """Golds with the same keys in different orders, and keys that some structured golds lack."""
    orders: dict[Any, Counter[tuple[str, ...]]] = defaultdict(Counter)
    golds = [parse_gold(track, row.completion) for row in rows]
    for gold in golds:
        for name, part in list_parts(gold):
            orders[name, frozenset(part)][tuple(part)] += 1
    odd = sum(counts.total() - max(counts.values()) for counts in orders.values())
    parts = sum(counts.total() for counts in orders.values())
    warning = "objects in golds whose keys are in another order than in most"
    meaning = "Scoring ignores the order, but a model that is trained on them learns none."
    return [warn(warning, odd, parts, meaning), *_look_at_lacking_keys(golds)]


def _look_at_lacking_keys(golds: Sequence[Prediction]) -> Warnings:
    """Keys that some golds lack, where all golds are JSON objects."""
    values = [gold.value for gold in golds if isinstance(gold, JsonDocument)]
    if len(values) < len(golds) or not all(isinstance(value, dict) for value in values):
        return []
    counts = Counter(key for value in values for key in value)
    n = sum(len(value) < len(counts) for value in values)
    some = sorted(key for key, of_key in counts.items() if of_key < len(golds))
    listed = f"{', '.join(some[:8])}{' …' if len(some) > 8 else ''}"
    meaning = f"The prompt must say when a key is left out: {listed}."
    return [warn("golds without a key that others have", n, len(golds), meaning)]


def look_at_tools(track: Track, splits: Splits, facts: Sequence[RowFacts]) -> Warnings:
    """Toolcall rows that offer one tool only.

    Args:
        track: There is nothing to say of structured rows.
        splits: Rows by split.
        facts: What is known of the rows. Without facts all rows count where all golds call the
            same tool.
    """
    if track != "toolcall":
        return []
    rows = [row for of_split in splits.values() for row in of_split]
    called = {name for row in rows for name in called_tools(track, row.completion)}
    n = len(rows) if len(called) == 1 else 0
    if facts:
        n = sum(len(fact.tools) == 1 for fact in facts)
    meaning = (
        "The tool's name is given then: name_match_rate says how well it is copied, not how well a "
        "tool is chosen."
    )
    return [warn("rows with one tool to call", n, len(rows), meaning)]


def look_at_sizes(splits: Splits, largest_cluster: int) -> Warnings:
    """A test split with few rows, and many prompts that are nearly the same.

    Args:
        splits: Rows by split.
        largest_cluster: Rows of the largest cluster of nearly equal prompts; 0 for none.
    """
    n_test, n = len(splits["test"]), sum(map(len, splits.values()))
    low, high = wilson_interval(n_test // 2, n_test)
    few = (
        f"A rate of {n_test // 2 / n_test:.2f} has the 95% interval [{low:.2f}, {high:.2f}] then: "
        "few gaps can be told from none."
    )
    alike = (
        "They are in one split, as nearly equal prompts must be. Where only the instruction is "
        "alike, write it the same, word for word, in all prompts."
    )
    n_few = n_test if n_test < FEWEST_TEST_ROWS else 0
    n_alike = largest_cluster if 10 * largest_cluster > n else 0
    return [
        warn(f"test rows: fewer than {FEWEST_TEST_ROWS}", n_few, n_test, few),
        warn("prompts in one cluster of nearly equal ones", n_alike, n, alike),
    ]
