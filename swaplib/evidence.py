"""How sure are we: intervals and paired counts, over statsmodels. It decides nothing."""

from collections.abc import Sequence


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a rate.

    Args:
        successes: Rows that count, 0..n.
        n: All rows, at least 1.
        confidence: For example 0.95.

    Returns:
        Lower and upper limit, both in 0..1.
    """
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(successes, n, alpha=1 - confidence, method="wilson")
    return float(low), float(high)


def count_pairs(first: Sequence[bool], second: Sequence[bool]) -> dict[str, int]:
    """How two models fared on the same rows: `both`, `first_only`, `second_only`, `neither`.

    Args:
        first: One bit for each row.
        second: The bits of the other model for the same rows in the same order.
    """
    pairs = list(zip(first, second, strict=True))
    return {
        "both": pairs.count((True, True)),
        "first_only": pairs.count((True, False)),
        "second_only": pairs.count((False, True)),
        "neither": pairs.count((False, False)),
    }
