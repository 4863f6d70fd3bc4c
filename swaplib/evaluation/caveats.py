"""What a comparison's numbers cannot say by themselves: form, rows that nobody can get, noise, decisions taken before.

It changes no rate and no bit. Where form hides skill, or neither model can do the task, it says that no verdict can be had.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from swaplib.data.facts import is_given
from swaplib.evaluation import costs, stats
from swaplib.evaluation.comparison import Compared
from swaplib.evaluation.form import find_bits, see_form
from swaplib.evaluation.intervals import wilson_interval
from swaplib.files import read_json
from swaplib.metrics import Track, aggregate, core_metrics, rates_of
from swaplib.models.names import ModelName
from swaplib.runs import read_ledgers
from swaplib.settings import ROOT, Settings

USELESS = 0.1  # a model whose rate is surely below this can do nothing of the task
# the shipped test rows, read by hand: which golds can nobody, or only by luck, get?
UNANSWERABLE = ROOT / "slm_swap" / "02_dataset" / "source" / "unanswerable.jsonl"


def find_caveats(
    settings: Settings, compared: Compared, first: str, second: str, margin: float
) -> dict[str, Any]:
    """What stands beside the comparison of two models.

    Args:
        settings: Says where runs lie.
        compared: The runs of the report.
        first: The hosted LLM.
        second: The model that the decision is about.
        margin: How much worse still counts as not worse.

    Returns:
        `obstacle`: why the two cannot be compared, "form" or "useless", else None. `models`: the two. `form`: as see_forms
        makes it. `found`: the paired evidence on right answers wherever they stand, at the `margin`. `given`, `ceiling`,
        `noise`: as list_given, find_ceiling and find_noise make them. `offers_one_tool`: no row offers more than one.
        `not_greedy`: which of the two was asked without a temperature.
    """
    forms = see_forms(compared)
    bits = tuple(
        find_bits(compared.track, compared.rows, compared.ledgers[m]) for m in (first, second)
    )
    found = stats.compare_metrics({"found_rate": bits}, margin, compared.list_groups(first))[
        "found_rate"
    ]
    return {
        "obstacle": "form"
        if forms[first]["hides"] or forms[second]["hides"]
        else _find_useless(compared, first, second),
        "models": [first, second],
        "form": forms,
        "found": asdict(found),
        "margin": margin,
        "given": list_given(compared),
        "offers_one_tool": bool(compared.facts)
        and all(len(fact.tools) == 1 for fact in compared.facts),
        "ceiling": find_ceiling(compared),
        "noise": find_noise(settings, compared.track, compared.metrics[first]),
        "not_greedy": [
            m for m in (first, second) if "is_reasoning" in compared.metrics[m]["run"]["identity"]
        ],
    }


def summarise(settings: Settings, compared: Compared) -> dict[str, Any]:
    """What 02 has seen, for its headline.

    Args:
        settings: Says where runs lie, and prices.
        compared: The runs that 02 has made.

    Returns:
        `track`, `split`, `n_rows`, `margin`, `rates`, `form` (see_form, by model), `unanswered` (rows that ended in error,
        by model), `costs`; and where a hosted LLM and a local SLM were run, `models` (the first of each), `pairs` (their
        paired evidence) and `caveats`; else None.
    """
    metrics = compared.metrics
    run = next(iter(metrics.values()))["run"]
    hosted = [model for model in metrics if ModelName.parse(model).is_hosted]
    local = [model for model in metrics if model not in hosted]
    content = {
        "track": run["track"],
        "split": run["split"],
        "n_rows": run["n_rows"],
        "margin": stats.DEFAULT_MARGIN,
    }
    content |= {
        "rates": compared.list_rates(),
        "costs": costs.price_runs(metrics, costs.Prices.from_settings(settings)),
    }
    content["unanswered"] = {m: found["n_by_status"]["error"] for m, found in metrics.items()}
    if not (hosted and local):
        return content | {
            "form": see_forms(compared),
            "models": None,
            "pairs": None,
            "caveats": None,
        }
    pair, margin = (hosted[0], local[0]), content["margin"]
    caveats, pairs = (
        find_caveats(settings, compared, *pair, margin),
        compared.compare(*pair, margin),
    )
    return content | {"form": caveats["form"], "models": pair, "pairs": pairs, "caveats": caveats}


def see_forms(compared: Compared) -> dict[str, dict[str, Any]]:
    """What form.see_form sees of each model of a report, as plain data."""
    return {
        m: asdict(see_form(compared.track, compared.rows, ledger))
        for m, ledger in compared.ledgers.items()
    }


def _find_useless(compared: Compared, *models: str) -> str | None:
    """`useless` where no model gets enough rows for a comparison to mean anything: none, or surely under a tenth."""
    deciding = core_metrics(compared.track)[-1]
    found = [compared.metrics[model] for model in models]
    is_useless = all(
        content["intervals"][deciding][1] < USELESS or content[deciding] == 0 for content in found
    )
    return "useless" if is_useless else None


def list_given(compared: Compared) -> dict[str, Any] | None:
    """Core metrics over the rows whose gold values the request or a default gives; None without facts.

    Returns:
        `n_rows`, and `rates`: by model and metric `rate` and `interval`; empty where no row is such a one.
    """
    if compared.facts is None:
        return None
    given = {index for index, fact in enumerate(compared.facts) if is_given(fact)}
    rates: dict[str, Any] = {}
    for model, ledger in compared.ledgers.items() if given else ():
        scores = [line.scores for line in ledger if line.index in given]
        n, of_model = len(scores), rates_of(aggregate(compared.track, scores))
        rates[model] = {
            m: {"rate": r, "interval": wilson_interval(round(r * n), n)}
            for m, r in of_model.items()
        }
    return {"n_rows": len(given), "rates": rates}


def find_ceiling(compared: Compared) -> dict[str, Any]:
    """Rows that no model of the report got on the metric that decides, and which of them were read by hand as hopeless.

    Returns:
        `n_rows`; `nobody`: such rows, by index; of these `impossible` and `guess` (read as such: by index, with the reason);
        and `rate`, what is left for a perfect model: 1 less the share of the impossible ones.
    """
    name, n = core_metrics(compared.track)[-1].removesuffix("_rate"), len(compared.rows)
    got = {
        line.index for ledger in compared.ledgers.values() for line in ledger if line.scores[name]
    }
    prompts = {line.index: line.prompt_sha256 for line in next(iter(compared.ledgers.values()))}
    read, nobody = read_unanswerable(compared.track), sorted(set(prompts) - got)
    by_kind: dict[str, dict[int, str]] = {"impossible": {}, "guess": {}}
    for index in nobody:
        if known := read.get(prompts[index]):
            by_kind[known["kind"]][index] = known["reason"]
    rate = 1 - len(by_kind["impossible"]) / n if n else None
    return {"n_rows": n, "nobody": nobody, **by_kind, "rate": rate}


def read_unanswerable(track: Track, path: Path = UNANSWERABLE) -> dict[str, dict[str, str]]:
    """The shipped test rows whose gold two readers held for impossible, or for a guess, by the sha256 of the prompt."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {record["prompt_sha256"]: record for record in records if record["track"] == track}


def find_noise(settings: Settings, track: Track, metrics: dict[str, Any]) -> dict[str, Any] | None:
    """What changed when a hosted LLM was asked the first rows again (02's `noise_rows`); None where it was not.

    Args:
        settings: Says where runs lie.
        track: `structured` or `toolcall`.
        metrics: The first run's metrics file.

    Returns:
        `n_rows`, `equal` (outputs) and `moved`: by core metric, the rows whose score changed.
    """
    run = metrics["run"]
    path = settings.evaluation / f"{track}_{run['model']}_{run['split']}_repeat.json"
    if not path.is_file():
        return None
    again = read_json(path, "Delete it and run 02_eval again.")
    asked = ("identity", "max_new_tokens", "shots_sha256")
    if any(run.get(key) != again["run"].get(key) for key in asked):
        return None
    ledgers = read_ledgers(settings, {"first": metrics, "again": again})
    both = [
        (a, b)
        for a, b in zip(*ledgers.values(), strict=False)
        if a.prompt_sha256 == b.prompt_sha256
    ]
    moved = {
        metric: sum(a.scores[name] != b.scores[name] for a, b in both)
        for metric in core_metrics(track)
        for name in [metric.removesuffix("_rate")]
    }
    equal = sum(a.generation.output == b.generation.output for a, b in both)
    return {"n_rows": len(both), "equal": equal, "moved": moved} if both else None
