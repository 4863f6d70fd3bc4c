"""A track's adapter after its training: whether it fits, and its export, as it is or merged.

The merged weights are those that were evaluated: the base's 4-bit values as bfloat16, with the
adapter added. Merging into the base's original weights would make another model than the one whose
score is known.
"""

import shutil
from pathlib import Path
from typing import Any

from swaplib.files import read_json, replaced_folder, write_json
from swaplib.metrics import Track
from swaplib.models.checkpoints import hash_checkpoint
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.models.local_model import load
from swaplib.rows import hash_rows, read_rows
from swaplib.settings import Settings, show_path


def explain_adapter_mismatch(settings: Settings, track: Track) -> str | None:
    """Why the track's adapter must not be evaluated on today's base and rows; None when it fits.

    An adapter fits when its run card says that it was trained on this very checkpoint, and on the
    first rows of today's train split: an adapter of other rows may have been trained on rows that
    are tested now.
    """
    folder = settings.adapter_of(track)
    if not folder.is_dir():
        return f"there is no adapter at {show_path(folder)}"
    card = read_card(folder)
    if problem := _explain_other_base(settings, folder, card):
        return problem
    path = settings.dataset / track / "train.jsonl"
    n = card["rows"].get(track, {}).get("train", 0)
    expected = card["rows_sha256"].get(track, {}).get("train")
    if hash_rows(read_rows(path, track)[:n]) != expected:
        adapter = f"the adapter at {show_path(folder)}"
        return f"{adapter} was trained on other rows than {show_path(path)}"
    return None


def _explain_other_base(settings: Settings, folder: Path, card: dict[str, Any]) -> str | None:
    """Why an adapter is not one of today's base, by its run card; None when it is."""
    adapter = f"the adapter at {show_path(folder)}"
    base = settings.slm_model_path
    if not card.get("checkpoint"):
        return f"{adapter} has no run card that names its base and rows"
    if card["checkpoint"] != hash_checkpoint(base):
        return f"{adapter} was trained on another base than {show_path(base)}"
    return None


def read_card(folder: Path) -> dict[str, Any]:
    """The run card in an adapter's folder; empty when there is none."""
    path = folder / "run_card.json"
    return read_json(path, "Train again.") if path.is_file() else {}


def export_adapter(settings: Settings, track: Track, target: Path, is_merged: bool) -> None:
    """Copy the track's adapter to `target`, or write it merged into its base, in bfloat16.

    Args:
        settings: Their paths name adapter and base.
        track: Whose adapter.
        target: The folder to make, which must not exist yet; it is whole or not there.
        is_merged: One checkpoint in place of a PEFT folder.

    Raises:
        FileNotFoundError, ValueError, FileExistsError: There is no adapter, it has another base, or
            the target is there.
    """
    adapter = settings.adapter_of(track)
    checkpoint = Checkpoint(settings.slm_model_path, adapter)
    checkpoint.check()
    if problem := _explain_other_base(settings, adapter, read_card(adapter)):
        raise ValueError(
            f"{problem}. Set SLM_MODEL_PATH to its base, or run notebooks/04_finetune.ipynb again."
        )
    if target.exists():
        raise FileExistsError(f"{target} exists; name another folder, or delete it.")
    with replaced_folder(target) as folder:
        if is_merged:
            write_merged(checkpoint, folder)
        else:
            _copy(adapter, folder)


def write_merged(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a checkpoint with its adapter merged into it, in bfloat16, to a folder."""
    import torch

    model = load(checkpoint, is_dequantised=True, is_merged=True)
    model.network.to(torch.bfloat16).save_pretrained(folder)
    checkpoint.tokenizer.save_pretrained(folder)
    write_json(folder / "source.json", {"merged": checkpoint.identity()})


def _copy(adapter: Path, folder: Path) -> None:
    """Copy an adapter, its run card without the trace's path, which means nothing elsewhere."""
    shutil.copytree(adapter, folder, dirs_exist_ok=True)
    card = read_card(folder)
    card.get("run", {}).pop("trace", None)
    write_json(folder / "run_card.json", card)
