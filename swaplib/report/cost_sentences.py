"""What runs would cost, as sentences. It computes nothing: costs.py has every number."""

from swaplib.evaluation.costs import count_unread, name_unit
from swaplib.formats.decision import Costs, Pay


def describe_costs(costs: Costs, model: str | None) -> str:
    """What it would cost, as one sentence for a manager; without prices it says where to set them.

    It says USD: between two dollar signs, JupyterLab would typeset mathematics.

    Args:
        costs: As price_runs makes it.
        model: The local model whose machine may pay; None for none.
    """
    prices = [
        f"{name} USD {usd:,.3f}"
        for name, priced in costs["models"].items()
        if (usd := priced["usd_per_1000_rows"]) is not None
    ]
    if not prices:
        return (
            "No price is set (AZURE_USD_PER_MILLION_INPUT and _OUTPUT, SLM_USD_PER_HOUR), so costs "
            "are tokens and time."
        )
    listed = ", ".join(
        f"{n} of {costs['models'][name]['rows']} of {name}"
        for name, n in count_unread(costs).items()
    )
    note = f" Rows that were never read are left out: {listed}." if listed else ""
    unit = name_unit(costs)
    when = _say_pay(costs["pays"].get(model), unit) if model else ""
    if "requests" in costs:
        note += " Costs are weighed by how often each request was asked."
    return f"For 1,000 {unit}, with the machine always busy: {', '.join(prices)}.{when}{note}"


def _say_pay(pay: Pay | None, unit: str) -> str:
    """From which volume on a machine pays, as a sentence; nothing where that is not known."""
    if not pay:
        return ""
    if pay["from_rows_per_day"] is None:
        most = f"{pay['capacity_rows_per_day']:,.0f} {unit} a day at most"
        return (
            f" A machine of its own never pays: it answers {most}, which cost less at the hosted "
            "LLM."
        )
    when = f" A machine of its own pays from {pay['from_rows_per_day']:,.0f} {unit} a day on"
    if (by_right := pay["from_rows_per_day_by_right"]) is None:
        return f"{when}."
    return f"{when}, counting only right answers from {by_right:,.0f}."
