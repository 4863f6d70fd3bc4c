"""The rule: FINE_TUNE=1 when the SLM is worse on any core metric by more than delta.

And the verdict that follows from it in 05. Pure functions.
"""

from collections.abc import Mapping

from swaplib.evaluation.stats import DEFAULT_MARGIN
from swaplib.formats.decision import Rule
from swaplib.formats.metrics_file import Summary
from swaplib.metrics import Track, core_metrics
from swaplib.models.names import ModelName


def apply_rule(track: Track, azure: Summary, slm: Summary, delta: float) -> Rule:
    """The rule, computed exactly: a gap of precisely delta is not worse.

    Args:
        track: Whose core metrics are compared.
        azure: What the hosted LLM's run found.
        slm: The same of the SLM, over the same rows.
        delta: How much worse is still good enough, a rate in 0..1.

    Raises:
        ValueError: delta is not in 0..1.
    """
    if not 0 <= delta <= 1:
        raise ValueError(f"delta={delta}: expected a rate from 0 to 1")
    n = azure["n_rows"]
    gaps: dict[str, float] = {}
    for metric in core_metrics(track):
        # Counts of rows, so that no gap is off by a rounding: a delta that is copied from a
        # decision's gap is then exactly that gap.
        gaps[metric] = (round(azure[metric] * n) - round(slm[metric] * n)) / n
    worse_on = [metric for metric, gap in gaps.items() if gap > delta]
    return {"FINE_TUNE": int(bool(worse_on)), "worse_on": worse_on, "gaps": gaps}


def find_margin(delta: float, margin: float | None) -> float:
    """The reference of the evidence: delta, or DEFAULT_MARGIN where delta is 0.

    So rule and evidence answer one question.

    Args:
        delta: The rule's.
        margin: What was asked for; None for nothing.

    Raises:
        ValueError: The margin is no rate, or another one than a delta above 0.
    """
    if margin is None:
        return delta if delta > 0 else DEFAULT_MARGIN
    if not 0 <= margin <= 1:
        raise ValueError(f"margin={margin}: expected a rate from 0 to 1, or None")
    if delta > 0 and margin != delta:
        raise ValueError(
            f"margin={margin:g} with delta={delta:g}: the rule and the evidence would answer two "
            "questions. Leave margin out (it is delta then), or set delta=0 to ask about a margin "
            "beside the rule."
        )
    return margin


def find_verdict(rules: Mapping[str, Rule], candidate: str, chosen: str | None) -> tuple[str, str]:
    """The first model that the rule lets pass: the base SLM, its adapter, the chosen examples.

    Examples are recommended only where the adapter is not enough, and only in the number that val
    chose.

    Args:
        rules: By each model that can be recommended.
        candidate: Recommended when none passes.
        chosen: The few-shot run that val chose; None for none.

    Returns:
        The model that is recommended, and the verdict.
    """
    verdicts = {
        "slm": "swap",
        "slm-native": "swap, asked natively",
        "slm_ft": "swap with the adapter",
        "slm_ft-native": "swap with the adapter, asked natively",
    }
    if chosen:
        verdicts[chosen] = f"swap with {ModelName.parse(chosen).shots} examples in the prompt"
    for model, verdict in verdicts.items():
        if model in rules and not rules[model]["FINE_TUNE"]:
            return model, verdict
    return candidate, "stay"
