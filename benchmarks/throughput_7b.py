"""A model of Qwen2.5-7B's shape, with random weights, on a GPU: what a row and a step cost, and how far from the floor.

    .venv/bin/python -m benchmarks.throughput_7b

Random weights cost what trained ones cost; their logits tie often, so outputs differ wherever rounding does. Records go to
benchmarks/results/throughput.json, the kernels of a step to throughput_7b_profile.txt beside it.
"""

import re
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from benchmarks import throughput
from benchmarks.costs import make_7b
from benchmarks.records import RESULTS, make_record, write_records
from benchmarks.throughput import BATCH, MAX_NEW_TOKENS, compare, count_differing, home, load, run, run_continuous
from swaplib import decoding
from swaplib.local import LocalSLM

SIZES = (1, 16, 64)  # rows at once
STEPS = 32
KINDS = {"matrix products": "gemm|gemv|nvjet|cutlass|splitk|kgemm|dequant", "attention": "fmha|flash|attention|sdpa"}
WAYS = {
    "4-bit, in every step": ("4bit", {"is_dequantised": False}),
    "4-bit, dequantised once": ("4bit", {"is_dequantised": True}),
    "bfloat16": ("bfloat16", {}),
}


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


@torch.inference_mode()
def measure_steps(slm: LocalSLM, chats: Sequence[Any], name: str, bandwidth: float) -> list[dict[str, Any]]:
    """Milliseconds of a step beside its floor, weights and cache read once; and of reading the prompts beside theirs."""
    prompts = [slm._encode(slm.render(chat)) for chat in chats]
    start = time.perf_counter()
    work = decoding._Slots(slm.model, prompts, MAX_NEW_TOKENS, len(prompts))
    work.join(list(range(len(prompts))), list(range(len(prompts))))
    reading = time.perf_counter() - start
    start = time.perf_counter()
    work.step()
    capturing = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(STEPS):
        work.step()
    step = 1000 * (time.perf_counter() - start) / STEPS
    config = slm.model.config
    weights = sum(p.numel() * p.element_size() for p in slm.model.parameters())
    if not config.tie_word_embeddings:
        weights -= slm.model.get_input_embeddings().weight.nbytes  # a step reads a few of its rows
    cache = sum(layer.keys.nbytes + layer.values.nbytes for layer in work.layers) // (len(prompts) * work.width)
    tokens = sum(map(len, prompts)) + len(prompts) * STEPS // 2
    floor = 1000 * (weights + cache * tokens) / bandwidth
    case = f"{name}, {len(prompts)} rows at once: a step against its floor"
    more = {"weights_gb": round(weights / 1e9, 2), "cache_gb": round(cache * tokens / 1e9, 2)}
    more |= {"prompts_read_s": round(reading, 3), "first_step_s": round(capturing, 3)}
    return [make_record(case, step, floor, "ms", **more)]


@torch.inference_mode()
def write_profile(slm: LocalSLM, chats: Sequence[Any]) -> list[dict[str, Any]]:
    """GPU time of a step by kind of kernel; the kernels themselves beside the records."""
    prompts = [slm._encode(slm.render(chat)) for chat in chats]
    work = decoding._Slots(slm.model, prompts, MAX_NEW_TOKENS, len(prompts))
    work.join(list(range(len(prompts))), list(range(len(prompts))))
    work.step()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(STEPS):
            work.step()
        torch.cuda.synchronize()
    kernels = [event for event in found.key_averages() if event.self_device_time_total]
    spent: Counter[str] = Counter()
    for kernel in kernels:
        kind = next((k for k, names in KINDS.items() if re.search(names, kernel.key, re.IGNORECASE)), "the rest")
        spent[kind] += kernel.self_device_time_total / 1000 / STEPS
    lines = [f"{len(prompts)} rows at once, bfloat16: milliseconds of a step, calls a step, kernel"]
    for kernel in sorted(kernels, key=lambda kernel: -kernel.self_device_time_total)[:25]:
        milliseconds = kernel.self_device_time_total / 1000 / STEPS
        lines.append(f"{milliseconds:8.3f} {kernel.count / STEPS:6.1f}  {kernel.key[:150]}")
    (RESULTS / "throughput_7b_profile.txt").write_text("\n".join(lines) + "\n")
    return [
        make_record(f"GPU time of a step, {len(prompts)} rows, bfloat16: {kind}", ms, None, "ms")
        for kind, ms in spent.most_common()
    ]


def measure_offers(slm: LocalSLM, chats: Sequence[Any], ours: float, outputs: dict[int, str]) -> list[dict[str, Any]]:
    """Other attention kernels, and what transformers offers, at as many rows at once; ours is seconds for one row."""
    records, case = [], f"bfloat16, {len(chats)} rows at once"

    def add(name: str, measure: Any) -> None:
        try:
            seconds, found = measure()
        except RuntimeError as error:
            records.append({"case": f"{case} against {name}", "note": f"fails: {str(error).splitlines()[0][:80]}"})
            return
        records.append(compare(f"{case} against {name}", [ours], [seconds], count_differing(outputs, found)))

    for name, kernel in {"cuDNN": SDPBackend.CUDNN_ATTENTION, "math": SDPBackend.MATH}.items():
        with sdpa_kernel(kernel):
            add(f"its attention by the {name} kernel", lambda: run(slm, chats, len(chats)))
    add(
        "steps launched one by one",
        throughput.patched(decoding._Slots, "_capture", throughput.launch_each, slm, chats, len(chats)),
    )
    add("generate", lambda: run(slm, chats, len(chats), "sdpa"))
    add("continuous batching (generate_batch)", lambda: run_continuous(slm, chats))
    with throughput.without(slm.model.generation_config, "cache_implementation", "static"):
        for again in ("compiling included", "the second time"):
            add(f"generate, static cache, {again}", lambda: run(slm, chats, len(chats), "sdpa"))
    return records


def measure() -> list[dict[str, Any]]:
    """Sizes and precisions against batches of `generate`; steps against their floor."""
    path, bandwidth = Path(make_7b()), measure_bandwidth()
    records = [make_record("memory bandwidth, a copy on the device", bandwidth / 1e12, None, "TB/s")]
    with home() as settings:
        chats = throughput.sort_chats(LocalSLM(path), throughput.read_chats(settings))
        small = load(settings.slm_model_path)
        run(small, chats[:2], 2)
        records += measure_steps(small, chats[: SIZES[-1]], "SmolLM2-135M, 4-bit dequantised once", bandwidth)
    for name, (precision, how) in WAYS.items():
        slm = load(path, precision=precision, **how)
        run(slm, chats[:2], 2, "sdpa")
        for size in SIZES:
            some, repeats = chats[:size], range(throughput.REPEATS)
            other = [run(slm, some, BATCH, "sdpa") for _ in repeats]
            ours = [run(slm, some, size) for _ in repeats]
            seconds, outputs = statistics.median(t for t, _ in ours), ours[0][1]
            case = f"{name}, {size} rows at once against generate, batches of {BATCH}"
            differing = count_differing(outputs, other[0][1])
            records.append(compare(case, [t for t, _ in ours], [t for t, _ in other], differing))
            records += measure_steps(slm, chats[:size], name, bandwidth)
        if name == "bfloat16":
            records += write_profile(slm, chats[: SIZES[-1]])
            records += measure_offers(slm, chats[: SIZES[-1]], seconds, outputs)
        del slm
        torch.cuda.empty_cache()
    return records


if __name__ == "__main__":
    write_records("7b, GPU", measure())
