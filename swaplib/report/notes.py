"""The notes below a decision: few groups, given rows, the ceiling, noise, earlier decisions, 4-bit.

A note is empty where it does not apply.
"""

from collections.abc import Mapping, Sequence

from swaplib.evaluation.stats import NOT_ENOUGH, judge
from swaplib.formats.caveats import Caveats
from swaplib.formats.decision import Decision
from swaplib.formats.evidence import PairedRecord
from swaplib.metrics import Track, core_metrics
from swaplib.models.names import ModelName
from swaplib.report.words import capitalise, join, say_verdict, say_who


def say_groups(pairs: Mapping[str, PairedRecord], margin: float) -> str:
    """Which verdicts resampling whole groups would take back.

    Rows that share tools say less about other tools.
    """
    weak = [
        m for m, pair in pairs.items() if pair["verdict"] != NOT_ENOUGH and _is_weak(pair, margin)
    ]
    if not weak:
        return ""
    first = pairs[weak[0]]
    return (
        f"{first['n_rows']} rows, {first['n_groups']} groups: for tools (or prompts) not seen yet "
        f"{join(weak)} would be {NOT_ENOUGH}, by resampled groups."
    )


def _is_weak(pair: PairedRecord, margin: float) -> bool:
    return pair["n_groups"] < pair["n_rows"] and judge(pair["bootstrap"], margin) == NOT_ENOUGH


def say_given_and_ceiling(track: Track, caveats: Caveats, models: Sequence[str]) -> str:
    """The rates over given rows, and the ceiling, on the metric that decides."""
    metric = core_metrics(track)[-1]
    given, ceiling = caveats["given"], caveats["ceiling"]
    parts = []
    if given and given["rates"] and given["n_rows"] < ceiling["n_rows"]:
        rates = ", ".join(f"{say_who(m)} {given['rates'][m][metric]['rate']:.2f}" for m in models)
        parts.append(
            f"On the {given['n_rows']} rows whose values the request or a default gives, "
            f"{metric} is: {rates}."
        )
    if impossible := len(ceiling["impossible"]):
        parts.append(
            f"{len(ceiling['nobody'])} rows no model of this report got; two readers judged "
            f"{impossible} of them impossible, so the ceiling is {ceiling['rate']:.2f}."
        )
    return " ".join(parts)


def say_gold(caveats: Mapping[str, object]) -> str:
    """That the golds of a log are the hosted LLM's own answers; of caveats or a route."""
    if caveats.get("gold") != "hosted":
        return ""
    return (
        "Every gold is what the hosted LLM answered in your log, and nobody has checked it: each "
        "rate is agreement with the hosted LLM, and its own rate, asked again, is the ceiling."
    )


def say_noise(caveats: Caveats) -> str:
    """Which model was not greedy, and how much the hosted LLM's answers vary."""
    who = join([say_who(model) for model in caveats.get("not_greedy", [])])  # not in older files
    noise = caveats["noise"]
    warning = (
        f"{capitalise(who)} was asked without a temperature and is not greedy. " if who else ""
    )
    if not noise:
        advice = "How much that moves nobody has measured: run 02_eval with -p noise_rows 20."
        return f"{warning}{advice}" if who else ""
    moved = ", ".join(f"{metric} {n}" for metric, n in noise["moved"].items())
    return (
        f"{warning}Asked twice, the hosted LLM gave {noise['equal']} of {noise['n_rows']} outputs "
        f"again; rows whose score changed: {moved}. No gap finer than that is one."
    )


def say_earlier(decision: Decision) -> str:
    """How many decisions were taken on the same runs, where their deltas differ."""
    earlier = decision["earlier"]
    if not any(delta != decision["delta"] for delta in earlier):
        return ""
    listed = ", ".join(f"{delta:g}" for delta in dict.fromkeys(earlier))
    n = len(earlier) + 1
    return (
        f"Decision {n} on these runs; the earlier ones had delta {listed}. "
        "Among many, one passes by chance."
    )


def describe_full(decision: Decision) -> str:
    """What 4-bit took, as one sentence; empty where no unquantised run was compared."""
    rates = decision["evidence"]["rates"]
    parts = []
    for compared in decision["evidence"]["full"]:
        full, base = compared["first"], compared["second"]
        if ModelName.parse(full).is_full:  # the other pairs are of the hosted LLM and it
            moves = [
                f"{name} {rates[full][name]['rate']:.2f} to {rates[base][name]['rate']:.2f} "
                f"({say_verdict(pair, decision['margin'])})"
                for name, pair in compared["pairs"].items()
            ]
            parts.append(f"{base} against {full}: {', '.join(moves)}")
    return f"What it took: {'; '.join(parts)}." if parts else ""
