"""What a manager reads: a decision as a sentence and a box, and its tables. It computes nothing beyond what a file says."""

from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd

from swaplib.evaluation.costs import count_unread
from swaplib.models.names import CAPTURED, ModelName
from swaplib.report.sentences import describe_decision, describe_runs, make_head, make_runs_head
from swaplib.report.tables import format_rate, style, style_texts
from swaplib.report.words import round_up, say_gap, say_verdict

if TYPE_CHECKING:
    from IPython.display import HTML
    from pandas.io.formats.style import Styler


NAME_IS_GIVEN = "Natively the name of the one tool that a row offers is given: name_match_rate says nothing of -native runs."


def show_decision(decision: dict[str, Any]) -> "Styler":
    """The rule's numbers: rates of the models it is applied to, the gap, and rows on which only one of the two was right."""
    model, records = decision["model"], []
    ruled = (decision["reference"], *decision.get("rules", (model,)))
    for name, gap in decision["gaps"].items():
        pairs = decision["evidence"]["pairs"][name]
        record = {"metric": name}
        record |= {
            m: format_rate(r[name]["rate"], r[name]["interval"])
            for m, r in decision["evidence"]["rates"].items()
            if m in ruled
        }
        record |= {
            f"{decision['reference']} − {model}": f"{gap:+.2f}",
            "worse than delta": "yes" if name in decision["worse_on"] else "no",
        }
        record |= {
            f"only {decision['reference']} right": pairs["first_only"],
            f"only {model} right": pairs["second_only"],
        }
        records.append(record)
    return style(pd.DataFrame(records))


def show_evidence(decision: dict[str, Any]) -> "Styler":
    """How sure the gap is, metric by metric: the hosted LLM against the model that the decision is about."""
    pairs = [
        {
            "first": decision["reference"],
            "second": decision["model"],
            "pairs": decision["evidence"]["pairs"],
        }
    ]
    return show_pairs(pairs, decision["margin"])


def show_pairs(comparisons: list[dict[str, Any]], margin: float, caption: str = "") -> "Styler":
    """Paired evidence about two models or runs, metric by metric; the verdict is on the second, at the margin."""
    records = []
    for compared in comparisons:
        for name, found in compared["pairs"].items():
            record = {
                "first less second": f"{compared['first']} − {compared['second']}",
                "metric": name,
            }
            record |= {"gap, 95%": say_gap(found), "the second is": say_verdict(found, margin)}
            record |= {"rows needed (power; range)": _format_needed(found["rows_needed"])}
            record |= {
                "only first, only second right": f"{found['first_only']}, {found['second_only']}"
            }
            by_groups = "[{:+.2f}, {:+.2f}]".format(*found["bootstrap"])
            record |= {"95% by groups": f"{by_groups} of {found['n_groups']}"}
            records.append(
                record | {"McNemar p (Holm)": f"{found['p_value']:.2g} ({found['p_adjusted']:.2g})"}
            )
    return style(pd.DataFrame(records), caption)


def _format_needed(needed: dict[str, Any] | None) -> str:
    if not needed:
        return ""
    low, most = (
        round_up(needed["low"]),
        f"{round_up(needed['high']):,}" if needed["high"] else "a million or more",
    )
    return f"{round_up(needed['rows']):,} ({needed['power']:.0%}; {low:,} to {most})"


def show_few_shot(decision: dict[str, Any]) -> "Styler":
    """Examples in the prompt, the cheap alternative, against the hosted LLM, the SLM as it is and the candidate.

    The hosted LLM with examples stands there too: it costs more than without, and no rule is applied to it.
    """
    if found := decision["evidence"]["few_shot"]:
        return show_pairs(found, decision["margin"])
    return style(
        pd.DataFrame({"few-shot runs": ["none: 02_eval makes one with `-p models slm -p shots 4`"]})
    )


def show_full(decision: dict[str, Any]) -> "Styler":
    """What 4-bit took: each 4-bit run against the same checkpoint unquantised, and that against the hosted LLM."""
    if found := decision["evidence"]["full"]:
        return show_pairs(found, decision["margin"])
    return style(
        pd.DataFrame({"unquantised runs": ["none: 02_eval makes one with `-p models slm-full`"]})
    )


def show_native(decision: dict[str, Any]) -> "Styler":
    """What form costs: each model against itself asked natively, and the two natively. One offered tool gives its name."""
    if found := decision["evidence"]["native"]:
        return show_pairs(
            found,
            decision["margin"],
            NAME_IS_GIVEN if decision["caveats"]["offers_one_tool"] else "",
        )
    return style(
        pd.DataFrame(
            {"native runs": ["none: 02_eval makes them with `-p models azure-native,slm-native`"]}
        )
    )


def show_comparison(compared: dict[str, Any] | None) -> "Styler":
    """Two runs that were compared by their ids; an empty table when nothing was asked."""
    return show_pairs([compared], compared["margin"]) if compared else show_pairs([], 0)


def show_ceiling(decision: dict[str, Any]) -> "Styler":
    """The rows that no model of the report got and that two readers held for impossible or for a guess, with the reason."""
    ceiling = decision["caveats"]["ceiling"]
    records = [
        {"row": int(index), "read as": kind, "why": reason}
        for kind in ("impossible", "guess")
        for index, reason in ceiling[kind].items()
    ]
    nobody, n = len(ceiling["nobody"]), ceiling["n_rows"]
    caption = f"no model of this report got {nobody} of {n} rows; {len(records)} of them were "
    table = pd.DataFrame(records, columns=["row", "read as", "why"], dtype=object)
    return style_texts(table, f"{caption}read by hand as ones that nobody can get, or only by luck")


def show_costs(decision: dict[str, Any]) -> "Styler":
    """What each run took, and its dollars where prices are set; a local latency runs from a prompt's reading to its end.

    All but `rows` and `right` is of the rows that were read; where these are fewer, they have a column.
    """
    costs, records = decision["costs"], []
    has_unread = bool(count_unread(costs))
    for model, found in costs["models"].items():
        record = {
            "model": ModelName.parse(model).label,
            "rows": found["rows"],
            "right": found["right"],
        }
        record |= {"rows read": _format(found.get("rows_read"), ",d")} if has_unread else {}
        record |= {"tokens in": found["prompt_tokens"], "tokens out": found["completion_tokens"]}
        record |= {
            "p50 ms": _format(found["p50_latency_ms"], ",.0f"),
            "p95 ms": _format(found["p95_latency_ms"], ",.0f"),
        }
        record |= {"rows/s": _format(found["rows_per_second"], ".2f")}
        if any(price is not None for price in costs["prices"].values()):
            pay = costs["pays"].get(model)
            record |= {"USD for 1,000 rows": _format(found["usd_per_1000_rows"], ",.4f")}
            record |= {"USD a right row": _format(found["usd_per_right_row"], ",.6f")}
            for name, key in (
                ("rows", "from_rows_per_day"),
                ("right rows", "from_rows_per_day_by_right"),
            ):
                record |= {
                    f"pays from, {name} a day": _format(pay[key], ",.0f") or "never" if pay else ""
                }
        records.append(record)
    return style(pd.DataFrame(records))


def _format(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def show_changes(decision: dict[str, Any]) -> "Styler":
    """What the adapter changed against the SLM without it, in rows, both ways; from a post-decision."""
    records = [
        {
            "metric": name,
            "gained": n["second_only"],
            "lost": n["first_only"],
            "right in both": n["both"],
        }
        | {"wrong in both": n["neither"]}
        for name, n in decision["evidence"]["changes"].items()
    ]
    return style(pd.DataFrame(records))


def describe_loop(loop: dict[str, Any]) -> list[str]:
    """What a turn of the loop captured, kept, trained and gained, a sentence each."""
    kept = loop["filter"]
    lines = [
        f"Captured {kept['captured']} trajectories; {kept['kept']} are right and were kept ({kept['kept_share']:.0%})."
    ]
    trained = {
        "agent": "the agent's adapter",
        "rows": f"the adapter of captured {loop['track']} rows",
    }
    for name, what in trained.items():
        card = loop["trained"][name]
        n = sum(of_split["train"] for of_split in card["rows"].values()) if card else 0
        how = (
            f"on {n} {'chats' if name == 'agent' else 'rows'}, {card['steps']} steps"
            if card
            else "not trained"
        )
        lines.append(f"Trained: {what}, {how}.")
    if agents := loop["agent_eval"]:
        base, distilled = (agents["models"][m] for m in ("slm", "slm_ft"))
        rates = " to ".join(
            f"{format_rate(m['solved_rate'], m['interval'])}" for m in (base, distilled)
        )
        found = agents["pairs"]["solved_rate"]
        counts = f"{found['second_only']} gained, {found['first_only']} lost, McNemar p {found['p_value']:.3g}"
        lines.append(
            f"As an agent, on {base['n_tasks']} tasks with tools that it was not taught to call: solved {rates} ({counts})."
        )
    if evaluated := loop["track_eval"]:
        slm, captured = (evaluated["rates"][m] for m in ("slm", str(CAPTURED)))
        gains = [f"{name} {slm[name]['rate']:.2f} to {captured[name]['rate']:.2f}" for name in slm]
        lines.append(f"On the {loop['track']} test rows: {', '.join(gains)}.")
    return lines


def show_loop(loop: dict[str, Any]) -> "HTML":
    """A turn of the loop in a box."""
    agents = loop["agent_eval"]
    solved = [agents["models"][m]["solved_rate"] for m in ("slm", "slm_ft")] if agents else None
    head = (
        f"Tasks solved: {solved[0]:.0%} to {solved[1]:.0%}" if solved else "No agent was distilled"
    )
    return _make_box(head, [("", sentence) for sentence in describe_loop(loop)])


def show_agents(loop: dict[str, Any]) -> "Styler":
    """The agents side by side, then the paired evidence on tasks solved."""
    agents = loop["agent_eval"] or {"models": {}}
    records = [
        {
            "agent": ModelName.parse(model).label,
            "tasks": found["n_tasks"],
            "solved": found["solved"],
        }
        | {
            "solved rate": format_rate(found["solved_rate"], found["interval"]),
            "steps a task": f"{found['steps']:.2f}",
        }
        for model, found in agents["models"].items()
    ]
    return style(pd.DataFrame(records))


def show_loop_pairs(loop: dict[str, Any]) -> "Styler":
    """Paired evidence of the loop: the distilled agent, then the adapter of captured rows against every other model."""
    agents, rows = loop["agent_eval"], loop["track_eval"]
    pairs = (
        [{"first": "slm (agent)", "second": "slm_ft (agent)", "pairs": agents["pairs"]}]
        if agents
        else []
    )
    return show_pairs(pairs + (rows["comparisons"] if rows else []), loop["margin"])


def describe_parity(parity: dict[str, Any]) -> str:
    """Whether the score is that of one model, as one sentence for a manager."""
    parts = [
        f"{c['compared']}: {c['equal']} of {c['rows']} outputs equal" for c in parity["comparisons"]
    ]
    return f"Is it one model? {'; '.join(parts) or 'not asked'}."


def show_verdict(decision: dict[str, Any], parity: dict[str, Any] | None = None) -> "HTML":
    """A decision in a box: the headline, then what the rule says, how sure that is, what it costs, what would settle it."""
    lines = describe_decision(decision) + ([("Parity", describe_parity(parity))] if parity else [])
    return _make_box(make_head(decision), lines)


def show_runs(summary: dict[str, Any]) -> "HTML":
    """What 02 has seen, in a box."""
    return _make_box(make_runs_head(summary), describe_runs(summary))


def _make_box(head: str, lines: list[tuple[str, str]]) -> "HTML":
    from IPython.display import HTML

    cell = "padding:0.15em 0;vertical-align:top;text-align:left;white-space:normal;background:none"
    rows = "".join(
        f'<tr style="background:none"><td style="{cell};padding-right:1em;white-space:nowrap"><b>{escape(label)}</b></td>'
        f'<td style="{cell}">{escape(text)}</td></tr>'
        for label, text in lines
    )
    box = "border:2px solid #333;border-left-width:12px;padding:0.6em 1em;margin:0.5em 0;max-width:72em"
    title = f'<div style="font-size:1.6em;font-weight:bold">{escape(head)}</div>'
    return HTML(
        f'<div style="{box}">{title}<table style="border:none;margin:0.3em 0 0 0">{rows}</table></div>'
    )
