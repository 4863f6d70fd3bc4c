"""A 7B with random weights on a GPU: what a row and a step cost, and how far from the floor.

    python -m benchmarks.throughput_7b

Random weights cost what trained ones cost; their logits tie often, so outputs differ wherever
rounding does. Records go to benchmarks/results/throughput.json, the kernels of a step to
throughput_7b_profile.txt beside it.
"""

import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.homes import open_packaged_home
from benchmarks.local_timing import (
    BATCH,
    MAX_NEW_TOKENS,
    REPEATS,
    TRACK,
    Chat,
    Timed,
    compare,
    count_differing,
    read_chats,
    run,
    sort_chats,
)
from benchmarks.random_7b import make_7b
from benchmarks.records import RESULTS, Record, make_record, write_part
from swaplib.models.decoding import ATTENTION
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.models.local_model import LoadedModel, load

SIZES = (1, 16, 64)  # rows at once
STEPS = 32  # steps timed after the one that captures the CUDA graph
KINDS = {
    "matrix products": "gemm|gemv|nvjet|cutlass|splitk|kgemm|dequant",
    "attention": "fmha|flash|attention|sdpa",
}
WAYS = {
    "4-bit, in every step": ("4bit", False),
    "4-bit, dequantised once": ("4bit", True),
    "bfloat16": ("bfloat16", None),
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


def watch_steps(
    model: LoadedModel, chats: Sequence[Chat], on_step: Callable[[int], object] = lambda n: None
) -> list[float]:
    """When each of STEPS + 2 tokens came, in seconds from the start: the first by prefill.

    Args:
        model: What answers; all rows are one batch.
        chats: The rows.
        on_step: Called with the number of tokens that each row has, once the first row has them.
    """
    model.network.set_attn_implementation(ATTENTION)
    prompts = [model.checkpoint.render(chat) for chat in chats]
    n_tokens: Counter[int] = Counter()
    moments: list[float] = []

    def on_token(index: int, token: int) -> None:
        n_tokens[index] += 1
        if n_tokens[index] > len(moments):  # a step reports the tokens of all rows at once
            moments.append(time.perf_counter() - start)
            on_step(len(moments))

    start = time.perf_counter()
    list(model.generate(prompts, STEPS + 2, len(prompts), on_token))
    return moments


def measure_steps(
    model: LoadedModel, chats: Sequence[Chat], name: str, bandwidth: float
) -> list[Record]:
    """Milliseconds of a step, against a floor of reading weights and cache once; and of prefill."""
    prefill, first, *steps = watch_steps(model, chats)
    step = 1000 * (steps[-1] - first) / len(steps)
    network, config = model.network, model.network.config
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    if not config.tie_word_embeddings:
        weights -= network.get_input_embeddings().weight.nbytes  # a step reads a few of its rows
    prompts = [model.checkpoint.render(chat) for chat in chats]
    tokens = sum(map(model.checkpoint.count_tokens, prompts)) + len(chats) * len(steps) // 2
    cache = count_cache_bytes(model) * tokens
    floor = 1000 * (weights + cache) / bandwidth
    case = f"{name}, {len(chats)} rows at once: a step against its floor"
    more = {"weights_gb": round(weights / 1e9, 2), "cache_gb": round(cache / 1e9, 2)}
    more |= {"prompts_read_s": round(prefill, 3), "first_step_s": round(first - prefill, 3)}
    return [make_record(case, step, floor, "ms", **more)]


def count_cache_bytes(model: LoadedModel) -> int:
    """Bytes of keys and values for one token."""
    config = model.network.config
    head_size = getattr(config, "head_dim", None)
    head_size = head_size or config.hidden_size // config.num_attention_heads
    per_layer = 2 * config.num_key_value_heads * head_size * model.network.dtype.itemsize
    return config.num_hidden_layers * per_layer


def write_profile(model: LoadedModel, chats: Sequence[Chat]) -> list[Record]:
    """GPU time of a step by kind of kernel; writes the kernels to a file beside the records."""
    found = profile(activities=[ProfilerActivity.CUDA])

    def on_step(n: int) -> None:
        if n == 2:
            found.start()
        elif n == STEPS + 2:
            found.stop()

    watch_steps(model, chats, on_step)
    kernels = [event for event in found.key_averages() if event.self_device_time_total]
    spent: Counter[str] = Counter()
    for kernel in kernels:
        kinds = [k for k, names in KINDS.items() if re.search(names, kernel.key, re.IGNORECASE)]
        spent[[*kinds, "the rest"][0]] += kernel.self_device_time_total / 1000 / STEPS
    lines = [f"{len(chats)} rows at once, bfloat16: milliseconds of a step, calls a step, kernel"]
    for kernel in sorted(kernels, key=lambda kernel: -kernel.self_device_time_total)[:25]:
        milliseconds = kernel.self_device_time_total / 1000 / STEPS
        lines.append(f"{milliseconds:8.3f} {kernel.count / STEPS:6.1f}  {kernel.key[:150]}")
    (RESULTS / "throughput_7b_profile.txt").write_text("\n".join(lines) + "\n")
    return [
        make_record(f"GPU time of a step, {len(chats)} rows, bfloat16: {kind}", ms, None, "ms")
        for kind, ms in spent.most_common()
    ]


def measure_library(
    model: LoadedModel, chats: Sequence[Chat], ours: float, outputs: dict[int, str]
) -> list[Record]:
    """What transformers offers, at as many rows at once; ours is seconds for one row."""
    config, case = model.network.generation_config, f"bfloat16, {len(chats)} rows at once"
    found = {"generate": run(model, chats, len(chats), "sdpa")}
    found["continuous batching (generate_batch)"] = run_continuous(model, chats)
    config.cache_implementation = "static"
    for again in ("compiling included", "the second time"):
        found[f"generate, static cache, {again}"] = run(model, chats, len(chats), "sdpa")
    config.cache_implementation = None
    return [
        compare(f"{case} against {name}", [ours], [seconds], count_differing(outputs, other))
        for name, (seconds, other) in found.items()
    ]


def run_continuous(model: LoadedModel, chats: Sequence[Chat]) -> Timed:
    """transformers' continuous batching, with the start of its manager, which every run pays."""
    network, checkpoint = model.network, model.checkpoint
    network.set_attn_implementation("sdpa")
    prompts = [checkpoint.encode(checkpoint.render(chat)) for chat in chats]
    start = time.perf_counter()
    found = network.generate_batch(
        prompts, generation_config=network.generation_config, max_new_tokens=MAX_NEW_TOKENS
    )
    seconds = (time.perf_counter() - start) / len(chats)
    answers = enumerate(found.values())
    return seconds, {i: model.detokenise(answer.generated_tokens) for i, answer in answers}


def measure() -> list[Record]:
    """Sizes and precisions against batches of `generate`; steps against their floor."""
    path, bandwidth = Path(make_7b()), measure_bandwidth()
    case = "memory bandwidth, a copy on the device"
    records = [make_record(case, bandwidth / 1e12, None, "TB/s")]
    with open_packaged_home(TRACK) as settings:
        chats = sort_chats(Checkpoint(path), read_chats(settings))
        small = load(Checkpoint(settings.slm_model_path))
        name = "SmolLM2-135M, 4-bit dequantised once"
        run(small, chats[:2], 2)
        records += measure_steps(small, chats[: SIZES[-1]], name, bandwidth)
    for name, (precision, is_dequantised) in WAYS.items():
        model = load(Checkpoint(path, None, precision), is_dequantised)
        run(model, chats[:2], 2, "sdpa")
        for size in SIZES:
            other = [run(model, chats[:size], BATCH, "sdpa") for _ in range(REPEATS)]
            ours = [run(model, chats[:size], size) for _ in range(REPEATS)]
            case = f"{name}, {size} rows at once against generate, batches of {BATCH}"
            differing = count_differing(ours[0][1], other[0][1])
            records.append(compare(case, [t for t, _ in ours], [t for t, _ in other], differing))
            records += measure_steps(model, chats[:size], name, bandwidth)
        if name == "bfloat16":
            records += write_profile(model, chats[: SIZES[-1]])
            seconds = statistics.median(t for t, _ in ours)
            records += measure_library(model, chats[: SIZES[-1]], seconds, ours[0][1])
        del model
        torch.cuda.empty_cache()
    return records


if __name__ == "__main__":
    write_part("7b, GPU", measure())
