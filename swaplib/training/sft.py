"""One training with Unsloth: the fixed settings in TRL's words, progress, checkpoints.

It takes tokenised chats (labels.py) and gives a model; it knows nothing of tracks, decisions or run
cards.
"""

import contextlib
import io
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from tqdm import tqdm

from swaplib.formats.run_card import LossPoint, TrainingOutcome
from swaplib.models.local_checkpoint import SEQUENCE_LENGTH, Checkpoint
from swaplib.tracing import run_trace
from swaplib.training.labels import IGNORED, TokenizedChat

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
NO_GPU = "no GPU: float32 weights in place of 4-bit, AdamW in place of 8-bit AdamW"


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters: the specification's by default, except the batch size, which is ours."""

    rank: int = 64
    alpha: int = 16
    dropout: float = 0.1
    learning_rate: float = 2e-4
    epochs: int = 1
    sequence_length: int = SEQUENCE_LENGTH
    batch_size: int = 1  # chosen on val: benchmarks/results/batch_size.json
    seed: int = 42


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep banners and loading bars out of notebooks; errors are raised as usual."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def import_unsloth() -> None:
    """Import Unsloth, which patches transformers and trl and so must come before they are used."""
    with _quiet():
        import unsloth  # noqa: F401


def train(
    base: Checkpoint,
    examples: Mapping[str, Sequence[TokenizedChat]],
    recipe: Recipe,
    work: Path,
    trace: run_trace.RunTrace,
) -> tuple[TrainingOutcome, Any]:
    """Train with Unsloth; returns what happened, and the model with its adapter."""
    import torch

    has_gpu = torch.cuda.is_available()
    checkpoint = _find_checkpoint(work)
    with _quiet():
        model = load_for_training(base.path, recipe, has_gpu)
        trainer = make_trainer(model, base.tokenizer, examples, recipe, work)
    trainer.add_callback(_make_callback(trace))
    result = trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.state.global_step not in {p["step"] for p in _list_losses(trainer, "eval_loss")}:
        trainer.evaluate()  # which adds its own line to the history
    losses = _list_losses(trainer, "loss")
    validation = _list_losses(trainer, "eval_loss")
    peak = torch.cuda.max_memory_allocated() / 2**30 if has_gpu else None
    outcome: TrainingOutcome = {
        "steps": trainer.state.global_step,
        "rows_trained": len(examples["train"]) * recipe.epochs,
        "final": {
            "mean_train_loss": mean(point["loss"] for point in losses),
            "val_loss": validation[-1]["loss"],
        },
        "losses": losses,
        "validation": validation,
        "departures": [] if has_gpu else [NO_GPU],
        "resumed_from": Path(checkpoint).name if checkpoint else None,
        # With validation, without loading; of a training that was killed, the time is not known.
        "seconds": None if checkpoint else round(result.metrics["train_runtime"], 1),
        "peak_memory_gib": None if peak is None else round(peak, 2),
    }
    return outcome, trainer.model


def _list_losses(trainer: Any, name: str) -> list[LossPoint]:
    """The losses of that name in a trainer's history."""
    history = trainer.state.log_history
    return [{"step": log["step"], "loss": log[name]} for log in history if name in log]


def make_trainer(
    model: Any,
    tokenizer: Any,
    examples: Mapping[str, Sequence[TokenizedChat]],
    recipe: Recipe,
    work: Path,
    has_gradient_checkpointing: bool = False,
) -> Any:
    """TRL's trainer over the labelled examples; it makes no step yet.

    Args:
        model: A model with a fresh adapter, such as load_for_training makes.
        tokenizer: Its checkpoint's; it pads the batches.
        examples: The chats of `train` and `val`.
        recipe: The hyperparameters.
        work: The folder of the training's own checkpoints.
        has_gradient_checkpointing: As the model was loaded: less memory, more time.
    """
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq, PrinterCallback
    from trl.trainer.sft_trainer import SFTTrainer

    trainer = SFTTrainer(
        model=model,
        args=_make_config(recipe, work, len(examples["train"]), has_gradient_checkpointing),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([asdict(e) for e in examples["train"]]),
        eval_dataset=Dataset.from_list([asdict(e) for e in examples["val"]]),
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _make_callback(trace: run_trace.RunTrace) -> Any:
    """Every loss becomes an event of the trace, and a progress bar shows the last ones."""
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar = tqdm(
                desc="training",
                total=state.max_steps,
                initial=state.global_step,
                unit="step",
                file=sys.stdout,
            )
            self.shown: dict[str, str] = {}

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.update(state.global_step - self.bar.n)

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any
        ) -> None:
            names = {"loss": "loss", "eval_loss": "val_loss"}
            self.shown |= {names[key]: f"{logs[key]:.3f}" for key in names if key in logs}
            self.bar.set_postfix(self.shown)
            kind = "validation" if "eval_loss" in logs else "loss" if "loss" in logs else "summary"
            trace.add_event(f"step {state.global_step} {kind}", dict(logs))

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.close()

    return Progress()


def _make_config(recipe: Recipe, work: Path, n_rows: int, has_gradient_checkpointing: bool) -> Any:
    """The recipe in TRL's words, with about four validations and eight checkpoints."""
    import torch
    from trl.trainer.sft_config import SFTConfig

    has_gpu = torch.cuda.is_available()
    steps = max(1, n_rows * recipe.epochs // recipe.batch_size)
    return SFTConfig(
        output_dir=str(work),
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=recipe.batch_size,
        gradient_accumulation_steps=1,  # Unsloth's own default was 2
        gradient_checkpointing=has_gradient_checkpointing,  # TRL's own default is True
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
        disable_tqdm=True,  # the bar is ours: one line, also in a log
    )


def load_for_training(
    path: Path, recipe: Recipe, has_gpu: bool, has_gradient_checkpointing: bool = False
) -> Any:
    """The base (4-bit on a GPU, else float32) with a fresh adapter on its linear layers."""
    import torch
    from unsloth import FastLanguageModel

    model, _ = FastLanguageModel.from_pretrained(
        str(path),
        max_seq_length=recipe.sequence_length,
        load_in_4bit=has_gpu,
        dtype=None if has_gpu else torch.float32,
        trust_remote_code=False,
    )
    return FastLanguageModel.get_peft_model(
        model,
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=list(LINEAR_LAYERS),
        bias="none",
        use_gradient_checkpointing="unsloth" if has_gradient_checkpointing else False,
        random_state=recipe.seed,
    )


def _find_checkpoint(work: Path) -> str | None:
    """The newest checkpoint that was written whole: its trainer_state.json is written last."""
    whole = [path.parent for path in work.glob("checkpoint-*/trainer_state.json") if _is_json(path)]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def _is_json(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except ValueError:
        return False
