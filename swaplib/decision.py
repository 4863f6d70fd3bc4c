"""The rule: FINE_TUNE=1 when the SLM is worse than Azure on any core metric by more than delta. Evidence stands beside it.

The rule is computed only from two complete runs over the same rows, and nothing beside it changes its bit.
"""

import json
from dataclasses import asdict
from fractions import Fraction
from typing import Any

from swaplib import evaluate, evidence, provenance, tracing
from swaplib.metrics import Track, check_track, core_metrics
from swaplib.outbox import check_tracing, describe_delivery
from swaplib.rows import hash_file, write_json
from swaplib.settings import Settings, show_path

MUST_AGREE = ("split", "n_rows", "dataset_sha256", "rows_sha256", "messages_sha256", "max_new_tokens", "temperature")


def read_metrics(settings: Settings, track: Track, model: str, split: str = "test") -> dict[str, Any]:
    """Read a metrics file.

    Raises:
        FileNotFoundError: It is not there; names the notebook that makes it.
    """
    path = settings.evaluation / f"{track}_{model}_{split}.json"
    if not path.is_file():
        raise FileNotFoundError(f"no metrics at {path}. Run notebooks/02_eval.ipynb with track={track!r} first.")
    return json.loads(path.read_text(encoding="utf-8"))


def check_comparable(azure: dict[str, Any], slm: dict[str, Any]) -> None:
    """Check that two metrics files may be compared: both complete, same rows, same messages, same limits.

    Raises:
        ValueError: Says what differs, or which run has rows without an answer, and what to do.
    """
    for metrics in (azure, slm):
        if not metrics["complete"]:
            raise ValueError(
                f"the run {metrics['run']['run_id']} is not complete: {metrics['n_by_status']['error']} of "
                f"{metrics['n_rows']} rows ended in error. Run 02_eval again; it asks only those rows."
            )
    a, b = azure["run"], slm["run"]
    differing = [f"  {key}: {a[key]} against {b[key]}" for key in MUST_AGREE if a[key] != b[key]]
    if differing:
        raise ValueError(
            f"the runs {a['run_id']} and {b['run_id']} do not answer the same question:\n"
            + "\n".join(differing)
            + "\nRun 02_eval for both models with the same rows and parameters."
        )


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


def decide(settings: Settings, track: Track, delta: float = 0.0) -> dict[str, Any]:
    """Apply the rule to the last runs of `azure` and `slm` on the test split; write and trace the decision.

    Args:
        settings: Says where the metrics files lie.
        track: `structured` or `toolcall`.
        delta: How much worse is still good enough, a rate in 0..1.

    Returns:
        The content of `<track>_decision.json`.

    Raises:
        FileNotFoundError, ValueError: A run is missing or incomplete, the two are not comparable, or the rows have changed
            since. Nothing was written.
    """
    check_tracing(settings)
    check_track(track)
    metrics = {model: read_metrics(settings, track, model) for model in ("azure", "slm")}
    check_comparable(metrics["azure"], metrics["slm"])
    shared = {key: metrics["azure"]["run"][key] for key in MUST_AGREE}
    dataset = settings.dataset / track / f"{shared['split']}.jsonl"
    if not dataset.is_file() or hash_file(dataset) != shared["dataset_sha256"]:
        raise ValueError(f"the runs were made on other rows than those in {show_path(dataset)} now. Run 02_eval again.")
    rule = apply_rule(track, metrics["azure"], metrics["slm"], delta)
    compared = {model: content["run"]["run_id"] for model, content in metrics.items()}
    run_id = provenance.make_run_id(track, "decision")
    inputs, folder = {"delta": delta, "compared": compared, **shared}, settings.runs / run_id
    with tracing.RunTrace(settings, run_id, folder, f"decision {track}", inputs, [track, "decision"]) as trace:
        trace.add_event("decision", rule)
        trace.finish(rule, {"FINE_TUNE": rule["FINE_TUNE"]})
    delivery = trace.deliver()
    run = {"run_id": run_id, "ended": provenance.now_utc(), "compared": compared, **shared}
    run |= {**provenance.describe_machine(), "trace": asdict(delivery)}
    content = {**rule, "track": track, "delta": delta, "n_rows": shared["n_rows"]}
    content |= {"evidence": _gather_evidence(settings, track, metrics), "run": run}
    write_json(folder / "decision.json", content)
    write_json(settings.evaluation / f"{track}_decision.json", content)
    print(f"FINE_TUNE={rule['FINE_TUNE']}  ({show_path(settings.evaluation / f'{track}_decision.json')})")
    print(describe_delivery(delivery, settings))
    return content


def _gather_evidence(settings: Settings, track: Track, metrics: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What stands beside the bit: each model's rates with intervals, and on how many rows which of the two was right."""
    ledgers = [evaluate.read_ledger_of(settings, metrics[model]) for model in ("azure", "slm")]
    pairs = {}
    for metric in core_metrics(track):
        first, second = ([line.scores[metric.removesuffix("_rate")] for line in ledger] for ledger in ledgers)
        pairs[metric] = evidence.count_pairs(first, second)
    rates = {
        model: {m: {"rate": content[m], "interval": content["intervals"][m]} for m in core_metrics(track)}
        for model, content in metrics.items()
    }
    return {"rates": rates, "pairs": pairs}
