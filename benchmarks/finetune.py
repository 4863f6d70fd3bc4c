"""What fine-tuning does to the packaged checkpoint, on a GPU.

The batch size is chosen on val, and base and fine-tuned model are compared on test:

    python -m benchmarks.finetune stand-in         # the adapter of the demo's stand-in
    python -m benchmarks.finetune train TRACK N …  # the fixed settings, once for each batch size N
    python -m benchmarks.finetune choose           # val for every adapter: batch_size.json
    python -m benchmarks.finetune score            # val and test for the stand-in: stand_in.json
    python -m benchmarks.finetune evaluate         # test for base and fine-tuned: finetune.json
    python -m benchmarks.finetune parity           # the fine-tuned model run otherwise: parity.json

Training and evaluation are processes of their own, because Unsloth patches transformers where it
trains. Everything runs through swaplib; each batch size has a home of its own below SWAP_HOME.
Records and tables: benchmarks/results/.
"""

import json
import shutil
import sys
import time

from benchmarks.homes import DATASET
from benchmarks.records import Record, write_table
from swaplib.evaluation import evaluate, parity
from swaplib.metrics import TRACKS, core_metrics, rates_of, score_rows
from swaplib.models.local import LocalSLM
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.prompts import build_messages
from swaplib.rows import read_rows
from swaplib.settings import ROOT, Settings, load_settings
from swaplib.training import finetune, sft
from swaplib.training.chats import gather_rows

STAND_IN = ROOT / "slm_swap" / "stand_in"
BATCH_SIZES = (8, 4, 2, 1)
OPTIONS = {"batch_size": 128, "max_new_tokens": 256}
STAND_IN_RECIPE = sft.Recipe(rank=8, learning_rate=5e-4, epochs=5, batch_size=8)


def home_of(settings: Settings, batch_size: int) -> Settings:
    """Settings whose home belongs to one batch size; its rows are the committed ones."""
    home = settings.swap_home / f"batch_{batch_size}"
    if not (home / "02_dataset").exists():
        shutil.copytree(DATASET, home / "02_dataset", dirs_exist_ok=True)
    return settings.model_copy(update={"swap_home": home})


def train_stand_in(settings: Settings) -> None:
    """Train the adapter of the demo's stand-in, on the train rows of both tracks."""
    chosen = {}
    for track in TRACKS:
        paths = {split: DATASET / track / f"{split}.jsonl" for split in ("train", "val")}
        rows = {split: read_rows(path, track) for split, path in paths.items()}
        chosen[track] = gather_rows(track, rows)
    card = finetune.train_adapter(settings, chosen, STAND_IN, STAND_IN_RECIPE, is_compact=True)
    print("stand-in", card["steps"], card["final"], flush=True)


def train(settings: Settings, batch_size: int, track: str) -> None:
    """Train one track's adapter with the specification's settings and one batch size."""
    start = time.perf_counter()
    recipe = sft.Recipe(batch_size=batch_size)
    card = finetune.fine_tune(home_of(settings, batch_size), track, force=True, recipe=recipe)
    seconds = time.perf_counter() - start
    print(track, batch_size, card["steps"], card["final"], f"{seconds:.0f} s", flush=True)


def choose(settings: Settings) -> list[Record]:
    """Score every adapter on val."""
    choices = []
    for track in ("toolcall", "structured"):
        found = []
        for batch_size in BATCH_SIZES:
            home = home_of(settings, batch_size)
            card = json.loads((home.adapter_of(track) / "run_card.json").read_text())
            run = evaluate.run_model(home, track, "slm_ft", split="val", **OPTIONS)
            rates = {name: run.metrics[name] for name in core_metrics(track)}
            record = {"track": track, "batch_size": batch_size, "steps": card["steps"]}
            found.append(record | card["final"] | rates)
        names = core_metrics(track)
        best = max(found, key=lambda c: (sum(c[name] for name in names), -c["val_loss"]))
        choices += [c | {"is_chosen": c is best} for c in found]
    return choices


def evaluate_all(settings: Settings) -> list[Record]:
    """Score the base and the recipe's adapter on test, with what its training cost."""
    records = []
    for track in ("toolcall", "structured"):
        home = home_of(settings, sft.Recipe().batch_size)
        card = json.loads((home.adapter_of(track) / "run_card.json").read_text())
        training = {"batch_size": card["recipe"]["batch_size"], "steps": card["steps"]}
        training |= {"training_seconds": card["seconds"]}
        training |= {"training_peak_memory_gib": card["peak_memory_gib"]}
        for model in ("slm", "slm_ft"):
            run = evaluate.run_model(home, track, model, **OPTIONS)
            rates = {name: run.metrics[name] for name in core_metrics(track)}
            record = {"track": track, "model": model, "n_rows": run.metrics["n_rows"], **rates}
            record |= {name: run.metrics[name] for name in ("intervals", "n_by_status")}
            records.append(record | (training if model == "slm_ft" else {}))
    return records


def measure_parity(settings: Settings, rows: int = 16) -> list[Record]:
    """The share of equal outputs of the fine-tuned model, run in other ways."""
    records = []
    for track in ("toolcall", "structured"):
        home = home_of(settings, sft.Recipe().batch_size)
        found = parity.measure_parity(home, track, "slm_ft", rows, OPTIONS["max_new_tokens"], rows)
        for c in found["comparisons"]:
            record = {"track": track} | {k: c[k] for k in ("compared", "rows", "equal", "share")}
            records.append(record | {"first": c["differing"][0] if c["differing"] else None})
    return records


def score_stand_in(settings: Settings, track: str, split: str) -> Record:
    """The stand-in as it is served, in full precision, on one split."""
    rows = read_rows(DATASET / track / f"{split}.jsonl", track)
    slm = LocalSLM(Checkpoint(settings.slm_model_path, STAND_IN, "float32"), 128)
    answers = dict(slm.generate([build_messages(track, row.prompt) for row in rows], 256))
    outputs = [answers[i].output for i in range(len(rows))]
    scores = score_rows(track, [row.completion for row in rows], outputs)
    record = {"track": track, "model": "stand_in", "split": split, "n_rows": len(rows)}
    return record | rates_of(scores)


def score_all(settings: Settings) -> list[Record]:
    """The stand-in on val and test of both tracks."""
    return [score_stand_in(settings, t, split) for t in TRACKS for split in ("val", "test")]


MEASURES = {
    "choose": ("batch_size", choose),
    "score": ("stand_in", score_all),
    "evaluate": ("finetune", evaluate_all),
    "parity": ("parity", measure_parity),
}


def main(command: str, *arguments: str) -> None:
    """Run one of the commands above."""
    settings = load_settings()
    if command == "stand-in":
        train_stand_in(settings)
    elif command == "train":
        for batch_size in arguments[1:]:
            train(settings, int(batch_size), arguments[0])
    else:
        name, measure = MEASURES[command]
        write_table(name, measure(settings), left_out=("intervals", "first"))


if __name__ == "__main__":
    main(*sys.argv[1:])
