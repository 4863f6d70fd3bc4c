"""What training and evaluation cost on a GPU: Unsloth against plain TRL + PEFT, and a 7B in 4-bit.

    python -m benchmarks.training_costs small  # the packaged checkpoint: both trainers, twice each
    python -m benchmarks.training_costs 7b     # a 7B of random weights: evaluation, both trainers

Every measurement is a process of its own, so that neither trainer sees the other's patches or
memory. Nothing here is a score. Records: benchmarks/results/costs_*.json and .md.
"""

import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.homes import DATASET
from benchmarks.random_7b import SEVEN_B, make_7b
from benchmarks.records import Record, write_table
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.models.local_model import load
from swaplib.prompts import build_messages
from swaplib.rows import read_rows
from swaplib.settings import ROOT, load_settings
from swaplib.training import sft
from swaplib.training.chats import gather_rows
from swaplib.training.labels import TokenizedChat, label_chats

WARM_UP = 5  # steps that are not timed


def make_examples(base: Checkpoint, n: int, tokens: int | None) -> list[TokenizedChat]:
    """The first n toolcall train rows; with `tokens`, n texts of that length from all rows."""
    rows = read_rows(DATASET / "toolcall" / "train.jsonl", "toolcall")
    chats = gather_rows("toolcall", {"train": rows}).chats
    examples = label_chats(base, chats, sft.Recipe().sequence_length)["train"]
    if tokens is None:
        return examples[:n]
    ids = [i for example in examples for i in example.input_ids]
    labels = [i for example in examples for i in example.labels]
    parts = [slice(k * tokens, (k + 1) * tokens) for k in range(n)]
    return [TokenizedChat(ids[part], labels[part]) for part in parts]


def load_with_peft(path: Path, recipe: sft.Recipe, has_gradient_checkpointing: bool) -> Any:
    """The same 4-bit base and adapter as Unsloth's, by transformers and PEFT alone."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=torch.bfloat16,
        device_map={"": 0},
        quantization_config=quantisation,
        trust_remote_code=False,
    )
    model = prepare_model_for_kbit_training(
        model, use_gradient_checkpointing=has_gradient_checkpointing
    )
    lora = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=list(sft.LINEAR_LAYERS),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, lora)


def train_cases(name: str, path: Path, cases: list[dict[str, Any]]) -> list[Record]:
    """Measure every case with one trainer, each with a freshly loaded model."""
    if name == "unsloth":
        sft.import_unsloth()
    import torch

    records = []
    for case in cases:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        records.append({"trainer": name, **case, **train(name, Checkpoint(path), case)})
        print(records[-1], flush=True)
    return records


def train(name: str, base: Checkpoint, case: dict[str, Any]) -> dict[str, Any]:
    """Time the steps after the warm-up; configuration and trainer are the package's own."""
    import torch
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            torch.cuda.synchronize()
            if state.global_step == WARM_UP:
                self.start = time.perf_counter()
            self.end = time.perf_counter()

    clock = Clock()
    examples = make_examples(base, case["rows"], case["tokens"])
    recipe = sft.Recipe(batch_size=case["batch_size"])
    has_checkpointing = case["checkpointing"]
    if name == "unsloth":
        model = sft.load_for_training(base.path, recipe, True, has_checkpointing)
    else:
        model = load_with_peft(base.path, recipe, has_checkpointing)
    labelled = {"train": examples, "val": examples[:1]}
    with tempfile.TemporaryDirectory() as work:
        made = sft.make_trainer(
            model, base.tokenizer, labelled, recipe, Path(work), has_checkpointing
        )
        made.args.eval_strategy, made.args.save_strategy = "no", "no"
        made.add_callback(clock)
        made.train()
    timed = examples[WARM_UP * recipe.batch_size :]
    losses = [log["loss"] for log in made.state.log_history if "loss" in log]
    return {
        "rows": len(timed),
        "tokens": round(sum(len(e.input_ids) for e in timed) / len(timed)),
        "rows_per_s": round(len(timed) / (clock.end - clock.start), 3),
        "peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "last_loss": round(losses[-1], 3),
    }


def evaluate(path: Path) -> list[Record]:
    """Memory after the 4-bit load, and greedy tokens a second at three batch sizes."""
    import torch

    model, records = load(Checkpoint(path)), []
    rows = read_rows(DATASET / "toolcall" / "test.jsonl", "toolcall")
    chats = [build_messages("toolcall", row.prompt) for row in rows]
    list(model.generate(["warm up"], 4, 1))
    loaded = round(torch.cuda.memory_allocated() / 2**30, 2)
    for batch_size in (1, 8, 32):
        texts = [model.checkpoint.render(chat) for chat in chats[:batch_size]]
        speeds = []
        for _ in range(3):
            start = time.perf_counter()
            tokens = sum(a.completion_tokens for _, a in model.generate(texts, 64, batch_size))
            speeds.append(tokens / (time.perf_counter() - start))
        peak = torch.cuda.max_memory_allocated() / 2**30
        record = {
            "batch_size": batch_size,
            "tokens_per_s": round(statistics.median(speeds), 1),
            "spread": [round(min(speeds), 1), round(max(speeds), 1)],
            "memory_after_load_gib": loaded,
            "peak_memory_gib": round(peak, 2),
        }
        records.append(record)
    return records


def run_child(*arguments: Any) -> Any:
    """Run one measurement in a process of its own, and read the record that it prints last."""
    command = [sys.executable, "-m", "benchmarks.training_costs", "child", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"{arguments} ended with {done.returncode}: {done.stdout[-2000:]}")
    print(arguments, done.stdout.splitlines()[-1], flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def child(kind: str, *arguments: str) -> None:
    """One measurement; its record is the last line that it prints."""
    if kind == "evaluate":
        record = evaluate(Path(arguments[0]))
    elif kind == "make-7b":
        record = make_7b()
    else:
        record = train_cases(arguments[0], Path(arguments[1]), json.loads(arguments[2]))
    print("\n" + json.dumps(record))


def compare_trainers(path: Path, repeats: int, *cases: dict[str, Any]) -> list[Record]:
    """Both trainers in turn over all cases: median rows a second, and Unsloth's ratios."""
    found: dict[str, list[list[dict]]] = {"unsloth": [], "trl + peft": []}
    for _ in range(repeats):
        for name, runs in found.items():
            runs.append(run_child("train", name, path, json.dumps(cases)))
    records = []
    for i in range(len(cases)):
        ours, other = ([run[i] for run in runs] for runs in found.values())
        for runs in (ours, other):
            speeds = [run["rows_per_s"] for run in runs]
            records.append(runs[0] | {"rows_per_s": statistics.median(speeds), "repeats": speeds})
        for name in ("rows_per_s", "peak_memory_gib"):
            records[-2][f"{name}_ratio"] = round(records[-2][name] / records[-1][name], 2)
    return records


def make_case(
    case: str, batch_size: int, rows: int, tokens: int | None = None, checkpointing: bool = False
) -> dict[str, Any]:
    """One training to measure; `tokens` None takes the rows as they are."""
    sizes = {"batch_size": batch_size, "rows": rows, "tokens": tokens}
    return {"case": case, "checkpointing": checkpointing, **sizes}


def main(command: str, *arguments: str) -> None:
    """Run one of the commands above."""
    if command == "child":
        child(*arguments)
    elif command == "small":
        name = "SmolLM2-135M, toolcall rows"
        cases = [make_case(name, 1, 105), make_case(name, 8, 320)]
        records = compare_trainers(load_settings().slm_model_path, 2, *cases)
        note = "Training the packaged checkpoint with the fixed settings."
        write_table("costs_small", records, note)
    else:
        run_child("make-7b")
        records = [{"case": "7B-shaped, evaluation", **r} for r in run_child("evaluate", SEVEN_B)]
        cases = [make_case("7B-shaped, toolcall rows", 1, 45)]
        for is_on in (False, True):
            cases.append(make_case("7B-shaped, full sequences", 1, 15, 2048, is_on))
        records += compare_trainers(SEVEN_B, 1, *cases)
        note = "Qwen2.5-7B's shape, random weights, 4-bit, the fixed settings."
        write_table("costs_7b", records, note)


if __name__ == "__main__":
    main(*sys.argv[1:])
