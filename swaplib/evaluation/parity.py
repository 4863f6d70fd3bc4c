"""Is it one model? Compares the outputs of the same weights run in other ways; it scores nothing.

Greedy outputs may differ by rounding: between batch sizes, between what is evaluated and its
export. Each comparison counts the share of equal outputs on the same rows and saves the rows that
differ, so that a score is not taken for more than it is. A merge takes the memory and disk of the
model in bfloat16.
"""

import gc
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from swaplib.evaluation.evaluate import make_model
from swaplib.files import hash_text, read_json
from swaplib.metrics import Track, canonical_json
from swaplib.models.adapters import write_merged
from swaplib.models.hosted import HostedLLM
from swaplib.models.local import LocalSLM
from swaplib.models.local_checkpoint import Checkpoint, choose_full_precision
from swaplib.models.local_model import load
from swaplib.models.names import ModelName
from swaplib.prompts import Message, build_messages
from swaplib.rows import Generation, read_rows
from swaplib.runs import new_folder, open_run
from swaplib.serving.server_process import running_server
from swaplib.settings import Settings, show_path
from swaplib.tracing.outbox import check_tracing

Chats = Sequence[Sequence[Message]]


def measure_parity(
    settings: Settings,
    track: Track,
    model: str,
    n_rows: int = 8,
    max_new_tokens: int = 128,
    batch_size: int = 16,
) -> dict[str, Any]:
    """Compare batch N with batch 1, adapter with exported merge, and in process with served.

    An SLM that is served elsewhere is compared with itself: calls at once, and one at a time.

    Args:
        model: `slm_ft`, or `slm`, which has nothing to merge; always asked by hand.
        n_rows: The first test rows, capped by SWAP_ROW_LIMIT; with 0 nothing is measured.
        max_new_tokens: The longest answer; what comes after it is not compared.

    Returns:
        The content of `<track>_parity.json`; the same question asked again is read from there.

    Raises:
        FileNotFoundError, ValueError: Rows, checkpoint or adapter are missing or do not fit.
        RuntimeError: A server gave no answer. Nothing was written.
    """
    check_tracing(settings)
    slm = _make_model(settings, track, model, n_rows, batch_size)
    if n_rows == 0:
        print("parity was not measured: n_rows is 0")
        return {"comparisons": []}
    slm.check()
    chats = _read_chats(settings, track, n_rows)
    question = {
        "model": str(ModelName.parse(model).in_form(False)),
        "identity": slm.identity(),
        "messages_sha256": hash_text(canonical_json(chats)),
        "batch_size": min(batch_size, len(chats)),
        "max_new_tokens": max_new_tokens,
    }
    known = _find_measured(settings, track, question)
    return known or _measure(settings, track, slm, chats, question)


def _read_chats(settings: Settings, track: Track, n_rows: int) -> list[list[Message]]:
    """What the first test rows ask, as messages."""
    rows = read_rows(settings.dataset / track / "test.jsonl", track)[: settings.cap_rows(n_rows)]
    return [build_messages(track, row.prompt) for row in rows]


def _find_measured(
    settings: Settings, track: Track, question: dict[str, Any]
) -> dict[str, Any] | None:
    """The last measurement, where it answers the same question."""
    path = settings.evaluation / f"{track}_parity.json"
    if path.is_file() and (known := read_json(path, "Delete it."))["question"] == question:
        print(f"parity was measured before: {show_path(path)}")
        return known
    return None


def _make_model(
    settings: Settings, track: Track, model: str, n_rows: int, batch_size: int
) -> LocalSLM | HostedLLM:
    name = ModelName.parse(model)
    if name.is_hosted or name.shots or n_rows < 0:
        raise ValueError(
            f"model={model!r}, n_rows={n_rows}: expected a local model (slm, slm_ft) and 0 rows or "
            "more"
        )
    return make_model(settings, track, name, batch_size, concurrency=1)


def _measure(
    settings: Settings,
    track: Track,
    slm: LocalSLM | HostedLLM,
    chats: Chats,
    question: dict[str, Any],
) -> dict[str, Any]:
    """Make every comparison under a trace of its own, and write them."""
    folder, tags = new_folder(settings, track, "parity"), [track, question["model"], "parity"]
    path = settings.evaluation / f"{track}_parity.json"
    with open_run(settings, folder, f"parity {track}", question, tags) as run:
        comparisons = _compare_all(slm, chats, question["max_new_tokens"], folder)
        # The event has numbers only; the outputs that differ are in the file.
        counts = [{**c, "differing": len(c["differing"])} for c in comparisons]
        run.trace.add_event("parity", counts)
        run.trace.finish({c["compared"]: c["share"] for c in comparisons}, {})
        return run.record("parity.json", {"question": question, "comparisons": comparisons}, path)


def _compare_all(
    slm: LocalSLM | HostedLLM, chats: Chats, max_new_tokens: int, folder: Path
) -> list[dict[str, Any]]:
    n = len(chats)
    if isinstance(slm, HostedLLM):
        # How a server batches is its own affair, but it must not matter.
        clients = (replace(slm, concurrency=calls) for calls in (1, n))
        one, many = (_in_order(client.generate(chats, max_new_tokens)) for client in clients)
        return [compare_outputs(f"served: {n} calls at once against one at a time", many, one)]
    batched, single = _answer(slm, chats, max_new_tokens)
    size = min(slm.batch_size, n)
    comparisons = [compare_outputs(f"batch {size} against batch 1", batched, single)]
    if slm.checkpoint.adapter:
        merged = _answer_merged(slm, chats, max_new_tokens, folder)
        comparisons.append(compare_outputs("adapter against its exported merge", batched, merged))
    served = _answer_served(slm, chats, max_new_tokens)
    comparisons.append(compare_outputs("in process against served, batch 1", single, served))
    return comparisons


def _answer(slm: LocalSLM, chats: Chats, max_new_tokens: int) -> tuple[list[str], list[str]]:
    """The outputs in batches of the model's size, and one by one.

    The model is loaded once, and its memory is free again after this.
    """
    model, prompts = load(slm.checkpoint), [slm.checkpoint.render(chat) for chat in chats]
    single = [_in_order(model.generate([prompt], max_new_tokens, 1))[0] for prompt in prompts]
    return _in_order(model.generate(prompts, max_new_tokens, slm.batch_size)), single


def _answer_merged(slm: LocalSLM, chats: Chats, max_new_tokens: int, folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".merged-") as work:
        target = Path(work) / slm.checkpoint.path.name
        write_merged(slm.checkpoint, target)
        _free_memory()
        merged = LocalSLM(Checkpoint(target, None, choose_full_precision()), slm.batch_size)
        return _in_order(merged.generate(chats, max_new_tokens))


def _answer_served(slm: LocalSLM, chats: Chats, max_new_tokens: int) -> list[str]:
    _free_memory()
    with running_server(slm, "slm") as root:
        client = HostedLLM(f"{root}/v1", "local", None, "slm", concurrency=1)
        return _in_order(client.generate(chats, max_new_tokens))


def _free_memory() -> None:
    """Give back the memory of models that are no longer used, before another one needs it."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _in_order(generated: Iterable[tuple[int, Generation]]) -> list[str]:
    """The outputs of a model, in the order of what it was asked."""
    answers = [answer for _, answer in sorted(generated, key=lambda item: item[0])]
    if failed := [
        f"row {i}: {answer.error}" for i, answer in enumerate(answers) if answer.status == "error"
    ]:
        raise RuntimeError(
            f"parity was not measured: {len(failed)} row(s) got no answer ({failed[0]}). Run this "
            "again."
        )
    return [answer.output for answer in answers]


def compare_outputs(compared: str, first: Sequence[str], second: Sequence[str]) -> dict[str, Any]:
    """Count equal outputs.

    Args:
        compared: What the two sides are, in words.
        first: One output for each row.
        second: The outputs of the other side for the same rows in the same order.

    Returns:
        `compared`, `rows`, `equal`, `share`, and the `differing` rows (`row`, `first`, `second`).
    """
    pairs = list(zip(first, second, strict=True))
    differing = [{"row": i, "first": a, "second": b} for i, (a, b) in enumerate(pairs) if a != b]
    n_equal = len(pairs) - len(differing)
    return {
        "compared": compared,
        "rows": len(pairs),
        "equal": n_equal,
        "share": n_equal / len(pairs),
        "differing": differing,
    }
