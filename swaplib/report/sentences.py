"""The words of every headline: what the rule says, how sure that is, and the rest.

It computes nothing beyond what a decision's file says. Each claim about certainty is made of one
interval and one bound (words.py).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from swaplib.formats.caveats import Caveats
from swaplib.formats.decision import Decision
from swaplib.formats.evidence import PairedRecord
from swaplib.metrics import core_metrics
from swaplib.report.cost_sentences import describe_costs
from swaplib.report.notes import (
    describe_full,
    say_earlier,
    say_given_and_ceiling,
    say_gold,
    say_groups,
    say_noise,
)
from swaplib.report.obstacles import describe_obstacle, say_forms
from swaplib.report.words import (
    OPEN,
    capitalise,
    join,
    place,
    say_gap,
    say_settling,
    say_verdict,
    say_who,
)

COIN = (
    "With delta=0 the rule is a coin flip between models that are equally good: it calls the SLM "
    "worse in about half of all tests, and more often where several metrics are asked"
)


def make_head(decision: Decision) -> str:
    """The headline of 03 and 05."""
    bit = f"FINE_TUNE={decision['FINE_TUNE']}"
    if decision["caveats"]["obstacle"]:
        return f"Not comparable ({bit})"
    return decision["verdict"].capitalize() if "verdict" in decision else bit


def describe_decision(decision: Decision) -> list[tuple[str, str]]:
    """The lines below the headline of a decision or a post-decision, each with its label."""
    caveats = decision["caveats"]
    model, pairs, _ = _read_subject(decision)
    lines = [("The rule", _say_rule(decision))]
    if obstacle := caveats["obstacle"]:
        lines += describe_obstacle(decision["track"], caveats, obstacle)
    else:
        lines += _say_sureness(decision)
    lines.append(("Cost", describe_costs(decision["costs"], model)))
    if not obstacle:
        lines.append(("To settle it", say_settling(pairs, decision["margin"])))
    compared = (decision["reference"], model)
    notes = (
        say_gold(caveats),
        say_groups(pairs, decision["margin"]),
        say_given_and_ceiling(decision["track"], caveats, compared),
        say_noise(caveats),
        say_earlier(decision),
    )
    lines += [("Note", text) for text in notes]
    lines.append(("4-bit", describe_full(decision)))
    return [(label, text) for label, text in lines if text]


def make_runs_head(summary: Mapping[str, Any]) -> str:
    """The headline of 02."""
    if summary["caveats"] and summary["caveats"]["obstacle"]:
        return "Not comparable"
    metric = core_metrics(summary["track"])[-1]
    rates = [
        f"{say_who(model)} {rate[metric]['rate']:.2f}" for model, rate in summary["rates"].items()
    ]
    return capitalise(f"{', '.join(rates)} ({metric})")


def describe_runs(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The lines below 02's headline, each with its label.

    Args:
        summary: As caveats.summarise makes it.
    """
    caveats: Caveats | None = summary["caveats"]
    obstacle = caveats and caveats["obstacle"]
    is_compared = caveats is not None and not obstacle
    lines = _say_unanswered(summary["unanswered"])
    if caveats and obstacle:
        lines += describe_obstacle(summary["track"], caveats, obstacle)
    else:
        lines.append(("Form", say_forms(summary["form"])))
    if is_compared:
        lines.append(("How sure?", _say_pairs(summary)))
    costs = describe_costs(summary["costs"], summary["models"] and summary["models"][1])
    lines.append(("Cost", costs))
    if is_compared:
        lines.append(("To settle it", say_settling(summary["pairs"], summary["margin"])))
        lines.append(("Next", "03_decision applies the rule to the test rows."))
    if caveats:
        lines += [("Note", text) for text in (say_gold(caveats), say_noise(caveats))]
    return [(label, text) for label, text in lines if text]


def _say_unanswered(unanswered: Mapping[str, int]) -> list[tuple[str, str]]:
    """Rows that ended in error, by model; no line where there are none."""
    failed = [
        f"{n} rows of {say_who(model)} ended in error" for model, n in unanswered.items() if n
    ]
    if not failed:
        return []
    return [("Incomplete", f"{join(failed)}: run this again, and only these are asked.")]


def _say_pairs(summary: Mapping[str, Any]) -> str:
    """How sure the gaps between 02's two models are."""
    first, second = summary["models"]
    listed = "; ".join(
        f"{metric} {say_verdict(pair, summary['margin'])}, {say_gap(pair)}"
        for metric, pair in summary["pairs"].items()
    )
    return (
        f"At 95%, {say_who(second)} against {say_who(first)} on {summary['n_rows']} "
        f"{summary['split']} rows: {listed}."
    )


def _read_subject(decision: Decision) -> tuple[str, dict[str, PairedRecord], list[str]]:
    """The model that the verdict is about, its evidence, and the metrics on which it is worse."""
    model = decision.get("recommended", decision["model"])
    pairs = decision["evidence"].get("recommended", decision["evidence"]["pairs"])
    rule = decision["rules"][model] if "rules" in decision else decision
    return model, pairs, rule["worse_on"]


def _say_rule(decision: Decision) -> str:
    """What the rule finds, with the rates that it reads."""
    model, _, worse_on = _read_subject(decision)
    candidate, reference = decision["model"], decision["reference"]
    by = f" by more than {decision['delta']:g}" if decision["delta"] else ""
    if worse_on:
        finding = _say_worse(decision, model, worse_on)
    else:
        finding = f"{say_who(model)} is not worse than {say_who(reference)}{by} on any core metric"
    if model != candidate and decision["worse_on"]:
        finding = f"{_say_worse(decision, candidate, decision['worse_on'])}, but {finding}"
    n = decision["n_rows"]
    single = ""
    if _hangs_by_a_row(decision):
        single = f" A single row decides here: it is {1 / n:.3g} of a rate."
    return f"On {n} rows, {finding}.{single}"


def _say_worse(decision: Decision, model: str, metrics: Sequence[str]) -> str:
    """That a model is worse than the reference, with both rates on each metric."""
    rates, reference = decision["evidence"]["rates"], decision["reference"]
    by = f" by more than {decision['delta']:g}" if decision["delta"] else ""
    listed = join(
        [
            f"{m} ({rates[model][m]['rate']:.2f} against {rates[reference][m]['rate']:.2f})"
            for m in metrics
        ]
    )
    return f"{say_who(model)} is worse than {say_who(reference)}{by} on {listed}"


def _hangs_by_a_row(decision: Decision) -> bool:
    """Whether one row more or less would turn the rule's bit for the verdict's model."""
    _, pairs, worse_on = _read_subject(decision)
    row = 1 / decision["n_rows"] + 1e-9
    delta = decision["delta"]
    if worse_on:
        return all(pairs[metric]["gap"] - delta <= row for metric in worse_on)
    return any(delta - pair["gap"] < row for pair in pairs.values())


def _say_sureness(decision: Decision) -> list[tuple[str, str]]:
    """How sure the rule's finding is, by intervals at its own bound.

    At delta=0 a second line answers the same for the margin.
    """
    model, pairs, worse_on = _read_subject(decision)
    delta, margin = decision["delta"], decision["margin"]
    metrics = worse_on or list(pairs)
    places = {metric: place(pairs[metric]["interval"], delta) for metric in metrics}
    sure = [f"{m} ({say_gap(pairs[m])})" for m in metrics if places[m] != OPEN]
    unsure = [f"{m} ({say_gap(pairs[m])})" for m in metrics if places[m] == OPEN]
    parts = []
    if sure:
        claim = _name_claim(bool(worse_on), delta)
        parts.append(f"At 95% {say_who(model)} is {claim} on {join(sure)}.")
    if unsure:
        more = "" if delta else f" {COIN}."
        parts.append(
            f"Not sure on {join(unsure)}: the interval of the gap includes {delta:g}.{more}"
        )
    lines = [("How sure?", " ".join(parts))]
    if not delta:
        listed = "; ".join(
            f"{m} {say_verdict(pair, margin)}, {say_gap(pair)}" for m, pair in pairs.items()
        )
        lines.append((f"Within {margin:g}?", f"Another question, for {say_who(model)}: {listed}."))
    return lines


def _name_claim(is_worse: bool, delta: float) -> str:
    """What an interval that does not include delta proves of the model."""
    if not delta:
        return "worse" if is_worse else "better"
    return f"{'worse' if is_worse else 'not worse'} by more than {delta:g}"
