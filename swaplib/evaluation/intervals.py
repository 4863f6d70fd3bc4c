"""Intervals of rates and of the gap between two paired rates, over statsmodels.

Each is there for one table of counts, and for arrays of them.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from swaplib.formats.evidence import Interval

if TYPE_CHECKING:
    import numpy as np

ALPHA = 0.05
CELLS = ("both", "first_only", "second_only", "neither")


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """The Wilson score interval of a rate.

    Args:
        successes: Rows that count, 0..n.
        n: All rows, at least 1.
        confidence: For example 0.95.

    Returns:
        Lower and upper limit, both in 0..1.
    """
    low, high = find_wilson(successes, n, 1 - confidence)
    return float(low), float(high)


def find_wilson(successes: Any, n: Any, alpha: float = ALPHA) -> tuple["np.ndarray", "np.ndarray"]:
    """Wilson limits of counts, or of arrays of them, which need not be whole numbers."""
    import numpy as np
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(successes, n, alpha=alpha, method="wilson")
    # Rounding leaves 3e-18 for a rate of 0.
    low = np.where(np.equal(successes, 0), 0.0, np.maximum(low, 0))
    high = np.where(np.equal(successes, n), 1.0, np.minimum(high, 1))
    return low, high


def newcombe_interval(counts: Mapping[str, int]) -> Interval:
    """95% interval of the gap between two paired rates, also where the models never disagree.

    Args:
        counts: As count_pairs makes them.

    Source: R. G. Newcombe, Improved confidence intervals for the difference between binomial
    proportions based on paired data, Statistics in Medicine 17 (1998), method 10.
    """
    low, high = find_newcombe(*(counts[name] for name in CELLS))
    return float(low), float(high)


def find_newcombe(a: Any, b: Any, c: Any, d: Any) -> tuple["np.ndarray", "np.ndarray"]:
    """Newcombe's limits of tables, or of arrays of them; arguments in the order of CELLS."""
    import numpy as np

    a, b, c, d = (np.asarray(cell, dtype=float) for cell in (a, b, c, d))
    n = a + b + c + d
    p1, p2 = (a + b) / n, (a + c) / n
    low1, high1 = find_wilson(a + b, n)
    low2, high2 = find_wilson(a + c, n)
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    cross = a * d - b * c
    cross = np.where(cross > 0, np.maximum(cross - n / 2, 0), cross)
    phi = np.where(margins > 0, cross / np.sqrt(np.where(margins > 0, margins, 1)), 0.0)

    def reach(x: "np.ndarray", y: "np.ndarray") -> "np.ndarray":
        return np.sqrt(np.maximum(0.0, x * x - 2 * phi * x * y + y * y))

    gap = (b - c) / n
    low = np.maximum(-1.0, gap - reach(p1 - low1, high2 - p2))
    high = np.minimum(1.0, gap + reach(high1 - p1, p2 - low2))
    return low, high
