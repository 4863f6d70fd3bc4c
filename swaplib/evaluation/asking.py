"""Asks what a run has left to ask: answers -> ledger -> trace -> metrics file.

Every answer is in the ledger before it goes anywhere else, so that a killed run loses none.
"""

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from itertools import chain
from typing import Any

from tqdm import tqdm

from swaplib.evaluation.eval_run import EvalRun
from swaplib.evaluation.intervals import wilson_interval
from swaplib.evaluation.probe import look
from swaplib.evaluation.usage import measure_ledger
from swaplib.files import append_line, hash_text
from swaplib.formats.metrics_file import Rates, Summary
from swaplib.metrics import Track, aggregate, core_metrics, rates_of, score_row
from swaplib.models.local import LocalSLM
from swaplib.rows import STATUSES, LedgerLine
from swaplib.runs import open_run
from swaplib.settings import Settings, show_path


def ask_and_write(settings: Settings, run: EvalRun) -> None:
    """Ask the waiting rows, then write the metrics file. While rows are asked, there is none."""
    run.metrics_file.unlink(missing_ok=True)
    question, track = run.question, run.question["track"]
    model, limit = question["identity"]["model"], question["max_new_tokens"]
    inputs = {
        "dataset": f"{track}/{question['split']}.jsonl",
        **question,
        "parameters": run.parameters,
    }
    name = f"eval {track} {run.model} {question['split']}"
    tags = [track, str(run.model), question["split"]]
    with open_run(settings, run.folder, name, inputs, tags, run.session_id) as traced:
        # Lines that the ledger has already come first: a kill may have lost their spans.
        for line in chain(list(run.ledger.values()), _ask_with_a_look(run)):
            form, cost = run.get_form(line.index), run.price(line.generation)
            messages, temperature = run.inputs.messages[line.index], question["temperature"]
            traced.trace.add_generation(line, messages, model, limit, form, cost, temperature)
        lines = [run.ledger[i] for i in range(len(run.inputs.rows))]
        summary = summarise_ledger(track, lines)
        rates: dict[str, float] = {metric: summary[metric] for metric in core_metrics(track)}
        output = {"n_by_status": summary["n_by_status"], "folder": show_path(run.folder)}
        traced.trace.finish({**rates, **output}, rates)
        traced.record("metrics.json", {**summary, "run": _describe_run(settings, run)})


def _ask_with_a_look(run: EvalRun) -> Iterator[LedgerLine]:
    """Ask what is waiting; after the first `probe` rows say what they look like, or stop."""
    n = run.parameters["probe"]
    yield from _ask_rows(run, [i for i in run.list_waiting() if i < n])
    first = [run.ledger[i] for i in range(n) if run.has_answer(i)]
    rest = [i for i in run.list_waiting() if i >= n]
    if first and rest:
        look(run.question["track"], run.model, run.inputs.rows, first, len(rest), run.prices)
    yield from _ask_rows(run, rest)


def _ask_rows(run: EvalRun, waiting: list[int]) -> Generator[LedgerLine, None, None]:
    """Ask rows; each answer is in the ledger, on disk and in memory, before it is yielded."""
    track, forms = run.question["track"], run.inputs.forms
    messages = [run.inputs.messages[i] for i in waiting]
    asked = forms and [forms[i] for i in waiting]
    answers = run.client.generate(messages, run.question["max_new_tokens"], asked)
    # Closed as soon as something fails, so that no call is made whose answer would be lost.
    with contextlib.closing(answers):
        bar = tqdm(answers, f"{track} {run.model}", len(waiting), file=sys.stdout, unit="row")
        for position, generation in bar:
            index = waiting[position]
            row = run.inputs.rows[index]
            scores = score_row(track, row.completion, generation.output)
            ended_at = round(time.time(), 3)
            line = LedgerLine(index, hash_text(row.prompt), generation, scores, ended_at)
            append_line(run.ledger_file, line.to_json())
            run.ledger[index] = line
            yield line


def _describe_run(settings: Settings, run: EvalRun) -> dict[str, Any]:
    """The `run` section of a metrics file, without what open_run adds."""
    question = run.question
    split = settings.dataset / question["track"] / f"{question['split']}.jsonl"
    is_local = isinstance(run.client, LocalSLM)
    return {
        "model": str(run.model),
        "rows_asked": len(run.ledger_file.read_bytes().splitlines()),
        "rows_scored": len(run.inputs.rows),
        **question,
        "dataset": show_path(split),
        "model_path": show_path(settings.slm_model_path) if is_local else None,
        "parameters": run.parameters,
    }


def summarise_ledger(track: Track, lines: Sequence[LedgerLine]) -> Summary:
    """Core metrics over all rows, their intervals, statuses; tokens, latencies and speed.

    Args:
        track: Whose core metrics are computed.
        lines: One line for each row, in row order.
    """
    n = len(lines)
    by_name = rates_of(aggregate(track, [line.scores for line in lines]))
    rates: Rates = {}
    for metric in core_metrics(track):
        rates[metric] = by_name[metric]
    statuses = Counter(line.generation.status for line in lines)
    intervals = {metric: wilson_interval(round(rate * n), n) for metric, rate in by_name.items()}
    right = sum(all(line.scores.values()) for line in lines)
    return {
        **rates,
        "complete": statuses["error"] == 0,
        "n_rows": n,
        "n_by_status": {status: statuses[status] for status in STATUSES},
        "intervals": intervals,
        "extra": {**measure_ledger(lines), "right": right},
    }
