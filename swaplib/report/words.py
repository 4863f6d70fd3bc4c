"""The words that headlines are made of: a claim about a gap, a verdict, numbers of rows, who is meant. It reads no file.

Each sentence about certainty is one claim, made of one interval and one bound, so that no two can contradict each other:

    the interval of the gap lies above the bound    "worse", "worse by more than 0.05"
    it lies below the bound                         "better", "not worse by more than 0.05"
    it holds the bound                              "open"
"""

from dataclasses import asdict
from typing import Any

from swaplib.evaluation.intervals import CELLS
from swaplib.evaluation.stats import NOT_ENOUGH, NOT_WORSE, WORSE, compute_mcnemar, judge_counts
from swaplib.models.names import ModelName

ABOVE, BELOW, OPEN = "above", "below", "open"


def place(interval: list[float] | tuple[float, float], bound: float) -> str:
    """Where a bound lies beside a gap's interval: ABOVE (the interval is above it), BELOW, or OPEN (it is inside)."""
    low, high = interval
    return ABOVE if low > bound else BELOW if high < bound else OPEN


def say_verdict(pair: dict[str, Any], margin: float) -> str:
    """A pair's verdict on the second model in words, its margin and what is measurable all the same among them."""
    is_measurable = place(pair["interval"], 0) == ABOVE
    if pair["verdict"] == WORSE:
        return f"worse by more than {margin:g}" if margin else "worse"
    if pair["verdict"] == NOT_WORSE:
        return f"{'worse, but' if is_measurable else 'not worse'} by {'less' if is_measurable else 'more'} than {margin:g}"
    if pair["verdict"] == NOT_ENOUGH and is_measurable:
        return f"{NOT_ENOUGH} (measurably worse, by how much is open)"
    return str(pair["verdict"])


def say_gap(pair: dict[str, Any]) -> str:
    """A gap with its interval, for example `+0.05 [-0.03, +0.13]`."""
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(pair["gap"], *pair["interval"])


def say_rows(needed: dict[str, Any] | None) -> str:
    """How many rows would settle it, with the power and the range; empty where no number can be given."""
    if not needed:
        return ""
    most = f"{round_up(needed['high']):,}" if needed["high"] else "over a million"
    rows, low = round_up(needed["rows"]), round_up(needed["low"])
    return f"about {rows:,} rows ({needed['power']:.0%} power; these rows alone put it between {low:,} and {most})"


def say_settling(pairs: dict[str, Any], margin: float) -> str:
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
    """A number of rows, upwards to two digits."""
    unit = 10 ** max(0, len(str(n)) - 2)
    return -(-n // unit) * unit


def say_who(model: str) -> str:
    """A model in words: the hosted LLM, the SLM with its adapter, …"""
    name = ModelName.parse(model)
    marks = {"as the captured rows taught it": name.is_captured, "unquantised": name.is_full}
    marks |= {"asked natively": name.is_native}
    with_ = {" with its adapter": name.base == "slm_ft", f" with {name.shots} examples": name.shots}
    words = "the hosted LLM" if name.is_hosted else "the SLM"
    words += "".join(text for text, is_there in with_.items() if is_there)
    found = [text for text, is_there in marks.items() if is_there]
    return words + (f" ({', '.join(found)})" if found else "")


def join(parts: list[str]) -> str:
    """Words as a list: `a, b and c`."""
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)


def capitalise(text: str) -> str:
    """A sentence with its first letter large; the others stay."""
    return text[:1].upper() + text[1:]


def judge_table(
    both: int, first_only: int, second_only: int, neither: int, margin: float
) -> dict[str, Any]:
    """What the counts of two models' paired answers say of the second: the calculator behind `swap evidence`.

    Returns:
        `verdict`, `interval` (of the gap, first less second), `p_value`, `rows_needed` (or None) and `sentence`.

    Raises:
        ValueError: There is no row.
    """
    cells = (both, first_only, second_only, neither)
    if not sum(cells):
        raise ValueError(
            "0 rows: expected at least one row in BOTH, FIRST, SECOND and NEITHER together"
        )
    found = judge_counts(dict(zip(CELLS, cells, strict=True)), margin)
    needed = found["rows_needed"]
    pair = found | {"rows_needed": needed and asdict(needed)}
    sentence = (
        f"On {sum(cells)} rows the candidate is: {say_verdict(pair, margin)}, {say_gap(pair)}."
    )
    sentence += (
        f" To settle it, if they go on to disagree as they did: {say_rows(pair['rows_needed'])}."
        if needed
        else ""
    )
    return {
        "verdict": found["verdict"],
        "interval": found["interval"],
        "p_value": compute_mcnemar(first_only, second_only),
        "rows_needed": pair["rows_needed"],
        "sentence": sentence,
    }
