"""What a comparison's numbers cannot say by themselves: form, hopeless rows, noise.

It changes no rate and no bit. Where form hides skill, or neither model can do the task, it says
that no verdict can be had.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, cast

from swaplib.data.facts import is_given
from swaplib.evaluation import costs, stats
from swaplib.evaluation.form import find_bits, see_form
from swaplib.evaluation.intervals import wilson_interval
from swaplib.evaluation.side_by_side import Compared, to_record
from swaplib.formats.caveats import Caveats, Ceiling, FormRecord, Given, Noise
from swaplib.formats.evidence import PairedRecord, Rate
from swaplib.formats.metrics_file import MetricsFile
from swaplib.metrics import Track, aggregate, core_metrics, rates_of
from swaplib.models.dataset_form import is_hosted_gold
from swaplib.models.names import ModelName
from swaplib.rows import LedgerLine
from swaplib.runs import read_ledgers, read_metrics
from swaplib.settings import ROOT, Settings

USELESS = 0.1  # a model whose rate is surely below this can do nothing of the task
# The shipped test rows whose golds nobody can get, or only by luck, as two readers found by hand.
UNANSWERABLE = ROOT / "slm_swap" / "02_dataset" / "source" / "unanswerable.jsonl"


def find_caveats(
    settings: Settings, compared: Compared, first: str, second: str, margin: float
) -> Caveats:
    """What is reported beside the comparison of two models.

    Args:
        settings: The home whose repeated runs are read.
        compared: The runs of the report.
        first: The hosted LLM.
        second: The model that the decision is about.
        margin: How much worse still counts as not worse.
    """
    forms = see_forms(compared)
    facts = compared.facts
    models = [first, second]
    caveats: Caveats = {
        "obstacle": _find_obstacle(compared, forms, models),
        "models": models,
        "form": forms,
        "found": _compare_found(compared, first, second, margin),
        "margin": margin,
        "given": list_given(compared),
        "offers_one_tool": bool(facts) and all(len(fact.tools) == 1 for fact in facts or ()),
        "ceiling": find_ceiling(compared),
        "noise": find_noise(settings, compared.track, compared.metrics[first]),
        "not_greedy": [
            m for m in models if "is_reasoning" in compared.metrics[m]["run"]["identity"]
        ],
    }
    if is_hosted_gold(settings):
        caveats["gold"] = "hosted"
    return caveats


def _find_obstacle(
    compared: Compared, forms: dict[str, FormRecord], models: list[str]
) -> Literal["form", "useless"] | None:
    """Why no verdict can be had on two models; None when one can."""
    if any(forms[model]["hides"] for model in models):
        return "form"
    # Useless are models that get no row, or surely under a tenth: their gap means nothing.
    metric = core_metrics(compared.track)[-1]
    contents = [compared.metrics[model] for model in models]
    is_useless = all(c["intervals"][metric][1] < USELESS or c[metric] == 0 for c in contents)
    return "useless" if is_useless else None


def _compare_found(compared: Compared, first: str, second: str, margin: float) -> PairedRecord:
    """The paired evidence on right answers wherever they are in the outputs."""
    track, rows, ledgers = compared.track, compared.rows, compared.ledgers
    bits = (find_bits(track, rows, ledgers[first]), find_bits(track, rows, ledgers[second]))
    [evidence] = stats.compare_metrics(
        {"found_rate": bits}, margin, compared.list_groups(first)
    ).values()
    return to_record(evidence)


def summarise(settings: Settings, compared: Compared) -> dict[str, Any]:
    """What 02 has seen, for its headline.

    Args:
        settings: The home and the prices.
        compared: The runs that 02 has made.

    Returns:
        `track`, `split`, `n_rows`, `margin`, `rates`, `costs`, `unanswered` (rows that ended in
        error, by model), `form` (see_form, by model); and where a hosted LLM and a local SLM were
        run, `models` (the first of each), `pairs` (their paired evidence) and `caveats`; else None.
    """
    metrics = compared.metrics
    run = next(iter(metrics.values()))["run"]
    prices = costs.Prices.from_settings(settings)
    content: dict[str, Any] = {
        "track": run["track"],
        "split": run["split"],
        "n_rows": run["n_rows"],
        "margin": stats.DEFAULT_MARGIN,
        "rates": compared.list_rates(),
        "costs": costs.price_runs(metrics, prices, compared.weigh_requests()),
        "unanswered": {model: c["n_by_status"]["error"] for model, c in metrics.items()},
    }
    hosted = [model for model in metrics if ModelName.parse(model).is_hosted]
    local = [model for model in metrics if model not in hosted]
    if not (hosted and local):
        nothing = dict.fromkeys(("models", "pairs", "caveats"))
        return content | {"form": see_forms(compared)} | nothing
    pair = (hosted[0], local[0])
    caveats = find_caveats(settings, compared, *pair, stats.DEFAULT_MARGIN)
    return content | {
        "form": caveats["form"],
        "models": pair,
        "pairs": compared.compare(*pair, stats.DEFAULT_MARGIN),
        "caveats": caveats,
    }


def see_forms(compared: Compared) -> dict[str, FormRecord]:
    """What form.see_form sees of each model of a report, as files have it."""
    return {
        model: cast(FormRecord, asdict(see_form(compared.track, compared.rows, ledger)))
        for model, ledger in compared.ledgers.items()
    }


def list_given(compared: Compared) -> Given | None:
    """Core metrics over the rows whose gold values the request or a default gives.

    None without facts; without rates where there is no such row.
    """
    if compared.facts is None:
        return None
    given = {index for index, fact in enumerate(compared.facts) if is_given(fact)}
    rates: dict[str, dict[str, Rate]] = {}
    for model, ledger in compared.ledgers.items() if given else ():
        rates[model] = _rate(compared.track, [line for line in ledger if line.index in given])
    return {"n_rows": len(given), "rates": rates}


def _rate(track: Track, lines: list[LedgerLine]) -> dict[str, Rate]:
    """The core metrics over some rows, with their intervals."""
    n, rates = len(lines), rates_of(aggregate(track, [line.scores for line in lines]))
    return {
        metric: {"rate": rate, "interval": wilson_interval(round(rate * n), n)}
        for metric, rate in rates.items()
    }


def find_ceiling(compared: Compared) -> Ceiling:
    """Rows that no model of the report got, and which of them were read by hand as hopeless.

    What counts is the metric that decides.
    """
    name, n = core_metrics(compared.track)[-1].removesuffix("_rate"), len(compared.rows)
    ledgers = compared.ledgers.values()
    got = {line.index for ledger in ledgers for line in ledger if line.scores[name]}
    prompts = {line.index: line.prompt_sha256 for line in next(iter(ledgers))}
    nobody = sorted(set(prompts) - got)
    read = read_unanswerable(compared.track)
    reasons: dict[str, dict[str, str]] = {"impossible": {}, "guess": {}}
    for index in nobody:
        if known := read.get(prompts[index]):
            reasons[known["kind"]][str(index)] = known["reason"]
    return {
        "n_rows": n,
        "nobody": nobody,
        "impossible": reasons["impossible"],
        "guess": reasons["guess"],
        "rate": 1 - len(reasons["impossible"]) / n if n else None,
    }


def read_unanswerable(track: Track, path: Path = UNANSWERABLE) -> dict[str, dict[str, str]]:
    """The shipped test rows that two readers held for impossible, or for a guess.

    Returns:
        Records of `kind` and `reason`, by the sha256 of the prompt.
    """
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {record["prompt_sha256"]: record for record in records if record["track"] == track}


def find_noise(settings: Settings, track: Track, metrics: MetricsFile) -> Noise | None:
    """What changed when a hosted LLM was asked the first rows again (02's `noise_rows`).

    None where it was not asked again, or not in the same way.

    Args:
        settings: The home whose repeated runs are read.
        track: The track of the rows.
        metrics: The first run's metrics file.
    """
    run = metrics["run"]
    split = f"{run['split']}_repeat"
    if not (settings.evaluation / f"{track}_{run['model']}_{split}.json").is_file():
        return None
    again = read_metrics(settings, track, run["model"], split)
    if _list_options(metrics) != _list_options(again):
        return None
    ledgers = read_ledgers(settings, {"first": metrics, "again": again})
    both = [
        (a, b)
        for a, b in zip(*ledgers.values(), strict=False)
        if a.prompt_sha256 == b.prompt_sha256
    ]
    if not both:
        return None
    moved: dict[str, int] = {}
    for metric in core_metrics(track):
        name = metric.removesuffix("_rate")
        moved[metric] = sum(a.scores[name] != b.scores[name] for a, b in both)
    equal = sum(a.generation.output == b.generation.output for a, b in both)
    return {"n_rows": len(both), "equal": equal, "moved": moved}


def _list_options(metrics: MetricsFile) -> list[object]:
    """How a run was asked, as far as it may change an answer."""
    run = metrics["run"]
    return [run.get("identity"), run.get("max_new_tokens"), run.get("shots_sha256")]
