"""Traces a decision and writes its file, with everything that is reported beside its bit."""

import json
from collections.abc import Mapping
from typing import Any, Literal

from swaplib.evaluation import costs
from swaplib.evaluation.caveats import find_caveats
from swaplib.evaluation.comparison import MUST_AGREE
from swaplib.evaluation.side_by_side import Compared
from swaplib.files import read_json
from swaplib.formats.decision import Decision, Ruling
from swaplib.formats.evidence import Evidence
from swaplib.runs import new_folder, open_run
from swaplib.settings import Settings

Kind = Literal["decision", "post_decision"]  # of 03 and of 05


def write_decision(
    settings: Settings, kind: Kind, compared: Compared, ruling: Ruling, evidence: Evidence
) -> Decision:
    """Trace a decision and write its file.

    Where the caveats have an obstacle, a verdict becomes `not comparable`.
    """
    track, metrics = ruling["track"], compared.metrics
    first, second = ruling["reference"], ruling.get("recommended", ruling["model"])
    # Prices may be refused, so they are read before anything is traced.
    prices = costs.Prices.from_settings(settings)
    priced = costs.price_runs(metrics, prices, compared.weigh_requests())
    caveats = find_caveats(settings, compared, first, second, ruling["margin"])
    if caveats["obstacle"] and "verdict" in ruling:
        ruling = {**ruling, "verdict": "not comparable"}
    run_ids = {model: content["run"]["run_id"] for model, content in metrics.items()}
    hosted = metrics[first]["run"]
    question: dict[str, Any] = {key: hosted[key] for key in MUST_AGREE}
    inputs = {"delta": ruling["delta"], "compared": run_ids, **question}
    folder = new_folder(settings, track, kind)
    path = settings.evaluation / f"{track}_{kind}.json"
    earlier = _find_earlier(settings, kind, {model: run_ids[model] for model in (first, second)})
    with open_run(settings, folder, f"{kind} {track}", inputs, [track, kind]) as run:
        run.trace.add_event(kind, dict(ruling))
        run.trace.finish(dict(ruling), {"FINE_TUNE": ruling["FINE_TUNE"]})
        content = {
            **ruling,
            "n_rows": hosted["n_rows"],
            "earlier": earlier,
            "caveats": caveats,
            "evidence": evidence,
            "costs": priced,
            "run": {"compared": run_ids, **question},
        }
        run.record(f"{kind}.json", content, path)
    decision: Decision = json.loads(path.read_text(encoding="utf-8"))
    return decision


def _find_earlier(settings: Settings, kind: Kind, run_ids: Mapping[str, str]) -> list[float]:
    """The deltas of decisions that were taken before on the same runs, the oldest first."""
    paths = sorted(settings.runs.glob(f"2*/{kind}.json"))
    decisions = [read_json(path, "Move its folder away.") for path in paths]
    return [
        decision["delta"]
        for decision in decisions
        if run_ids.items() <= decision["run"]["compared"].items()
    ]
