"""The rule: FINE_TUNE=1 when the SLM is worse than the hosted LLM on any core metric by more than delta. Pure functions."""

from typing import Any

from swaplib.evaluation.stats import DEFAULT_MARGIN
from swaplib.metrics import Track, core_metrics


def apply_rule(
    track: Track, azure: dict[str, Any], slm: dict[str, Any], delta: float
) -> dict[str, Any]:
    """The rule, computed exactly: a gap of precisely delta is not worse.

    Args:
        track: `structured` or `toolcall`.
        azure: The hosted LLM's metrics file.
        slm: The SLM's.
        delta: How much worse is still good enough, a rate in 0..1.

    Returns:
        `FINE_TUNE` (0 or 1), `worse_on` (names of metrics) and `gaps` (azure - slm, a rate, for each core metric).

    Raises:
        ValueError: delta is not in 0..1.
    """
    if not 0 <= delta <= 1:
        raise ValueError(f"delta={delta}: expected a rate from 0 to 1")
    n, gaps = azure["n_rows"], {}
    for metric in core_metrics(track):
        # rows, so that no gap is off by a rounding; a gap copied from a decision is then exactly this number again
        gaps[metric] = (round(azure[metric] * n) - round(slm[metric] * n)) / n
    worse_on = [metric for metric, gap in gaps.items() if gap > delta]
    return {"FINE_TUNE": int(bool(worse_on)), "worse_on": worse_on, "gaps": gaps}


def find_margin(delta: float, margin: float | None) -> float:
    """The reference of the evidence: delta, so that rule and evidence answer one question; where delta is 0, 0.05.

    Args:
        delta: The rule's.
        margin: What a person asks for, None for nothing.

    Raises:
        ValueError: It is another one than a delta above 0, or no rate.
    """
    if margin is None:
        return delta if delta > 0 else DEFAULT_MARGIN
    if not 0 <= margin <= 1:
        raise ValueError(f"margin={margin}: expected a rate from 0 to 1, or None")
    if delta > 0 and margin != delta:
        raise ValueError(
            f"margin={margin:g} with delta={delta:g}: the rule and the evidence would answer two questions. Leave margin "
            "out (it is delta then), or set delta=0 to ask about a margin beside the rule."
        )
    return margin
