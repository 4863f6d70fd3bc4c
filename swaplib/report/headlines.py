"""What a manager reads: a decision as a sentence and a box, and its tables.

It computes nothing beyond what a file says.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from swaplib.evaluation.costs import count_unread, name_unit
from swaplib.formats.decision import Decision, Pay
from swaplib.formats.evidence import Pair, RowsNeededRecord
from swaplib.models.names import ModelName
from swaplib.report.sentences import describe_decision, describe_runs, make_head, make_runs_head
from swaplib.report.styles import format_rate, make_box, style, style_texts
from swaplib.report.words import round_up, say_gap, say_verdict

if TYPE_CHECKING:
    from IPython.display import HTML
    from pandas.io.formats.style import Styler

NAME_IS_GIVEN = (
    "Natively the name of the one tool that a row offers is given: "
    "name_match_rate says nothing of -native runs."
)


def show_decision(decision: Decision) -> "Styler":
    """The rule's numbers: rates, the gap, and rows on which only one of the two was right.

    Of the models, those that the rule is applied to.
    """
    model, reference = decision["model"], decision["reference"]
    ruled = (reference, *decision.get("rules", (model,)))
    rates = {m: r for m, r in decision["evidence"]["rates"].items() if m in ruled}
    records = []
    for name, gap in decision["gaps"].items():
        pair = decision["evidence"]["pairs"][name]
        records.append(
            {
                "metric": name,
                **{m: format_rate(r[name]["rate"], r[name]["interval"]) for m, r in rates.items()},
                f"{reference} − {model}": f"{gap:+.2f}",
                "worse than delta": "yes" if name in decision["worse_on"] else "no",
                f"only {reference} right": pair["first_only"],
                f"only {model} right": pair["second_only"],
            }
        )
    return style(pd.DataFrame(records))


def show_evidence(decision: Decision) -> "Styler":
    """How sure the gap is, by metric: the hosted LLM against the decision's model."""
    pair: Pair = {
        "first": decision["reference"],
        "second": decision["model"],
        "pairs": decision["evidence"]["pairs"],
    }
    return show_pairs([pair], decision["margin"])


def show_pairs(comparisons: Sequence[Pair], margin: float, caption: str = "") -> "Styler":
    """Paired evidence about two models or runs, by metric.

    The verdict is on the second one, at the margin.
    """
    records = [
        {
            "first less second": f"{compared['first']} − {compared['second']}",
            "metric": name,
            "gap, 95%": say_gap(pair),
            "the second is": say_verdict(pair, margin),
            "rows needed (power; range)": _format_needed(pair["rows_needed"]),
            "only first, only second right": f"{pair['first_only']}, {pair['second_only']}",
            "95% by groups": (
                f"[{pair['bootstrap'][0]:+.2f}, {pair['bootstrap'][1]:+.2f}] of {pair['n_groups']}"
            ),
            "McNemar p (Holm)": f"{pair['p_value']:.2g} ({pair['p_adjusted']:.2g})",
        }
        for compared in comparisons
        for name, pair in compared["pairs"].items()
    ]
    return style(pd.DataFrame(records), caption)


def _format_needed(needed: RowsNeededRecord | None) -> str:
    if not needed:
        return ""
    low = round_up(needed["low"])
    most = f"{round_up(needed['high']):,}" if needed["high"] else "a million or more"
    return f"{round_up(needed['rows']):,} ({needed['power']:.0%}; {low:,} to {most})"


def show_few_shot(decision: Decision) -> "Styler":
    """Examples in the prompt, the cheap alternative, against the other models.

    These are the hosted LLM, the base SLM and the candidate. The hosted LLM with examples is shown
    too: it costs more than without, and no rule is applied to it.
    """
    if pairs := decision["evidence"]["few_shot"]:
        return show_pairs(pairs, decision["margin"])
    return _show_none("few-shot runs", "none: 02_eval makes one with `-p models slm -p shots 4`")


def show_full(decision: Decision) -> "Styler":
    """What 4-bit took: 4-bit runs against the checkpoint unquantised, and that against azure."""
    if pairs := decision["evidence"]["full"]:
        return show_pairs(pairs, decision["margin"])
    return _show_none("unquantised runs", "none: 02_eval makes one with `-p models slm-full`")


def show_native(decision: Decision) -> "Styler":
    """What form costs: each model against itself asked natively, and the two natively."""
    if pairs := decision["evidence"]["native"]:
        caption = NAME_IS_GIVEN if decision["caveats"]["offers_one_tool"] else ""
        return show_pairs(pairs, decision["margin"], caption)
    return _show_none(
        "native runs", "none: 02_eval makes them with `-p models azure-native,slm-native`"
    )


def _show_none(head: str, text: str) -> "Styler":
    return style(pd.DataFrame({head: [text]}))


def show_comparison(compared: Any) -> "Styler":
    """Two runs that were compared by their ids; an empty table when nothing was asked."""
    return show_pairs([compared], compared["margin"]) if compared else show_pairs([], 0)


def show_ceiling(decision: Decision) -> "Styler":
    """The rows that no model got and that two readers found impossible or a guess, with reasons."""
    ceiling = decision["caveats"]["ceiling"]
    read_as = {"impossible": ceiling["impossible"], "guess": ceiling["guess"]}
    records = [
        {"row": int(index), "read as": kind, "why": reason}
        for kind, reasons in read_as.items()
        for index, reason in reasons.items()
    ]
    caption = (
        f"no model of this report got {len(ceiling['nobody'])} of {ceiling['n_rows']} rows; "
        f"{len(records)} of them were read by hand as ones that nobody can get, or only by luck"
    )
    table = pd.DataFrame(records, columns=["row", "read as", "why"], dtype=object)
    return style_texts(table, caption)


def show_costs(decision: Decision) -> "Styler":
    """What each run took, and its dollars where prices are set.

    A local latency is from prefill to the last token. All but `rows` and `right` is of the rows
    that were read; where these are fewer, they have a column. Dollars and volumes of a log are of
    its requests.
    """
    costs = decision["costs"]
    unit = name_unit(costs)
    has_unread = bool(count_unread(costs))
    has_prices = any(price is not None for price in costs["prices"].values())
    records = []
    for model, run in costs["models"].items():
        record = {
            "model": ModelName.parse(model).label,
            "rows": run["rows"],
            "right": run["right"],
            **({"rows read": _format(run.get("rows_read"), ",d")} if has_unread else {}),
            "tokens in": run["prompt_tokens"],
            "tokens out": run["completion_tokens"],
            "p50 ms": _format(run["p50_latency_ms"], ",.0f"),
            "p95 ms": _format(run["p95_latency_ms"], ",.0f"),
            "rows/s": _format(run["rows_per_second"], ".2f"),
        }
        if has_prices:
            record[f"USD for 1,000 {unit}"] = _format(run["usd_per_1000_rows"], ",.4f")
            record[f"USD a right {unit[:-1]}"] = _format(run["usd_per_right_row"], ",.6f")
            record |= _describe_pay(costs["pays"].get(model), unit)
        records.append(record)
    caption = ""
    if has_prices and "requests" in costs:
        caption = (
            f"dollars are those of the {costs['requests']:,} requests that the log has of these "
            "rows; all else counts each row once"
        )
    return style(pd.DataFrame(records), caption)


def _describe_pay(pay: Pay | None, unit: str) -> dict[str, str]:
    """From which volume a machine of its own pays; empty for a hosted model."""
    volumes = {
        unit: pay and pay["from_rows_per_day"],
        f"right {unit}": pay and pay["from_rows_per_day_by_right"],
    }
    return {
        f"pays from, {name} a day": (_format(volume, ",.0f") or "never") if pay else ""
        for name, volume in volumes.items()
    }


def _format(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def show_changes(decision: Decision) -> "Styler":
    """What the adapter changed against the base SLM, in rows, both ways; from a post-decision."""
    records = [
        {
            "metric": name,
            "gained": pair["second_only"],
            "lost": pair["first_only"],
            "right in both": pair["both"],
            "wrong in both": pair["neither"],
        }
        for name, pair in decision["evidence"]["changes"].items()
    ]
    return style(pd.DataFrame(records))


def describe_parity(parity: Mapping[str, Any]) -> str:
    """Whether the score is that of one model, as one sentence."""
    parts = [
        f"{c['compared']}: {c['equal']} of {c['rows']} outputs equal" for c in parity["comparisons"]
    ]
    return f"Is it one model? {'; '.join(parts) or 'not asked'}."


def show_verdict(decision: Decision, parity: Mapping[str, Any] | None = None) -> "HTML":
    """A decision in a box: the headline, what the rule says, how sure that is, the costs."""
    lines = describe_decision(decision)
    if parity:
        lines.append(("Parity", describe_parity(parity)))
    return make_box(make_head(decision), lines)


def show_runs(summary: Mapping[str, Any]) -> "HTML":
    """What 02 has seen, in a box."""
    return make_box(make_runs_head(summary), describe_runs(summary))
