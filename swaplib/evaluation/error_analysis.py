"""Format or skill? Why rows failed, and whether the right answer was in the output all the same. It scores nothing.

Strict metrics decide (metrics.py). Here the answer is looked for leniently: fences and prose around it are let go, so that a
model that knows the answer and not the form can be told from one that knows neither.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from swaplib.data.facts import RowFacts, is_given, list_parts
from swaplib.evaluation.leniency import is_right_leniently
from swaplib.metrics import (
    JsonDocument,
    Prediction,
    ToolCall,
    Track,
    aggregate,
    canonical_json,
    parse_gold,
    parse_output,
    rates_of,
    same_json,
)
from swaplib.rows import LedgerLine, Row

REASONS = {
    "toolcall": (
        *(
            "error",
            "filtered",
            "empty",
            "truncated",
            "no wrapper",
            "several wrappers",
            "prose around",
            "not JSON",
        ),
        *("wrong name", "missing argument", "extra argument", "wrong argument"),
    ),
    "structured": (
        "error",
        "filtered",
        "empty",
        "truncated",
        "not JSON",
        "prose around",
        "wrong answer",
    ),
}
# how much is looked at, so that hostile text costs little: characters, and places where a JSON value may begin
LENGTH, OPENINGS = 100_000, 50
_OPENING, _CLOSING = re.compile(r'<tool_call name="[^"<>]{1,1000}">'), "</tool_call>"


def find_answer(track: Track, output: str) -> Prediction | None:
    """The first answer in an output, whatever stands around it; None when there is none. Never raises for any text."""
    return next(list_answers(track, output), None)


def list_answers(track: Track, output: str) -> Iterator[Prediction]:
    """The answers in an output, in order, whatever stands around them.

    For toolcall these are wrappers, and where there is none the objects that hold a name and arguments, as models write
    calls in other forms; for structured JSON arrays and objects.
    """
    if (found := parse_output(track, output)) is not None:
        yield found
    elif track == "toolcall":
        calls = [
            call
            for wrapper in _find_wrappers(output)
            if (call := parse_output(track, wrapper)) is not None
        ]
        yield from calls or _find_calls(output)
    else:
        yield from map(JsonDocument, _find_json(output[:LENGTH]))


def _find_calls(output: str) -> Iterator[ToolCall]:
    """Calls written as `{"name": "X", "arguments": {…}}`, alone or in a list."""
    for value in _find_json(output[:LENGTH]):
        for name, arguments in list_parts(JsonDocument(value)):
            if name is not None:
                yield ToolCall(name, arguments)


def _find_wrappers(output: str) -> list[str]:
    """Texts from the last opening before a closing up to it; one pass, however many are never closed."""
    wrappers = []
    for part in output[:LENGTH].split(_CLOSING)[:-1]:
        start = part.rfind("<tool_call ")
        if start >= 0 and _OPENING.match(part, start):
            wrappers.append(part[start:] + _CLOSING)
    return wrappers


def _find_json(text: str) -> Iterator[Any]:
    """JSON arrays and objects in a text, from the first opening bracket on; what stands inside of one is no other."""
    decoder, end = json.JSONDecoder(), 0
    for match, _ in zip(re.finditer(r"[\[{]", text), range(OPENINGS), strict=False):
        if match.start() < end:
            continue
        try:
            value, end = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        yield value


def name_reason(track: Track, gold: str, line: LedgerLine) -> str | None:
    """Why a row is wrong, as one of the track's REASONS; None when it is right on every core metric.

    Args:
        track: `structured` or `toolcall`.
        gold: The row's completion.
        line: The row's ledger line.
    """
    if all(line.scores.values()):
        return None
    status, output = line.generation.status, line.generation.output
    if status != "ok":
        return status
    found = parse_output(track, output)
    if track == "structured":
        if found is not None:
            return "wrong answer"
        return "not JSON" if find_answer(track, output) is None else "prose around"
    if found is None:
        wrappers = _find_wrappers(output)
        if len(wrappers) != 1:
            return "several wrappers" if wrappers else "no wrapper"
        return "not JSON" if find_answer(track, output) is None else "prose around"
    return _compare_calls(parse_gold(track, gold), found)


def _compare_calls(gold: ToolCall, found: ToolCall) -> str:
    if gold.name != found.name:
        return "wrong name"
    if gold.arguments.keys() - found.arguments.keys():
        return "missing argument"
    return "extra argument" if found.arguments.keys() - gold.arguments.keys() else "wrong argument"


def find_right(track: Track, completion: str, output: str) -> bool:
    """Whether the right answer stands anywhere in an output."""
    gold = parse_gold(track, completion)
    return any(_is_right(gold, answer) for answer in list_answers(track, output))


def _is_right(gold: Prediction, found: Prediction | None) -> bool:
    """Whether an answer is right, whatever stood around it."""
    if isinstance(gold, ToolCall):
        return (
            isinstance(found, ToolCall)
            and gold.name == found.name
            and same_json(gold.arguments, found.arguments)
        )
    return isinstance(found, JsonDocument) and same_json(gold.value, found.value)


def diagnose(
    track: Track,
    rows: Sequence[Row],
    ledger: Sequence[LedgerLine],
    facts: Sequence[RowFacts] | None = None,
) -> dict[str, Any]:
    """Look at a whole run.

    Args:
        track: `structured` or `toolcall`.
        rows: The rows of the split.
        ledger: The run's ledger, in row order.
        facts: The facts of the rows, which tell the types of parameters; None for own rows without any.

    Returns:
        `right` and `reasons` (rows for each of the track's REASONS); `all_rows`, `answered` and `given`, each with `n_rows`
        and the core metrics: over all rows, which count, over those with status `ok`, which flatter a model, and over those
        whose gold values the request or a default gives (None without facts); `found_rate`, rows whose right answer is
        somewhere in the output; `lenient_rate`, the same with the leaderboard's leniency for values; `fields`, as
        _score_fields makes them; for toolcall, precision, recall and F1 of the arguments. These rates are over all rows.
    """
    reasons = Counter(name_reason(track, rows[line.index].completion, line) for line in ledger)
    right, counted = reasons.pop(None, 0), {reason: reasons[reason] for reason in REASONS[track]}
    golds = [parse_gold(track, rows[line.index].completion) for line in ledger]
    answers = [list(list_answers(track, line.generation.output)) for line in ledger]
    pairs = list(zip(golds, [found[0] if found else None for found in answers], strict=True))
    content: dict[str, Any] = {"n_rows": len(ledger), "right": right, "reasons": counted}
    content["all_rows"] = _rate(track, ledger)
    content["answered"] = _rate(track, [line for line in ledger if line.generation.status == "ok"])
    content["given"] = (
        None
        if facts is None
        else _rate(track, [line for line in ledger if is_given(facts[line.index])])
    )
    n_found = n_lenient = 0
    for gold, of_row, line in zip(golds, answers, ledger, strict=True):
        n_found += any(_is_right(gold, answer) for answer in of_row)
        known = facts[line.index] if facts else None
        n_lenient += any(is_right_leniently(gold, answer, known) for answer in of_row)
    content |= {"found_rate": n_found / len(ledger), "lenient_rate": n_lenient / len(ledger)}
    content["fields"] = _score_fields(pairs)
    return content | (_score_arguments(pairs) if track == "toolcall" else {})


def _rate(track: Track, lines: Sequence[LedgerLine]) -> dict[str, Any]:
    scores = [line.scores for line in lines]
    return {"n_rows": len(scores)} | (rates_of(aggregate(track, scores)) if scores else {})


def _score_fields(pairs: list[tuple[Prediction, Prediction | None]]) -> list[dict[str, Any]]:
    """How often each key of the golds is right: `field`, `wanted`, `right` and `missing`, most often wrong first.

    Calls are matched by their place; the arguments of a call of another tool are missing. `name` is the tool's.
    """
    counts: dict[str, Counter[str]] = {}
    for gold, found in pairs:
        others = list_parts(found) if found is not None else []
        for place, (name, values) in enumerate(list_parts(gold)):
            other, given = others[place] if place < len(others) else (None, {})
            wanted = ({"name": name} if name is not None else {}) | values
            given = ({"name": other} if other is not None else {}) | (
                given if other == name else {}
            )
            for field, value in wanted.items():
                outcome = (
                    "missing"
                    if field not in given
                    else "right"
                    if same_json(value, given[field])
                    else "wrong"
                )
                counts.setdefault(field, Counter())[outcome] += 1
    records = [
        {"field": field, "wanted": n.total(), "right": n["right"], "missing": n["missing"]}
        for field, n in counts.items()
    ]
    return sorted(records, key=lambda record: (record["right"] - record["wanted"], record["field"]))


def _score_arguments(pairs: list[tuple[Any, Any]]) -> dict[str, float]:
    """Micro precision, recall and F1 of arguments, each a name with its canonical value."""
    wanted = given = right = 0
    for gold, found in pairs:
        expected = {(key, canonical_json(value)) for key, value in gold.arguments.items()}
        predicted = set(_list_arguments(found)) if found is not None else set()
        wanted, given, right = (
            wanted + len(expected),
            given + len(predicted),
            right + len(expected & predicted),
        )
    precision, recall = (right / n if n else 0.0 for n in (given, wanted))
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return {"args_precision": precision, "args_recall": recall, "args_f1": f1}


def _list_arguments(call: ToolCall) -> list[tuple[str, str]]:
    try:
        return [(key, canonical_json(value)) for key, value in call.arguments.items()]
    except RecursionError:
        return []
