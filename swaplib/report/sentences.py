"""The words of every headline: what the rule says, how sure one can be of that, what it costs, what would settle it.

It computes nothing beyond what a decision's file says. Claims about certainty are made of one interval and one bound each
(words.py).
"""

from typing import Any

from swaplib.evaluation.costs import describe_costs
from swaplib.evaluation.stats import NOT_ENOUGH, judge
from swaplib.metrics import core_metrics
from swaplib.models.names import ModelName
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
    "With delta=0 the rule is a coin flip between models that are equally good: it calls the SLM worse in about half of all "
    "tests, and more often where several metrics are asked"
)


def make_head(decision: dict[str, Any]) -> str:
    """The headline of 03 and 05."""
    bit = f"FINE_TUNE={decision['FINE_TUNE']}"
    if decision["caveats"]["obstacle"]:
        return f"Not comparable ({bit})"
    return decision["verdict"].capitalize() if "verdict" in decision else bit


def describe_decision(decision: dict[str, Any]) -> list[tuple[str, str]]:
    """The lines below the headline, each with its label: the rule, how sure, what it costs, what would settle it, the rest.

    Args:
        decision: The content of a decision's or a post-decision's file.
    """
    lines = [("The rule", _say_rule(decision))]
    if obstacle := decision["caveats"]["obstacle"]:
        lines += describe_obstacle(decision["track"], decision["caveats"], obstacle)
    else:
        lines += _say_sureness(decision)
    lines.append(("Cost", describe_costs(decision["costs"], _compared(decision)[0])))
    if not obstacle:
        lines.append(("To settle it", say_settling(_compared(decision)[1], decision["margin"])))
    rest = [
        _say_groups(decision),
        _say_rows_beside(decision),
        _say_noise(decision["caveats"]),
        _say_earlier(decision),
    ]
    return [
        line
        for line in [*lines, *(("Note", text) for text in rest), ("4-bit", describe_full(decision))]
        if line[1]
    ]


def make_runs_head(summary: dict[str, Any]) -> str:
    """The headline of 02."""
    if summary["caveats"] and summary["caveats"]["obstacle"]:
        return "Not comparable"
    metric = core_metrics(summary["track"])[-1]
    rates = [
        f"{say_who(model)} {rate[metric]['rate']:.2f}" for model, rate in summary["rates"].items()
    ]
    return capitalise(f"{', '.join(rates)} ({metric})")


def describe_runs(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The lines below 02's headline, each with its label.

    Args:
        summary: As caveats.summarise makes it.
    """
    failed = [
        f"{n} rows of {say_who(model)} ended in error"
        for model, n in summary["unanswered"].items()
        if n
    ]
    lines = (
        [("Incomplete", f"{join(failed)}: run this again, and only these are asked.")]
        if failed
        else []
    )
    caveats = summary["caveats"]
    if caveats and caveats["obstacle"]:
        lines += describe_obstacle(summary["track"], caveats, caveats["obstacle"])
    else:
        lines += [("Form", said)] if (said := _say_forms(summary["form"])) else []
    if caveats and not caveats["obstacle"]:
        pairs = summary["pairs"].items()
        listed = "; ".join(
            f"{metric} {say_verdict(pair, summary['margin'])}, {say_gap(pair)}"
            for metric, pair in pairs
        )
        who = f"{say_who(summary['models'][1])} against {say_who(summary['models'][0])}"
        lines.append(
            (
                "How sure?",
                f"At 95%, {who} on {summary['n_rows']} {summary['split']} rows: {listed}.",
            )
        )
    lines += [
        ("Cost", describe_costs(summary["costs"], summary["models"] and summary["models"][1]))
    ]
    if caveats and not caveats["obstacle"]:
        settling = say_settling(summary["pairs"], summary["margin"])
        lines += [
            ("To settle it", settling),
            ("Next", "03_decision applies the rule to the test rows."),
        ]
    return lines + ([("Note", noise)] if caveats and (noise := _say_noise(caveats)) else [])


def _compared(decision: dict[str, Any]) -> tuple[str, dict[str, Any], list[str]]:
    """The model that the verdict is about, its paired evidence, and the metrics on which the rule finds it worse."""
    model = decision.get("recommended", decision["model"])
    pairs = decision["evidence"].get("recommended", decision["evidence"]["pairs"])
    return model, pairs, decision.get("rules", {model: decision})[model]["worse_on"]


def _say_rule(decision: dict[str, Any]) -> str:
    """What the rule finds, with the rates that it reads."""
    model, _, worse_on = _compared(decision)
    rates, reference = decision["evidence"]["rates"], decision["reference"]
    by = f" by more than {decision['delta']:g}" if decision["delta"] else ""

    def say(model: str, metrics: list[str]) -> str:
        listed = join(
            [
                f"{m} ({rates[model][m]['rate']:.2f} against {rates[reference][m]['rate']:.2f})"
                for m in metrics
            ]
        )
        return f"{say_who(model)} is worse than {say_who(reference)}{by} on {listed}"

    n, candidate = decision["n_rows"], decision["model"]
    parts = (
        [say(candidate, decision["worse_on"])]
        if model != candidate and decision["worse_on"]
        else []
    )
    good = f"{say_who(model)} is not worse than {say_who(reference)}{by} on any core metric"
    parts.append(say(model, worse_on) if worse_on else good)
    single = (
        f" A single row decides here: it is {1 / n:.3g} of a rate."
        if _hangs_by_a_row(decision)
        else ""
    )
    return f"On {n} rows, {', but '.join(parts)}.{single}"


def _hangs_by_a_row(decision: dict[str, Any]) -> bool:
    """Whether one row more or less would turn the rule's bit about the model that the verdict is about."""
    _, pairs, worse_on = _compared(decision)
    row, delta = 1 / decision["n_rows"] + 1e-9, decision["delta"]
    if worse_on:
        return all(pairs[metric]["gap"] - delta <= row for metric in worse_on)
    return any(delta - pair["gap"] < row for pair in pairs.values())


def _say_sureness(decision: dict[str, Any]) -> list[tuple[str, str]]:
    """How sure one can be of what the rule says, by intervals at its own bound; at delta=0 the margin is asked about too."""
    model, pairs, worse_on = _compared(decision)
    delta, margin = decision["delta"], decision["margin"]
    asked = worse_on or list(pairs)
    places = {metric: place(pairs[metric]["interval"], delta) for metric in asked}
    sure = [f"{m} ({say_gap(pairs[m])})" for m in asked if places[m] != OPEN]
    open_ = [f"{m} ({say_gap(pairs[m])})" for m in asked if places[m] == OPEN]
    claim = f"worse{f' by more than {delta:g}' if delta else ''}"
    claim = claim if worse_on else f"not {claim}" if delta else "better"
    parts = [f"At 95% {say_who(model)} is {claim} on {join(sure)}."] if sure else []
    if open_:
        more = f" {COIN}." if not delta else ""
        parts.append(
            f"Not sure on {join(open_)}: the interval of the gap includes {delta:g}.{more}"
        )
    lines = [("How sure?", " ".join(parts))]
    if not delta:
        listed = "; ".join(
            f"{m} {say_verdict(pair, margin)}, {say_gap(pair)}" for m, pair in pairs.items()
        )
        lines.append((f"Within {margin:g}?", f"Another question, for {say_who(model)}: {listed}."))
    return lines


def describe_obstacle(track: str, caveats: dict[str, Any], obstacle: str) -> list[tuple[str, str]]:
    """Why two models cannot be compared, what can be said all the same, and the next step."""
    forms = {model: caveats["form"][model] for model in caveats["models"]}
    if obstacle == "useless":
        rows = [
            f"{say_who(m)} gets {form['strict']} of {form['n_rows']} rows right"
            for m, form in forms.items()
        ]
        why = f"{capitalise('; '.join(rows))}: two models that cannot do a task are not as good as each other."
        next_ = "Read the failures in 02, then mend the prompt or show examples"
    else:
        found = ", ".join(f"{say_who(m)} {form['found']}" for m, form in forms.items())
        strict = ", ".join(f"{say_who(m)} {form['strict']}" for m, form in forms.items())
        n = next(iter(forms.values()))["n_rows"]
        why = f"{_say_forms(forms)} Right wherever it stands, of {n} rows: {found}; right as asked: {strict}."
        next_ = "The metrics measure the form here. Mend the prompt or show examples"
    pair = caveats["found"]
    verdict = say_verdict(pair, caveats["margin"])
    by_found = f"Counting right answers wherever they stand, the gap is {say_gap(pair)}: {verdict}."
    command = f"swap run notebooks/02_eval.ipynb -p track {track} -p models azure-shots4,slm-shots4"
    tuned = (
        ", or let 04_finetune teach the SLM its form"
        if not forms[caveats["models"][0]]["hides"]
        else ""
    )
    lines = [("Why", why)] + ([("How sure?", by_found)] if obstacle == "form" else [])
    return [*lines, ("Next", f"{next_} ({command}){tuned}.")]


def _say_forms(forms: dict[str, dict[str, Any]]) -> str:
    """What hides in the outputs of the models that it is true of; said once where it is the same of both."""
    said = {model: _say_form(form) for model, form in forms.items() if form["hides"]}
    if len(said) > 1 and len(set(said.values())) == 1:
        return next(iter(said.values())).format("both models")
    return " ".join(text.format(say_who(model)) for model, text in said.items())


def _say_form(form: dict[str, Any]) -> str:
    """One model's form, as a sentence with a place for whose it is."""
    n, hidden = form["n_rows"], form["found"] - form["strict"]
    if form["n_fenced"] * 2 > n:
        return f"{form['n_fenced']} of {n} answers of {{}} are inside a code fence."
    if form["word"] and hidden < form["n_word"]:
        word = form["word"].replace("{", "{{").replace("}", "}}")
        return (
            f"{form['n_word']} of {n} answers of {{}} call `{word}` where another tool was right."
        )
    return f"{hidden} right answers of {{}} do not stand alone, in the form asked for."


def _say_groups(decision: dict[str, Any]) -> str:
    """Said where resampling whole groups would take a verdict back: rows that share tools tell less of other tools."""
    _, pairs, _ = _compared(decision)
    weak = [
        m
        for m, pair in pairs.items()
        if pair["verdict"] != NOT_ENOUGH and _is_weak(pair, decision["margin"])
    ]
    if not weak:
        return ""
    first = pairs[weak[0]]
    return (
        f"{first['n_rows']} rows, {first['n_groups']} groups: for tools (or prompts) not seen yet {join(weak)} would be "
        f"{NOT_ENOUGH}, by resampled groups."
    )


def _is_weak(pair: dict[str, Any], margin: float) -> bool:
    return pair["n_groups"] < pair["n_rows"] and judge(pair["bootstrap"], margin) == NOT_ENOUGH


def _say_rows_beside(decision: dict[str, Any]) -> str:
    """The rate over rows whose values are given, and the ceiling, on the metric that decides."""
    metric, models = (
        core_metrics(decision["track"])[-1],
        (decision["reference"], _compared(decision)[0]),
    )
    given, ceiling, parts = decision["caveats"]["given"], decision["caveats"]["ceiling"], []
    if given and given["rates"] and given["n_rows"] < ceiling["n_rows"]:
        rates = ", ".join(f"{say_who(m)} {given['rates'][m][metric]['rate']:.2f}" for m in models)
        parts.append(
            f"On the {given['n_rows']} rows whose values the request or a default gives, {metric} is: {rates}."
        )
    if impossible := len(ceiling["impossible"]):
        parts.append(
            f"{len(ceiling['nobody'])} rows no model of this report got; two readers judged {impossible} of them "
            f"impossible, so the ceiling is {ceiling['rate']:.2f}."
        )
    return " ".join(parts)


def _say_noise(caveats: dict[str, Any]) -> str:
    who = join(
        [say_who(model) for model in caveats.get("not_greedy", ())]
    )  # older files do not say it
    warning = (
        f"{capitalise(who)} was asked without a temperature and is not greedy. " if who else ""
    )
    if not (noise := caveats["noise"]):
        return (
            f"{warning}How much that moves nobody has measured: run 02_eval with -p noise_rows 20."
            if who
            else ""
        )
    moved = ", ".join(f"{metric} {n}" for metric, n in noise["moved"].items())
    return (
        f"{warning}Asked twice, the hosted LLM gave {noise['equal']} of {noise['n_rows']} outputs again; rows whose score "
        f"changed: {moved}. No gap finer than that is one."
    )


def _say_earlier(decision: dict[str, Any]) -> str:
    earlier = decision["earlier"]
    if not any(delta != decision["delta"] for delta in earlier):
        return ""
    listed = ", ".join(f"{delta:g}" for delta in dict.fromkeys(earlier))
    n = len(earlier) + 1
    return f"Decision {n} on these runs; the earlier ones had delta {listed}. Among many, one passes by chance."


def describe_full(decision: dict[str, Any]) -> str:
    """What 4-bit took, as one sentence for a manager; empty where no unquantised run was compared."""
    parts, rates = [], decision["evidence"]["rates"]
    for compared in decision["evidence"]["full"]:
        full, base = compared["first"], compared["second"]
        if ModelName.parse(full).is_full:  # the other pairs compare it with the hosted LLM
            moves = [
                f"{name} {rates[full][name]['rate']:.2f} to {rates[base][name]['rate']:.2f} "
                f"({say_verdict(pair, decision['margin'])})"
                for name, pair in compared["pairs"].items()
            ]
            parts.append(f"{base} against {full}: {', '.join(moves)}")
    return f"What it took: {'; '.join(parts)}." if parts else ""
