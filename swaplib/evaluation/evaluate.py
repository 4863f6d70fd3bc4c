"""One run: messages -> generations -> ledger (append, resume) -> metrics file -> trace.

A run is one model on the first rows of one split. A run that was killed goes on where it stopped: the end of its folder's
name is a hash of everything that makes the question the same, so the same call finds it, keeps its run id and trace, and
asks only rows that have no ledger line or an `error` line. A complete run is found too, and nothing is asked.
"""

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm

from swaplib.evaluation import costs, usage
from swaplib.evaluation.intervals import wilson_interval
from swaplib.evaluation.probe import look
from swaplib.evaluation.question import Question, check_served, make_question
from swaplib.files import append_line, hash_text, write_json
from swaplib.metrics import (
    Track,
    aggregate,
    canonical_json,
    check_track,
    core_metrics,
    rates_of,
    score_row,
)
from swaplib.models.grammars import name_library
from swaplib.models.hosted import HostedLLM
from swaplib.models.local import LocalSLM
from swaplib.models.local_checkpoint import Checkpoint, find_full_precision
from swaplib.models.names import ModelName, parse_models
from swaplib.rows import SPLITS, STATUSES, Generation, LedgerLine, check_prompts, read_ledger
from swaplib.runs import find_run, lock_run, new_folder, open_run, read_run
from swaplib.settings import Settings, check_sizes, show_path
from swaplib.tracing.outbox import check_tracing


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, the content of its metrics file, and its ledger in row order."""

    folder: Path
    metrics: dict[str, Any]
    ledger: tuple[LedgerLine, ...]


@dataclass(frozen=True)
class _Plan:
    """What is to be asked of whom: everything known before the first call. `ledger` is kept up to date in memory."""

    client: HostedLLM | LocalSLM
    track: Track
    model: ModelName
    split: str
    question: Question
    facts: dict[str, Any]
    parameters: dict[str, Any]
    prices: costs.Prices
    folder: Path
    key: str
    session_id: str | None
    ledger: dict[int, LedgerLine]

    @property
    def name(self) -> str:
        """What the metrics file is called among those of all models."""
        return f"{self.track}_{self.model}_{self.split}{'_repeat' if 'is_repeat' in self.facts else ''}"

    @property
    def ledger_file(self) -> Path:
        return self.folder / "ledger.jsonl"

    @property
    def metrics_file(self) -> Path:
        return self.folder / "metrics.json"

    def open(self, folder: Path) -> "_Plan":
        """The plan with what a run's folder holds now."""
        ledger = read_ledger(folder / "ledger.jsonl")
        check_prompts(folder / "ledger.jsonl", ledger.values(), self.question.rows)
        return replace(self, folder=folder, ledger=ledger)

    def fields_of(self, index: int) -> dict[str, Any] | None:
        """What goes with a row's messages when it is asked natively."""
        return forms[index].to_request() if (forms := self.question.forms) else None

    def price(self, answer: Generation) -> dict[str, float] | None:
        """US dollars of an answer's tokens; None where no price is known."""
        return (
            self.prices.split_price(answer.prompt_tokens, answer.completion_tokens)
            if self.model.is_hosted
            else None
        )

    def find_waiting(self) -> list[int]:
        """Rows that have no ledger line, or one that ended in error."""
        known = self.ledger
        return [
            i
            for i in range(len(self.question.rows))
            if i not in known or known[i].generation.status == "error"
        ]

    def describe(self) -> str:
        waiting = self.find_waiting()
        characters = sum(
            len(message["content"]) for i in waiting for message in self.question.messages[i]
        )
        done, tokens = (
            len(self.question.rows) - len(waiting),
            f"{characters // 4:,} prompt tokens, at 4 characters each",
        )
        what = f"{len(self.question.rows)} rows, {done} answered before, {len(waiting)} calls to come (about {tokens})"
        usd = (
            self._price(characters // 4, len(waiting) * self.facts["max_new_tokens"])
            if waiting
            else ""
        )
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
    """The client of a model; how it is asked (examples in its prompts, natively) changes nothing here.

    With SLM_BASE_URL the SLM is asked there, under the name of its weights; else it runs in this process.

    Raises:
        ValueError: Such a model cannot be run, or a variable that it needs is missing.
    """
    weights = str(replace(model, shots=0, is_native=False))
    if model.is_hosted:
        return HostedLLM.from_settings(settings, concurrency)
    if settings.slm_base_url:
        return HostedLLM.from_slm_settings(settings, weights, concurrency)
    adapter = model.name_adapter(track)
    precision = find_full_precision() if model.is_full else "4bit"
    checkpoint = Checkpoint(
        settings.slm_model_path, adapter and settings.adapter_of(adapter), precision
    )
    return LocalSLM(checkpoint, batch_size)


def run_models(
    settings: Settings,
    track: Track,
    models: str,
    shots: int = 0,
    noise_rows: int = 0,
    **parameters: Any,
) -> list[Run]:
    """Run several models, given as "azure,slm"; parameters as for run_model.

    All of them are checked, and what is to come is printed, before the first call of any. The first `noise_rows` rows are
    asked a second time of each hosted one, in a run of its own: what differs there is noise and no skill.
    """
    names = parse_models(models, shots)
    plans, repeats = [_make_plan(settings, track, model, **parameters) for model in names], []
    if noise_rows:
        check_sizes(" (noise_rows=0 asks nothing twice)", noise_rows=noise_rows)
        again = parameters | {
            "limit": min(noise_rows, parameters.get("limit") or noise_rows),
            "is_repeat": True,
        }
        repeats = [
            _make_plan(settings, track, model, **again) for model in names if model.is_hosted
        ]
    runs = [_run_plan(settings, plan) for plan in plans]
    for plan in repeats:
        _run_plan(settings, plan)
    return runs


def run_model(
    settings: Settings, track: Track, model: str, shots: int = 0, **parameters: Any
) -> Run:
    """Run one model on one split, or go on with the run that was killed.

    Args:
        settings: Says where everything lies.
        track: `structured` or `toolcall`.
        model: A model's name (names.py): `slm-full`, say, is the SLM's checkpoint not quantised, and `slm-shots4`
            has four examples from train in every prompt.
        shots: Examples, 0 to 8, for a model whose name does not say them: `slm` is then run, and named, as `slm-shots4`.
        **parameters: `split` ("test"), `limit` (only the first rows; None for all, and SWAP_ROW_LIMIT caps it),
            `batch_size` (local rows in work at once), `concurrency` (hosted calls in flight), `max_new_tokens` (the limit
            of each answer), `fresh` (start a new run even when one with the same question exists), `is_repeat` (ask once
            more what a run has asked, in a run of its own), `probe` (so many rows are asked and looked at before the
            rest: see probe.look), `session_id` (the trace's Langfuse session).

    Returns:
        The run. `metrics["complete"]` is False when rows ended in `error`; the same call asks those again.

    Raises:
        FileNotFoundError, ValueError, ConnectionError: Something needed is missing or wrong; nothing was asked or written.
        CallFailed: The hosted LLM refuses every call.
        FormFailed: The look has shown that the hosted LLM's form hides what it knows.
    """
    return _run_plan(
        settings,
        _make_plan(settings, track, ModelName.parse(model).with_shots(shots), **parameters),
    )


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
    is_repeat: bool = False,
    probe: int = 0,
    session_id: str | None = None,
) -> _Plan:
    """Check everything, find or name the run, and print what is to come."""
    check_tracing(settings)
    check_track(track)
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    sizes = {
        "limit": limit,
        "batch_size": batch_size,
        "concurrency": concurrency,
        "max_new_tokens": max_new_tokens,
    }
    check_sizes(" (limit=None is the whole split)", **sizes)
    client = make_model(settings, track, model, batch_size, concurrency)
    question = make_question(settings, track, model, split, settings.cap_rows(limit))
    facts = question.facts | {"identity": client.identity(), "max_new_tokens": max_new_tokens}
    facts |= {"temperature": None if "is_reasoning" in facts["identity"] else 0}
    facts |= {"grammar": name_library()} if model.is_native and isinstance(client, LocalSLM) else {}
    facts |= {"is_repeat": True} if is_repeat else {}
    key = hash_text(canonical_json(facts))[:12]
    planned = new_folder(settings, track, str(model), split, key)
    parameters = {**sizes, "shots": model.shots, "fresh": fresh, "probe": probe}
    parameters |= {"swap_row_limit": settings.swap_row_limit}
    prices = costs.Prices.from_settings(settings)
    plan = _Plan(
        client,
        track,
        model,
        split,
        question,
        facts,
        parameters,
        prices,
        planned,
        key,
        session_id,
        {},
    )
    plan = plan.open(find_run(settings, key, planned, fresh))
    if plan.find_waiting():
        client.check()
        check_served(settings, client)
    print(plan.describe())
    return plan


def _run_plan(settings: Settings, plan: _Plan) -> Run:
    """Ask what is waiting, unless nothing is; bring the metrics file up to date."""
    if plan.find_waiting() or not plan.metrics_file.is_file():
        with lock_run(settings, plan.key, plan.folder, plan.parameters["fresh"]) as folder:
            plan = plan.open(
                folder
            )  # another process may have asked these rows between the planning and the lock
            if plan.find_waiting() or not plan.metrics_file.is_file():
                _ask_and_write(settings, plan)
    metrics = read_run(settings, plan.folder.name)
    write_json(settings.evaluation / f"{plan.name}.json", metrics)
    if not metrics["complete"]:
        reasons = Counter(
            line.generation.error
            for line in plan.ledger.values()
            if line.generation.status == "error"
        )
        listed = "; ".join(f"{n} × {reason}" for reason, n in reasons.most_common(3))
        print(
            f"{reasons.total()} row(s) ended in error ({listed}). Run this again to ask only those."
        )
    return Run(plan.folder, metrics, tuple(plan.ledger[i] for i in sorted(plan.ledger)))


def _ask_and_write(settings: Settings, plan: _Plan) -> None:
    """Ask the waiting rows, then leave the metrics file. While rows are asked, there is none.

    Every answer goes to the ledger, then to the trace, as it comes.
    """
    plan.metrics_file.unlink(missing_ok=True)
    model, limit = plan.facts["identity"]["model"], plan.facts["max_new_tokens"]
    inputs = {
        "dataset": f"{plan.track}/{plan.split}.jsonl",
        **plan.facts,
        "parameters": plan.parameters,
    }
    name = f"eval {plan.track} {plan.model} {plan.split}"
    tags = [plan.track, str(plan.model), plan.split]
    with open_run(settings, plan.folder, name, inputs, tags, plan.session_id) as run:
        # first the rows whose span a kill has lost
        for line in chain(list(plan.ledger.values()), _ask_with_a_look(plan)):
            asked, cost = plan.fields_of(line.index), plan.price(line.generation)
            messages, temperature = plan.question.messages[line.index], plan.facts["temperature"]
            run.trace.add_generation(line, messages, model, limit, asked, cost, temperature)
        metrics = _summarise(plan)
        rates = {metric: metrics[metric] for metric in core_metrics(plan.track)}
        run.trace.finish(
            {**rates, "n_by_status": metrics["n_by_status"], "folder": show_path(plan.folder)},
            rates,
        )
        run.record("metrics.json", metrics | {"run": _describe_run(settings, plan)})


def _ask_with_a_look(plan: _Plan) -> Iterator[LedgerLine]:
    """Ask what is waiting; after the first `probe` rows, and before the others, say what they look like, or stop."""
    n = plan.parameters["probe"]
    yield from _ask_rows(plan, [i for i in plan.find_waiting() if i < n])
    first = [
        plan.ledger[i]
        for i in range(n)
        if i in plan.ledger and plan.ledger[i].generation.status != "error"
    ]
    rest = [i for i in plan.find_waiting() if i >= n]
    if first and rest:
        look(plan.track, plan.model, plan.question.rows, first, len(rest), plan.prices)
    yield from _ask_rows(plan, rest)


def _ask_rows(plan: _Plan, waiting: list[int]) -> Iterator[LedgerLine]:
    """Ask rows; each answer is in the ledger, on disk and in memory, before it is given on."""
    # closed at once when something fails, so that no call is made whose answer nobody keeps
    forms = plan.question.forms and [plan.question.forms[i] for i in waiting]
    asked = plan.client.generate(
        [plan.question.messages[i] for i in waiting], plan.facts["max_new_tokens"], forms
    )
    with contextlib.closing(asked) as answers:
        for position, generation in tqdm(
            answers, f"{plan.track} {plan.model}", len(waiting), file=sys.stdout, unit="row"
        ):
            index = waiting[position]
            row = plan.question.rows[index]
            scores = score_row(plan.track, row.completion, generation.output)
            line = LedgerLine(
                index, hash_text(row.prompt), generation, scores, round(time.time(), 3)
            )
            append_line(plan.ledger_file, line.to_json())
            plan.ledger[index] = line
            yield line


def _describe_run(settings: Settings, plan: _Plan) -> dict[str, Any]:
    """The `run` section of a metrics file: what was asked of whom, when, where, with what."""
    return {
        "model": str(plan.model),
        "rows_asked": len(plan.ledger_file.read_bytes().splitlines()),
        "rows_scored": len(plan.question.rows),
        **plan.facts,
        "dataset": show_path(settings.dataset / plan.track / f"{plan.split}.jsonl"),
        "model_path": show_path(settings.slm_model_path)
        if isinstance(plan.client, LocalSLM)
        else None,
        "parameters": plan.parameters,
    }


def _summarise(plan: _Plan) -> dict[str, Any]:
    """Core metrics over all rows, their Wilson intervals, statuses; tokens, latencies and speed."""
    lines = [plan.ledger[i] for i in range(len(plan.question.rows))]
    rates = rates_of(aggregate(plan.track, [line.scores for line in lines]))
    n = len(lines)
    statuses = Counter(line.generation.status for line in lines)
    return {
        **rates,
        "complete": statuses["error"] == 0,
        "n_rows": n,
        "n_by_status": {status: statuses[status] for status in STATUSES},
        "intervals": {
            metric: wilson_interval(round(rate * n), n) for metric, rate in rates.items()
        },
        "extra": {
            **usage.measure_ledger(lines),
            "right": sum(all(line.scores.values()) for line in lines),
        },
    }
