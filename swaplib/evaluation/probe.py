"""A look at a run's first answers, before the rest is paid for: is it the form that goes wrong?

first 8 rows of toolcall azure: 0 right as asked, 8 right inside; most often: prose around (8).
1,208 prompt and 331 answer tokens so far, USD 0.0005.
"""

from collections import Counter
from collections.abc import Sequence

from swaplib.evaluation.costs import Prices
from swaplib.evaluation.error_analysis import name_reason
from swaplib.evaluation.form import Form, see_form
from swaplib.evaluation.usage import measure_ledger
from swaplib.metrics import Track
from swaplib.models.names import ModelName
from swaplib.rows import LedgerLine, Row

# With so many right answers inside other text, and none as asked for, the rest would be paid for
# nothing.
FOUND_INSIDE = 6


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
        track: The track of the rows.
        model: Whose answers they are.
        rows: The rows of the split.
        first: The ledger's lines of the first rows.
        n_to_come: How many calls are left.
        prices: For what was paid so far.

    Raises:
        FormFailed: None is right as asked, and enough are right inside; says what to do. Only for
            hosted models: a local one costs nothing, and a fine-tune teaches it the form.
    """
    seen = see_form(track, rows, first)
    reasons = Counter(name_reason(track, rows[line.index].completion, line) for line in first)
    reasons.pop(None, None)
    worst = "".join(f"; most often: {reason} ({n})" for reason, n in reasons.most_common(1))
    inside = seen.found - seen.strict
    print(
        f"first {len(first)} rows of {track} {model}: {seen.strict} right as asked, {inside} right "
        f"inside{worst}.{_say_usage(first, prices if model.is_hosted else None)}"
    )
    if model.is_hosted and not seen.strict and inside >= FOUND_INSIDE:
        raise FormFailed(_explain(model, seen, n_to_come))


def _say_usage(first: Sequence[LedgerLine], prices: Prices | None) -> str:
    usage = measure_ledger(first)
    n_prompt, n_completion = usage["prompt_tokens"], usage["completion_tokens"]
    if n_prompt is None or n_completion is None:
        return ""
    usd = prices.price_tokens(n_prompt, n_completion) if prices else None
    paid = "" if usd is None else f", USD {usd:.4f}"
    return f" {n_prompt:,} prompt and {n_completion:,} answer tokens so far{paid}."


def _explain(model: ModelName, seen: Form, n_to_come: int) -> str:
    fenced = f" {seen.n_fenced} answers are inside a code fence." if seen.n_fenced else ""
    ways = ["mend the prompt's words (say that there must be nothing around the answer)"]
    ways += [] if model.shots else ["show examples (-p models azure-shots4,slm-shots4)"]
    ways += [] if model.is_native else ["ask natively (-p models azure-native,slm-native)"]
    return (
        f"{model}: none of the first {seen.n_rows} answers is right as asked, and {seen.found} "
        f"hold the right answer inside.{fenced} The strict metrics would call the model useless. "
        f"{n_to_come} calls were not made, and what was answered is saved. What to do: "
        f"{'; '.join(ways)}; or continue all the same with -p probe 0."
    )
