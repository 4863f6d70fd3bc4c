"""The rule: FINE_TUNE=1 when the SLM is worse than Azure on any core metric by more than delta. Evidence stands beside it.

The rule is computed only from two complete runs over the same rows, and nothing beside it changes its bit.
"""

import json
from dataclasses import dataclass
from typing import Any

from swaplib import costs
from swaplib.adapter import find_misfit
from swaplib.caveats import find_caveats
from swaplib.checkpoints import hash_checkpoint
from swaplib.comparison import (
    MUST_AGREE,
    Compared,
    choose_shots,
    find_few_shot,
    find_full,
    open_compared,
    read_compared,
)
from swaplib.metrics import Track, check_track
from swaplib.model_names import ModelName
from swaplib.outbox import check_tracing
from swaplib.rule import apply_rule, find_margin
from swaplib.runs import new_folder, open_run, read_metrics
from swaplib.settings import Settings, show_path


def decide(settings: Settings, track: Track, delta: float = 0.0, margin: float | None = None) -> dict[str, Any]:
    """Apply the rule to the last runs of `azure` and `slm` on the test split; write and trace the decision.

    Args:
        settings: Says where the metrics files lie.
        track: `structured` or `toolcall`.
        delta: How much worse is still good enough for the rule, a rate in 0..1.
        margin: How much worse still counts as not worse in the evidence beside it; see find_margin.

    Returns:
        The content of `<track>_decision.json`. In `evidence`, `pairs` compares the hosted LLM with the SLM, and `full` the
        SLM with its checkpoint unquantised, and that with the hosted LLM, where `slm-full` was run. `caveats`: see
        find_caveats. `earlier`: the deltas of the decisions that were taken on these runs before.

    Raises:
        FileNotFoundError, ValueError: The two runs may not be compared (read_compared), or delta or margin does not do.
            Nothing was written.
    """
    check_tracing(settings)
    check_track(track)
    margin = find_margin(delta, margin)
    metrics = read_compared(settings, track, "azure", "slm")
    rule = apply_rule(track, metrics["azure"], metrics["slm"], delta)
    full = find_full(settings, track, "slm")
    compared = open_compared(settings, track, *metrics, *([full] if full else []))
    found = {"rates": compared.list_rates(), "pairs": compared.compare("azure", "slm", margin)}
    found["full"] = compared.compare_all([(full, "slm"), ("azure", full)] if full else [], margin)
    facts = {**rule, "track": track, "model": "slm", "delta": delta, "margin": margin}
    content = _write(settings, "decision", compared, facts, found)
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
        with N examples in the prompt` (only when the adapter is not enough and the number of examples that val chose is),
        `stay`, or `not comparable` where the caveats have an obstacle; `recommended`, the model that it is about; `chosen`,
        the few-shot run that val chose, or None; `rules`, by each model that it can be about; in `evidence`, `recommended`
        (the hosted LLM against it), `changes` (the SLM against the candidate), `few_shot` (runs with examples, the hosted
        LLM's too, against the others) and `full` (unquantised runs against their 4-bit ones and the hosted LLM).

    Raises:
        FileNotFoundError, ValueError: The runs may not be compared (read_compared). Nothing was written.
    """
    check_tracing(settings)
    decided = read_decision(settings, track)
    few_shot, hosted = find_few_shot(settings, track), find_few_shot(settings, track, "azure")
    full = {base: found for base in dict.fromkeys(("slm", candidate)) if (found := find_full(settings, track, base))}
    ruled = tuple(dict.fromkeys(("slm", *few_shot, candidate)))
    compared = open_compared(settings, track, "azure", *hosted, *ruled, *full.values())
    rules = {m: apply_rule(track, compared.metrics["azure"], compared.metrics[m], decided["delta"]) for m in ruled}
    chosen = choose_shots(settings, track, few_shot)
    recommended, verdict = _find_verdict(rules, candidate, chosen)
    facts = {
        **rules[candidate],
        "track": track,
        "model": candidate,
        "delta": decided["delta"],
        "margin": decided["margin"],
    }
    facts |= {"verdict": verdict, "recommended": recommended, "chosen": chosen, "rules": rules}
    shots = [pair for model in hosted for pair in (("azure", model), (model, candidate))]
    shots += [pair for model in few_shot for pair in (("azure", model), ("slm", model), (model, candidate))]
    unquantised = [pair for base, model in full.items() for pair in ((model, base), ("azure", model))]
    content = _write(settings, "post_decision", compared, facts, _compare_all(compared, facts, shots, unquantised))
    print(f"verdict: {content['verdict']}  ({show_path(settings.evaluation / f'{track}_post_decision.json')})")
    return content


def _compare_all(
    compared: Compared, facts: dict[str, Any], shots: list[tuple[str, str]], unquantised: list[tuple[str, str]]
) -> dict[str, Any]:
    """The evidence beside a post-decision."""
    margin = facts["margin"]
    return {
        "rates": compared.list_rates(),
        "pairs": compared.compare("azure", facts["model"], margin),
        "recommended": compared.compare("azure", facts["recommended"], margin),
        "changes": compared.compare("slm", facts["model"], margin),
        "few_shot": compared.compare_all(shots, margin),
        "full": compared.compare_all(unquantised, margin),
    }


def _find_verdict(rules: dict[str, dict[str, Any]], candidate: str, chosen: str | None) -> tuple[str, str]:
    """The first that the rule lets pass: the SLM as it is, with its adapter, with the examples that val chose; else `stay`.

    Returns:
        The model that is recommended (the candidate when none passes), and the verdict.
    """
    names = {"slm": "swap", candidate: "swap" if candidate == "slm" else "swap with the adapter"}
    names |= {chosen: f"swap with {ModelName.parse(chosen).shots} examples in the prompt"} if chosen else {}
    passed = ((model, verdict) for model, verdict in names.items() if not rules[model]["FINE_TUNE"])
    return next(passed, (candidate, "stay"))


def _write(
    settings: Settings, kind: str, compared: Compared, facts: dict[str, Any], found: dict[str, Any]
) -> dict[str, Any]:
    """Trace a decision and write its file; `kind` is `decision` or `post_decision`."""
    track, metrics, second = facts["track"], compared.metrics, facts.get("recommended", facts["model"])
    priced = costs.price_runs(metrics, costs.Prices.from_settings(settings))  # may refuse, so before anything is traced
    caveats = find_caveats(settings, compared, "azure", second, facts["margin"])
    if caveats["obstacle"] and "verdict" in facts:
        facts = facts | {"verdict": "not comparable"}
    first = metrics["azure"]["run"]
    shared = {key: first[key] for key in MUST_AGREE}
    runs = {model: content["run"]["run_id"] for model, content in metrics.items()}
    inputs, folder = {"delta": facts["delta"], "compared": runs, **shared}, new_folder(settings, track, kind)
    path, earlier = settings.evaluation / f"{track}_{kind}.json", _find_earlier(settings, kind, runs, second)
    with open_run(settings, folder, f"{kind} {track}", inputs, [track, kind]) as run:
        run.trace.add_event(kind, facts)
        run.trace.finish(facts, {"FINE_TUNE": facts["FINE_TUNE"]})
        content = {**facts, "n_rows": shared["n_rows"], "earlier": earlier, "caveats": caveats}
        content |= {"evidence": found, "costs": priced}
        run.record(f"{kind}.json", content | {"run": {"compared": runs, **shared}}, path)
    return json.loads(path.read_text(encoding="utf-8"))


def _find_earlier(settings: Settings, kind: str, runs: dict[str, str], model: str) -> list[float]:
    """The deltas of the decisions that were taken before on the same two runs, the oldest first."""
    decided = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(settings.runs.glob(f"2*/{kind}.json"))]
    before = [found for found in decided if all(found["run"]["compared"].get(m) == runs[m] for m in ("azure", model))]
    return [found["delta"] for found in before]
