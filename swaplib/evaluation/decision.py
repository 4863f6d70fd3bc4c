"""The rule (rule.py) applied to complete runs over the same rows.

Evidence is reported beside its bit, and never changes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from swaplib.evaluation.comparison import choose_shots, open_compared, read_compared
from swaplib.evaluation.contenders import Contenders, find_contenders, find_two
from swaplib.evaluation.decision_file import write_decision
from swaplib.evaluation.rule import apply_rule, find_margin, find_verdict
from swaplib.evaluation.side_by_side import Compared
from swaplib.files import read_json
from swaplib.formats.decision import Decision, Rule, Ruling
from swaplib.formats.evidence import Evidence
from swaplib.metrics import Track, check_track
from swaplib.models.adapters import explain_adapter_mismatch
from swaplib.models.checkpoints import hash_checkpoint
from swaplib.models.dataset_form import BASES
from swaplib.models.names import ModelName
from swaplib.runs import read_metrics
from swaplib.settings import Settings, show_path
from swaplib.tracing.outbox import check_tracing


def decide(
    settings: Settings, track: Track, delta: float = 0.0, margin: float | None = None
) -> Decision:
    """Apply the rule to the last runs of the hosted LLM and the SLM on the test split.

    They are `azure` and `slm`, or of a log both asked natively (choose_pair). It is written and
    traced, with evidence about `slm-full` and runs in the other form where there are any.

    Args:
        delta: How much worse is still good enough for the rule, a rate in 0..1.
        margin: How much worse still counts as not worse in the evidence; see find_margin.

    Raises:
        FileNotFoundError, ValueError: The two runs may not be compared (read_compared), or delta or
            margin is refused. Nothing was written.
    """
    check_tracing(settings)
    check_track(track)
    margin = find_margin(delta, margin)
    two = find_two(settings, track)
    compared = open_compared(settings, track, *two.list_all())
    evidence: Evidence = {
        "rates": compared.list_rates(),
        "pairs": compared.compare(two.reference, two.base, margin),
        "full": compared.compare_all(two.pair_full(), margin),
        "native": compared.compare_all(two.pair_forms(), margin),
    }
    ruling: Ruling = {
        **_apply_rules(compared, two.reference, [two.base], delta)[two.base],
        "track": track,
        "model": two.base,
        "reference": two.reference,
        "delta": delta,
        "margin": margin,
    }
    decision = write_decision(settings, "decision", compared, ruling, evidence)
    path = settings.evaluation / f"{track}_decision.json"
    print(f"FINE_TUNE={decision['FINE_TUNE']}  ({show_path(path)})")
    return decision


def read_decision(settings: Settings, track: Track) -> Decision:
    """Read `<track>_decision.json`.

    Raises:
        FileNotFoundError, ValueError: It is not there, or was made on other runs or another SLM
            than the last ones.
    """
    check_track(track)
    path = settings.evaluation / f"{track}_decision.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"no decision at {path}. Run notebooks/03_decision.ipynb with track={track!r} first."
        )
    content: Any = read_json(path, "Run 03_decision again.")
    decision: Decision = content
    decision.setdefault("reference", "azure")  # older files do not say
    metrics = read_compared(settings, track, decision["reference"], decision["model"])
    compared = decision["run"]["compared"]
    if any(compared[model] != content["run"]["run_id"] for model, content in metrics.items()):
        raise ValueError(
            f"the {track} decision was made on other runs than the last ones. Run 03_decision "
            "again."
        )
    evaluated = metrics[decision["model"]]["run"]["identity"].get("checkpoint_sha256")
    if not settings.slm_base_url and evaluated != hash_checkpoint(settings.slm_model_path):
        raise ValueError(
            f"the {track} decision is about another SLM than {show_path(settings.slm_model_path)}. "
            "Run 02_eval and 03_decision with it, or set SLM_MODEL_PATH back."
        )
    return decision


def open_decided(settings: Settings, decision: Decision) -> Compared:
    """The runs that a decision compares, with their rows; raises what read_compared raises."""
    return open_compared(settings, decision["track"], *decision["evidence"]["rates"])


@dataclass(frozen=True)
class Candidate:
    """The local model that could take over, and how 05 asks it.

    `reference` and `base` are the hosted LLM and the SLM that were decided on, in the candidate's
    form. `models` are those to run: the candidate, and where both forms are wanted the same in the
    other one. `options` are run_model's `limit`, `max_new_tokens` and `batch_size`, as the others
    were asked.
    """

    name: str
    reference: str
    base: str
    models: str
    options: dict[str, int]


def find_candidate(settings: Settings, track: Track, native: bool | None = None) -> Candidate:
    """Find the model that could replace the hosted LLM.

    It is `slm_ft` where its adapter fits, else `slm` when that is enough; natively where 03 has
    compared natively. An adapter is trained on rows as they are written by hand, so it is then
    asked by hand, too.

    Args:
        settings: The home and the checkpoint.
        track: The track that was decided on.
        native: True also asks it natively, False never; None is the form that 03 decided on.

    Raises:
        FileNotFoundError, ValueError: There is no decision, it is about other runs than the last
            ones, or it says FINE_TUNE=1 and there is no adapter of this base and these rows.
    """
    decision = read_decision(settings, track)
    must_adapt = decision["FINE_TUNE"]
    run = read_metrics(settings, track, decision["model"])["run"]
    # A server's list of models says which adapters it has; here, an adapter's run card says it.
    misfit = None if settings.slm_base_url else explain_adapter_mismatch(settings, track)
    if misfit and must_adapt:
        raise FileNotFoundError(
            f"FINE_TUNE=1 for {track}, and {misfit}. Run notebooks/04_finetune.ipynb first."
        )
    weights = "slm_ft"
    if misfit or (settings.slm_base_url and not must_adapt):
        weights = "slm"
        reason = misfit or "no adapter is needed"
        print(f"FINE_TUNE=0 for {track}, and {reason}: the candidate is the base SLM.")
    options = {
        "limit": run["n_rows"],
        "max_new_tokens": run["max_new_tokens"],
        "batch_size": run["parameters"]["batch_size"],
    }
    was_native = ModelName.parse(decision["model"]).is_native
    return _name_candidate(weights, was_native, native, options)


def _name_candidate(
    weights: str, was_native: bool, native: bool | None, options: dict[str, int]
) -> Candidate:
    """The candidate of these weights, after a decision on native runs or on others."""
    is_native = was_native and native is not False
    name, reference, base = (
        str(ModelName(model).in_form(is_native)) for model in (weights, *BASES)
    )
    other = str(ModelName(weights).in_form(not is_native))
    wants_both = native or (is_native and weights == "slm_ft")
    return Candidate(name, reference, base, f"{name},{other}" if wants_both else name, options)


def decide_again(
    settings: Settings, track: Track, candidate: str, native: bool | None = None
) -> Decision:
    """Apply the rule to the candidate, with 03's delta; write and trace it with the verdict.

    The verdict is find_verdict's, or `not comparable` where the caveats have an obstacle.

    Args:
        candidate: `slm_ft`, or `slm` when no adapter was needed; find_candidate names it.
        native: True compares with the hosted LLM asked natively, and recommends SLMs asked so, too.

    Raises:
        FileNotFoundError, ValueError: The runs may not be compared. Nothing was written.
    """
    check_tracing(settings)
    decided = read_decision(settings, track)
    contenders = find_contenders(settings, track, candidate)
    compared = open_compared(settings, track, *contenders.list_all())
    reference = contenders.find_native_reference() if native else contenders.reference
    ruled = contenders.list_ruled(reference)
    rules = _apply_rules(compared, reference, ruled, decided["delta"])
    chosen = choose_shots(settings, track, contenders.few_shot)
    recommended, verdict = find_verdict(rules, candidate, chosen)
    ruling: Ruling = {
        **rules[candidate],
        "track": track,
        "model": candidate,
        "delta": decided["delta"],
        "margin": decided["margin"],
        "verdict": verdict,
        "recommended": recommended,
        "chosen": chosen,
        "rules": rules,
        "reference": reference,
    }
    evidence = _gather_evidence(compared, contenders, ruling)
    decision = write_decision(settings, "post_decision", compared, ruling, evidence)
    path = settings.evaluation / f"{track}_post_decision.json"
    print(f"verdict: {decision['verdict']}  ({show_path(path)})")
    return decision


def _apply_rules(
    compared: Compared, reference: str, models: Sequence[str], delta: float
) -> dict[str, Rule]:
    """The rule for each of several models, against one reference."""
    metrics = compared.metrics
    return {
        model: apply_rule(compared.track, metrics[reference], metrics[model], delta)
        for model in models
    }


def _gather_evidence(compared: Compared, contenders: Contenders, ruling: Ruling) -> Evidence:
    """The evidence of 05: about the candidate and the recommended model, and pairs beside them."""
    candidate, reference, margin = ruling["model"], ruling["reference"], ruling["margin"]
    return {
        "rates": compared.list_rates(),
        "pairs": compared.compare(reference, candidate, margin),
        "recommended": compared.compare(reference, ruling["recommended"], margin),
        "changes": compared.compare(contenders.base, candidate, margin),
        "few_shot": compared.compare_all(contenders.pair_few_shot(), margin),
        "full": compared.compare_all(contenders.pair_full(), margin),
        "native": compared.compare_all(contenders.pair_forms(), margin),
    }
