"""Rows a second of local evaluation: ours beside one row at a time, batches of `generate`, and lm-evaluation-harness.

    python -m benchmarks.throughput slm slm_ft full_length harness   # the packaged checkpoint, CPU or GPU

All sides answer the same test rows, longest first, with the same token limit, in turn, several times; medians count. The
harness (`pip install lm-eval==0.4.13`) is a process of its own on the same weights, of the interpreter that HARNESS_PYTHON
names, else of this one. Records go to benchmarks/results/throughput.json, as parts of their own for a GPU (`slm, GPU`, say).
"""

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.records import make_record, write_records
from swaplib.demo.packaged import download_packaged
from swaplib.evaluation import evaluate
from swaplib.models.decoding import ATTENTION
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.models.local_model import LoadedModel, load
from swaplib.prompts import build_messages
from swaplib.rows import read_rows
from swaplib.settings import ROOT, Settings, load_settings

HAS_GPU = torch.cuda.is_available()
TRACK, MAX_NEW_TOKENS, REPEATS = "toolcall", 64, 2
ROWS = 64 if HAS_GPU else 48
ALONE = 16 if HAS_GPU else 6  # every so many rows one at a time: all of them would take minutes
BATCH, SLOTS = 16, (16, ROWS)
Timed = tuple[float, dict[int, str]]


@contextlib.contextmanager
def home() -> Iterator[Settings]:
    """Settings of an empty home with the dataset, and the stand-in's adapter as the track's."""
    with tempfile.TemporaryDirectory() as folder:
        known = {
            "swap_home": Path(folder),
            "swap_tracing": "outbox",
            "swap_row_limit": None,
            "slm_base_url": None,
        }
        known |= {"slm_model_path": download_packaged(ROOT / "slm_swap" / "models")}
        settings = load_settings().model_copy(update=known)
        shutil.copytree(ROOT / "slm_swap" / "02_dataset" / TRACK, settings.dataset / TRACK)
        shutil.copytree(ROOT / "slm_swap" / "stand_in", settings.adapter_of(TRACK))
        yield settings


def read_chats(settings: Settings) -> list[Any]:
    """The messages of the first test rows."""
    rows = read_rows(settings.dataset / TRACK / "test.jsonl", TRACK)[:ROWS]
    return [build_messages(TRACK, row.prompt) for row in rows]


def sort_chats(checkpoint: Checkpoint, chats: Sequence[Any]) -> list[Any]:
    """Longest prompt first, as `generate` takes them."""
    return sorted(
        chats, key=lambda chat: checkpoint.count_tokens(checkpoint.render(chat)), reverse=True
    )


def run(
    model: LoadedModel,
    chats: Sequence[Any],
    size: int,
    attention: str = ATTENTION,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Timed:
    """Seconds for one row, and outputs; `sdpa` as the attention means transformers' own `generate`."""
    model.network.set_attn_implementation(attention)
    start = time.perf_counter()
    prompts = [model.checkpoint.render(chat) for chat in chats]
    outputs = {
        i: generation.output for i, generation in model.generate(prompts, max_new_tokens, size)
    }
    return (time.perf_counter() - start) / len(chats), outputs


def run_alone(
    model: LoadedModel, chats: Sequence[Any], every: int, max_new_tokens: int = MAX_NEW_TOKENS
) -> Timed:
    """One row at a time with `generate`: every n-th, from the middle of the first n, for a fair share of all lengths."""
    taken = range(every // 2, len(chats), every)
    seconds, outputs = run(model, [chats[i] for i in taken], 1, "sdpa", max_new_tokens)
    return seconds, {i: outputs[k] for k, i in enumerate(taken)}


def time_product(settings: Settings, model: str, max_new_tokens: int = MAX_NEW_TOKENS) -> float:
    """Seconds for one row of `evaluate.run_model`, ledger and trace included, loading not."""
    options = {
        "limit": ROWS,
        "max_new_tokens": max_new_tokens,
        "batch_size": SLOTS[-1],
        "fresh": True,
    }
    return (
        1
        / evaluate.run_model(settings, TRACK, model, **options).metrics["extra"]["rows_per_second"]
    )


def compare(
    case: str, ours: Sequence[float], other: Sequence[float], differing: str = "", **more: Any
) -> dict[str, Any]:
    """A record in rows a second from seconds for one row; medians, our spread, and how many outputs differ."""
    rates = [1 / statistics.median(seconds) for seconds in (ours, other)]
    spread = [round(1 / max(ours), 3), round(1 / min(ours), 3)]
    return make_record(case, *rates, "rows/s", spread=spread, differing=differing, **more)


def count_differing(first: dict[int, Any], second: dict[int, Any]) -> str:
    """How many of the rows that both have answered differ, in words."""
    shared = first.keys() & second.keys()
    return f"{sum(first[i] != second[i] for i in shared)} of {len(shared)}"


def name_checkpoint(settings: Settings, model: str) -> Checkpoint:
    """The packaged checkpoint, `slm_ft` with the stand-in's adapter."""
    return Checkpoint(
        settings.slm_model_path, settings.adapter_of(TRACK) if model == "slm_ft" else None
    )


def measure_model(settings: Settings, model: str) -> list[dict[str, Any]]:
    """Ours against scripts around `generate`: the weights dequantised once, an adapter beside them."""
    checkpoint = name_checkpoint(settings, model)
    slm, script = load(checkpoint), load(checkpoint, is_dequantised=True, is_merged=False)
    packed = load(checkpoint, is_dequantised=False)
    chats = sort_chats(checkpoint, read_chats(settings))
    run(slm, chats[:2], 2), run(script, chats[:2], 2, "sdpa")  # warm up
    sides: dict[Any, Callable[[], Timed]] = {
        "one row at a time": lambda: run_alone(script, chats, ALONE),
        f"batches of {BATCH} with generate": lambda: run(script, chats, BATCH, "sdpa"),
    } | {size: lambda size=size: run(slm, chats, size) for size in SLOTS}
    seconds: dict[Any, list[float]] = {"product": []}
    outputs: dict[Any, dict[int, str]] = {}
    for _ in range(REPEATS):
        for name, measure in sides.items():
            found, outputs[name] = measure()
            seconds.setdefault(name, []).append(found)
        seconds["product"].append(time_product(settings, model))
    as_loaded = "one row at a time, 4-bit weights dequantised in every step"
    run(packed, chats[:1], 1, "sdpa")
    found, outputs[as_loaded] = run_alone(packed, chats, 2 * ALONE)
    seconds[as_loaded] = [found]
    rows = {"model": model, "rows": ROWS, "tokens": MAX_NEW_TOKENS}
    pairs = [(name, "product", name) for name in seconds if name not in ("product", *SLOTS)]
    pairs += [
        (f"{n} rows in work at once against one row at a time", n, "one row at a time")
        for n in SLOTS
    ]
    records = []
    for case, ours, other in pairs:
        differing = count_differing(
            outputs[SLOTS[-1] if ours == "product" else ours], outputs[other]
        )
        more = rows | {"other_rows": len(outputs[other])}
        records.append(compare(case, seconds[ours], seconds[other], differing, **more))
    return records


def measure_full_length(settings: Settings) -> list[dict[str, Any]]:
    """The base model with the limit that an evaluation has by default: it seldom ends by itself."""
    model, limit = load(name_checkpoint(settings, "slm")), 256
    chats = sort_chats(model.checkpoint, read_chats(settings))
    run(model, chats[:2], 2)
    alone, outputs = run_alone(model, chats, 2 * ALONE, limit)
    ours = [time_product(settings, "slm", limit) for _ in range(REPEATS)]
    differing = count_differing(run(model, chats, SLOTS[-1], max_new_tokens=limit)[1], outputs)
    more = {"model": "slm", "rows": ROWS, "tokens": limit, "other_rows": len(outputs)}
    return [compare("one row at a time", ours, [alone], differing, **more)]


def measure_harness(settings: Settings) -> list[dict[str, Any]]:
    """Ours against lm-evaluation-harness, its `hf` model and generate_until on the same weights and prompts."""
    model = load(name_checkpoint(settings, "slm"))
    chats = sort_chats(model.checkpoint, read_chats(settings))
    run(model, chats[:2], 2)
    ours, outputs = (
        [time_product(settings, "slm") for _ in range(REPEATS)],
        run(model, chats, SLOTS[-1])[1],
    )
    found = run_harness(model.checkpoint, chats)
    rows = {"model": "slm", "rows": ROWS, "tokens": MAX_NEW_TOKENS}
    records = []
    for size, other in sorted(
        found.items(), key=lambda item: min(item[1]["seconds"])
    ):  # its best batch size first
        same = {i: text.strip() for i, text in enumerate(other["outputs"])}
        differing = count_differing({i: text.strip() for i, text in outputs.items()}, same)
        seconds = [t / len(chats) for t in other["seconds"]]
        records.append(
            compare("lm-evaluation-harness", ours, seconds, differing, **rows, its_batch=size)
        )
    return records


def run_harness(checkpoint: Checkpoint, chats: Sequence[Any]) -> dict[int, dict[str, Any]]:
    """By batch size, the harness's seconds for all rows, and its outputs."""
    with tempfile.TemporaryDirectory() as folder:
        weights = load(checkpoint, is_dequantised=True).network
        if hasattr(weights.config, "quantization_config"):
            del weights.config.quantization_config
        plain = AutoModelForCausalLM.from_config(
            weights.config, dtype=weights.dtype, trust_remote_code=False
        )
        plain.load_state_dict(weights.state_dict())
        plain.save_pretrained(folder)
        checkpoint.tokenizer.save_pretrained(folder)
        (Path(folder) / "texts.json").write_text(
            json.dumps([checkpoint.render(chat) for chat in chats])
        )
        # It would look for the folder on the hub.
        known, found = (os.environ | {"HF_HUB_OFFLINE": "1"}, {})
        for size in SLOTS:
            words = [
                os.environ.get("HARNESS_PYTHON", sys.executable),
                "-m",
                "benchmarks.harness",
                folder,
                size,
            ]
            command = list(map(str, [*words, MAX_NEW_TOKENS, REPEATS]))
            done = subprocess.run(
                command, cwd=ROOT, env=known, stdout=subprocess.PIPE, text=True, check=True
            )
            found[size] = json.loads(done.stdout.splitlines()[-1])
    return found


PARTS = {
    "slm": lambda settings: measure_model(settings, "slm"),
    "slm_ft": lambda settings: measure_model(settings, "slm_ft"),
    "full_length": measure_full_length,
    "harness": measure_harness,
}


def main(known: dict[str, Any], *parts: str) -> None:
    """Measure parts, and replace the records of each as it is done."""
    for part in parts:
        with home() as settings:
            write_records(f"{part}, GPU" if HAS_GPU else part, known[part](settings))


if __name__ == "__main__":
    main(PARTS, *sys.argv[1:])
