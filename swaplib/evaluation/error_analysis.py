"""Format or skill? Why rows failed, and whether the right answer was in the output all the same.

It scores nothing: the strict metrics decide (metrics.py).
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from swaplib.data.facts import RowFacts, is_given, list_parts
from swaplib.evaluation.answers import find_answer, find_wrappers, is_right, list_answers
from swaplib.evaluation.leniency import is_right_leniently
from swaplib.metrics import (
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

_NO_ANSWER = ("error", "filtered", "empty", "truncated")
_WRONG_CALL = ("wrong name", "missing argument", "extra argument", "wrong argument")
REASONS: dict[Track, tuple[str, ...]] = {
    "toolcall": (
        *_NO_ANSWER,
        *("no wrapper", "several wrappers", "prose around", "not JSON"),
        *_WRONG_CALL,
    ),
    "structured": (*_NO_ANSWER, "not JSON", "prose around", "wrong answer"),
}

Pairs = list[tuple[Prediction, Prediction | None]]  # each gold with the first answer of its output


def name_reason(track: Track, completion: str, line: LedgerLine) -> str | None:
    """Why a row is wrong, as one of the track's REASONS; None when every core metric is right."""
    if all(line.scores.values()):
        return None
    if line.generation.status != "ok":
        return line.generation.status
    prediction = parse_output(track, line.generation.output)
    if prediction is None:
        return _name_fault_of_form(track, line.generation.output)
    gold = parse_gold(track, completion)
    if isinstance(gold, ToolCall) and isinstance(prediction, ToolCall):
        return _compare_calls(gold, prediction)
    return "wrong answer"


def _name_fault_of_form(track: Track, output: str) -> str:
    """Why an output does not parse."""
    if track == "toolcall" and len(wrappers := find_wrappers(output)) != 1:
        return "several wrappers" if wrappers else "no wrapper"
    return "not JSON" if find_answer(track, output) is None else "prose around"


def _compare_calls(gold: ToolCall, call: ToolCall) -> str:
    if gold.name != call.name:
        return "wrong name"
    if gold.arguments.keys() - call.arguments.keys():
        return "missing argument"
    return "extra argument" if call.arguments.keys() - gold.arguments.keys() else "wrong argument"


def diagnose(
    track: Track,
    rows: Sequence[Row],
    ledger: Sequence[LedgerLine],
    facts: Sequence[RowFacts] | None = None,
) -> dict[str, Any]:
    """Look at a whole run.

    Args:
        track: Whose REASONS are counted.
        rows: The rows of the split.
        ledger: The run's ledger, in row order.
        facts: The facts of the rows, which tell the types of parameters; None for rows without any.

    Returns:
        `right` and `reasons` (rows for each of the track's REASONS); `all_rows`, `answered` and
        `given`, each with `n_rows` and the core metrics: over all rows, which count, over those
        with status `ok`, which flatter a model, and over those whose gold values the request or a
        default gives (None without facts); `found_rate`, rows whose right answer is somewhere in
        the output; `lenient_rate`, the same with the leaderboard's leniency for values; `fields`,
        as _score_fields makes them; for toolcall, precision, recall and F1 of the arguments. These
        rates are over all rows.
    """
    reasons = Counter(name_reason(track, rows[line.index].completion, line) for line in ledger)
    golds = [parse_gold(track, rows[line.index].completion) for line in ledger]
    answers = [list(list_answers(track, line.generation.output)) for line in ledger]
    first = [of_row[0] if of_row else None for of_row in answers]
    pairs = list(zip(golds, first, strict=True))
    return {
        "n_rows": len(ledger),
        "right": reasons[None],
        "reasons": {reason: reasons[reason] for reason in REASONS[track]},
        **_rate_subsets(track, ledger, facts),
        **_rate_found(golds, answers, [facts[line.index] if facts else None for line in ledger]),
        "fields": _score_fields(pairs),
        **(_score_arguments(pairs) if track == "toolcall" else {}),
    }


def _rate_subsets(
    track: Track, ledger: Sequence[LedgerLine], facts: Sequence[RowFacts] | None
) -> dict[str, Any]:
    """The core metrics over all rows, over answered rows, and over rows whose values are given."""
    answered = [line for line in ledger if line.generation.status == "ok"]
    rates: dict[str, Any] = {
        "all_rows": _rate(track, ledger),
        "answered": _rate(track, answered),
        "given": None,
    }
    if facts is not None:
        given = [line for line in ledger if is_given(facts[line.index])]
        rates["given"] = _rate(track, given)
    return rates


def _rate(track: Track, lines: Sequence[LedgerLine]) -> dict[str, Any]:
    scores = [line.scores for line in lines]
    return {"n_rows": len(scores)} | (rates_of(aggregate(track, scores)) if scores else {})


def _rate_found(
    golds: list[Prediction], answers: list[list[Prediction]], facts: list[RowFacts | None]
) -> dict[str, float]:
    """Shares of rows with a right answer anywhere in the output, strictly and leniently."""
    n_found = n_lenient = 0
    for gold, of_row, of_gold in zip(golds, answers, facts, strict=True):
        n_found += any(is_right(gold, answer) for answer in of_row)
        n_lenient += any(is_right_leniently(gold, answer, of_gold) for answer in of_row)
    return {"found_rate": n_found / len(golds), "lenient_rate": n_lenient / len(golds)}


def _score_fields(pairs: Pairs) -> list[dict[str, Any]]:
    """How often each key of the golds is right, most often wrong first.

    Calls are matched by their place; the arguments of a call of another tool are missing.

    Returns:
        Records of `field` (`name` is the tool's), `wanted`, `right` and `missing`.
    """
    counts: dict[str, Counter[str]] = {}
    for gold, answer in pairs:
        calls = list_parts(answer) if answer is not None else []
        for place, (name, values) in enumerate(list_parts(gold)):
            called, arguments = calls[place] if place < len(calls) else (None, {})
            expected = _name_fields(name, values)
            actual = _name_fields(called, arguments if called == name else {})
            for field, value in expected.items():
                outcome = "missing"
                if field in actual:
                    outcome = "right" if same_json(value, actual[field]) else "wrong"
                counts.setdefault(field, Counter())[outcome] += 1
    records = [
        {"field": field, "wanted": n.total(), "right": n["right"], "missing": n["missing"]}
        for field, n in counts.items()
    ]
    return sorted(records, key=lambda record: (record["right"] - record["wanted"], record["field"]))


def _name_fields(name: str | None, values: dict[str, Any]) -> dict[str, Any]:
    """A call's tool and arguments as one object; an argument called `name` hides the tool's."""
    return values if name is None else {"name": name} | values


def _score_arguments(pairs: Pairs) -> dict[str, float]:
    """Micro precision, recall and F1 of arguments, each a name with its canonical value."""
    n_expected = n_given = n_right = 0
    for gold, call in pairs:
        expected, given = _list_arguments(gold), _list_arguments(call)
        n_expected += len(expected)
        n_given += len(given)
        n_right += len(expected & given)
    precision = n_right / n_given if n_given else 0.0
    recall = n_right / n_expected if n_expected else 0.0
    f1 = 2 * precision * recall / (precision + recall) if n_right else 0.0
    return {"args_precision": precision, "args_recall": recall, "args_f1": f1}


def _list_arguments(call: Prediction | None) -> set[tuple[str, str]]:
    """The arguments of a call; none of those that are nested too deeply to be compared."""
    if not isinstance(call, ToolCall):
        return set()
    try:
        return {(key, canonical_json(value)) for key, value in call.arguments.items()}
    except RecursionError:
        return set()
