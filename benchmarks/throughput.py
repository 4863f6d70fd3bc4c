"""Rows a second of local evaluation, against one row at a time, `generate`, lm-evaluation-harness.

    python -m benchmarks.throughput slm slm_ft full_length harness

All sides answer with the packaged checkpoint, on a CPU or a GPU, in turns and several times;
medians count. The harness (`pip install lm-eval==0.4.13`) is a process of its own on the same
weights, of the interpreter that HARNESS_PYTHON names, else of this one. Records go to
benchmarks/results/throughput.json, as parts of their own for a GPU (such as `slm, GPU`).
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from benchmarks.local_timing import (
    ALONE,
    BATCH,
    MAX_NEW_TOKENS,
    REPEATS,
    ROWS,
    SLOTS,
    Chat,
    Measure,
    Timed,
    compare,
    count_differing,
    measure_parts,
    name_checkpoint,
    read_chats,
    run,
    run_alone,
    sort_chats,
    time_product,
)
from benchmarks.records import Record
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.models.local_model import load
from swaplib.settings import ROOT, Settings

Side = str | int  # a script, `product`, or our decoder with that many slots


def measure_model(settings: Settings, model: str) -> list[Record]:
    """Ours against scripts around `generate`: weights dequantised once, an adapter unmerged."""
    checkpoint = name_checkpoint(settings, model)
    slm, script = load(checkpoint), load(checkpoint, is_dequantised=True, is_merged=False)
    packed = load(checkpoint, is_dequantised=False)
    chats = sort_chats(checkpoint, read_chats(settings))
    run(slm, chats[:2], 2)  # warm up
    run(script, chats[:2], 2, "sdpa")
    sides: dict[Side, Callable[[], Timed]] = {
        "one row at a time": lambda: run_alone(script, chats, ALONE),
        f"batches of {BATCH} with generate": lambda: run(script, chats, BATCH, "sdpa"),
    } | {size: lambda size=size: run(slm, chats, size) for size in SLOTS}
    seconds: dict[Side, list[float]] = {"product": []}
    outputs: dict[Side, dict[int, str]] = {}
    for _ in range(REPEATS):
        for name, measure in sides.items():
            found, outputs[name] = measure()
            seconds.setdefault(name, []).append(found)
        seconds["product"].append(time_product(settings, model))
    as_loaded = "one row at a time, 4-bit weights dequantised in every step"
    run(packed, chats[:1], 1, "sdpa")
    found, outputs[as_loaded] = run_alone(packed, chats, 2 * ALONE)
    seconds[as_loaded] = [found]
    outputs["product"] = outputs[SLOTS[-1]]  # the same rows by the same decoder
    return compare_sides(model, seconds, outputs)


def compare_sides(
    model: str, seconds: dict[Side, list[float]], outputs: dict[Side, dict[int, str]]
) -> list[Record]:
    """The product against every script, and each number of slots against one row at a time.

    Args:
        model: `slm` or `slm_ft`.
        seconds: By side, seconds for one row of each repeat; our sides are `product` and SLOTS.
        outputs: By side, the outputs of its rows.
    """
    alone = "one row at a time"
    pairs = [(name, "product", name) for name in seconds if name not in ("product", *SLOTS)]
    pairs += [(f"{n} rows in work at once against {alone}", n, alone) for n in SLOTS]
    records = []
    for case, ours, other in pairs:
        differing = count_differing(outputs[ours], outputs[other])
        more = {"model": model, "rows": ROWS, "tokens": MAX_NEW_TOKENS}
        more |= {"other_rows": len(outputs[other])}
        records.append(compare(case, seconds[ours], seconds[other], differing, **more))
    return records


def measure_full_length(settings: Settings) -> list[Record]:
    """The base model with the limit that an evaluation has by default: it seldom ends an answer."""
    model, limit = load(name_checkpoint(settings, "slm")), 256
    chats = sort_chats(model.checkpoint, read_chats(settings))
    run(model, chats[:2], 2)
    alone, outputs = run_alone(model, chats, 2 * ALONE, limit)
    ours = [time_product(settings, "slm", limit) for _ in range(REPEATS)]
    differing = count_differing(run(model, chats, SLOTS[-1], max_new_tokens=limit)[1], outputs)
    more = {"model": "slm", "rows": ROWS, "tokens": limit, "other_rows": len(outputs)}
    return [compare("one row at a time", ours, [alone], differing, **more)]


def measure_harness(settings: Settings) -> list[Record]:
    """Ours against lm-evaluation-harness's `hf` model on the same weights and prompts."""
    model = load(name_checkpoint(settings, "slm"))
    chats = sort_chats(model.checkpoint, read_chats(settings))
    run(model, chats[:2], 2)
    ours = [time_product(settings, "slm") for _ in range(REPEATS)]
    outputs = {i: text.strip() for i, text in run(model, chats, SLOTS[-1])[1].items()}
    found = run_harness(model.checkpoint, chats)
    records = []
    # The harness's best batch size first.
    for size, other in sorted(found.items(), key=lambda item: min(item[1]["seconds"])):
        its_outputs = {i: text.strip() for i, text in enumerate(other["outputs"])}
        differing = count_differing(outputs, its_outputs)
        seconds = [t / len(chats) for t in other["seconds"]]
        more = {"model": "slm", "rows": ROWS, "tokens": MAX_NEW_TOKENS, "its_batch": size}
        records.append(compare("lm-evaluation-harness", ours, seconds, differing, **more))
    return records


def run_harness(checkpoint: Checkpoint, chats: Sequence[Chat]) -> dict[int, dict[str, Any]]:
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
        texts = json.dumps([checkpoint.render(chat) for chat in chats])
        (Path(folder) / "texts.json").write_text(texts)
        # Else it would look for the folder on the hub.
        env, found = os.environ | {"HF_HUB_OFFLINE": "1"}, {}
        python = os.environ.get("HARNESS_PYTHON", sys.executable)
        for size in SLOTS:
            words = ["-m", "benchmarks.lm_eval_harness", folder, size, MAX_NEW_TOKENS, REPEATS]
            command = [python, *map(str, words)]
            done = subprocess.run(
                command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True
            )
            found[size] = json.loads(done.stdout.splitlines()[-1])
    return found


PARTS: dict[str, Measure] = {
    "slm": lambda settings: measure_model(settings, "slm"),
    "slm_ft": lambda settings: measure_model(settings, "slm_ft"),
    "full_length": measure_full_length,
    "harness": measure_harness,
}


if __name__ == "__main__":
    measure_parts(PARTS, *sys.argv[1:])
