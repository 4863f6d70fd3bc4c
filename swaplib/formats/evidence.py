"""The evidence in a decision: rates with their intervals, and paired comparisons of two models."""

from typing import NotRequired, TypedDict

Interval = tuple[float, float]  # the lower and the upper limit; in a file, a list of the two


class Rate(TypedDict):
    """A rate over rows, with Wilson's interval."""

    rate: float
    interval: Interval


class RowsNeededRecord(TypedDict):
    """How many rows would settle a question."""

    rows: int
    power: float
    """How often a test of so many rows would settle it, a rate."""
    low: int
    """The 5th percentile of that number of rows; `high` is the 95th, None beyond a million."""
    high: int | None


class PairedRecord(TypedDict):
    """What the same rows say about two models on one metric (stats.PairedEvidence)."""

    n_rows: int
    both: int
    """Rows on which both are right; the next three are the other cases."""
    first_only: int
    second_only: int
    neither: int
    gap: float
    """The first model's rate less the second's."""
    interval: Interval
    """Newcombe's, of the gap; the verdict comes from it."""
    bootstrap: Interval
    """Of the gap, over resampled groups of rows."""
    n_groups: int
    p_value: float
    """Exact McNemar's; `p_adjusted` is the same after Holm's correction."""
    p_adjusted: float
    verdict: str
    """On the second model: `better`, `not worse`, `worse` or `not enough rows`."""
    rows_needed: RowsNeededRecord | None


class Pair(TypedDict):
    """Two models of a report, compared."""

    first: str
    second: str
    pairs: dict[str, PairedRecord]
    """By core metric."""


class Evidence(TypedDict):
    """What is reported beside the rule. None of it changes FINE_TUNE."""

    rates: dict[str, dict[str, Rate]]
    """By model and core metric."""
    pairs: dict[str, PairedRecord]
    """The reference against the model that the decision is about, by core metric."""
    full: list[Pair]
    """Checkpoints that are not quantised, against their 4-bit ones and the hosted LLM."""
    native: list[Pair]
    """Models asked natively, against themselves and the hosted LLM."""
    recommended: NotRequired[dict[str, PairedRecord]]
    """05: the reference against the recommended model."""
    changes: NotRequired[dict[str, PairedRecord]]
    """05: the SLM against the candidate."""
    few_shot: NotRequired[list[Pair]]
    """05: runs with examples in the prompt, against the others."""
