"""The words that headlines are made of: a verdict, a gap, numbers of rows, which model is meant.

Each sentence about certainty is one claim, made of one interval and one bound, so that no two can
contradict each other. It reads no file.

    the interval of the gap is above the bound    "worse", "worse by more than 0.05"
    it is below the bound                         "better", "not worse by more than 0.05"
    it holds the bound                            "open"
"""

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from swaplib.evaluation.intervals import CELLS
from swaplib.evaluation.rows_needed import RowsNeeded
from swaplib.evaluation.stats import NOT_ENOUGH, NOT_WORSE, WORSE, compute_mcnemar, judge_counts
from swaplib.formats.evidence import Interval, RowsNeededRecord
from swaplib.models.names import ModelName

ABOVE: Literal["above"] = "above"
BELOW: Literal["below"] = "below"
OPEN: Literal["open"] = "open"


class JudgedGap(TypedDict):
    """What the words need of a paired comparison; formats.evidence says what the keys mean."""

    gap: float
    interval: Interval
    verdict: str
    rows_needed: RowsNeededRecord | None


class JudgedTable(TypedDict):
    """What the counts of two models' paired answers say of the second."""

    verdict: str
    interval: Interval
    """Of the gap, first less second."""
    p_value: float
    rows_needed: RowsNeededRecord | None
    sentence: str


def place(interval: Interval, bound: float) -> Literal["above", "below", "open"]:
    """Where a gap's interval is: ABOVE the bound, BELOW it, or OPEN where the bound is inside."""
    low, high = interval
    return ABOVE if low > bound else BELOW if high < bound else OPEN


def say_verdict(pair: JudgedGap, margin: float) -> str:
    """The verdict on the second model in words, with the margin and what can be measured anyway."""
    is_measurable = place(pair["interval"], 0) == ABOVE
    if pair["verdict"] == WORSE:
        return f"worse by more than {margin:g}" if margin else "worse"
    if pair["verdict"] == NOT_WORSE:
        claim = "worse, but by less" if is_measurable else "not worse by more"
        return f"{claim} than {margin:g}"
    if pair["verdict"] == NOT_ENOUGH and is_measurable:
        return f"{NOT_ENOUGH} (measurably worse, by how much is open)"
    return pair["verdict"]


def say_gap(pair: JudgedGap) -> str:
    """A gap with its interval, for example `+0.05 [-0.03, +0.13]`."""
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(pair["gap"], *pair["interval"])


def say_rows(needed: RowsNeededRecord | None) -> str:
    """How many rows would settle it, with power and range; empty where no number can be given."""
    if not needed:
        return ""
    rows = round_up(needed["rows"])
    low = round_up(needed["low"])
    most = f"{round_up(needed['high']):,}" if needed["high"] else "over a million"
    return (
        f"about {rows:,} rows ({needed['power']:.0%} power; these rows alone put it between "
        f"{low:,} and {most})"
    )


def say_settling(pairs: Mapping[str, JudgedGap], margin: float) -> str:
    """What would settle what is open at the margin."""
    open_ = {
        metric: say_rows(pair["rows_needed"])
        for metric, pair in pairs.items()
        if pair["verdict"] == NOT_ENOUGH
    }
    if not open_:
        return f"Nothing is open at {margin:g}."
    listed = "; ".join(
        f"{m} {rows or 'by no number of rows: the gap is the margin'}" for m, rows in open_.items()
    )
    return f"At {margin:g}, if the models go on to disagree as they did: {listed}."


def round_up(n: int) -> int:
    """A number of rows, rounded up to two digits."""
    unit = 10 ** max(0, len(str(n)) - 2)
    return -(-n // unit) * unit


def say_who(model: str) -> str:
    """A model in words: the hosted LLM, the SLM with its adapter, …"""
    name = ModelName.parse(model)
    words = "the hosted LLM" if name.is_hosted else "the SLM"
    if name.base == "slm_ft":
        words += " with its adapter"
    if name.shots:
        words += f" with {name.shots} examples"
    marks = {
        "as the captured rows taught it": name.is_captured,
        "unquantised": name.is_full,
        "asked natively": name.is_native,
    }
    shown = [text for text, is_there in marks.items() if is_there]
    return f"{words} ({', '.join(shown)})" if shown else words


def join(parts: Sequence[str]) -> str:
    """Words as a list: `a, b and c`."""
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)


def capitalise(text: str) -> str:
    """A sentence with a capital letter; the other letters stay."""
    return text[:1].upper() + text[1:]


def judge_table(
    both: int, first_only: int, second_only: int, neither: int, margin: float
) -> JudgedTable:
    """Judge the counts of two models' paired answers: the calculator behind `swap evidence`.

    Raises:
        ValueError: There is no row.
    """
    cells = (both, first_only, second_only, neither)
    if not sum(cells):
        raise ValueError(
            "0 rows: expected at least one row in BOTH, FIRST, SECOND and NEITHER together"
        )
    judged = judge_counts(dict(zip(CELLS, cells, strict=True)), margin)
    pair: JudgedGap = {
        "gap": judged["gap"],
        "interval": judged["interval"],
        "verdict": judged["verdict"],
        "rows_needed": _record_needed(judged["rows_needed"]),
    }
    sentence = (
        f"On {sum(cells)} rows the candidate is: {say_verdict(pair, margin)}, {say_gap(pair)}."
    )
    if rows := say_rows(pair["rows_needed"]):
        sentence += f" To settle it, if they go on to disagree as they did: {rows}."
    return {
        "verdict": pair["verdict"],
        "interval": pair["interval"],
        "p_value": compute_mcnemar(first_only, second_only),
        "rows_needed": pair["rows_needed"],
        "sentence": sentence,
    }


def _record_needed(needed: RowsNeeded | None) -> RowsNeededRecord | None:
    if needed is None:
        return None
    return {
        "rows": needed.rows,
        "power": needed.power,
        "low": needed.low,
        "high": needed.high,
    }
