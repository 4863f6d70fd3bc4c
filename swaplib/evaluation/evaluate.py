"""Runs models on the first rows of a split; each run leaves a ledger, a trace and a metrics file.

A killed run resumes where it stopped: its folder's name ends in a hash of everything that makes two
runs the same question, so the same call finds it, keeps its run id and trace, and asks only rows
that have no ledger line or an `error` line. A complete run is found too, and nothing is asked.
"""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from swaplib.evaluation.asking import ask_and_write
from swaplib.evaluation.costs import Prices
from swaplib.evaluation.eval_run import EvalOptions, EvalRun
from swaplib.evaluation.question import EvalRows, check_served, read_eval_rows
from swaplib.files import hash_text, write_json
from swaplib.formats.metrics_file import EvalQuestion, Identity, MetricsFile
from swaplib.metrics import Track, canonical_json, check_track
from swaplib.models.dataset_form import is_hosted_gold, name_usual
from swaplib.models.grammars import name_library
from swaplib.models.hosted import HostedLLM
from swaplib.models.local import LocalSLM
from swaplib.models.local_checkpoint import Checkpoint, choose_full_precision
from swaplib.models.names import ModelName, parse_models
from swaplib.rows import LedgerLine
from swaplib.runs import find_run, lock_run, new_folder, read_run
from swaplib.settings import Settings, check_sizes
from swaplib.tracing.outbox import check_tracing


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, the content of its metrics file, its ledger in row order."""

    folder: Path
    metrics: MetricsFile
    ledger: tuple[LedgerLine, ...]


def make_model(
    settings: Settings, track: Track, model: ModelName, batch_size: int, concurrency: int
) -> HostedLLM | LocalSLM:
    """The client of a model; examples and native forms change nothing here.

    With SLM_BASE_URL the SLM is asked there, under the name of its weights; else it runs in this
    process.

    Raises:
        ValueError: Such a model cannot be run, or a variable that it needs is missing.
    """
    weights = str(replace(model, shots=0, is_native=False))
    if model.is_hosted:
        return HostedLLM.from_settings(settings, concurrency)
    if settings.slm_base_url:
        return HostedLLM.from_slm_settings(settings, weights, concurrency)
    name = model.name_adapter(track)
    adapter = settings.adapter_of(name) if name else None
    precision = choose_full_precision() if model.is_full else "4bit"
    return LocalSLM(Checkpoint(settings.slm_model_path, adapter, precision), batch_size)


def run_models(
    settings: Settings,
    track: Track,
    models: str,
    shots: int = 0,
    noise_rows: int = 0,
    **parameters: Any,
) -> list[Run]:
    """Run several models, given as "azure,slm"; parameters as for run_model.

    An empty text names the hosted LLM and the SLM in the dataset's own form (name_usual). All of
    them are checked, and what is left to ask is printed, before the first call of any. The first
    `noise_rows` rows are asked a second time of each hosted one, in a run of its own: what differs
    there is noise and no skill.
    """
    names = parse_models(models or name_usual(settings, shots), shots)
    options = EvalOptions(**parameters)
    if is_hosted_gold(settings) and any(m.is_hosted and not m.is_native for m in names):
        print(
            "the golds are what the hosted LLM answered by tools and formats, as your log has it: "
            "azure-native asks by these, too, azure in words"
        )
    planned = [_plan(settings, track, model, options) for model in names]
    repeats = []
    if noise_rows:
        check_sizes(" (noise_rows=0 asks nothing twice)", noise_rows=noise_rows)
        limit = min(noise_rows, options.limit or noise_rows)
        again = replace(options, limit=limit, is_repeat=True)
        hosted = [model for model in names if model.is_hosted]
        repeats = [_plan(settings, track, model, again) for model in hosted]
    runs = [_execute(settings, run) for run in planned]
    for run in repeats:
        _execute(settings, run)
    return runs


def run_model(
    settings: Settings, track: Track, model: str, shots: int = 0, **parameters: Any
) -> Run:
    """Run one model on one split, or resume the run that was killed.

    Args:
        settings: The home, the endpoints and the checkpoint.
        track: Whose rows are asked.
        model: A model's name (names.py): `slm-full`, say, is the SLM's checkpoint not quantised,
            and `slm-shots4` has four examples from train in every prompt.
        shots: Examples, 0 to 8, for a model whose name does not say them: `slm` is then run, and
            named, as `slm-shots4`.
        **parameters: `split` ("test"), `limit` (only the first rows; None for all, and
            SWAP_ROW_LIMIT caps it), `batch_size` (of local rows), `concurrency` (hosted calls in
            flight), `max_new_tokens` (the longest answer), `fresh` (start a new run even when one
            with the same question exists), `is_repeat` (ask once more what a run has asked, in a
            run of its own), `probe` (so many rows are asked and looked at before the rest:
            probe.look), `session_id` (the trace's Langfuse session).

    Returns:
        The run. `metrics["complete"]` is False when rows ended in `error`; the same call asks those
        again.

    Raises:
        FileNotFoundError, ValueError, ConnectionError: Something needed is missing or wrong;
            nothing was asked or written.
        CallFailed: The hosted LLM refuses every call.
        FormFailed: The look has shown that the hosted LLM's form hides what it knows.
    """
    name = ModelName.parse(model).with_shots(shots)
    return _execute(settings, _plan(settings, track, name, EvalOptions(**parameters)))


def _plan(settings: Settings, track: Track, model: ModelName, options: EvalOptions) -> EvalRun:
    """Check everything, find or name the run, and print what is left to ask."""
    check_tracing(settings)
    check_track(track)
    options.check()
    client = make_model(settings, track, model, options.batch_size, options.concurrency)
    limit = settings.cap_rows(options.limit)
    inputs = read_eval_rows(settings, track, model, options.split, limit)
    question = _make_question(client, model, inputs, options)
    key = hash_text(canonical_json(question))[:12]
    folder = new_folder(settings, track, str(model), options.split, key)
    run = EvalRun(
        client,
        model,
        inputs,
        question,
        parameters=options.to_record(model.shots, settings.swap_row_limit),
        prices=Prices.from_settings(settings),
        folder=folder,
        key=key,
        session_id=options.session_id,
        ledger={},
    )
    run = run.open(find_run(settings, key, folder, options.fresh))
    if run.list_waiting():
        client.check()
        check_served(settings, client)
    print(run.describe())
    return run


def _make_question(
    client: HostedLLM | LocalSLM, model: ModelName, inputs: EvalRows, options: EvalOptions
) -> EvalQuestion:
    identity = cast(Identity, client.identity())
    question: EvalQuestion = {
        **inputs.question,
        "identity": identity,
        "max_new_tokens": options.max_new_tokens,
        "temperature": None if "is_reasoning" in identity else 0,
    }
    if model.is_native and isinstance(client, LocalSLM):
        question["grammar"] = name_library()
    if options.is_repeat:
        question["is_repeat"] = True
    return question


def _execute(settings: Settings, run: EvalRun) -> Run:
    """Ask what is waiting, unless nothing is; bring the metrics file up to date."""
    if not run.is_done:
        with lock_run(settings, run.key, run.folder, run.parameters["fresh"]) as folder:
            # Another process may have asked these rows since the run was planned.
            run = run.open(folder)
            if not run.is_done:
                ask_and_write(settings, run)
    metrics = read_run(settings, run.folder.name)
    write_json(settings.evaluation / f"{run.name}.json", metrics)
    if not metrics["complete"]:
        _report_errors(run)
    return Run(run.folder, metrics, tuple(run.ledger[i] for i in sorted(run.ledger)))


def _report_errors(run: EvalRun) -> None:
    """Print why rows have no answer, the most frequent reasons first."""
    answers = [line.generation for line in run.ledger.values()]
    reasons = Counter(answer.error for answer in answers if answer.status == "error")
    listed = "; ".join(f"{n} × {reason}" for reason, n in reasons.most_common(3))
    print(f"{reasons.total()} row(s) ended in error ({listed}). Run this again to ask only those.")
