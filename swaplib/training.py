"""Fine-tunes the SLM with Unsloth QLoRA on prompt -> completion rows: adapter and run card.

The loss is on the completion and its end-of-turn token only (labels.py). Without a GPU the same code trains through
Unsloth's CPU mode, on float32 weights; the run card says so.
"""

import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from swaplib import provenance, tracing
from swaplib.labels import IGNORED, Example, label_rows, prove_labels
from swaplib.local import LocalSLM
from swaplib.metrics import Track, canonical_json
from swaplib.outbox import check_tracing, describe_delivery
from swaplib.rows import Row, hash_rows, hash_text, read_rows, write_json
from swaplib.settings import Settings, show_path

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Recipe:
    """Settings of a training; the defaults are the specification's, but for the batch size, which is ours to choose."""

    rank: int = 64
    alpha: int = 16
    dropout: float = 0.1
    learning_rate: float = 2e-4
    epochs: int = 1
    sequence_length: int = 2048
    batch_size: int = 1  # chosen on val: benchmarks/results/batch_size.json
    seed: int = 42


def fine_tune(
    settings: Settings, track: Track, force: bool = False, row_limit: int | None = None, recipe: Recipe | None = None
) -> dict[str, Any] | None:
    """Train the track's adapter when its decision says FINE_TUNE=1, or when forced.

    Args:
        settings: Says where rows, checkpoint and results lie.
        track: `structured` or `toolcall`.
        force: Train whatever the decision says, or without one.
        row_limit: Only the first rows of train and val; None for all.
        recipe: The settings; None for the specification's.

    Returns:
        The run card, or None when nothing is to be done.

    Raises:
        FileNotFoundError, ValueError: The decision, the rows or the checkpoint are missing or do not fit.
    """
    check_tracing(settings)
    if not force and not _must_fine_tune(settings, track):
        print(f"FINE_TUNE=0 for {track}: the SLM is good enough as it is, so there is nothing to train.")
        return None
    splits = {
        split: read_rows(settings.dataset / track / f"{split}.jsonl", track)[:row_limit] for split in ("train", "val")
    }
    return train_adapter(
        settings, {track: splits}, settings.swap_home / "04_ft" / f"adapter_{track}", recipe or Recipe()
    )


def _must_fine_tune(settings: Settings, track: Track) -> bool:
    path = settings.evaluation / f"{track}_decision.json"
    if not path.is_file():
        raise FileNotFoundError(f"no decision at {path}. Run notebooks/03_decision.ipynb first, or pass force=True.")
    return json.loads(path.read_text(encoding="utf-8"))["FINE_TUNE"] == 1


def train_adapter(
    settings: Settings,
    rows: dict[Track, dict[str, list[Row]]],
    target: Path,
    recipe: Recipe,
    is_compact: bool = False,
) -> dict[str, Any]:
    """Train an adapter on rows of one track or more, and put it in its place when it is whole.

    A training that was killed goes on from its last checkpoint: the same call finds its run by a hash of rows, recipe
    and base checkpoint.

    Args:
        settings: Says where the checkpoint and the runs lie.
        rows: The rows of `train` and `val` for each track.
        target: The adapter's folder; an older one there is replaced.
        recipe: The settings.
        is_compact: Save the weights in bfloat16, half the size, and no tokenizer.

    Returns:
        The run card, which also lies in the adapter's folder as `run_card.json`.
    """
    import unsloth  # noqa: F401 - before transformers and trl, which it patches

    slm = LocalSLM(settings.slm_model_path)
    identity, examples = slm.identity(), _label_and_prove(slm, rows, recipe.sequence_length)
    data = {track: {split: hash_rows(of_split) for split, of_split in splits.items()} for track, splits in rows.items()}
    question = {"recipe": asdict(recipe), "rows_sha256": data, "checkpoint": identity["checkpoint_sha256"]}
    key = hash_text(canonical_json(question))[:12]
    unfinished = [f for f in sorted(settings.runs.glob(f"*-{key}")) if not (f / "run_card.json").is_file()]
    folder = unfinished[-1] if unfinished else settings.runs / provenance.make_run_id("-".join(rows), "train", key)
    print(f"training on {len(examples['train'])} rows, validating on {len(examples['val'])} · run {show_path(folder)}")
    name, inputs = f"train {' '.join(rows)}", {**question, "model": identity["model"]}
    with tracing.RunTrace(settings, folder.name, folder, name, inputs, [*rows, "train"]) as trace:
        outcome, model = _train(slm.path, slm.tokenizer, examples, recipe, folder / "checkpoints", trace)
        _save_adapter(model, slm.tokenizer, slm.path.name, target, is_compact)
        trace.finish({**outcome["final"], "adapter": show_path(target)}, outcome["final"])
    delivery = trace.deliver()
    card = {
        "run_id": folder.name,
        "started": provenance.read_start(folder.name),
        "ended": provenance.now_utc(),
        "rows": {track: {split: len(of_split) for split, of_split in splits.items()} for track, splits in rows.items()},
        **question,
        **outcome,
        "base": identity["model"],
        **provenance.describe_machine(),
        "trace": asdict(delivery),
    }
    write_json(target / "run_card.json", card)
    write_json(folder / "run_card.json", card)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    print(describe_delivery(delivery, settings))
    return card


def _label_and_prove(slm: LocalSLM, rows: dict[Track, dict[str, list[Row]]], limit: int) -> dict[str, list[Example]]:
    """The examples of train and val, the tracks one after the other; every row's labels are proved."""
    examples: dict[str, list[Example]] = {"train": [], "val": []}
    for track, splits in rows.items():
        for split, labelled in examples.items():
            made = label_rows(slm, track, splits[split], limit)
            prove_labels(slm, track, splits[split], made)
            labelled += made
    return examples


def _train(
    path: Path, tokenizer: Any, examples: dict[str, list[Example]], recipe: Recipe, work: Path, trace: tracing.RunTrace
) -> tuple[dict[str, Any], Any]:
    """Train with Unsloth; returns what happened, for the run card, and the model with its adapter."""
    import torch
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq, TrainerCallback
    from trl import SFTTrainer

    has_gpu = torch.cuda.is_available()
    model = _load_for_training(path, recipe, has_gpu)
    config = _make_config(recipe, work, len(examples["train"]), has_gpu)

    class LogToTrace(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            trace.add_event(f"step {state.global_step} {'validation' if 'eval_loss' in logs else 'loss'}", dict(logs))

    trainer = SFTTrainer(
        model=model,
        args=config,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([asdict(e) for e in examples["train"]]),
        eval_dataset=Dataset.from_list([asdict(e) for e in examples["val"]]),
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED),
        callbacks=[LogToTrace()],
    )
    trainer.train(resume_from_checkpoint=_find_checkpoint(work))
    evaluated = trainer.evaluate()
    history = trainer.state.log_history
    losses = [{"step": log["step"], "loss": log["loss"]} for log in history if "loss" in log]
    validation = [{"step": log["step"], "loss": log["eval_loss"]} for log in history if "eval_loss" in log]
    outcome = {
        "steps": trainer.state.global_step,
        "rows_trained": len(examples["train"]) * recipe.epochs,
        "final": {"train_loss": losses[-1]["loss"], "val_loss": evaluated["eval_loss"]},
        "losses": losses,
        "validation": validation,
        "departures": [] if has_gpu else ["no GPU: float32 weights in place of 4-bit, AdamW in place of 8-bit AdamW"],
        "peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if has_gpu else None,
    }
    return outcome, trainer.model


def _make_config(recipe: Recipe, work: Path, n_rows: int, has_gpu: bool) -> Any:
    """The recipe in TRL's words, with about four validations and eight checkpoints on the way."""
    from trl import SFTConfig

    steps = max(1, n_rows * recipe.epochs // recipe.batch_size)
    return SFTConfig(
        output_dir=str(work),
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=recipe.batch_size,
        gradient_accumulation_steps=1,  # Unsloth's own default was 2
        learning_rate=recipe.learning_rate,
        num_train_epochs=recipe.epochs,
        max_length=recipe.sequence_length,
        dataset_kwargs={"skip_prepare_dataset": True},  # the labels are ours, and proved
        remove_unused_columns=False,
        eval_strategy="steps",
        eval_steps=max(1, steps // 4),
        save_steps=max(1, steps // 8),
        save_total_limit=2,
        logging_steps=1,
        optim="adamw_8bit" if has_gpu else "adamw_torch",
        bf16=has_gpu,
        use_cpu=not has_gpu,
        seed=recipe.seed,
        report_to="none",
    )


def _load_for_training(path: Path, recipe: Recipe, has_gpu: bool) -> Any:
    import torch
    from unsloth import FastLanguageModel

    model, _ = FastLanguageModel.from_pretrained(
        str(path),
        max_seq_length=recipe.sequence_length,
        load_in_4bit=has_gpu,
        dtype=None if has_gpu else torch.float32,
    )
    return FastLanguageModel.get_peft_model(
        model,
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=list(LINEAR_LAYERS),
        bias="none",
        use_gradient_checkpointing=False,
        random_state=recipe.seed,
    )


def _find_checkpoint(work: Path) -> str | None:
    """The newest checkpoint that was written whole (its trainer_state.json comes last)."""
    whole = [path.parent for path in work.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def _save_adapter(model: Any, tokenizer: Any, base: str, target: Path, is_compact: bool) -> None:
    """Write adapter and tokenizer beside their place, then rename: a half-written adapter never loads."""
    import torch
    from safetensors.torch import load_file, save_file

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".adapter-") as work:
        built = Path(work) / "adapter"
        model.peft_config["default"].base_model_name_or_path = base  # a name; where the checkpoint lay says nothing
        model.save_pretrained(built)
        if not is_compact:
            tokenizer.save_pretrained(built)
        else:
            (built / "README.md").unlink(missing_ok=True)
            file = built / "adapter_model.safetensors"
            save_file({name: weight.to(torch.bfloat16) for name, weight in load_file(file).items()}, file)
        if target.exists():
            os.replace(target, Path(work) / "old")
        os.replace(built, target)
