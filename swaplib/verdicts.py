"""What a manager reads: a decision as a sentence and a box, and its tables. It computes nothing beyond what a file says."""

from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd

from swaplib.model_names import CAPTURED, ModelName
from swaplib.report import format_rate, style

if TYPE_CHECKING:
    from IPython.display import HTML
    from pandas.io.formats.style import Styler


def show_decision(decision: dict[str, Any]) -> "Styler":
    """The rule's numbers: rates of the models it is applied to, the gap, and rows on which only one of the two was right."""
    model, records = decision["model"], []
    ruled = ("azure", *decision.get("rules", (model,)))
    for name, gap in decision["gaps"].items():
        pairs = decision["evidence"]["pairs"][name]
        record = {"metric": name}
        record |= {
            m: format_rate(r[name]["rate"], r[name]["interval"])
            for m, r in decision["evidence"]["rates"].items()
            if m in ruled
        }
        record |= {
            f"gap to {model}": f"{gap:+.2f}",
            "worse than delta": "yes" if name in decision["worse_on"] else "no",
        }
        record |= {"only azure right": pairs["first_only"], f"only {model} right": pairs["second_only"]}
        records.append(record)
    return style(pd.DataFrame(records))


def show_evidence(decision: dict[str, Any]) -> "Styler":
    """How sure the gap is, metric by metric: the hosted LLM against the model that the decision is about."""
    pairs = decision["evidence"]["pairs"]
    return show_pairs([{"first": "azure", "second": decision["model"], "pairs": pairs}])


def show_pairs(comparisons: list[dict[str, Any]]) -> "Styler":
    """Paired evidence about two models or runs, metric by metric; the verdict is on the second."""
    records = []
    for compared in comparisons:
        for name, found in compared["pairs"].items():
            record = {"first": compared["first"], "second": compared["second"], "metric": name}
            record |= {"first less second, 95%": "{:+.2f} [{:+.2f}, {:+.2f}]".format(found["gap"], *found["interval"])}
            record |= {"bootstrap 95%": "[{:+.2f}, {:+.2f}]".format(*found["bootstrap"])}
            record |= {"only first right": found["first_only"], "only second right": found["second_only"]}
            record |= {"McNemar p": f"{found['p_value']:.3g}", "after Holm": f"{found['p_adjusted']:.3g}"}
            records.append(record | {"the second is": found["verdict"], "rows needed": found["rows_needed"] or ""})
    return style(pd.DataFrame(records))


def show_few_shot(decision: dict[str, Any]) -> "Styler":
    """Examples in the prompt, the cheap alternative, against the hosted LLM, the SLM as it is and the candidate.

    The hosted LLM with examples stands there too: it costs more than without, and no rule is applied to it.
    """
    if found := decision["evidence"]["few_shot"]:
        return show_pairs(found)
    return style(pd.DataFrame({"few-shot runs": ["none: 02_eval makes one with `-p models slm -p shots 4`"]}))


def show_full(decision: dict[str, Any]) -> "Styler":
    """What 4-bit took: each 4-bit run against the same checkpoint unquantised, and that against the hosted LLM."""
    if found := decision["evidence"]["full"]:
        return show_pairs(found)
    return style(pd.DataFrame({"unquantised runs": ["none: 02_eval makes one with `-p models slm-full`"]}))


def show_comparison(compared: dict[str, Any] | None) -> "Styler":
    """Two runs that were compared by their ids; an empty table when nothing was asked."""
    return show_pairs([compared] if compared else [])


def show_costs(decision: dict[str, Any]) -> "Styler":
    """What each run took, and its dollars where prices are set; a local latency runs from a prompt's reading to its end.

    All but `rows` and `right` is of the rows that were read; where these are fewer, they have a column.
    """
    costs, records = decision["costs"], []
    has_unread = bool(_count_unread(costs))
    for model, found in costs["models"].items():
        record = {"model": ModelName.parse(model).label, "rows": found["rows"], "right": found["right"]}
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
            record |= {"pays from, rows a day": _format(pay["from_rows_per_day"], ",.0f") or "never" if pay else ""}
        records.append(record)
    return style(pd.DataFrame(records))


def _count_unread(costs: dict[str, Any]) -> dict[str, int]:
    """How many rows were never read, by model; only models with such rows. Files of old do not tell."""
    known = {model: found for model, found in costs["models"].items() if found.get("rows_read") is not None}
    counts = {model: found["rows"] - found["rows_read"] for model, found in known.items()}
    return {model: n for model, n in counts.items() if n}


def _format(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def show_changes(decision: dict[str, Any]) -> "Styler":
    """What the adapter changed against the SLM without it, in rows, both ways; from a post-decision."""
    records = [
        {"metric": name, "gained": n["second_only"], "lost": n["first_only"], "right in both": n["both"]}
        | {"wrong in both": n["neither"]}
        for name, n in decision["evidence"]["changes"].items()
    ]
    return style(pd.DataFrame(records))


def describe_decision(decision: dict[str, Any]) -> str:
    """The rule's bit as one sentence for a manager."""
    n, delta = decision["n_rows"], decision["delta"]
    if not _is_any_right(decision):
        return f"FINE_TUNE={decision['FINE_TUNE']}, but on {n} rows no model got one right: this says nothing yet."
    note = (
        f" One row is {1 / n:.3g} of the rate, more than delta={delta:g}: a single row decides."
        if 1 / n > delta
        else ""
    )
    if decision["FINE_TUNE"]:
        where = ", ".join(decision["worse_on"])
        return f"FINE_TUNE=1: on {n} rows the SLM is worse by more than {delta:g} on {where}.{note}"
    good = f"the SLM is not worse than the hosted LLM by more than {delta:g} on any core metric"
    return f"FINE_TUNE=0: on {n} rows {good}.{note}"


def describe_verdict(decision: dict[str, Any]) -> str:
    """A post-decision's verdict as one sentence for a manager."""
    n, delta, where = decision["n_rows"], decision["delta"], ", ".join(decision["worse_on"])
    if not _is_any_right(decision):
        return f"Verdict: {decision['verdict']}, but on {n} rows no model got one right: this says nothing yet."
    who = "the SLM with its adapter" if decision["model"] == "slm_ft" else "the SLM without an adapter"
    worse = f"{who} is still worse than the hosted LLM by more than {delta:g} on {where}"
    not_worse = f"is not worse than the hosted LLM by more than {delta:g} on any core metric"
    if decision["verdict"] == "swap":
        reason = f"the SLM without an adapter {not_worse}"
    elif decision["verdict"] == "swap with the adapter":
        reason = f"{who} {not_worse}"
    elif decision["verdict"] == "stay":
        reason = worse
    else:
        reason = f"{worse}, but with examples in the prompt the SLM {not_worse}"
    return f"Verdict: {decision['verdict']}. On {n} rows, {reason}."


def describe_evidence(decision: dict[str, Any]) -> str:
    """How sure the decision is, as one sentence for a manager."""
    parts = []
    model = decision.get("recommended", decision["model"])
    for name, found in decision["evidence"].get("recommended", decision["evidence"]["pairs"]).items():
        low, high = found["interval"]
        needed = f" ({found['rows_needed']:,} would settle it)" if found["rows_needed"] else ""
        parts.append(f"{name} {found['verdict']}{needed}, {found['gap']:+.2f} [{low:+.2f}, {high:+.2f}]")
    gap = f"gap to {model} with its 95% interval, margin {decision['margin']:g}"
    return f"How sure ({gap}): {'; '.join(parts)}."


def describe_costs(decision: dict[str, Any]) -> str:
    """What it would cost, as one sentence for a manager; without prices it says where to set them.

    It says USD: between two dollar signs, JupyterLab would typeset mathematics.
    """
    costs, parts = decision["costs"], []
    for model, found in costs["models"].items():
        if found["usd_per_1000_rows"] is not None:
            parts.append(f"{model} USD {found['usd_per_1000_rows']:,.3f}")
    if not parts:
        return (
            "No price is set (AZURE_USD_PER_MILLION_INPUT and _OUTPUT, SLM_USD_PER_HOUR), so costs are tokens and time."
        )
    pay = costs["pays"].get(decision.get("recommended", decision["model"]))
    when = ""
    if pay and pay["from_rows_per_day"] is not None:
        when = f" A machine of its own pays from {pay['from_rows_per_day']:,.0f} rows a day on."
    elif pay:
        most = f"{pay['capacity_rows_per_day']:,.0f} rows a day at most"
        when = f" A machine of its own never pays: it answers {most}, which cost less at the hosted LLM."
    listed = ", ".join(
        f"{n} of {costs['models'][model]['rows']} of {model}" for model, n in _count_unread(costs).items()
    )
    note = f" Rows that were never read are left out: {listed}." if listed else ""
    return f"For 1,000 rows, with the machine always busy: {', '.join(parts)}.{when}{note}"


def describe_full(decision: dict[str, Any]) -> str:
    """What 4-bit took, as one sentence for a manager; empty where no unquantised run was compared."""
    parts, rates = [], decision["evidence"]["rates"]
    for compared in decision["evidence"]["full"]:
        full, base = compared["first"], compared["second"]
        if ModelName.parse(full).is_full:  # the other pairs compare it with the hosted LLM
            moves = [
                f"{name} {rates[full][name]['rate']:.2f} to {rates[base][name]['rate']:.2f} ({pair['verdict']})"
                for name, pair in compared["pairs"].items()
            ]
            parts.append(f"{base} against {full}: {', '.join(moves)}")
    return f"What 4-bit took: {'; '.join(parts)}." if parts else ""


def describe_loop(loop: dict[str, Any]) -> list[str]:
    """What a turn of the loop captured, kept, trained and gained, a sentence each."""
    kept = loop["filter"]
    lines = [
        f"Captured {kept['captured']} trajectories; {kept['kept']} are right and were kept ({kept['kept_share']:.0%})."
    ]
    trained = {"agent": "the agent's adapter", "rows": f"the adapter of captured {loop['track']} rows"}
    for name, what in trained.items():
        card = loop["trained"][name]
        n = sum(of_split["train"] for of_split in card["rows"].values()) if card else 0
        how = f"on {n} {'chats' if name == 'agent' else 'rows'}, {card['steps']} steps" if card else "not trained"
        lines.append(f"Trained: {what}, {how}.")
    if agents := loop["agent_eval"]:
        base, distilled = (agents["models"][m] for m in ("slm", "slm_ft"))
        rates = " to ".join(f"{format_rate(m['solved_rate'], m['interval'])}" for m in (base, distilled))
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
    head = f"Tasks solved: {solved[0]:.0%} to {solved[1]:.0%}" if solved else "No agent was distilled"
    return _make_box(head, describe_loop(loop))


def show_agents(loop: dict[str, Any]) -> "Styler":
    """The agents side by side, then the paired evidence on tasks solved."""
    agents = loop["agent_eval"] or {"models": {}}
    records = [
        {"agent": ModelName.parse(model).label, "tasks": found["n_tasks"], "solved": found["solved"]}
        | {"solved rate": format_rate(found["solved_rate"], found["interval"]), "steps a task": f"{found['steps']:.2f}"}
        for model, found in agents["models"].items()
    ]
    return style(pd.DataFrame(records))


def show_loop_pairs(loop: dict[str, Any]) -> "Styler":
    """Paired evidence of the loop: the distilled agent, then the adapter of captured rows against every other model."""
    agents, rows = loop["agent_eval"], loop["track_eval"]
    pairs = [{"first": "slm (agent)", "second": "slm_ft (agent)", "pairs": agents["pairs"]}] if agents else []
    return show_pairs(pairs + (rows["comparisons"] if rows else []))


def describe_parity(parity: dict[str, Any]) -> str:
    """Whether the score is that of one model, as one sentence for a manager."""
    parts = [f"{c['compared']}: {c['equal']} of {c['rows']} outputs equal" for c in parity["comparisons"]]
    return f"Is it one model? {'; '.join(parts) or 'not asked'}."


def show_verdict(decision: dict[str, Any], parity: dict[str, Any] | None = None) -> "HTML":
    """The decision in a box: the bit or the verdict, then the reason, how sure it is, what it costs, and parity."""
    is_post = "verdict" in decision
    head = decision["verdict"].capitalize() if is_post else f"FINE_TUNE={decision['FINE_TUNE']}"
    sentences = [describe_verdict(decision) if is_post else describe_decision(decision), describe_evidence(decision)]
    sentences += [describe_full(decision), describe_costs(decision)] + ([describe_parity(parity)] if parity else [])
    return _make_box(head, [sentence for sentence in sentences if sentence])


def _make_box(head: str, sentences: list[str]) -> "HTML":
    from IPython.display import HTML

    lines = "".join(f'<p style="margin:0.3em 0">{escape(text)}</p>' for text in sentences)
    box = "border:2px solid #333;border-left-width:12px;padding:0.6em 1em;margin:0.5em 0;max-width:60em"
    return HTML(f'<div style="{box}"><div style="font-size:1.6em;font-weight:bold">{escape(head)}</div>{lines}</div>')


def _is_any_right(decision: dict[str, Any]) -> bool:
    return any(metric["rate"] for model in decision["evidence"]["rates"].values() for metric in model.values())
