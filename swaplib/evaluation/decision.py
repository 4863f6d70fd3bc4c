"""The rule (rule.py) applied to complete runs over the same rows. Evidence stands beside its bit, and never changes it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from swaplib.evaluation import costs
from swaplib.evaluation.caveats import find_caveats
from swaplib.evaluation.comparison import (
    MUST_AGREE,
    Compared,
    choose_shots,
    find_few_shot,
    find_full,
    find_native,
    open_compared,
    read_compared,
)
from swaplib.evaluation.rule import apply_rule, find_margin
from swaplib.files import read_json
from swaplib.metrics import Track, check_track
from swaplib.models.adapters import explain_adapter_mismatch
from swaplib.models.checkpoints import hash_checkpoint
from swaplib.models.names import ModelName
from swaplib.runs import new_folder, open_run, read_metrics
from swaplib.settings import Settings, show_path
from swaplib.tracing.outbox import check_tracing


def decide(
    settings: Settings, track: Track, delta: float = 0.0, margin: float | None = None
) -> dict[str, Any]:
    """Apply the rule to the last runs of `azure` and `slm` on the test split; write and trace the decision.

    Args:
        settings: Says where the metrics files lie.
        track: `structured` or `toolcall`.
        delta: How much worse is still good enough for the rule, a rate in 0..1.
        margin: How much worse still counts as not worse in the evidence beside it; see find_margin.

    Returns:
        The content of `<track>_decision.json`. In `evidence`, `pairs` compares the hosted LLM with the SLM, `full` the SLM
        with its checkpoint unquantised, and that with the hosted LLM, where `slm-full` was run, and `native` each model with
        itself asked natively, and these two with each other. `reference` is the hosted LLM's run. `caveats`: see
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
    full, natives = (
        find_full(settings, track, "slm"),
        find_native(settings, track, ("azure", "slm")),
    )
    compared = open_compared(settings, track, *metrics, *([full] if full else []), *natives)
    found = {"rates": compared.list_rates(), "pairs": compared.compare("azure", "slm", margin)}
    found["full"] = compared.compare_all([(full, "slm"), ("azure", full)] if full else [], margin)
    found["native"] = compared.compare_all(_pair_natives(natives, ("azure", "slm")), margin)
    facts = {
        **rule,
        "track": track,
        "model": "slm",
        "reference": "azure",
        "delta": delta,
        "margin": margin,
    }
    content = _write(settings, "decision", compared, facts, found)
    print(
        f"FINE_TUNE={rule['FINE_TUNE']}  ({show_path(settings.evaluation / f'{track}_decision.json')})"
    )
    return content


def read_decision(settings: Settings, track: Track) -> dict[str, Any]:
    """Read `<track>_decision.json`.

    Raises:
        FileNotFoundError, ValueError: It is not there, or was made on other runs or another SLM than the last ones.
    """
    check_track(track)
    path = settings.evaluation / f"{track}_decision.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"no decision at {path}. Run notebooks/03_decision.ipynb with track={track!r} first."
        )
    decided = read_json(path, "Run 03_decision again.")
    metrics = read_compared(settings, track, "azure", "slm")
    if any(
        decided["run"]["compared"][model] != content["run"]["run_id"]
        for model, content in metrics.items()
    ):
        raise ValueError(
            f"the {track} decision was made on other runs than the last ones. Run 03_decision again."
        )
    evaluated = metrics["slm"]["run"]["identity"].get("checkpoint_sha256")
    if not settings.slm_base_url and evaluated != hash_checkpoint(settings.slm_model_path):
        raise ValueError(
            f"the {track} decision is about another SLM than {show_path(settings.slm_model_path)}. Run 02_eval and "
            "03_decision with it, or set SLM_MODEL_PATH back."
        )
    return decided


@dataclass(frozen=True)
class PostEval:
    """What 05 asks: which local model could take over, and the others' question.

    `models` are those to run: the candidate, and the same asked natively where that is wanted. `question` holds run_model's
    `limit`, `max_new_tokens` and `batch_size`.
    """

    candidate: str
    models: str
    question: dict[str, int]


def plan_post_eval(settings: Settings, track: Track, native: bool = False) -> PostEval:
    """Find the model that could replace the hosted LLM: `slm_ft` where its adapter fits, else `slm` when that is enough.

    Args:
        settings: Says where everything lies.
        track: `structured` or `toolcall`.
        native: Also ask it natively.

    Raises:
        FileNotFoundError, ValueError: There is no decision, it is about other runs than the last ones, or it says
            FINE_TUNE=1 and there is no adapter of this base and these rows.
    """
    must_adapt, run = (
        read_decision(settings, track)["FINE_TUNE"],
        read_metrics(settings, track, "slm")["run"],
    )
    # what a server serves, its list of models says; here, the adapter's run card
    misfit = None if settings.slm_base_url else explain_adapter_mismatch(settings, track)
    if misfit and must_adapt:
        raise FileNotFoundError(
            f"FINE_TUNE=1 for {track}, and {misfit}. Run notebooks/04_finetune.ipynb first."
        )
    if misfit or (settings.slm_base_url and not must_adapt):
        candidate = "slm"
        print(
            f"FINE_TUNE=0 for {track}, and {misfit or 'no adapter is asked for'}: the SLM as it is is the candidate."
        )
    else:
        candidate = "slm_ft"
    question = {"limit": run["n_rows"], "max_new_tokens": run["max_new_tokens"]}
    models = f"{candidate},{candidate}-native" if native else candidate
    return PostEval(candidate, models, question | {"batch_size": run["parameters"]["batch_size"]})


def decide_again(
    settings: Settings, track: Track, candidate: str, native: bool = False
) -> dict[str, Any]:
    """Apply the rule to the candidate, with 03's delta; write and trace it with the verdict.

    Args:
        settings: Says where the metrics files lie.
        track: `structured` or `toolcall`.
        candidate: `slm_ft`, or `slm` when no adapter was needed.
        native: Compare with the hosted LLM asked natively, and recommend SLMs asked natively, too.

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
    full = {
        base: found
        for base in dict.fromkeys(("slm", candidate))
        if (found := find_full(settings, track, base))
    }
    natives, reference = (
        find_native(settings, track, dict.fromkeys(("azure", "slm", candidate))),
        "azure",
    )
    ruled = tuple(dict.fromkeys(("slm", *few_shot, candidate)))
    compared = open_compared(settings, track, "azure", *hosted, *ruled, *full.values(), *natives)
    if native:
        reference = _check_native(natives)
        ruled += tuple(name for name in natives if name != reference)
    rules = {
        m: apply_rule(track, compared.metrics[reference], compared.metrics[m], decided["delta"])
        for m in ruled
    }
    chosen = choose_shots(settings, track, few_shot)
    recommended, verdict = _find_verdict(rules, candidate, chosen)
    facts = {
        **rules[candidate],
        "track": track,
        "model": candidate,
        "delta": decided["delta"],
        "margin": decided["margin"],
    }
    facts |= {
        "verdict": verdict,
        "recommended": recommended,
        "chosen": chosen,
        "rules": rules,
        "reference": reference,
    }
    unquantised = [
        pair for base, model in full.items() for pair in ((model, base), ("azure", model))
    ]
    asked = {"few_shot": _pair_shots(hosted, few_shot, candidate), "full": unquantised}
    asked["native"] = _pair_natives(natives, ("azure", "slm", candidate))
    content = _write(
        settings, "post_decision", compared, facts, _compare_all(compared, facts, asked)
    )
    print(
        f"verdict: {content['verdict']}  ({show_path(settings.evaluation / f'{track}_post_decision.json')})"
    )
    return content


def _check_native(natives: list[str]) -> str:
    """The hosted LLM as it is asked natively; raises ValueError when there is no such run."""
    if "azure-native" in natives:
        return "azure-native"
    raise ValueError(
        "native=True compares with the hosted LLM asked natively, and there is no such run of these rows. Run 02_eval with "
        "-p models azure-native,slm-native first."
    )


def _pair_shots(hosted: list[str], few_shot: list[str], candidate: str) -> list[tuple[str, str]]:
    """Each run with examples with the models without, and with the candidate."""
    pairs = [pair for model in hosted for pair in (("azure", model), (model, candidate))]
    return pairs + [
        pair
        for model in few_shot
        for pair in (("azure", model), ("slm", model), (model, candidate))
    ]


def _pair_natives(natives: list[str], bases: Sequence[str]) -> list[tuple[str, str]]:
    """Each model with itself asked natively, and the hosted LLM with each SLM, both asked natively."""
    pairs = [
        (base, f"{base}-native") for base in dict.fromkeys(bases) if f"{base}-native" in natives
    ]
    others = [name for name in natives if name != "azure-native"]
    return pairs + [("azure-native", name) for name in others if "azure-native" in natives]


def _compare_all(
    compared: Compared, facts: dict[str, Any], asked: dict[str, list[tuple[str, str]]]
) -> dict[str, Any]:
    """The evidence beside a post-decision: about its models, and the pairs that are asked for, by name."""
    margin, reference = facts["margin"], facts["reference"]
    return {
        "rates": compared.list_rates(),
        "pairs": compared.compare(reference, facts["model"], margin),
        "recommended": compared.compare(reference, facts["recommended"], margin),
        "changes": compared.compare("slm", facts["model"], margin),
        **{name: compared.compare_all(pairs, margin) for name, pairs in asked.items()},
    }


def _find_verdict(
    rules: dict[str, dict[str, Any]], candidate: str, chosen: str | None
) -> tuple[str, str]:
    """The first that the rule lets pass: the SLM as it is, with its adapter, with the examples that val chose; else `stay`.

    Returns:
        The model that is recommended (the candidate when none passes), and the verdict.
    """
    names = {"slm": "swap", "slm-native": "swap, asked natively"}
    names |= {
        "slm_ft": "swap with the adapter",
        "slm_ft-native": "swap with the adapter, asked natively",
    }
    names |= (
        {chosen: f"swap with {ModelName.parse(chosen).shots} examples in the prompt"}
        if chosen
        else {}
    )
    passed = (
        (m, verdict) for m, verdict in names.items() if m in rules and not rules[m]["FINE_TUNE"]
    )
    return next(passed, (candidate, "stay"))


def _write(
    settings: Settings, kind: str, compared: Compared, facts: dict[str, Any], found: dict[str, Any]
) -> dict[str, Any]:
    """Trace a decision and write its file; `kind` is `decision` or `post_decision`."""
    track, metrics, second = (
        facts["track"],
        compared.metrics,
        facts.get("recommended", facts["model"]),
    )
    priced = costs.price_runs(
        metrics, costs.Prices.from_settings(settings)
    )  # may refuse, so before anything is traced
    reference = facts["reference"]
    caveats = find_caveats(settings, compared, reference, second, facts["margin"])
    if caveats["obstacle"] and "verdict" in facts:
        facts = facts | {"verdict": "not comparable"}
    first = metrics["azure"]["run"]
    shared = {key: first[key] for key in MUST_AGREE}
    runs = {model: content["run"]["run_id"] for model, content in metrics.items()}
    inputs, folder = (
        {"delta": facts["delta"], "compared": runs, **shared},
        new_folder(settings, track, kind),
    )
    path, earlier = (
        settings.evaluation / f"{track}_{kind}.json",
        _find_earlier(settings, kind, runs, (reference, second)),
    )
    with open_run(settings, folder, f"{kind} {track}", inputs, [track, kind]) as run:
        run.trace.add_event(kind, facts)
        run.trace.finish(facts, {"FINE_TUNE": facts["FINE_TUNE"]})
        content = {**facts, "n_rows": shared["n_rows"], "earlier": earlier, "caveats": caveats}
        content |= {"evidence": found, "costs": priced}
        run.record(f"{kind}.json", content | {"run": {"compared": runs, **shared}}, path)
    return json.loads(path.read_text(encoding="utf-8"))


def _find_earlier(
    settings: Settings, kind: str, runs: dict[str, str], models: tuple[str, str]
) -> list[float]:
    """The deltas of the decisions that were taken before on the same two runs, the oldest first."""
    decided = [
        read_json(path, "Move its folder away.")
        for path in sorted(settings.runs.glob(f"2*/{kind}.json"))
    ]
    before = [
        found
        for found in decided
        if all(found["run"]["compared"].get(m) == runs[m] for m in models)
    ]
    return [found["delta"] for found in before]
