"""The rule: FINE_TUNE=1 when the SLM is worse than Azure on any core metric by more than delta. Evidence stands beside it.

The rule is computed only from two complete runs over the same rows, and nothing beside it changes its bit.
"""

import json
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from swaplib import costs
from swaplib.adapter import find_misfit
from swaplib.checkpoints import hash_checkpoint
from swaplib.comparison import (
    MUST_AGREE,
    compare_models,
    compare_pairs,
    find_few_shot,
    find_full,
    list_rates,
    read_compared,
)
from swaplib.metrics import Track, check_track, core_metrics
from swaplib.model_names import ModelName
from swaplib.outbox import check_tracing
from swaplib.runs import new_folder, open_run, read_ledgers, read_metrics
from swaplib.settings import Settings, show_path


def apply_rule(track: Track, azure: dict[str, Any], slm: dict[str, Any], delta: float) -> dict[str, Any]:
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
        gaps[metric] = Fraction(round(azure[metric] * n) - round(slm[metric] * n), n)
    worse_on = [metric for metric, gap in gaps.items() if gap > Fraction(str(delta))]
    return {"FINE_TUNE": int(bool(worse_on)), "worse_on": worse_on, "gaps": {m: float(g) for m, g in gaps.items()}}


def decide(settings: Settings, track: Track, delta: float = 0.0, margin: float = 0.05) -> dict[str, Any]:
    """Apply the rule to the last runs of `azure` and `slm` on the test split; write and trace the decision.

    Args:
        settings: Says where the metrics files lie.
        track: `structured` or `toolcall`.
        delta: How much worse is still good enough for the rule, a rate in 0..1.
        margin: How much worse still counts as not worse in the evidence beside it, a rate in 0..1.

    Returns:
        The content of `<track>_decision.json`. In `evidence`, `pairs` compares the hosted LLM with the SLM, and `full` the
        SLM with its checkpoint unquantised, and that with the hosted LLM, where `slm-full` was run.

    Raises:
        FileNotFoundError, ValueError: The two runs may not be compared (read_compared), or delta or margin is no rate.
            Nothing was written.
    """
    check_tracing(settings)
    check_track(track)
    metrics = read_compared(settings, track, "azure", "slm")
    rule = apply_rule(track, metrics["azure"], metrics["slm"], delta)
    full = find_full(settings, track, "slm")
    metrics = read_compared(settings, track, *metrics, *([full] if full else []))
    ledgers = read_ledgers(settings, metrics)
    found = {"rates": list_rates(track, metrics), "pairs": compare_models(track, ledgers, "azure", "slm", margin)}
    found["full"] = compare_pairs(track, ledgers, [(full, "slm"), ("azure", full)] if full else [], margin)
    facts = {**rule, "track": track, "model": "slm", "delta": delta, "margin": margin}
    content = _write(settings, "decision", metrics, facts, found)
    print(f"FINE_TUNE={rule['FINE_TUNE']}  ({show_path(settings.evaluation / f'{track}_decision.json')})")
    return content


def read_decision(settings: Settings, track: Track) -> dict[str, Any]:
    """Read `<track>_decision.json`.

    Raises:
        FileNotFoundError, ValueError: It is not there, or was made on other runs or another SLM than the last ones.
    """
    check_track(track)
    path = settings.evaluation / f"{track}_decision.json"
    if not path.is_file():
        raise FileNotFoundError(f"no decision at {path}. Run notebooks/03_decision.ipynb with track={track!r} first.")
    decided = json.loads(path.read_text(encoding="utf-8"))
    metrics = read_compared(settings, track, "azure", "slm")
    if any(decided["run"]["compared"][model] != content["run"]["run_id"] for model, content in metrics.items()):
        raise ValueError(f"the {track} decision was made on other runs than the last ones. Run 03_decision again.")
    evaluated = metrics["slm"]["run"]["identity"].get("checkpoint_sha256")
    if not settings.slm_base_url and evaluated != hash_checkpoint(settings.slm_model_path):
        raise ValueError(
            f"the {track} decision is about another SLM than {show_path(settings.slm_model_path)}. Run 02_eval and "
            "03_decision with it, or set SLM_MODEL_PATH back."
        )
    return decided


@dataclass(frozen=True)
class PostEval:
    """What 05 asks: which local model could take over, and the question that the others have answered.

    `question` holds run_model's `limit`, `max_new_tokens` and `batch_size`.
    """

    candidate: str
    question: dict[str, int]


def plan_post_eval(settings: Settings, track: Track) -> PostEval:
    """Find the model that could replace the hosted LLM: `slm_ft` where its adapter fits, else `slm` when that is enough.

    Raises:
        FileNotFoundError, ValueError: There is no decision, it is about other runs than the last ones, or it says
            FINE_TUNE=1 and there is no adapter of this base and these rows.
    """
    must_adapt, run = read_decision(settings, track)["FINE_TUNE"], read_metrics(settings, track, "slm")["run"]
    # what a server serves, its list of models says; here, the adapter's run card
    misfit = None if settings.slm_base_url else find_misfit(settings, track)
    if misfit and must_adapt:
        raise FileNotFoundError(f"FINE_TUNE=1 for {track}, and {misfit}. Run notebooks/04_finetune.ipynb first.")
    if misfit or (settings.slm_base_url and not must_adapt):
        candidate = "slm"
        print(f"FINE_TUNE=0 for {track}, and {misfit or 'no adapter is asked for'}: the SLM as it is is the candidate.")
    else:
        candidate = "slm_ft"
    question = {"limit": run["n_rows"], "max_new_tokens": run["max_new_tokens"]}
    return PostEval(candidate, question | {"batch_size": run["parameters"]["batch_size"]})


def decide_again(settings: Settings, track: Track, candidate: str) -> dict[str, Any]:
    """Apply the rule to the candidate, with 03's delta; write and trace it with the verdict.

    Args:
        settings: Says where the metrics files lie.
        track: `structured` or `toolcall`.
        candidate: `slm_ft`, or `slm` when no adapter was needed.

    Returns:
        The content of `<track>_post_decision.json`: as the decision's, and `verdict`: `swap`, `swap with the adapter`, `swap
        with N examples in the prompt` (only when the adapter is not enough and a few-shot run is), or `stay`; `recommended`,
        the model that it is about; `rules`, by each model that it can be about; in `evidence`, `recommended` (the hosted LLM
        against it), `changes` (the SLM against the candidate), `few_shot` (runs with examples, the hosted LLM's too, against
        the others) and `full` (unquantised runs against their 4-bit ones and the hosted LLM).

    Raises:
        FileNotFoundError, ValueError: The runs may not be compared (read_compared). Nothing was written.
    """
    check_tracing(settings)
    decided = read_decision(settings, track)
    delta, margin = decided["delta"], decided["margin"]
    few_shot, hosted = find_few_shot(settings, track), find_few_shot(settings, track, "azure")
    full = {base: found for base in dict.fromkeys(("slm", candidate)) if (found := find_full(settings, track, base))}
    ruled = tuple(dict.fromkeys(("slm", *few_shot, candidate)))
    metrics = read_compared(settings, track, "azure", *hosted, *ruled, *full.values())
    rules = {m: apply_rule(track, metrics["azure"], metrics[m], delta) for m in ruled}
    recommended, verdict = _find_verdict(rules, candidate, few_shot)
    facts = {**rules[candidate], "track": track, "model": candidate, "delta": delta, "margin": margin}
    facts |= {"verdict": verdict, "recommended": recommended, "rules": rules}
    shots = [pair for model in hosted for pair in (("azure", model), (model, candidate))]
    shots += [pair for model in few_shot for pair in (("azure", model), ("slm", model), (model, candidate))]
    unquantised = [pair for base, model in full.items() for pair in ((model, base), ("azure", model))]
    found = _compare_all(settings, facts, metrics, shots, unquantised)
    content = _write(settings, "post_decision", metrics, facts, found)
    print(f"verdict: {content['verdict']}  ({show_path(settings.evaluation / f'{track}_post_decision.json')})")
    return content


def _compare_all(
    settings: Settings,
    facts: dict[str, Any],
    metrics: dict[str, dict[str, Any]],
    shots: list[tuple[str, str]],
    unquantised: list[tuple[str, str]],
) -> dict[str, Any]:
    """The evidence beside a post-decision."""
    track, margin, ledgers = facts["track"], facts["margin"], read_ledgers(settings, metrics)
    return {
        "rates": list_rates(track, metrics),
        "pairs": compare_models(track, ledgers, "azure", facts["model"], margin),
        "recommended": compare_models(track, ledgers, "azure", facts["recommended"], margin),
        "changes": compare_models(track, ledgers, "slm", facts["model"], margin),
        "few_shot": compare_pairs(track, ledgers, shots, margin),
        "full": compare_pairs(track, ledgers, unquantised, margin),
    }


def _find_verdict(rules: dict[str, dict[str, Any]], candidate: str, few_shot: list[str]) -> tuple[str, str]:
    """The first that the rule lets pass: the SLM as it is, with its adapter, with the fewest examples; else `stay`.

    Returns:
        The model that is recommended (the candidate when none passes), and the verdict.
    """
    names = {"slm": "swap", candidate: "swap" if candidate == "slm" else "swap with the adapter"}
    names |= {model: f"swap with {ModelName.parse(model).shots} examples in the prompt" for model in few_shot}
    passed = ((model, verdict) for model, verdict in names.items() if not rules[model]["FINE_TUNE"])
    return next(passed, (candidate, "stay"))


def _write(
    settings: Settings, kind: str, metrics: dict[str, dict[str, Any]], facts: dict[str, Any], found: dict[str, Any]
) -> dict[str, Any]:
    """Trace a decision and write its file; `kind` is `decision` or `post_decision`."""
    track, first = facts["track"], metrics["azure"]["run"]
    priced = costs.price_runs(metrics, costs.Prices.from_settings(settings))  # may refuse, so before anything is traced
    shared = {key: first[key] for key in MUST_AGREE}
    compared = {model: content["run"]["run_id"] for model, content in metrics.items()}
    inputs, folder = {"delta": facts["delta"], "compared": compared, **shared}, new_folder(settings, track, kind)
    path = settings.evaluation / f"{track}_{kind}.json"
    with open_run(settings, folder, f"{kind} {track}", inputs, [track, kind]) as run:
        run.trace.add_event(kind, facts)
        run.trace.finish(facts, {"FINE_TUNE": facts["FINE_TUNE"]})
        content = {**facts, "n_rows": shared["n_rows"], "evidence": found, "costs": priced}
        run.record(f"{kind}.json", content | {"run": {"compared": compared, **shared}}, path)
    return json.loads(path.read_text(encoding="utf-8"))
