"""Rows a second of local evaluation: ours beside one row at a time, batches of `generate`, and lm-evaluation-harness.

    .venv/bin/python -m benchmarks.throughput local    # the packaged checkpoint on this machine, CPU or GPU
    .venv/bin/python -m benchmarks.throughput levers   # what each part of the decoding brings, and what brought nothing
    .venv/bin/python -m benchmarks.throughput stages   # where an evaluation's time goes, before and after
    .venv/bin/python -m benchmarks.throughput 7b       # a GPU: a model of Qwen2.5-7B's shape with random weights

All sides answer the same test rows, longest first, with the same token limit, in turn, several times; medians count. The
harness runs where `lm_eval` can be imported (`pip install lm-eval==0.4.13`), as a process of its own on the same weights.
Records go to benchmarks/results/throughput.json, as parts of their own for a GPU (`local, GPU`, say).
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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AttentionInterface, AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from benchmarks.costs import make_7b
from benchmarks.records import make_record, write_records
from swaplib import decoding, evaluate
from swaplib.checkpoints import PACKAGED_NAME, download
from swaplib.local import LocalSLM
from swaplib.metrics import score_row
from swaplib.prompts import build_messages
from swaplib.rows import Generation, LedgerLine, append_line, hash_text, read_rows
from swaplib.settings import ROOT, Settings, load_settings

HAS_GPU = torch.cuda.is_available()
TRACK, MAX_NEW_TOKENS, REPEATS = "toolcall", 64, 2
ROWS = 64 if HAS_GPU else 48
ALONE = 16 if HAS_GPU else 4  # every so many rows one at a time: all of them would take minutes
BATCH, HARNESS_BATCHES = 16, (64,) if HAS_GPU else (48,)
SLOTS = (16, 64) if HAS_GPU else (16, 48)
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
    """Longest prompt first, as `generate` takes them, so that every n-th one is a fair share of all lengths."""
    return sorted(chats, key=lambda chat: slm.count_tokens(slm.render(chat)), reverse=True)


def run(slm: LocalSLM, chats: Sequence[Any], size: int, attention: str = decoding.ATTENTION) -> Timed:
    """Seconds for one row, and outputs; `sdpa` as the attention means transformers' own `generate`."""
    slm.model.set_attn_implementation(attention)
    object.__setattr__(slm, "batch_size", size)
    start = time.perf_counter()
    outputs = {i: generation.output for i, generation in slm.generate(chats, MAX_NEW_TOKENS)}
    return (time.perf_counter() - start) / len(chats), outputs


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


def count_differing(first: dict[int, str], second: dict[int, str]) -> str:
    """How many of the rows that both have answered differ, in words."""
    shared = first.keys() & second.keys()
    return f"{sum(first[i] != second[i] for i in shared)} of {len(shared)}"


def measure_local() -> list[dict[str, Any]]:
    """Ours against the three others, for the base model and with an adapter."""
    records = []
    with home() as settings:
        for model in ("slm", "slm_ft"):
            slm = LocalSLM(settings.slm_model_path, settings.adapter_of(TRACK) if model == "slm_ft" else None)
            chats = sort_chats(slm, read_chats(settings))
            run(slm, chats[:2], 2), run(slm, chats[:2], 2, "sdpa")  # warm up
            seconds: dict[Any, list[float]] = {}
            outputs: dict[Any, dict[int, str]] = {}
            for _ in range(REPEATS):
                for name, timed in {
                    "alone": run(slm, chats[::ALONE], 1, "sdpa"),
                    "batches": run(slm, chats, BATCH, "sdpa"),
                    **{size: run(slm, chats, size) for size in SLOTS},
                }.items():
                    seconds.setdefault(name, []).append(timed[0])
                    outputs[name] = timed[1]
                seconds.setdefault("product", []).append(time_product(settings, model, SLOTS[-1]))
            outputs["alone"] = {i * ALONE: text for i, text in outputs["alone"].items()}
            what, ours = {"model": model, "rows": ROWS}, seconds["product"]
            for name, case in {"alone": "one row at a time", "batches": f"batches of {BATCH} with generate"}.items():
                differing = count_differing(outputs[SLOTS[-1]], outputs[name])
                records.append(compare(case, ours, seconds[name], differing, **what))
            for size in SLOTS:
                differing = count_differing(outputs[size], outputs[SLOTS[-1]])
                case = f"{size} rows in work at once against one row at a time"
                records.append(compare(case, seconds[size], seconds["alone"], differing, **what))
            if model == "slm" and (found := run_harness(slm, chats, outputs[SLOTS[-1]])):
                size, other, differing = found
                records.append(compare("lm-evaluation-harness", ours, other, differing, **what, its_batch=size))
    return records


def run_harness(slm: LocalSLM, chats: Sequence[Any], ours: dict[int, str]) -> tuple[int, list[float], str] | None:
    """The harness's best batch size, its seconds for one row, how many outputs differ; None where it is not installed."""
    if subprocess.run([sys.executable, "-c", "import lm_eval"], stderr=subprocess.DEVNULL).returncode:
        print("lm_eval is not installed: the harness is left out")
        return None
    with tempfile.TemporaryDirectory() as folder:
        weights = slm._load(is_dequantised=True)
        if hasattr(weights.config, "quantization_config"):
            del weights.config.quantization_config
        plain = AutoModelForCausalLM.from_config(weights.config, dtype=weights.dtype)
        plain.load_state_dict(weights.state_dict())
        plain.save_pretrained(folder)
        slm.tokenizer.save_pretrained(folder)
        texts = Path(folder) / "texts.json"
        texts.write_text(json.dumps([slm.render(chat) for chat in chats]))
        known, found = os.environ | {"HF_HUB_OFFLINE": "1"}, {}  # it would look for the folder on the hub
        for size in HARNESS_BATCHES:
            command = [sys.executable, "-m", "benchmarks.throughput", "harness", folder, str(size)]
            done = subprocess.run(command, env=known, stdout=subprocess.PIPE, text=True, check=True)
            found[size] = json.loads(done.stdout.splitlines()[-1])
    best = min(found, key=lambda size: statistics.median(found[size]["seconds"]))
    same = dict(enumerate(text.strip() for text in found[best]["outputs"]))
    differing = count_differing({i: text.strip() for i, text in ours.items()}, same)
    return best, [seconds / len(chats) for seconds in found[best]["seconds"]], differing


def time_harness(folder: str, size: str) -> None:
    """The child process: the harness's `hf` model and its generate_until, warm, several times."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    texts = json.loads((Path(folder) / "texts.json").read_text())
    options = {"until": ["<|im_end|>"], "max_gen_toks": MAX_NEW_TOKENS, "do_sample": False}
    dtype = "bfloat16" if HAS_GPU else "float32"
    device = "cuda" if HAS_GPU else "cpu"
    model = HFLM(pretrained=folder, dtype=dtype, device=device, batch_size=int(size))
    asked = [Instance("generate_until", {}, (text, options), i) for i, text in enumerate(texts)]
    model.generate_until(asked[:2], disable_tqdm=True)
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        outputs = model.generate_until(asked, disable_tqdm=True)
        seconds.append(time.perf_counter() - start)
    print("\n" + json.dumps({"seconds": seconds, "outputs": outputs}))


@contextlib.contextmanager
def without(place: Any, name: str, instead: Any) -> Iterator[None]:
    """One part of the decoding replaced."""
    kept = getattr(place, name)
    setattr(place, name, instead)
    yield
    setattr(place, name, kept)


def launch_each(work: Any) -> Any:
    """In place of the CUDA graph."""
    return lambda: work._step(work.width)


def measure_levers() -> list[dict[str, Any]]:
    """Each lever: with it against without it, on the rows of the adapter's run."""
    with home() as settings:
        adapter, size = settings.adapter_of(TRACK), SLOTS[-1]
        slm = LocalSLM(settings.slm_model_path, adapter)
        chats = sort_chats(slm, read_chats(settings))
        run(slm, chats[:2], 2)
        merged, variants = LocalSLM(slm.path), {}
        merged.__dict__["model"] = decoding.prepare(slm.load_merged())
        if HAS_GPU:
            packed = LocalSLM(slm.path, adapter)
            packed.__dict__["model"] = packed._load(is_dequantised=False)
            variants["dequantised once against in every step"] = lambda: run(packed, chats, size)
            variants["a step as one CUDA graph"] = patched(decoding._Slots, "_capture", launch_each, slm, chats, size)
        else:
            variants["rows leave at the end"] = patched(decoding._Slots, "compact", lambda work: None, slm, chats, size)
            variants["2 threads against 1"] = lambda: run_on_one_thread(slm, chats, size)
            variants["float32 against bfloat16"] = lambda: run(half, chats, size)
            half = LocalSLM(slm.path, adapter, "bfloat16")
        variants["the shared prefix is read once"] = patched(decoding, "_count_shared", lambda p: 0, slm, chats, size)
        variants["new rows join, against batches of 16"] = lambda: run_in_batches(slm, chats)
        variants["adapter as it is against merged into the weights"] = lambda: run(merged, chats, size)
        variants["grouped attention against repeated keys and values"] = lambda: run_repeating(slm, chats, size)
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
        return records + measure_library(slm, chats, [t for t, _ in with_it])


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
    found = run(*arguments)
    torch.set_num_threads(threads)
    return found


def run_in_batches(slm: LocalSLM, chats: Sequence[Any]) -> Timed:
    """Batches that wait for their last row."""
    found = [run(slm, chats[i : i + BATCH], BATCH) for i in range(0, len(chats), BATCH)]
    seconds = sum(t * len(outputs) for t, outputs in found) / len(chats)
    return seconds, {i * BATCH + k: text for i, (_, outputs) in enumerate(found) for k, text in outputs.items()}


def run_repeating(*arguments: Any) -> Timed:
    """With transformers' SDPA, which copies keys and values for each head of a group."""
    AttentionInterface.register(decoding.ATTENTION, sdpa_attention_forward)
    found = run(*arguments)
    AttentionInterface.register(decoding.ATTENTION, decoding._attend)
    return found


def measure_library(slm: LocalSLM, chats: Sequence[Any], ours: Sequence[float]) -> list[dict[str, Any]]:
    """Lookup decoding, which transformers has for one row at a time."""
    slm.model.generation_config.prompt_lookup_num_tokens = 8
    seconds = [run(slm, chats[::ALONE], 1, "sdpa")[0]]
    slm.model.generation_config.prompt_lookup_num_tokens = None
    return [compare("ours against prompt lookup, one row at a time", ours, seconds)]


def measure_stages() -> list[dict[str, Any]]:
    """Seconds of an evaluation by stage: `ours` with this decoding, `other` with batches of `generate`."""
    with home() as settings:
        start = time.perf_counter()
        slm = LocalSLM(settings.slm_model_path, settings.adapter_of(TRACK))
        chats = sort_chats(slm, read_chats(settings))
        assert slm.model  # noqa: S101 - loads it
        loading, stages = time.perf_counter() - start, {}
        for name, (size, attention) in {"ours": (SLOTS[-1], decoding.ATTENTION), "other": (BATCH, "sdpa")}.items():
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
            append_line(
                settings.swap_home / "ledger.jsonl", LedgerLine(i, hash_text(""), answer, scores[i], 1.0).to_json()
            )
        kept = time.perf_counter() - start
        traced = time_trace(settings, rows, scores)
        for of_side in stages.values():
            of_side |= {"scoring": scored, "ledger": kept, "tracing": traced}
        return [
            make_record(f"{stage} ({ROWS} rows, slm_ft)", ours, stages["other"][stage], "s")
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


def measure_7b() -> list[dict[str, Any]]:
    """A 7B's shape: sizes and precisions against batches of `generate`, and a step against its floor."""
    path, records = Path(make_7b()), []
    bandwidth = measure_bandwidth()
    records.append(make_record("memory bandwidth, device to device copy", bandwidth / 1e12, None, "TB/s"))
    with home() as settings:
        for name, slm, is_dequantised in (
            ("4-bit, in every step", LocalSLM(path), False),
            ("4-bit, dequantised once", LocalSLM(path), True),
            ("bfloat16", LocalSLM(path, precision="bfloat16"), None),
        ):
            slm.__dict__["model"] = slm._load(is_dequantised)
            chats = sort_chats(slm, read_chats(settings))
            run(slm, chats[:2], 2, "sdpa")
            other, expected = run(slm, chats[:BATCH], BATCH, "sdpa")
            for size in (BATCH, ROWS):
                some = chats[:size]
                seconds, outputs = min((run(slm, some, size) for _ in range(2)), key=lambda timed: timed[0])
                differing = count_differing(outputs, expected)
                records.append(
                    compare(
                        f"{name}, {size} rows at once against generate, {BATCH} rows", [seconds], [other], differing
                    )
                )
                records.append(measure_step(slm, some, size, name, seconds, bandwidth))
            if name == "bfloat16":
                records += measure_offers(slm, chats[:64], records)
                write_profile(slm, chats[:64])
            del slm.__dict__["model"]
            torch.cuda.empty_cache()
    return records


def measure_bandwidth() -> float:
    """Bytes a second, read and written, of a large copy on the device."""
    source = torch.randint(0, 255, (4 * 2**30,), dtype=torch.uint8, device="cuda")
    target, times = torch.empty_like(source), []
    for _ in range(5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 2 * source.numel() / statistics.median(times)


def measure_step(
    slm: LocalSLM, chats: Sequence[Any], size: int, name: str, seconds: float, bandwidth: float
) -> dict[str, Any]:
    """Milliseconds of one decoding step beside its floor: weights and cache read once at the measured bandwidth."""
    with without(sys.modules[__name__], "MAX_NEW_TOKENS", 1):
        prefill = min(run(slm, chats, size)[0] for _ in range(2)) * len(chats)
    step = 1000 * (seconds * len(chats) - prefill) / (MAX_NEW_TOKENS - 1)
    config, lengths = slm.model.config, [slm.count_tokens(slm.render(chat)) for chat in chats]
    weights = sum(p.numel() * p.element_size() for p in slm.model.parameters())
    weights -= slm.model.get_input_embeddings().weight.numel() * 2  # a step reads a few of its rows
    cache = 4 * config.num_hidden_layers * config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    floor = 1000 * (weights + cache * sum(lengths)) / bandwidth
    case = f"{name}, {size} rows at once: a step against its floor (prefill {prefill:.2f} s)"
    return make_record(case, step, floor, "ms")


def measure_offers(slm: LocalSLM, chats: Sequence[Any], known: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What transformers offers at 64 rows: its dynamic cache, and a compiled static cache."""
    ours = next(1 / r["ours"] for r in known if r["case"].startswith("bfloat16, 64 rows at once against"))
    records = [compare("bfloat16, 64 rows against generate, 64 rows", [ours], [run(slm, chats, 64, "sdpa")[0]])]
    slm.model.generation_config.cache_implementation = "static"
    for name in ("compiling included", "the second time"):
        seconds = run(slm, chats, 64, "sdpa")[0]
        records.append(compare(f"bfloat16, 64 rows against generate, static cache, {name}", [ours], [seconds]))
    slm.model.generation_config.cache_implementation = None
    return records


def write_profile(slm: LocalSLM, chats: Sequence[Any]) -> None:
    """The kernels of one decoding, by time, beside the records."""
    from torch.profiler import ProfilerActivity, profile

    from benchmarks.records import RESULTS

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        run(slm, chats, len(chats))
    table = found.key_averages().table(sort_by="self_cuda_time_total", row_limit=15, max_name_column_width=60)
    (RESULTS / "throughput_7b_profile.txt").write_text(table)


PARTS = {"local": measure_local, "levers": measure_levers, "stages": measure_stages, "7b": measure_7b}


def main(part: str) -> None:
    """Measure one part, and replace its records."""
    write_records(f"{part}, GPU" if HAS_GPU else part, PARTS[part]())


if __name__ == "__main__":
    time_harness(*sys.argv[2:]) if sys.argv[1] == "harness" else main(sys.argv[1])
