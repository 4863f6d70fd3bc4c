"""Fine-tunes the SLM with Unsloth QLoRA on prompt -> completion rows: adapter and run card.

The loss is on the completion and its end-of-turn token only (labels.py). Without a GPU the same code trains through
Unsloth's CPU mode, on float32 weights; the run card lists this and every other departure from the fixed settings.
"""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from swaplib import provenance, tracing
from swaplib.adapter import read_card
from swaplib.decision import read_decision
from swaplib.files import hash_text, write_json
from swaplib.labels import Example, label_row, label_splits, prove_labels
from swaplib.local_checkpoint import Checkpoint
from swaplib.metrics import Track, canonical_json, check_track
from swaplib.outbox import check_tracing, describe_delivery
from swaplib.rows import Row, hash_rows, read_rows
from swaplib.settings import Settings, show_path
from swaplib.trainer import Recipe, import_unsloth, save_adapter, train


def fine_tune(
    settings: Settings, track: Track, force: bool = False, row_limit: int | None = None, recipe: Recipe | None = None
) -> dict[str, Any] | None:
    """Train the track's adapter when its decision says FINE_TUNE=1, or when forced.

    Args:
        settings: Says where rows, checkpoint and results lie.
        track: `structured` or `toolcall`.
        force: Train whatever the decision says, or without one.
        row_limit: Only the first rows of train, and a quarter as many of val; None for all, and SWAP_ROW_LIMIT caps it.
        recipe: The settings; None for the specification's.

    Returns:
        The run card, or None when nothing is to be done. An adapter that was trained on the same rows with the same recipe
        is not trained again.

    Raises:
        FileNotFoundError, ValueError: The decision, the rows or the checkpoint are missing or do not fit.
    """
    check_tracing(settings)
    if not must_train(settings, track, force):
        print(f"FINE_TUNE=0 for {track}: by the rule the SLM is good enough as it is, so there is nothing to train.")
        return None
    limit = _find_limit(settings, row_limit)
    rows = {split: _read_first(settings, track, split, limit) for split in ("train", "val")}
    is_cut = len(rows["train"]) < len(_read_first(settings, track, "train", None))
    cut = f"only the first {len(rows['train'])} train rows and {len(rows['val'])} val rows" if is_cut else None
    return train_adapter(settings, {track: rows}, settings.adapter_of(track), recipe or Recipe(), cut)


def must_train(settings: Settings, track: Track, force: bool) -> bool:
    """Whether the track's decision says FINE_TUNE=1, or training is forced."""
    check_track(track)
    return force or read_decision(settings, track)["FINE_TUNE"] == 1


def _find_limit(settings: Settings, row_limit: int | None) -> int | None:
    if row_limit is not None and row_limit < 1:
        raise ValueError(f"row_limit={row_limit}: expected 1 or more, or None for the whole split")
    return min((limit for limit in (row_limit, settings.swap_row_limit) if limit is not None), default=None)


def find_sizes(settings: Settings, row_limit: int | None) -> dict[str, int | None]:
    """How many rows of `train` and `val` a limit leaves: a quarter as many validate; None for all."""
    return _list_sizes(_find_limit(settings, row_limit))


def _list_sizes(limit: int | None) -> dict[str, int | None]:
    return {"train": limit, "val": None if limit is None else max(1, limit // 4)}


def _read_first(settings: Settings, track: Track, split: str, limit: int | None) -> list[Row]:
    """The rows of a split under a limit, which stands for the train rows; a quarter as many validate."""
    check_track(track)
    return read_rows(settings.dataset / track / f"{split}.jsonl", track)[: _list_sizes(limit)[split]]


def preview_labels(settings: Settings, track: Track, force: bool = False, n: int = 3) -> list[dict[str, Any]]:
    """The label proof of the first n train rows, for a person to read; fine_tune proves every row.

    Returns:
        One record for each row, as prove_labels makes them; none when nothing is to be trained.

    Raises:
        FileNotFoundError, ValueError: The decision, the rows or the checkpoint are missing, or the proof fails.
    """
    if not must_train(settings, track, force):
        return []
    import_unsloth()
    slm, rows = Checkpoint(settings.slm_model_path), _read_first(settings, track, "train", n)
    return prove_labels(slm, track, rows, [label_row(slm, track, row) for row in rows])


def train_adapter(
    settings: Settings,
    rows: dict[Track, dict[str, list[Row]]],
    target: Path,
    recipe: Recipe,
    cut: str | None = None,
    is_compact: bool = False,
    session_id: str | None = None,
) -> dict[str, Any]:
    """Train an adapter on rows of one track or more, and put it in its place when it is whole.

    A training that was killed goes on from its last checkpoint: the same call finds its run by a hash of rows, recipe
    and base checkpoint.

    Args:
        settings: Says where the checkpoint and the runs lie.
        rows: The rows of `train` and `val` for each track.
        target: The adapter's folder; another one there is replaced.
        recipe: The settings.
        cut: How rows were left out, in words, for the run card.
        is_compact: Save the weights in bfloat16, half the size, and no tokenizer.
        session_id: The trace's Langfuse session.

    Returns:
        The run card, which also lies in the adapter's folder as `run_card.json`.
    """
    import_unsloth()
    slm = Checkpoint(settings.slm_model_path)
    examples = _label_all(slm, rows, recipe.sequence_length)
    data = {track: {split: hash_rows(of_split) for split, of_split in splits.items()} for track, splits in rows.items()}
    counts = {track: {split: len(of_split) for split, of_split in splits.items()} for track, splits in rows.items()}
    facts = {"rows_sha256": data, "rows": counts, "departures": list_departures(recipe, cut), "session_id": session_id}
    return train_examples(settings, slm, examples, facts, target, recipe, is_compact)


def train_examples(
    settings: Settings,
    slm: Checkpoint,
    examples: dict[str, list[Example]],
    facts: dict[str, Any],
    target: Path,
    recipe: Recipe,
    is_compact: bool = False,
) -> dict[str, Any]:
    """Train an adapter on labelled and proved examples; resume, trace and run card as for train_adapter.

    Args:
        settings: Says where the runs lie.
        slm: The base.
        examples: Those of `train` and `val`.
        facts: For the card: `rows` and `rows_sha256` by name and split, `departures`, and the trace's `session_id` if any.
        target: The adapter's folder; another one there is replaced.
        recipe: The settings.
        is_compact: Save the weights in bfloat16, half the size, and no tokenizer.
    """
    identity = slm.identity()
    question = {"recipe": asdict(recipe), "rows_sha256": facts["rows_sha256"]}
    question |= {"checkpoint": identity["checkpoint_sha256"]}
    key = hash_text(canonical_json(question))[:12]
    facts = {**question, **facts, "base": identity["model"]}
    with provenance.locked(settings.runs, key):
        if card := _find_card(target, key):
            print(
                f"trained before: {show_path(target)} (run {card['run']['run_id']}). Delete the folder to train anew."
            )
            return card
        unfinished = [f for f in sorted(settings.runs.glob(f"2*-{key}")) if not (f / "run_card.json").is_file()]
        name = provenance.make_run_id("-".join(facts["rows"]), "train", key)
        folder = unfinished[-1] if unfinished else settings.runs / name
        return _train_run(settings, slm, examples, recipe, folder, facts, target, is_compact)


def _find_card(target: Path, key: str) -> dict[str, Any] | None:
    """The run card of the adapter at a place, when it answers the same question."""
    card = read_card(target)
    return card if card.get("run", {}).get("run_id", "").endswith(f"-{key}") else None


def _train_run(
    settings: Settings,
    slm: Checkpoint,
    examples: dict[str, list[Example]],
    recipe: Recipe,
    folder: Path,
    facts: dict[str, Any],
    target: Path,
    is_compact: bool,
) -> dict[str, Any]:
    """Train under one trace, put the adapter in its place with its card, deliver the trace."""
    tracks = list(facts["rows"])
    print(f"training on {len(examples['train'])} rows, validating on {len(examples['val'])} · run {show_path(folder)}")
    name, session = f"train {' '.join(tracks)}", facts.get("session_id")
    with tracing.RunTrace(settings, folder.name, folder, name, facts, [*tracks, "train"], session) as trace:
        outcome, model = train(slm, examples, recipe, folder / "checkpoints", trace)
        trace.finish({**outcome["final"], "adapter": show_path(target)}, outcome["final"])
    outcome["departures"] += facts["departures"]
    run = {"run_id": folder.name, "started": provenance.read_start(folder.name), "ended": provenance.now_utc()}
    card = {**facts, **outcome, "run": run | provenance.describe_machine() | {"trace": asdict(trace.count())}}
    save_adapter(model, slm, target, card, is_compact)
    write_json(folder / "run_card.json", card)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    delivery = trace.deliver()  # may take its time, and now everything else is on disk
    card["run"]["trace"] = asdict(delivery)
    write_json(target / "run_card.json", card)
    write_json(folder / "run_card.json", card)
    print(f"adapter: {show_path(target)}\n{describe_delivery(delivery, settings)}")
    return card


def list_departures(recipe: Recipe, cut: str | None) -> list[str]:
    """Where a training's settings are not the specification's, in words; `cut` says how the rows differ."""
    fixed, used = asdict(Recipe()), asdict(recipe)
    found = [f"{name} {used[name]} in place of {value}" for name, value in fixed.items() if used[name] != value]
    return found + ([cut] if cut else [])


def _label_all(slm: Checkpoint, rows: dict[Track, dict[str, list[Row]]], limit: int) -> dict[str, list[Example]]:
    """The examples of train and val, the tracks one after the other; every row's labels are proved."""
    labelled = [label_splits(slm, track, splits, limit) for track, splits in rows.items()]
    return {split: [example for of_track in labelled for example in of_track[split]] for split in ("train", "val")}
