"""Parse, score and aggregate outputs: pure functions over strings, standard library only.

Nothing here repairs an output. What the model said is what is scored: fences, prose around the
answer or a second call make a row wrong. In this toolcall row everything matches:

    gold    <tool_call name="t3ma">{"symbol":"ETH/BTC","interval":"1h"}</tool_call>
    output  <tool_call name="t3ma">{"interval": "1h", "symbol": "ETH/BTC"}</tool_call>
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Track = Literal["structured", "toolcall"]
TRACKS: tuple[Track, ...] = ("structured", "toolcall")
CoreMetric = Literal[
    "json_valid_rate", "exact_match_rate", "valid_call_rate", "name_match_rate", "args_exact_rate"
]

_OPEN, _NAME_END, _CLOSE = '<tool_call name="', '">', "</tool_call>"


@dataclass(frozen=True, slots=True)
class JsonDocument:
    """A structured output that parses as strict JSON; `value` is None for `null`."""

    value: Any


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A toolcall output that is exactly one wrapper: the tool's name and its arguments."""

    name: str
    arguments: dict[str, Any]


Prediction = JsonDocument | ToolCall


@dataclass(frozen=True)
class StructuredScores:
    """The structured track's core metrics over all rows (0..1), and the bits of each row."""

    json_valid_rate: float
    exact_match_rate: float
    rows: tuple[dict[str, bool], ...]


@dataclass(frozen=True)
class ToolcallScores:
    """The toolcall track's core metrics over all rows (0..1), and the bits of each row."""

    valid_call_rate: float
    name_match_rate: float
    args_exact_rate: float
    rows: tuple[dict[str, bool], ...]


def core_metrics(track: Track) -> tuple[CoreMetric, ...]:
    """A track's core metrics, in the order of the tables: a bit's name plus `_rate` each."""
    check_track(track)
    if track == "structured":
        return ("json_valid_rate", "exact_match_rate")
    return ("valid_call_rate", "name_match_rate", "args_exact_rate")


def check_track(name: str) -> Track:
    """The track of that name; raises ValueError for one that does not exist."""
    for track in TRACKS:
        if track == name:
            return track
    raise ValueError(f"unknown track {name!r}: expected one of {', '.join(TRACKS)}")


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text} is out of range")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for key, value in pairs:
        if key in unique:
            raise ValueError(f"duplicate key {key!r}")
        unique[key] = value
    return unique


def parse_json(text: str) -> Any:
    """Parse strict JSON: no NaN or Infinity, no duplicate keys, no number beyond a float's range.

    Raises:
        ValueError: The text is not strict JSON, or nested too deeply; the message says why.
    """
    try:
        return json.loads(
            text,
            parse_constant=_reject_constant,
            parse_float=_finite_float,
            object_pairs_hook=_unique_keys,
        )
    except RecursionError:
        raise ValueError("nested too deeply to parse") from None


def canonical_json(value: Any) -> str:
    """The one text of a JSON value: sorted keys, no spaces; `1` and `1.0` differ."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def format_tool_call(name: str, arguments: dict[str, Any]) -> str:
    """The wrapper that the toolcall track asks for, keys in the order given."""
    body = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
    return f"{_OPEN}{name}{_NAME_END}{body}{_CLOSE}"


def parse_gold(track: Track, completion: str) -> Prediction:
    """Parse a row's completion.

    Raises:
        ValueError: It is not what the track asks for; says what was expected and found.
    """
    check_track(track)
    if track == "structured":
        return JsonDocument(parse_json(completion))
    text = completion.strip()
    name, name_end, rest = text.removeprefix(_OPEN).partition(_NAME_END)
    if not (text.startswith(_OPEN) and name_end and rest.endswith(_CLOSE)):
        raise ValueError(
            f"expected exactly {_OPEN}X{_NAME_END}{{json}}{_CLOSE}, found {text[:60]!r}"
        )
    if not name or any(c in name for c in '"<>'):
        raise ValueError(f"the tool name {name[:60]!r} is empty or holds a quote or bracket")
    arguments = parse_json(rest.removesuffix(_CLOSE))
    if not isinstance(arguments, dict):
        raise ValueError(f"the body must be a JSON object, found {type(arguments).__name__}")
    return ToolCall(name, arguments)


def parse_output(track: Track, output: str) -> Prediction | None:
    """What a model said, parsed, or None when it is not what the track asks for."""
    check_track(track)
    try:
        return parse_gold(track, output)
    except ValueError:
        return None


def same_json(a: Any, b: Any) -> bool:
    """Whether two values are equal as canonical JSON; values nested too deeply are not."""
    try:
        return canonical_json(a) == canonical_json(b)
    except RecursionError:
        return False


def args_exact(gold: ToolCall, prediction: ToolCall | None) -> bool:
    """Whether the predicted arguments equal the gold ones as canonical JSON.

    The tool's name does not count here (see name_match_rate). 1 and 1.0 differ, other key orders do
    not. A prediction is None when the output is not exactly one wrapper.

    Source: "Metrics" in agent.md.
    """
    return prediction is not None and same_json(gold.arguments, prediction.arguments)


def score_row(track: Track, gold: str, output: str | None) -> dict[str, bool]:
    """Score one output against one completion.

    Args:
        gold: The row's completion.
        output: The raw text of the model; None when it gave none (scored as wrong).

    Returns:
        One bit for each core metric, in the order of core_metrics, without the `_rate`.

    Raises:
        ValueError: The gold is not what the track asks for (the data's fault, never the model's).
    """
    expected = parse_gold(track, gold)
    prediction = None if output is None else parse_output(track, output)
    if isinstance(expected, JsonDocument):
        document = prediction if isinstance(prediction, JsonDocument) else None
        return {
            "json_valid": document is not None,
            "exact_match": document is not None and same_json(expected.value, document.value),
        }
    call = prediction if isinstance(prediction, ToolCall) else None
    return {
        "valid_call": call is not None,
        "name_match": call is not None and expected.name == call.name,
        "args_exact": args_exact(expected, call),
    }


def aggregate(
    track: Track, row_scores: Sequence[dict[str, bool]]
) -> StructuredScores | ToolcallScores:
    """Rates over all rows given, whatever became of them.

    Raises:
        ValueError: There are no rows, so there is no rate.
    """
    if not row_scores:
        raise ValueError("no rows to score: expected at least one")
    rates = {
        metric: sum(bits[metric.removesuffix("_rate")] for bits in row_scores) / len(row_scores)
        for metric in core_metrics(track)
    }
    scores = StructuredScores if track == "structured" else ToolcallScores
    return scores(**rates, rows=tuple(row_scores))


def score_rows(
    track: Track, golds: Sequence[str], outputs: Sequence[str | None]
) -> StructuredScores | ToolcallScores:
    """Score a whole split.

    Args:
        golds: The completions, one for each row.
        outputs: The model's raw texts in the same order; None (scored as wrong) where it gave none.

    Raises:
        ValueError: The lists differ in length or are empty, or a gold does not fit; names which.
    """
    n, m = len(golds), len(outputs)
    if n != m:
        raise ValueError(f"expected one output for each gold, found {n} golds and {m} outputs")
    bits = []
    for index, (gold, output) in enumerate(zip(golds, outputs, strict=True)):
        try:
            bits.append(score_row(track, gold, output))
        except ValueError as error:
            raise ValueError(f"gold {index}: {error}") from None
    return aggregate(track, bits)


def rates_of(scores: StructuredScores | ToolcallScores) -> dict[str, float]:
    """The core metrics as a dict of names and rates, for files and tables."""
    return {name: value for name, value in vars(scores).items() if name != "rows"}
