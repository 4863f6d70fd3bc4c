"""One run: messages -> generations -> ledger (append, resume) -> metrics file -> trace.

A run is one model on the first rows of one split. A run that was killed goes on where it stopped: the end of its folder's
name is a hash of everything that makes the question the same, so the same call finds it, keeps its run id and trace, and
asks only rows that have no ledger line or an `error` line. A complete run is found too, and nothing is asked.
"""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from swaplib import evidence, provenance, tracing
from swaplib.hosted import HostedLLM
from swaplib.local import LocalSLM
from swaplib.metrics import Track, aggregate, canonical_json, core_metrics, rates_of, score_row
from swaplib.prompts import Message, build_messages
from swaplib.rows import (
    SPLITS,
    STATUSES,
    LedgerLine,
    Row,
    append_line,
    hash_file,
    hash_rows,
    hash_text,
    read_ledger,
    read_rows,
    write_json,
)
from swaplib.settings import Settings, show_path

MODELS = ("azure", "slm", "slm_ft")


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, the content of its metrics file, and its ledger in row order."""

    folder: Path
    metrics: dict[str, Any]
    ledger: tuple[LedgerLine, ...]


@dataclass(frozen=True)
class _Plan:
    """What is to be asked of whom: everything known before the first call."""

    track: Track
    model: str
    split: str
    rows: list[Row]
    messages: list[list[Message]]
    facts: dict[str, Any]

    @property
    def key(self) -> str:
        return hash_text(canonical_json(self.facts))[:12]


def make_model(settings: Settings, track: Track, model: str, batch_size: int, concurrency: int) -> HostedLLM | LocalSLM:
    """The client of a model: `azure`, `slm`, or `slm_ft` (the SLM with the track's adapter).

    Raises:
        ValueError: There is no such model, or a variable that it needs is missing.
    """
    if model == "azure":
        return HostedLLM.from_settings(settings, concurrency)
    if model not in MODELS:
        raise ValueError(f"unknown model {model!r}: expected one of {', '.join(MODELS)}")
    adapter = settings.swap_home / "04_ft" / f"adapter_{track}" if model == "slm_ft" else None
    return LocalSLM(settings.slm_model_path, adapter, batch_size=batch_size)


def run_models(settings: Settings, track: Track, models: str, **parameters: Any) -> list[Run]:
    """Run several models, given as "azure,slm", one after the other; parameters as for run_model."""
    return [run_model(settings, track, model.strip(), **parameters) for model in models.split(",")]


def run_model(
    settings: Settings,
    track: Track,
    model: str,
    split: str = "test",
    limit: int | None = None,
    batch_size: int = 16,
    concurrency: int = 8,
    max_new_tokens: int = 256,
    fresh: bool = False,
) -> Run:
    """Run one model on one split, or go on with the run that was killed.

    Args:
        settings: Says where everything lies.
        track: `structured` or `toolcall`.
        model: `azure`, `slm` or `slm_ft`.
        split: `train`, `val` or `test`.
        limit: Only the first rows of the split; None for all. SWAP_ROW_LIMIT caps it.
        batch_size: Rows in a local batch.
        concurrency: Hosted calls in flight.
        max_new_tokens: The limit of each answer, in tokens.
        fresh: Start a new run even when one with the same question exists.

    Returns:
        The run. `metrics["complete"]` is False when rows ended in `error`; the same call asks those again.

    Raises:
        FileNotFoundError, ValueError, ConnectionError: Something needed is missing or wrong; nothing was asked or written.
        CallFailed: The hosted LLM refuses every call.
    """
    tracing.check_tracing(settings)
    client = make_model(settings, track, model, batch_size, concurrency)
    plan = _make_plan(settings, client, track, model, split, limit, max_new_tokens)
    folder = _find_run(settings, plan, fresh)
    ledger = read_ledger(folder / "ledger.jsonl")
    waiting = [i for i in range(len(plan.rows)) if i not in ledger or ledger[i].generation.status == "error"]
    metrics_file = folder / "metrics.json"
    print(_describe_plan(plan, waiting, show_path(folder)))
    if waiting or not metrics_file.is_file():
        client.check()
        parameters = {"batch_size": batch_size, "concurrency": concurrency, "max_new_tokens": max_new_tokens}
        metrics = _run_plan(settings, plan, client, folder, ledger, waiting, parameters)
        write_json(metrics_file, metrics)
        print(tracing.describe_delivery(tracing.Delivery(**metrics["run"]["trace"]), settings))
    metrics = json.loads(metrics_file.read_text(encoding="utf-8"))
    write_json(settings.evaluation / f"{track}_{model}_{split}.json", metrics)
    if not metrics["complete"]:
        print(f"{metrics['n_by_status']['error']} row(s) ended in error. Run this again to ask only those.")
    return Run(folder, metrics, tuple(ledger[i] for i in sorted(ledger)))


def _make_plan(
    settings: Settings, client: Any, track: Track, model: str, split: str, limit: int | None, max_new_tokens: int
) -> _Plan:
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: expected 1 or more, or None for the whole split")
    path = settings.dataset / track / f"{split}.jsonl"
    caps = [cap for cap in (limit, settings.swap_row_limit) if cap is not None]
    rows = read_rows(path, track)[: min(caps, default=None)]
    messages = [build_messages(track, row.prompt) for row in rows]
    facts = {
        "track": track,
        "split": split,
        "n_rows": len(rows),
        "dataset_sha256": hash_file(path),
        "rows_sha256": hash_rows(rows),
        "messages_sha256": hash_text(canonical_json(messages)),
        "identity": client.identity(),
        "max_new_tokens": max_new_tokens,
        "temperature": 0,
    }
    return _Plan(track, model, split, rows, messages, facts)


def _find_run(settings: Settings, plan: _Plan, fresh: bool) -> Path:
    """The folder of the newest run with the same key, or a new one (not made yet)."""
    known = sorted(settings.runs.glob(f"*-{plan.key}"))
    if known and not fresh:
        return known[-1]
    return settings.runs / provenance.make_run_id(plan.track, plan.model, plan.split, plan.key)


def _describe_plan(plan: _Plan, waiting: Sequence[int], folder: str) -> str:
    characters = sum(len(message["content"]) for i in waiting for message in plan.messages[i])
    done = len(plan.rows) - len(waiting)
    what = f"{len(waiting)} to ask (about {characters // 4:,} prompt tokens, at 4 characters each)"
    return (
        f"{plan.track} {plan.model} {plan.split}: {len(plan.rows)} rows, {done} answered before, {what}\nrun {folder}"
    )


def _run_plan(
    settings: Settings,
    plan: _Plan,
    client: HostedLLM | LocalSLM,
    folder: Path,
    ledger: dict[int, LedgerLine],
    waiting: list[int],
    parameters: dict[str, Any],
) -> dict[str, Any]:
    """Ask the waiting rows, fill the ledger, and return the content of the metrics file."""
    started = provenance.now_utc()
    dataset = settings.dataset / plan.track / f"{plan.split}.jsonl"
    inputs = {"dataset": show_path(dataset), "model": plan.facts["identity"], "parameters": parameters}
    name = f"eval {plan.track} {plan.model} {plan.split}"
    limit = parameters["max_new_tokens"]
    with tracing.RunTrace(settings, folder.name, folder, name, inputs, [plan.track, plan.model, plan.split]) as trace:
        for line in ledger.values():  # rows whose span a kill has lost
            trace.add_generation(line, plan.messages[line.index], plan.facts["identity"]["model"], limit)
        answers = client.generate([plan.messages[i] for i in waiting], limit)
        for position, generation in tqdm(
            answers, f"{plan.track} {plan.model}", len(waiting), file=sys.stdout, unit="row"
        ):
            index = waiting[position]
            row = plan.rows[index]
            scores = score_row(plan.track, row.completion, generation.output)
            line = LedgerLine(index, hash_text(row.prompt), generation, scores)
            append_line(folder / "ledger.jsonl", line.to_json())
            ledger[index] = line
            trace.add_generation(line, plan.messages[index], plan.facts["identity"]["model"], limit)
        metrics = _summarise(plan, ledger)
        rates = {metric: metrics[metric] for metric in core_metrics(plan.track)}
        trace.finish({**rates, "n_by_status": metrics["n_by_status"], "folder": show_path(folder)}, rates)
    run = {
        "run_id": folder.name,
        "started": started,
        "ended": provenance.now_utc(),
        "model": plan.model,
        "rows_asked": len(waiting),
        "rows_scored": len(plan.rows),
        **plan.facts,
        "dataset": show_path(dataset),
        "parameters": parameters | {"swap_row_limit": settings.swap_row_limit},
        **provenance.describe_machine(),
        "trace": asdict(trace.deliver()),
    }
    return metrics | {"run": run}


def _summarise(plan: _Plan, ledger: dict[int, LedgerLine]) -> dict[str, Any]:
    """Core metrics over all rows, their Wilson intervals, statuses, token and latency sums."""
    lines = [ledger[i] for i in range(len(plan.rows))]
    rates = rates_of(aggregate(plan.track, [line.scores for line in lines]))
    n = len(lines)
    statuses = Counter(line.generation.status for line in lines)
    tokens = {
        name: sum(getattr(line.generation, name) or 0 for line in lines)
        for name in ("prompt_tokens", "completion_tokens")
    }
    latencies = sorted(line.generation.latency_ms for line in lines)
    return {
        **rates,
        "complete": statuses["error"] == 0,
        "n_rows": n,
        "n_by_status": {status: statuses[status] for status in STATUSES},
        "intervals": {metric: evidence.wilson_interval(round(rate * n), n) for metric, rate in rates.items()},
        "extra": {**tokens, "median_latency_ms": round(latencies[n // 2], 1)},
    }


def read_ledger_of(settings: Settings, metrics: dict[str, Any]) -> tuple[LedgerLine, ...]:
    """The ledger behind a metrics file, in row order.

    Raises:
        FileNotFoundError: The run's folder is gone.
    """
    path = settings.runs / metrics["run"]["run_id"] / "ledger.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"no ledger at {path}. Run notebooks/02_eval.ipynb again.")
    ledger = read_ledger(path)
    return tuple(ledger[i] for i in sorted(ledger))
