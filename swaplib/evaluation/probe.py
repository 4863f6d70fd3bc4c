"""A look at a run's first answers before the rest is asked, and paid for: is it the form that goes wrong?

first 8 rows of toolcall azure: 0 right as asked, 8 right inside; most often: prose around (8). 1,208 prompt and 331 answer
tokens so far, USD 0.0005
"""

from collections import Counter
from collections.abc import Sequence

from swaplib.evaluation.costs import Prices, measure_ledger
from swaplib.evaluation.error_analysis import name_reason
from swaplib.evaluation.form import Form, see_form
from swaplib.metrics import Track
from swaplib.models.names import ModelName
from swaplib.rows import LedgerLine, Row

FOUND_INSIDE = 6  # so many right answers inside other text, and none as asked for: the rest would be paid for nothing


class FormFailed(Exception):  # noqa: N818 - reads as what happened
    """The hosted LLM knows the answers and writes none of them in the form that is asked for."""


def look(
    track: Track,
    model: ModelName,
    rows: Sequence[Row],
    first: Sequence[LedgerLine],
    n_to_come: int,
    prices: Prices,
) -> None:
    """Say in a line what a run's first answers look like.

    Args:
        track: `structured` or `toolcall`.
        model: Whose answers they are.
        rows: The rows of the split.
        first: The ledger's lines of the first rows.
        n_to_come: How many rows are still to be asked.
        prices: For what was paid so far.

    Raises:
        FormFailed: None is right as asked, and enough are right inside; says what to do. Of hosted models only: a local one
            costs nothing, and a fine-tune teaches it the form.
    """
    seen = see_form(track, rows, first)
    reasons = Counter(name_reason(track, rows[line.index].completion, line) for line in first)
    reasons.pop(None, None)
    worst = "".join(f"; most often: {reason} ({n})" for reason, n in reasons.most_common(1))
    inside = seen.found - seen.strict
    print(
        f"first {len(first)} rows of {track} {model}: {seen.strict} right as asked, {inside} right inside{worst}."
        f"{_say_usage(first, prices if model.is_hosted else None)}"
    )
    if model.is_hosted and not seen.strict and inside >= FOUND_INSIDE:
        raise FormFailed(_explain(model, seen, n_to_come))


def _say_usage(first: Sequence[LedgerLine], prices: Prices | None) -> str:
    found = measure_ledger(first)
    tokens = (found["prompt_tokens"], found["completion_tokens"])
    if None in tokens:
        return ""
    usd = prices.price_tokens(*tokens) if prices else None
    paid = "" if usd is None else f", USD {usd:.4f}"
    return f" {tokens[0]:,} prompt and {tokens[1]:,} answer tokens so far{paid}."


def _explain(model: ModelName, seen: Form, n_to_come: int) -> str:
    fenced = f" {seen.n_fenced} answers are inside a code fence." if seen.n_fenced else ""
    ways = ["mend the prompt's words (say that nothing else may stand around the answer)"]
    ways += [] if model.shots else ["show examples (-p models azure-shots4,slm-shots4)"]
    ways += [] if model.is_native else ["ask natively (-p models azure-native,slm-native)"]
    return (
        f"{model}: none of the first {seen.n_rows} answers is right as asked, and {seen.found} hold the right answer inside."
        f"{fenced} The strict metrics would call the model useless. {n_to_come} calls were not made, and what was answered "
        f"is kept. What to do: {'; '.join(ways)}; or go on all the same with -p probe 0."
    )
