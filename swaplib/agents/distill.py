"""Distils the captured trajectories that are right: an adapter for the agent, and one for a track.

The agent's adapter is trained on the teacher's good turns and nothing else: the task, observations
and failed turns carry no loss (labels.py proves it). The track's adapter is trained as 04's, on
captured rows in place of xLAM's gold.
"""

from pathlib import Path
from typing import Any

from swaplib.agents import build_files
from swaplib.files import hash_file, read_json
from swaplib.formats.run_card import RunCard
from swaplib.metrics import Track, check_track
from swaplib.models.names import CAPTURED
from swaplib.rows import read_rows
from swaplib.settings import Settings, show_path
from swaplib.tracing.outbox import check_tracing
from swaplib.training import finetune
from swaplib.training.chats import ChatSet, gather_chats, gather_rows, read_chats
from swaplib.training.sft import Recipe

AGENT = "agent"  # names the agent's adapter, as a track names its own


def read_kept(settings: Settings, row_limit: int | None = None) -> ChatSet:
    """The chats of train and val that the last build kept; there may be none.

    Args:
        settings: Its home holds the build.
        row_limit: As for finetune.find_sizes.

    Raises:
        FileNotFoundError, ValueError: There is no build, or its chats do not fit.
    """
    read_manifest(settings)
    path = build_files.folder_of(settings) / "chats.jsonl"
    chats = read_chats(path) if path.is_file() else []
    sizes = finetune.find_sizes(settings, row_limit)
    kept = {
        split: [chat for chat in chats if chat.split == split][:n] for split, n in sizes.items()
    }
    is_cut = sizes["train"] is not None
    return gather_chats(kept, f"at most the first {len(kept['train'])} chats" if is_cut else None)


def read_manifest(settings: Settings) -> dict[str, Any]:
    """The manifest of the last build.

    Raises:
        FileNotFoundError: There is none, or it was not written whole.
        ValueError: The dataset is another one now, so its held-out tools are others, or the build's
            files have changed.
    """
    folder = build_files.folder_of(settings)
    rows = settings.dataset / "manifest.json"
    path = folder / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(f"no build at {path}. Run notebooks/07_build.ipynb first.")
    manifest = read_json(path, "Run 07_build again.")
    sha256 = manifest["made_from"].get("dataset_manifest_sha256")  # not of your own tasks
    if sha256 is not None and not _is_same(rows, sha256):
        raise ValueError(
            f"the build in {show_path(folder)} was made beside another dataset. "
            "Run 06_capture and 07_build again."
        )
    changed = [
        name for name, sha256 in manifest["sha256"].items() if not _is_same(folder / name, sha256)
    ]
    if changed:
        raise ValueError(
            f"{show_path(folder)} does not hold what was built: {', '.join(changed)}. "
            "Run 07_build again."
        )
    return manifest


def _is_same(file: Path, sha256: str) -> bool:
    return file.is_file() and hash_file(file) == sha256


def distill_agent(
    settings: Settings, row_limit: int | None = None, recipe: Recipe | None = None
) -> RunCard | None:
    """Train the agent's adapter on the kept trajectories, to `04_ft/adapter_agent`.

    Args:
        settings: Its home holds the build and gets the adapter.
        row_limit: As for finetune.find_sizes.
        recipe: None for the specification's.

    Returns:
        The run card, or None when nothing was kept of train or of val.

    Raises:
        FileNotFoundError, ValueError: There is no build of this dataset; a chat is too long, or the
            label proof fails.
    """
    check_tracing(settings)
    kept = read_kept(settings, row_limit)
    if not kept.chats["train"]:
        print("no trajectory of the train split was kept, so there is nothing to distil")
        return None
    if not kept.chats["val"]:
        print(
            "no trajectory of the val split was kept, so nothing validates: "
            "capture more tasks (06, `limit`)"
        )
        return None
    return finetune.train_adapter(
        settings,
        {AGENT: kept},
        settings.adapter_of(AGENT),
        recipe or Recipe(),
        session_id=read_manifest(settings)["run"]["session_id"],
    )


def fine_tune_captured(
    settings: Settings, track: Track, row_limit: int | None = None, recipe: Recipe | None = None
) -> RunCard | None:
    """Train a track's adapter on captured rows, to `04_ft/adapter_<track>-captured`.

    01's val rows validate, as for 04; of a capture of your own tasks, captured val rows.

    Returns:
        The run card, or None when the build has no train row of the track, or nothing validates.

    Raises:
        FileNotFoundError, ValueError: There is no build or no dataset, or the rows do not fit.
    """
    check_tracing(settings)
    check_track(track)
    manifest = read_manifest(settings)
    files = _find_files(settings, track, is_own="own" in manifest["made_from"])
    if files is None:
        return None
    sizes = finetune.find_sizes(settings, row_limit)
    rows = {split: read_rows(file, track)[: sizes[split]] for split, file in files.items()}
    cut = "captured rows"
    if sizes["train"] is not None:
        cut += f", at most the first {len(rows['train'])} rows"
    name = CAPTURED.name_adapter(track)
    assert name is not None  # noqa: S101 - every model of base `slm_ft` has an adapter
    return finetune.train_adapter(
        settings,
        {str(track): gather_rows(track, rows, cut)},
        settings.adapter_of(name),
        recipe or Recipe(),
        session_id=manifest["run"]["session_id"],
    )


def _find_files(settings: Settings, track: Track, is_own: bool) -> dict[str, Path] | None:
    """The rows to train on and to validate with; None, said in a line, where either is missing."""
    captured = build_files.folder_of(settings)
    train = captured / track / "train.jsonl"
    val = (captured if is_own else settings.dataset) / track / "val.jsonl"
    if not train.is_file():
        print(f"no captured {track} row of the train split, so there is nothing to fine-tune on")
        return None
    if is_own and not val.is_file():
        print(f"no captured {track} row of the val split, so nothing validates: bring more tasks")
        return None
    return {"train": train, "val": val}
