"""One run: messages -> generations -> ledger (append, resume) -> metrics file -> trace.

A run is one model on the first rows of one split. A run that was killed goes on where it stopped: the end of its folder's
name is a hash of everything that makes the question the same, so the same call finds it, keeps its run id and trace, and
asks only rows that have no ledger line or an `error` line. A complete run is found too, and nothing is asked.
"""

import contextlib
import json
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from swaplib import costs, evidence, provenance, tracing
from swaplib.files import append_line, hash_file, hash_text, write_json
from swaplib.hosted import HostedLLM
from swaplib.local import LocalSLM
from swaplib.local_checkpoint import Checkpoint, find_full_precision
from swaplib.metrics import Track, aggregate, canonical_json, check_track, core_metrics, rates_of, score_row
from swaplib.model_names import ModelName, parse_models
from swaplib.outbox import Delivery, check_tracing, describe_delivery
from swaplib.prompts import Message, build_messages, pick_shots
from swaplib.rows import SPLITS, STATUSES, LedgerLine, Row, hash_rows, read_ledger, read_rows
from swaplib.settings import Settings, show_path


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, the content of its metrics file, and its ledger in row order."""

    folder: Path
    metrics: dict[str, Any]
    ledger: tuple[LedgerLine, ...]


@dataclass(frozen=True)
class _Plan:
    """What is to be asked of whom: everything known before the first call."""

    client: HostedLLM | LocalSLM
    track: Track
    model: ModelName
    split: str
    rows: list[Row]
    messages: list[list[Message]]
    facts: dict[str, Any]
    parameters: dict[str, Any]
    prices: costs.Prices
    folder: Path
    key: str
    session_id: str | None

    @property
    def ledger_file(self) -> Path:
        return self.folder / "ledger.jsonl"

    def find_waiting(self) -> list[int]:
        """Rows that have no ledger line, or one that ended in error."""
        ledger = read_ledger(self.ledger_file)
        return [i for i in range(len(self.rows)) if i not in ledger or ledger[i].generation.status == "error"]

    def describe(self) -> str:
        waiting = self.find_waiting()
        characters = sum(len(message["content"]) for i in waiting for message in self.messages[i])
        done, tokens = len(self.rows) - len(waiting), f"{characters // 4:,} prompt tokens, at 4 characters each"
        what = f"{len(self.rows)} rows, {done} answered before, {len(waiting)} calls to come (about {tokens})"
        usd = self._price(characters // 4, len(waiting) * self.facts["max_new_tokens"]) if waiting else ""
        return f"{self.track} {self.model} {self.split}: {what}{usd}\nrun {show_path(self.folder)}"

    def _price(self, prompt_tokens: int, most_tokens: int) -> str:
        """What the calls to come may cost, in words; nothing where no price is known."""
        least, most = (self.prices.price_tokens(prompt_tokens, n) for n in (0, most_tokens))
        if not self.model.is_hosted or most is None:
            return ""
        limit = self.facts["max_new_tokens"]
        return f"; about ${least:.4f} for the prompts, up to ${most:.4f} if every answer takes {limit} tokens"


def make_model(
    settings: Settings, track: Track, model: ModelName, batch_size: int, concurrency: int
) -> HostedLLM | LocalSLM:
    """The client of a model; examples in its prompts change nothing here.

    With SLM_BASE_URL the SLM is asked there, under its name without examples; else it runs in this process.

    Raises:
        ValueError: Such a model cannot be run, or a variable that it needs is missing.
    """
    if model.is_native:
        raise ValueError(f"{model} cannot be run: a model's own tool calls are not asked for yet; leave -native out")
    weights = str(replace(model, shots=0))
    if model.is_hosted:
        return HostedLLM.from_settings(settings, concurrency)
    if settings.slm_base_url:
        return HostedLLM.from_slm_settings(settings, weights, concurrency)
    adapter = model.name_adapter(track)
    precision = find_full_precision() if model.is_full else "4bit"
    checkpoint = Checkpoint(settings.slm_model_path, adapter and settings.adapter_of(adapter), precision)
    return LocalSLM(checkpoint, batch_size)


def run_models(settings: Settings, track: Track, models: str, shots: int = 0, **parameters: Any) -> list[Run]:
    """Run several models, given as "azure,slm"; parameters as for run_model.

    All of them are checked, and what is to come is printed, before the first call of any.
    """
    plans = [_make_plan(settings, track, model, **parameters) for model in parse_models(models, shots)]
    return [_run_plan(settings, plan) for plan in plans]


def run_model(settings: Settings, track: Track, model: str, shots: int = 0, **parameters: Any) -> Run:
    """Run one model on one split, or go on with the run that was killed.

    Args:
        settings: Says where everything lies.
        track: `structured` or `toolcall`.
        model: A model's name (model_names.py): `slm-full`, say, is the SLM's checkpoint not quantised, and `slm-shots4`
            has four examples from train in every prompt.
        shots: Examples, 0 to 8, for a model whose name does not say them: `slm` is then run, and named, as `slm-shots4`.
        **parameters: `split` ("test"), `limit` (only the first rows; None for all, and SWAP_ROW_LIMIT caps it),
            `batch_size` (local rows in work at once), `concurrency` (hosted calls in flight), `max_new_tokens` (the limit
            of each answer), `fresh` (start a new run even when one with the same question exists), `session_id` (the
            trace's Langfuse session).

    Returns:
        The run. `metrics["complete"]` is False when rows ended in `error`; the same call asks those again.

    Raises:
        FileNotFoundError, ValueError, ConnectionError: Something needed is missing or wrong; nothing was asked or written.
        CallFailed: The hosted LLM refuses every call.
    """
    return _run_plan(settings, _make_plan(settings, track, ModelName.parse(model).with_shots(shots), **parameters))


def _make_plan(
    settings: Settings,
    track: Track,
    model: ModelName,
    split: str = "test",
    limit: int | None = None,
    batch_size: int = 64,
    concurrency: int = 8,
    max_new_tokens: int = 256,
    fresh: bool = False,
    session_id: str | None = None,
) -> _Plan:
    """Check everything, find or name the run, and print what is to come."""
    check_tracing(settings)
    check_track(track)
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    sizes = {"limit": limit, "batch_size": batch_size, "concurrency": concurrency, "max_new_tokens": max_new_tokens}
    if wrong := [f"{name}={value}" for name, value in sizes.items() if value is not None and value < 1]:
        raise ValueError(f"{', '.join(wrong)}: expected 1 or more (limit=None is the whole split)")
    client = make_model(settings, track, model, batch_size, concurrency)
    path = settings.dataset / track / f"{split}.jsonl"
    caps = [cap for cap in (limit, settings.swap_row_limit) if cap is not None]
    rows = read_rows(path, track)[: min(caps, default=None)]
    examples = _read_shots(settings, track, split, model.shots)
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
    if examples:  # a comparison asks whether messages are equal apart from these
        if asked := {example.prompt for example in examples} & {row.prompt for row in rows}:
            raise ValueError(f"{len(asked)} of the examples are asked rows themselves. Keep {split} rows out of train.")
        facts["shots"], facts["shots_sha256"] = model.shots, hash_rows(examples)
        messages = [build_messages(track, row.prompt, examples) for row in rows]
    key = hash_text(canonical_json(facts))[:12]
    folder = None if fresh else _find_run(settings, key)
    folder = folder or settings.runs / provenance.make_run_id(track, str(model), split, key)
    parameters = {**sizes, "shots": model.shots, "fresh": fresh, "swap_row_limit": settings.swap_row_limit}
    prices = costs.Prices.from_settings(settings)
    plan = _Plan(client, track, model, split, rows, messages, facts, parameters, prices, folder, key, session_id)
    if plan.find_waiting():
        client.check()
    print(plan.describe())
    return plan


def _read_shots(settings: Settings, track: Track, split: str, shots: int) -> list[Row]:
    """The examples of a few-shot run; none of them may be a row that is asked."""
    if shots and split == "train":
        raise ValueError("shots are examples from train: evaluate test or val with them")
    return pick_shots(read_rows(settings.dataset / track / "train.jsonl", track) if shots else [], shots)


def _find_run(settings: Settings, key: str) -> Path | None:
    """The newest run of a question; run ids begin with the year, so a lock is none."""
    return max((folder for folder in settings.runs.glob(f"2*-{key}") if folder.is_dir()), default=None)


def _run_plan(settings: Settings, plan: _Plan) -> Run:
    """Ask what is waiting, unless nothing is; bring the metrics file up to date."""
    if plan.find_waiting() or not (plan.folder / "metrics.json").is_file():
        with provenance.locked(settings.runs, plan.key):
            # another process may have asked these rows between the planning and the lock
            if not plan.parameters["fresh"]:
                plan = replace(plan, folder=_find_run(settings, plan.key) or plan.folder)
            _ask_and_write(settings, plan)
    metrics_file = plan.folder / "metrics.json"
    metrics = json.loads(metrics_file.read_text(encoding="utf-8"))
    write_json(settings.evaluation / f"{plan.track}_{plan.model}_{plan.split}.json", metrics)
    ledger = read_ledger(plan.ledger_file)
    if not metrics["complete"]:
        reasons = Counter(line.generation.error for line in ledger.values() if line.generation.status == "error")
        listed = "; ".join(f"{n} × {reason}" for reason, n in reasons.most_common(3))
        print(f"{reasons.total()} row(s) ended in error ({listed}). Run this again to ask only those.")
    return Run(plan.folder, metrics, tuple(ledger[i] for i in sorted(ledger)))


def _ask_and_write(settings: Settings, plan: _Plan) -> None:
    """Ask what is waiting, write the metrics file, deliver the trace. While rows are asked, there is no metrics file."""
    metrics_file = plan.folder / "metrics.json"
    metrics_file.unlink(missing_ok=True)
    trace = _ask_rows(settings, plan, plan.find_waiting())
    metrics = _summarise(plan, read_ledger(plan.ledger_file)) | {"run": _describe_run(settings, plan)}
    metrics["run"]["trace"] = asdict(trace.count())
    write_json(metrics_file, metrics)
    metrics["run"]["trace"] = asdict(trace.deliver())  # may take its time, and now everything else is on disk
    write_json(metrics_file, metrics)
    print(describe_delivery(Delivery(**metrics["run"]["trace"]), settings))


def _ask_rows(settings: Settings, plan: _Plan, waiting: list[int]) -> tracing.RunTrace:
    """Ask the waiting rows; every answer goes to the ledger, then to the trace, as it comes."""
    model, limit = plan.facts["identity"]["model"], plan.facts["max_new_tokens"]
    inputs = {"dataset": f"{plan.track}/{plan.split}.jsonl", **plan.facts, "parameters": plan.parameters}
    name = f"eval {plan.track} {plan.model} {plan.split}"
    tags = [plan.track, str(plan.model), plan.split]
    with tracing.RunTrace(settings, plan.folder.name, plan.folder, name, inputs, tags, plan.session_id) as trace:
        for line in read_ledger(plan.ledger_file).values():  # rows whose span a kill has lost
            trace.add_generation(line, plan.messages[line.index], model, limit)
        # closed at once when something fails below, so that no call is made whose answer nobody keeps
        with contextlib.closing(plan.client.generate([plan.messages[i] for i in waiting], limit)) as answers:
            bar = tqdm(answers, f"{plan.track} {plan.model}", len(waiting), file=sys.stdout, unit="row")
            for position, generation in bar:
                index = waiting[position]
                row = plan.rows[index]
                scores = score_row(plan.track, row.completion, generation.output)
                line = LedgerLine(index, hash_text(row.prompt), generation, scores, round(time.time(), 3))
                append_line(plan.ledger_file, line.to_json())
                trace.add_generation(line, plan.messages[index], model, limit)
        metrics = _summarise(plan, read_ledger(plan.ledger_file))
        rates = {metric: metrics[metric] for metric in core_metrics(plan.track)}
        trace.finish({**rates, "n_by_status": metrics["n_by_status"], "folder": show_path(plan.folder)}, rates)
    return trace


def _describe_run(settings: Settings, plan: _Plan) -> dict[str, Any]:
    """The `run` section of a metrics file: what was asked of whom, when, where, with what."""
    return {
        "run_id": plan.folder.name,
        "started": provenance.read_start(plan.folder.name),
        "ended": provenance.now_utc(),
        "model": str(plan.model),
        "rows_asked": len(plan.ledger_file.read_bytes().splitlines()),
        "rows_scored": len(plan.rows),
        **plan.facts,
        "dataset": show_path(settings.dataset / plan.track / f"{plan.split}.jsonl"),
        "model_path": show_path(settings.slm_model_path) if isinstance(plan.client, LocalSLM) else None,
        "parameters": plan.parameters,
        **provenance.describe_machine(),
    }


def _summarise(plan: _Plan, ledger: dict[int, LedgerLine]) -> dict[str, Any]:
    """Core metrics over all rows, their Wilson intervals, statuses; tokens, latencies and speed."""
    lines = [ledger[i] for i in range(len(plan.rows))]
    rates = rates_of(aggregate(plan.track, [line.scores for line in lines]))
    n = len(lines)
    statuses = Counter(line.generation.status for line in lines)
    return {
        **rates,
        "complete": statuses["error"] == 0,
        "n_rows": n,
        "n_by_status": {status: statuses[status] for status in STATUSES},
        "intervals": {metric: evidence.wilson_interval(round(rate * n), n) for metric, rate in rates.items()},
        "extra": {**costs.measure_ledger(lines), "right": sum(all(line.scores.values()) for line in lines)},
    }
