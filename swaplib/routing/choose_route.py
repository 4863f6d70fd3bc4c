"""What 09 does: a route chosen on val, reported on test, written and traced. It asks no model."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from swaplib.evaluation.caveats import find_caveats
from swaplib.evaluation.side_by_side import Compared, to_record
from swaplib.evaluation.stats import compare_metrics
from swaplib.files import read_json
from swaplib.formats.evidence import PairedRecord
from swaplib.formats.router import (
    Agreement,
    Point,
    RouterFile,
    SplitReport,
)
from swaplib.metrics import Track, canonical_json, check_track
from swaplib.models.dataset_form import is_hosted_gold, name_adapted
from swaplib.models.names import ModelName
from swaplib.routing.choice import choose_kind, choose_policies, draw_curves
from swaplib.routing.policy import Policy
from swaplib.routing.refused import count_groups, count_refusals
from swaplib.routing.replay import Replay, open_replay
from swaplib.routing.route_file import make_agreement, path_of
from swaplib.routing.validators import Known
from swaplib.runs import new_folder, open_run
from swaplib.settings import Settings, show_path
from swaplib.tracing.outbox import check_tracing

NO_HELP = "does not help"


def choose_route(
    settings: Settings, track: Track, model: str = "", target: float = 0.05
) -> RouterFile:
    """Choose how much of a track's traffic an SLM can answer, and say what that is worth.

    Args:
        settings: The home with the runs of val and test.
        track: The track.
        model: The SLM's name, whose runs are read; natively asked, its reference is azure-native.
            Empty for the fine-tuned one in the dataset's form.
        target: How much worse than always asking the hosted LLM is still good enough, a rate.

    Raises:
        FileNotFoundError, ValueError: A run is missing, the runs may not be compared, those of val
            are of other models than those of test, or target is no rate. Nothing was written.
    """
    check_tracing(settings)
    check_track(track)
    if not 0 <= target <= 1:
        raise ValueError(f"target={target}: expected a rate from 0 to 1")
    val, test = _open_splits(settings, track, model or name_adapted(settings))
    _check_same_models(val, test)
    policies = choose_policies(val, target)
    content = _report(settings, val, test, policies, target)
    return _write(settings, content)


def _write(settings: Settings, content: RouterFile) -> RouterFile:
    """Trace a route and write its file."""
    track = content["track"]
    runs = {"val": content["val"]["runs"], "test": content["test"]["runs"]}
    inputs = {"model": content["model"], "target": content["target"], "runs": runs}
    folder = new_folder(settings, track, "router")
    path = path_of(settings, track)
    shown = {
        "chosen": content["chosen"],
        "policy": content["policy"],
        "verdict": content["verdict"],
    }
    with open_run(settings, folder, f"router {track}", inputs, [track, "router"]) as run:
        run.trace.add_event("router", shown)
        run.trace.finish(shown, {"coverage": _read_coverage(content)})
        run.record("router.json", dict(content), path)
    print(f"route: {content['verdict']}  ({show_path(path)})")
    written: Any = read_json(path, "Run 09_router again.")
    return written


def _open_splits(settings: Settings, track: Track, model: str) -> tuple[Replay, Replay]:
    """The runs on val and test; raises what open_replay does."""
    reference = name_reference(model)
    try:
        val, test = (open_replay(settings, track, reference, model, s) for s in ("val", "test"))
    except FileNotFoundError as error:
        if reference == "azure-native" or not is_hosted_gold(settings):
            raise
        native = replace(ModelName.parse(model), is_native=True, shots=0)
        message = f"{error} Rows of a log are usually asked natively: try model={str(native)!r}."
        raise FileNotFoundError(message) from None
    return val, test


def open_chosen(settings: Settings, route: RouterFile) -> Replay:
    """The runs on test that a route was reported on; raises what open_replay raises."""
    return open_replay(settings, route["track"], route["reference"], route["model"], "test")


def _read_coverage(content: RouterFile) -> float:
    """The share of test that stays local."""
    kind = content["chosen"]
    return content["test"]["points"][kind]["coverage"] if kind else 0.0


def name_reference(model: str) -> str:
    """The hosted LLM's run that an SLM is routed against: asked in the same form.

    Raises:
        ValueError: The name is none, or the hosted LLM's own.
    """
    name = ModelName.parse(model)
    if name.is_hosted:
        raise ValueError(
            f"model={model!r}: expected an SLM; the hosted LLM answers what it refuses"
        )
    return "azure-native" if name.is_native else "azure"


def _check_same_models(val: Replay, test: Replay) -> None:
    """Raise ValueError where val was answered by other models than test."""
    for model in (val.reference, val.model):
        runs = [replay.compared.metrics[model]["run"] for replay in (val, test)]
        asked = [canonical_json([run["identity"], run["max_new_tokens"]]) for run in runs]
        if asked[0] != asked[1]:
            raise ValueError(
                f"{model} is another model, or has another token limit, on val "
                f"({runs[0]['run_id']}) than on test ({runs[1]['run_id']}). Run 02_eval for both "
                "splits with the same parameters on the same machine."
            )


def _report(
    settings: Settings, val: Replay, test: Replay, policies: Mapping[str, Policy], target: float
) -> RouterFile:
    """Everything but the run; `run` is added when it is written."""
    of_val, of_test = (_report_split(replay, policies) for replay in (val, test))
    chosen = choose_kind(of_val["points"])
    policy = policies[chosen] if chosen else None
    evidence = compare_routed(test, policy, target) if policy else {}
    caveats = find_caveats(settings, test.compared, test.reference, test.model, target)
    content: RouterFile = {
        "track": test.compared.track,
        "model": test.model,
        "reference": test.reference,
        "target": target,
        "chosen": chosen,
        "policy": policy.to_record() if policy else None,
        "verdict": evidence["right"]["verdict"] if evidence else NO_HELP,
        "obstacle": caveats["obstacle"],
        "val": of_val,
        "test": of_test,
        "evidence": evidence,
        "gap_recovered": _find_gap_recovered(of_test, chosen),
        "refused_by": count_refusals(test, policy) if policy else [],
        "refused_groups": count_groups(test, policy) if policy else [],
        "without_facts": _measure_without_facts(test, policy) if policy else None,
        "agreement": {
            "val": count_agreement(val, policy),
            "test": count_agreement(test, policy),
        },
        "identity": dict(test.compared.metrics[test.model]["run"]["identity"]),
    }
    if "gold" in caveats:
        content["gold"] = caveats["gold"]
    return content


def _report_split(replay: Replay, policies: Mapping[str, Policy]) -> SplitReport:
    import numpy as np

    n = len(replay.known)
    never, always = np.zeros(n, dtype=bool), np.ones(n, dtype=bool)
    ends = {
        "always hosted": replay.measure_accepted(never),
        "always the SLM": replay.measure_accepted(always),
        "oracle": replay.measure_accepted(replay.slm_right | ~replay.hosted_right),
    }
    points = {kind: replay.measure(policy) for kind, policy in policies.items()}
    metrics = replay.compared.metrics
    return {
        "n_rows": n,
        "ends": ends,
        "curves": draw_curves(replay),
        "points": points,
        "validators": replay.measure(Policy(True)),
        "runs": {model: content["run"]["run_id"] for model, content in metrics.items()},
    }


def compare_routed(replay: Replay, policy: Policy, target: float) -> dict[str, PairedRecord]:
    """The paired evidence on always-hosted against routed: by core metric, and on whole rows."""
    compared = replay.compared
    accepted = replay.accept(policy)
    ledgers = {**compared.ledgers, "routed": replay.route_lines(accepted)}
    both = Compared(compared.track, compared.metrics, ledgers, compared.rows, compared.facts)
    pairs = both.compare(replay.reference, "routed", target)
    sides = (replay.hosted_right.tolist(), replay.find_right(accepted).tolist())
    groups = compared.list_groups(replay.reference)
    [right] = compare_metrics({"right": sides}, target, groups).values()
    return {"right": to_record(right), **pairs}


def count_agreement(replay: Replay, policy: Policy | None) -> Agreement:
    """On how many accepted rows both models gave the same answer."""
    if policy is None:
        return make_agreement(0, 0)
    accepted = replay.accept(policy)
    return make_agreement(int(accepted.sum()), int((accepted & replay.find_same()).sum()))


def _find_gap_recovered(report: SplitReport, chosen: str | None) -> float | None:
    """How much of the gap between the models routing closes; None where there is no gap.

    Source: "performance gap recovered" in I. Ong et al., RouteLLM: Learning to Route LLMs with
    Preference Data (2024).
    """
    hosted, slm = (report["ends"][end]["rate"] for end in ("always hosted", "always the SLM"))
    if chosen is None or hosted <= slm:
        return None
    return (report["points"][chosen]["rate"] - slm) / (hosted - slm)


def _measure_without_facts(replay: Replay, policy: Policy) -> Point | None:
    """The same policy where requests come without tools and schema; None where these never do."""
    if not policy.has_validators or not any(known.has_facts for known in replay.known):
        return None
    nothing = Known(replay.compared.track)
    return replace(replay, known=(nothing,) * len(replay.known)).measure(policy)
