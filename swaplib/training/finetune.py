"""Fine-tunes the SLM with Unsloth QLoRA on a track's rows or other chats: adapter and run card.

The loss is on trained turns and their end-of-turn tokens only (labels.py). Without a GPU the same
code trains through Unsloth's CPU mode, on float32 weights; the run card lists this and every other
departure from the fixed settings.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from swaplib.evaluation.decision import read_decision
from swaplib.files import hash_text
from swaplib.formats.run_card import RunCard
from swaplib.metrics import Track, canonical_json, check_track
from swaplib.models.adapters import read_card
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.rows import read_rows
from swaplib.runs import lock_run, new_folder, open_run
from swaplib.settings import Settings, check_sizes, show_path
from swaplib.tracing.outbox import check_tracing
from swaplib.training.adapter_folder import save_adapter
from swaplib.training.chats import Chat, ChatSet, gather_rows
from swaplib.training.labels import TokenizedChat, label_chat, label_chats, prove_labels
from swaplib.training.sft import Recipe, import_unsloth, train


def fine_tune(
    settings: Settings,
    track: Track,
    force: bool = False,
    row_limit: int | None = None,
    recipe: Recipe | None = None,
) -> RunCard | None:
    """Train the track's adapter when its decision says FINE_TUNE=1, or when forced.

    Args:
        force: Train whatever the decision says, or without one.
        row_limit: As for find_sizes.
        recipe: None for the specification's.

    Returns:
        The run card, or None when nothing is to be done. An adapter that was trained on the same
        rows with the same recipe is not trained again.

    Raises:
        FileNotFoundError, ValueError: The decision, the rows or the checkpoint are missing or do
            not fit.
    """
    check_tracing(settings)
    chosen = choose_rows(settings, track, force, row_limit)
    if chosen is None:
        print(
            f"FINE_TUNE=0 for {track}: by the rule the base SLM is good enough, so there is "
            "nothing to train."
        )
        return None
    return train_adapter(settings, {track: chosen}, settings.adapter_of(track), recipe or Recipe())


def choose_rows(
    settings: Settings, track: Track, force: bool = False, row_limit: int | None = None
) -> ChatSet | None:
    """The rows that fine_tune trains on, as chats; None when it trains nothing.

    Raises:
        FileNotFoundError, ValueError: The decision or the rows are missing or do not fit.
    """
    check_track(track)
    if not force and read_decision(settings, track)["FINE_TUNE"] != 1:
        return None
    sizes = find_sizes(settings, row_limit)
    whole = {
        split: read_rows(settings.dataset / track / f"{split}.jsonl", track) for split in sizes
    }
    rows = {split: whole[split][:n] for split, n in sizes.items()}
    cut = None
    if len(rows["train"]) < len(whole["train"]):
        cut = f"only the first {len(rows['train'])} train rows and {len(rows['val'])} val rows"
    return gather_rows(track, rows, cut)


def find_sizes(settings: Settings, row_limit: int | None) -> dict[str, int | None]:
    """How many of `train` and of `val` are taken; None for all.

    Args:
        settings: Its SWAP_ROW_LIMIT caps the limit.
        row_limit: Only the first of train, and a quarter as many of val; None for all.

    Raises:
        ValueError: The limit is below 1.
    """
    check_sizes(", or None for the whole split", row_limit=row_limit)
    limit = settings.cap_rows(row_limit)
    return {"train": limit, "val": None if limit is None else max(1, limit // 4)}


def preview_labels(settings: Settings, chosen: ChatSet | None, n: int = 3) -> list[dict[str, Any]]:
    """The label proof of the first n train chats, to be read; training proves every chat.

    Returns:
        One record for each chat, as prove_labels makes them; none when nothing is to be trained.

    Raises:
        FileNotFoundError, ValueError: The checkpoint is missing, or the proof fails.
    """
    chats = chosen.chats["train"][:n] if chosen else []
    if not chats:
        return []
    import_unsloth()
    slm = Checkpoint(settings.slm_model_path)
    return prove_labels(slm, chats, [label_chat(slm, chat) for chat in chats])


def train_adapter(
    settings: Settings,
    chosen: Mapping[str, ChatSet],
    target: Path,
    recipe: Recipe,
    is_compact: bool = False,
    session_id: str | None = None,
) -> RunCard:
    """Train an adapter on chats and move it to its folder when it is whole.

    Every chat's labels are proved before the first step. A training that was killed resumes from
    its last checkpoint: the same call finds it by a hash of rows, recipe and base.

    Args:
        settings: Has the checkpoint's path and the folder of runs.
        chosen: What is trained on, by track or as `agent`.
        target: The adapter's folder; another adapter there is replaced.
        recipe: The hyperparameters.
        is_compact: Save the weights in bfloat16, half the size, and no tokenizer.
        session_id: The trace's Langfuse session.

    Returns:
        The run card, as it is in `run_card.json` of the adapter's folder.
    """
    import_unsloth()
    slm = Checkpoint(settings.slm_model_path)
    examples = label_chats(slm, _join_sets(chosen), recipe.sequence_length)
    key, facts = _describe(slm, chosen, recipe, session_id)
    planned = new_folder(settings, "-".join(chosen), "train", key)
    with lock_run(settings, key, planned, is_wanted=_is_unfinished) as folder:
        if card := _find_card(target, key):
            print(
                f"trained before: {show_path(target)} (run {card['run']['run_id']}). "
                "Delete the folder to train again."
            )
            return card
        return _train_run(settings, slm, examples, recipe, folder, facts, target, is_compact)


def _join_sets(chosen: Mapping[str, ChatSet]) -> dict[str, list[Chat]]:
    """The chats of all tracks, by split."""
    return {
        split: [chat for one in chosen.values() for chat in one.chats[split]]
        for split in ("train", "val")
    }


def _describe(
    slm: Checkpoint, chosen: Mapping[str, ChatSet], recipe: Recipe, session_id: str | None
) -> tuple[str, dict[str, Any]]:
    """A key that the same training gets again, and what is known before it begins."""
    identity = slm.identity()
    used, fixed = asdict(recipe), asdict(Recipe())
    hashes = {name: one.sha256 for name, one in chosen.items()}
    question = {"recipe": used, "rows_sha256": hashes, "checkpoint": identity["checkpoint_sha256"]}
    if "template" in identity:
        question["template"] = identity["template"]
    departures = [
        f"{name} {used[name]} in place of {value}"
        for name, value in fixed.items()
        if used[name] != value
    ]
    facts = {
        "rows": {
            name: {split: len(chats) for split, chats in one.chats.items()}
            for name, one in chosen.items()
        },
        "departures": departures + [one.cut for one in chosen.values() if one.cut],
        "session_id": session_id,
        "base": identity["model"],
    }
    return hash_text(canonical_json(question))[:12], question | facts


def _is_unfinished(folder: Path) -> bool:
    return folder.is_dir() and not (folder / "run_card.json").is_file()


def _find_card(target: Path, key: str) -> RunCard | None:
    """The run card of the adapter in a folder, when it is of the very same training."""
    card = read_card(target)
    is_same = card.get("run", {}).get("run_id", "").endswith(f"-{key}")
    return cast(RunCard, card) if is_same else None  # JSON that _train_run has written


def _train_run(
    settings: Settings,
    slm: Checkpoint,
    examples: dict[str, list[TokenizedChat]],
    recipe: Recipe,
    folder: Path,
    facts: dict[str, Any],
    target: Path,
    is_compact: bool,
) -> RunCard:
    """Train under one trace, write the adapter with its card, deliver the trace."""
    tracks = list(facts["rows"])
    n_train, n_val = len(examples["train"]), len(examples["val"])
    print(f"training on {n_train} rows, validating on {n_val} · run {show_path(folder)}")
    name, tags = f"train {' '.join(tracks)}", [*tracks, "train"]
    with open_run(settings, folder, name, facts, tags, facts["session_id"]) as run:
        outcome, model = train(slm, examples, recipe, folder / "checkpoints", run.trace)
        final = outcome["final"]
        losses = {"mean_train_loss": final["mean_train_loss"], "val_loss": final["val_loss"]}
        run.trace.finish({**losses, "adapter": show_path(target)}, losses)
        outcome["departures"] += facts["departures"]
        card = run.record("run_card.json", {**facts, **outcome}, target / "run_card.json")
        save_adapter(model, slm, target, card, is_compact)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    print(f"adapter: {show_path(target)}")
    return cast(RunCard, card)  # facts, outcome and the run's own section
