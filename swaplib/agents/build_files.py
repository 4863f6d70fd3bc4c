"""The files of a build below `02_dataset/captured/`: rows, chats, grades and the manifest.

Rows are in `<track>/<split>.jsonl` (no file for a split without rows), with their facts; chats in
`chats.jsonl` (training/chats.py shows a line). A line of `grades.jsonl`:

    {"id": "98", "is_kept": false, "reason": "no call made", "is_recovered": false}
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from swaplib.agents.grades import Grade
from swaplib.files import hash_text, replace_files
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.rows import SPLITS, Rows
from swaplib.settings import Settings, show_path
from swaplib.training.chats import Chat, format_chat

MAX_TOKENS = 2048  # the training length


@dataclass(frozen=True)
class Build:
    """What a build made: rows by track and split, chats, grades, and the manifest's content."""

    rows: Rows
    chats: tuple[Chat, ...]
    grades: tuple[Grade, ...]
    manifest: dict[str, Any]


def folder_of(settings: Settings) -> Path:
    """The folder of captured rows."""
    return settings.dataset / "captured"


def write_files(
    folder: Path, texts: Mapping[str, str], chats: Sequence[Chat], grades: Sequence[Grade]
) -> dict[str, str]:
    """Write everything but the manifest, which is deleted first.

    While the manifest is missing, the files are not whole. `texts` are the files of rows and facts;
    an empty one is not written.

    Returns:
        The sha256 of each file.
    """
    all_texts = {
        **texts,
        "chats.jsonl": "".join(map(format_chat, chats)),
        "grades.jsonl": "".join(map(_format_grade, grades)),
    }
    filled = {name: text for name, text in all_texts.items() if text}
    replace_files(folder, filled, old=("manifest.json", *all_texts))
    return {name: hash_text(text) for name, text in filled.items()}


def _format_grade(grade: Grade) -> str:
    record = {
        "id": grade.trajectory.id,
        "is_kept": grade.is_kept,
        "reason": grade.reason,
        "is_recovered": grade.is_recovered,
    }
    return json.dumps(record) + "\n"


def count_chat_tokens(chats: Sequence[Chat], checkpoint: Path) -> list[dict[str, Any]]:
    """Lengths of whole chats in tokens, by a checkpoint's tokenizer and template.

    Returns:
        One record for each split, with `split`, `chats`, median and maximum, and `over_2048`: the
        ids of those that are too long to train on. Without a checkpoint, which 08 needs and 07 does
        not, the records say so.
    """
    slm = Checkpoint(checkpoint)
    records = []
    for split in SPLITS:
        of_split = [chat for chat in chats if chat.split == split]
        record: dict[str, Any] = {"split": split, "chats": len(of_split)}
        records.append(record)
        if not checkpoint.is_dir():
            record["tokens"] = f"no checkpoint at {show_path(checkpoint)}"
            continue
        texts = [slm.render(chat.messages, False, chat.tools) for chat in of_split]
        lengths = [slm.count_tokens(text) for text in texts]
        if lengths:
            record |= {"tokens_median": int(median(lengths)), "tokens_max": max(lengths)}
        too_long = [chat.id for chat, n in zip(of_split, lengths, strict=True) if n > MAX_TOKENS]
        record[f"over_{MAX_TOKENS}"] = ", ".join(too_long) or "none"
    return records
