"""How sure are we: intervals, paired tests, rows needed, over statsmodels and scipy. It decides nothing.

Two models answer the same rows, so they are compared row by row: what counts are the rows on which only one was right.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

ALPHA, POWER = 0.05, 0.8


@dataclass(frozen=True)
class PairedEvidence:
    """What the same rows say about two models on one metric; `gap` is the first model's rate less the second's.

    `interval` is Newcombe's for paired rates, `bootstrap` the percentiles of resampled rows (both 95%), `p_value` exact
    McNemar's, `p_adjusted` the same after Holm's correction over the metrics of a track. `verdict` is of the second model:
    `worse`, `not worse` (non-inferior within the margin) or `not enough rows`; then `rows_needed` would settle it at 80%
    power if models go on to disagree as they did (None when they did not disagree).
    """

    n_rows: int
    both: int
    first_only: int
    second_only: int
    neither: int
    gap: float
    interval: tuple[float, float]
    bootstrap: tuple[float, float]
    p_value: float
    p_adjusted: float
    verdict: str
    rows_needed: int | None


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
    return max(0.0, float(low)), min(1.0, float(high))


def compare_metrics(
    sides: dict[str, tuple[Sequence[bool], Sequence[bool]]], margin: float, seed: int = 42
) -> dict[str, PairedEvidence]:
    """Compare two models on every metric of a track.

    Args:
        sides: For each metric, one bit for each row of the first and of the second model, in the same order.
        margin: How much worse still counts as not worse, a rate in 0..1.
        seed: Of the bootstrap.

    Raises:
        ValueError: The margin is no rate.
    """
    from statsmodels.stats.multitest import multipletests

    if not 0 <= margin <= 1:
        raise ValueError(f"margin={margin}: expected a rate from 0 to 1")
    counts = {metric: count_pairs(*bits) for metric, bits in sides.items()}
    p_values = [compute_mcnemar(c["first_only"], c["second_only"]) for c in counts.values()]
    adjusted = multipletests(p_values, alpha=ALPHA, method="holm")[1]
    return {
        metric: _judge(c, bootstrap_gap(*sides[metric], seed), float(p), float(p_holm), margin, len(sides))
        for (metric, c), p, p_holm in zip(counts.items(), p_values, adjusted, strict=True)
    }


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


def compute_mcnemar(first_only: int, second_only: int) -> float:
    """The two-sided p-value of exact McNemar's test; 1 when no row tells the models apart."""
    from statsmodels.stats.contingency_tables import mcnemar

    return float(mcnemar([[0, first_only], [second_only, 0]], exact=True).pvalue)


def bootstrap_gap(
    first: Sequence[bool], second: Sequence[bool], seed: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the gap over resampled rows; it has no width when the models never disagree.

    Args:
        first: One bit for each row; of a single row there is nothing to resample.
        second: The other model's bits for the same rows.
        seed: Of the resampling.
        confidence: For example 0.95.
    """
    import numpy as np
    from scipy.stats import bootstrap

    differences = np.subtract(first, second, dtype=float)
    if len(differences) < 2:
        return float(differences[0]), float(differences[0])
    found = bootstrap((differences,), np.mean, confidence_level=confidence, method="percentile", rng=seed)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def newcombe_interval(counts: dict[str, int]) -> tuple[float, float]:
    """95% interval of the gap between two paired rates, also where the models never disagree.

    Args:
        counts: As count_pairs makes them.

    Source: R. G. Newcombe, Improved confidence intervals for the difference between binomial proportions based on paired
    data, Statistics in Medicine 17 (1998), method 10.
    """
    a, b, c, d = (counts[name] for name in ("both", "first_only", "second_only", "neither"))
    n = a + b + c + d
    p1, p2 = (a + b) / n, (a + c) / n
    (low1, high1), (low2, high2) = wilson_interval(a + b, n), wilson_interval(a + c, n)
    margins, cross = (a + b) * (c + d) * (a + c) * (b + d), a * d - b * c
    cross = max(cross - n / 2, 0) if cross > 0 else cross
    phi = cross / math.sqrt(margins) if margins else 0.0

    def reach(x: float, y: float) -> float:
        return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))

    gap = p1 - p2
    return max(-1.0, gap - reach(p1 - low1, high2 - p2)), min(1.0, gap + reach(high1 - p1, p2 - low2))


def find_rows_needed(counts: dict[str, int], margin: float, n_metrics: int = 1) -> int | None:
    """Rows that would settle the question at 80% power, if the models go on to disagree as on these rows.

    The question is that of a difference when the second model is worse by the margin or more, else that of
    non-inferiority.

    Args:
        counts: As count_pairs makes them.
        margin: How much worse still counts as not worse.
        n_metrics: Over how many metrics p is corrected; the strictest of Holm's levels is reckoned with.

    Returns:
        More rows than there are, or None when these rows show no disagreement to reckon with, or the gap is 0 and so is
        the margin.

    Source: R. J. Connor, Sample size for testing differences in proportions for the paired-sample design, Biometrics 43
    (1987); for non-inferiority, J.-M. Nam, Establishing equivalence of two treatments and sample size requirements in
    matched-pairs design, Biometrics 53 (1997), with the observed variance.
    """
    from scipy.stats import norm

    n, b, c = sum(counts.values()), counts["first_only"], counts["second_only"]
    if not b + c:
        return None
    share, gap = (b + c) / n, (b - c) / n
    z_power, variance = norm.ppf(POWER), share - gap * gap
    if gap >= margin and gap > 0:
        needed = (norm.ppf(1 - ALPHA / 2 / n_metrics) * math.sqrt(share) + z_power * math.sqrt(variance)) ** 2 / gap**2
    elif gap < margin:
        needed = (norm.ppf(1 - ALPHA / 2) + z_power) ** 2 * variance / (margin - gap) ** 2
    else:
        return None
    return max(math.ceil(needed), n + 1)


def _judge(
    counts: dict[str, int],
    bootstrap: tuple[float, float],
    p_value: float,
    p_adjusted: float,
    margin: float,
    n_metrics: int,
) -> PairedEvidence:
    n, interval = sum(counts.values()), newcombe_interval(counts)
    gap = (counts["first_only"] - counts["second_only"]) / n
    if interval[1] < margin:
        verdict = "not worse"
    elif gap > 0 and p_adjusted < ALPHA:
        verdict = "worse"
    else:
        verdict = "not enough rows"
    needed = find_rows_needed(counts, margin, n_metrics) if verdict == "not enough rows" else None
    return PairedEvidence(
        n,
        **counts,
        gap=gap,
        interval=interval,
        bootstrap=bootstrap,
        p_value=p_value,
        p_adjusted=p_adjusted,
        verdict=verdict,
        rows_needed=needed,
    )
