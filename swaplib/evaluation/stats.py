"""How sure are we: paired tests and verdicts, over statsmodels and scipy. It decides nothing.

Two models answer the same rows, so they are compared row by row: what counts are the rows on which
only one was right. Every verdict comes from one interval and one reference, the margin
(docs/evidence.md):

    gap = first - second, with its 95% interval [low, high]

    better            high < 0
    not worse         high < margin
    worse             low > margin
    not enough rows   else; measurably worse, by how much is open, where low > 0
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swaplib.evaluation.intervals import ALPHA, newcombe_interval
from swaplib.evaluation.rows_needed import RowsNeeded, find_rows_needed
from swaplib.formats.evidence import Interval

if TYPE_CHECKING:
    import numpy as np

DEFAULT_MARGIN = 0.05  # how much worse still counts as not worse, unless something else is asked
BETTER, NOT_WORSE, WORSE, NOT_ENOUGH = "better", "not worse", "worse", "not enough rows"


@dataclass(frozen=True)
class PairedEvidence:
    """What the same rows say about two models on one metric.

    `gap` is the first model's rate less the second's, `interval` Newcombe's for it, and `verdict`,
    on the second model, what judge says of that interval. `bootstrap` resamples `n_groups` groups
    of rows (tools that are called together, else equal prompts; without either, rows). Both are
    95%. `p_value` is exact McNemar's, `p_adjusted` the same after Holm's correction over the
    metrics of a track; they decide nothing. `rows_needed` is there where the verdict is `not enough
    rows`, unless gap and margin are equal.
    """

    n_rows: int
    both: int
    first_only: int
    second_only: int
    neither: int
    gap: float
    interval: Interval
    bootstrap: Interval
    n_groups: int
    p_value: float
    p_adjusted: float
    verdict: str
    rows_needed: RowsNeeded | None


def judge(interval: Interval, margin: float) -> str:
    """The verdict on the second model, from the interval of the first one's lead."""
    low, high = interval
    if high < 0:
        return BETTER
    if high < margin:
        return NOT_WORSE
    return WORSE if low > margin else NOT_ENOUGH


def compare_metrics(
    sides: Mapping[str, tuple[Sequence[bool], Sequence[bool]]],
    margin: float,
    groups: Sequence[Hashable] | None = None,
    seed: int = 42,
) -> dict[str, PairedEvidence]:
    """Compare two models on every metric of a track.

    Args:
        sides: For each metric, one bit for each row of the first and of the second model, in the
            same order.
        margin: How much worse still counts as not worse, a rate in 0..1.
        groups: For each row its group, which the bootstrap resamples as a whole; None where every
            row is one.
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
    evidence = {}
    for (metric, c), p, p_holm in zip(counts.items(), p_values, adjusted, strict=True):
        resampled, n_groups = bootstrap_gap(*sides[metric], groups, seed)
        evidence[metric] = PairedEvidence(
            **judge_counts(c, margin),
            bootstrap=resampled,
            n_groups=n_groups,
            p_value=float(p),
            p_adjusted=float(p_holm),
        )
    return evidence


def judge_counts(counts: Mapping[str, int], margin: float) -> dict[str, Any]:
    """The part of a PairedEvidence that follows from counts alone.

    Args:
        counts: As count_pairs makes them.
        margin: How much worse still counts as not worse, a rate.

    Returns:
        The counts, `n_rows`, `gap`, `interval`, `verdict` and `rows_needed`.
    """
    n, interval = sum(counts.values()), newcombe_interval(counts)
    verdict = judge(interval, margin)
    return {
        "n_rows": n,
        **counts,
        "gap": (counts["first_only"] - counts["second_only"]) / n,
        "interval": interval,
        "verdict": verdict,
        "rows_needed": find_rows_needed(counts, margin) if verdict == NOT_ENOUGH else None,
    }


def count_pairs(first: Sequence[bool], second: Sequence[bool]) -> dict[str, int]:
    """How two models fared on the same rows: `both`, `first_only`, `second_only`, `neither`.

    Args:
        first: One bit for each row.
        second: The other model's bits for the same rows in the same order.
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
    first: Sequence[bool], second: Sequence[bool], groups: Sequence[Hashable] | None, seed: int
) -> tuple[Interval, int]:
    """95% percentile interval of the gap over resampled groups, and how many there are.

    It has no width when the models never disagree.

    Args:
        first: One bit for each row.
        second: The other model's bits for the same rows.
        groups: The group of each row; None where every row is one. Of a single group there is
            nothing to resample.
        seed: Of the resampling.

    Source: the pairs cluster bootstrap: A. C. Cameron, J. B. Gelbach and D. L. Miller,
    Bootstrap-based improvements for inference with clustered errors, Review of Economics and
    Statistics 90 (2008).
    """
    import numpy as np
    from scipy.stats import bootstrap

    differences = np.subtract(first, second, dtype=float)
    labels = range(len(differences)) if groups is None else groups
    _, group_of_row = np.unique([str(label) for label in labels], return_inverse=True)
    sums = np.bincount(group_of_row, differences)
    sizes = np.bincount(group_of_row).astype(float)
    if len(sums) < 2:
        gap = float(differences.mean())
        return (gap, gap), len(sums)

    def pool(total: "np.ndarray", size: "np.ndarray", axis: int) -> "np.ndarray":
        return total.sum(axis) / size.sum(axis)

    options = {"paired": True, "vectorized": True, "method": "percentile", "batch": 1000}
    interval = bootstrap((sums, sizes), pool, rng=seed, **options).confidence_interval
    return (float(interval.low), float(interval.high)), len(sums)
