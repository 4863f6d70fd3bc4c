"""What the throughput benchmarks of local rows share: the rows, the sides that answer, the records.

Every side answers the same test rows, longest first, with the same limit of tokens. Records go to
benchmarks/results/throughput.json, as parts of their own on a GPU.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from benchmarks.homes import open_packaged_home
from benchmarks.records import Record, make_record, write_part
from swaplib.evaluation import evaluate
from swaplib.metrics import Track
from swaplib.models.decoding import ATTENTION
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.models.local_model import LoadedModel
from swaplib.prompts import Message, build_messages
from swaplib.rows import read_rows
from swaplib.settings import Settings

HAS_GPU = torch.cuda.is_available()
TRACK: Track = "toolcall"
MAX_NEW_TOKENS, REPEATS = 64, 2
ROWS = 64 if HAS_GPU else 48
ALONE = 16 if HAS_GPU else 6  # every so many rows one at a time: all of them would take minutes
BATCH, SLOTS = 16, (16, ROWS)

Chat = Sequence[Message]
Timed = tuple[float, dict[int, str]]
Measure = Callable[[Settings], list[Record]]


def read_chats(settings: Settings) -> list[Chat]:
    """The messages of the first test rows."""
    rows = read_rows(settings.dataset / TRACK / "test.jsonl", TRACK)[:ROWS]
    return [build_messages(TRACK, row.prompt) for row in rows]


def sort_chats(checkpoint: Checkpoint, chats: Sequence[Chat]) -> list[Chat]:
    """Longest prompt first, as `generate` takes them."""

    def count(chat: Chat) -> int:
        return checkpoint.count_tokens(checkpoint.render(chat))

    return sorted(chats, key=count, reverse=True)


def run(
    model: LoadedModel,
    chats: Sequence[Chat],
    size: int,
    attention: str = ATTENTION,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Timed:
    """Seconds for one row, and the outputs; attention `sdpa` is transformers' own `generate`."""
    model.network.set_attn_implementation(attention)
    start = time.perf_counter()
    prompts = [model.checkpoint.render(chat) for chat in chats]
    answers = model.generate(prompts, max_new_tokens, size)
    outputs = {i: generation.output for i, generation in answers}
    return (time.perf_counter() - start) / len(chats), outputs


def run_alone(
    model: LoadedModel, chats: Sequence[Chat], every: int, max_new_tokens: int = MAX_NEW_TOKENS
) -> Timed:
    """One row at a time with `generate`: every n-th, beginning in the middle of the first n.

    So they have a fair share of all lengths.
    """
    taken = range(every // 2, len(chats), every)
    seconds, outputs = run(model, [chats[i] for i in taken], 1, "sdpa", max_new_tokens)
    return seconds, {i: outputs[k] for k, i in enumerate(taken)}


def time_product(settings: Settings, model: str, max_new_tokens: int = MAX_NEW_TOKENS) -> float:
    """Seconds for one row of `evaluate.run_model`, ledger and trace included, loading not."""
    sizes = {"limit": ROWS, "max_new_tokens": max_new_tokens, "batch_size": SLOTS[-1]}
    run = evaluate.run_model(settings, TRACK, model, **sizes, fresh=True)
    return 1 / run.metrics["extra"]["rows_per_second"]


def compare(
    case: str, ours: Sequence[float], other: Sequence[float], differing: str = "", **more: object
) -> Record:
    """A record in rows a second from seconds for one row: medians, our spread, what differs."""
    rates = [1 / statistics.median(seconds) for seconds in (ours, other)]
    spread = [round(1 / max(ours), 3), round(1 / min(ours), 3)]
    return make_record(case, *rates, "rows/s", spread=spread, differing=differing, **more)


def count_differing(first: Mapping[int, object], second: Mapping[int, object]) -> str:
    """How many of the rows that both have answered differ, in words."""
    shared = first.keys() & second.keys()
    return f"{sum(first[i] != second[i] for i in shared)} of {len(shared)}"


def name_checkpoint(settings: Settings, model: str) -> Checkpoint:
    """The packaged checkpoint, `slm_ft` with the stand-in's adapter."""
    adapter = settings.adapter_of(TRACK) if model == "slm_ft" else None
    return Checkpoint(settings.slm_model_path, adapter)


def measure_parts(measures: Mapping[str, Measure], *parts: str) -> None:
    """Measure parts, and replace the records of each as soon as it is done."""
    for part in parts:
        with open_packaged_home(TRACK) as settings:
            write_part(f"{part}, GPU" if HAS_GPU else part, measures[part](settings))
