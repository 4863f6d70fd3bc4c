"""What 01 can say before any model is asked: likely problems, and what each model will be asked.

It changes no row and stops nothing. What the rows alone tell is in row_warnings.py; what is here
needs a checkpoint's tokenizer and chat template.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swaplib.data.dataset import Dataset
from swaplib.data.facts import RowFacts, find_facts
from swaplib.evaluation.question import adapt_chats, read_eval_rows
from swaplib.evaluation.row_warnings import (
    Splits,
    Warnings,
    look_at_golds,
    look_at_keys,
    look_at_prompts,
    look_at_sizes,
    look_at_tools,
    warn,
)
from swaplib.metrics import Track
from swaplib.models.dataset_form import is_hosted_gold
from swaplib.models.local_checkpoint import SEQUENCE_LENGTH, Checkpoint, measure_chats
from swaplib.models.names import ModelName
from swaplib.models.native import NativeForm
from swaplib.prompts import Message, build_messages
from swaplib.rows import Row, Rows
from swaplib.settings import Settings, show_path

MAX_NEW_TOKENS = 256  # 02's max_new_tokens


def list_warnings(
    settings: Settings, data: Dataset, max_new_tokens: int = MAX_NEW_TOKENS
) -> Warnings:
    """What is likely to go wrong with the rows of a dataset that was just built.

    Args:
        settings: Without a checkpoint at SLM_MODEL_PATH, no lengths are looked at.
        data: The dataset.
        max_new_tokens: The limit of answers in 02, in tokens.

    Returns:
        Records of `track`, `warning`, `rows` (how many it is about), `of` (how many were looked at)
        and `meaning`.
    """
    base, records = find_checkpoint(settings), []
    near = data.manifest.get("near_duplicates")
    for track, splits in data.rows.items():
        rows = [row for of_split in splits.values() for row in of_split]
        warnings = [
            *look_at_prompts(track, rows),
            *look_at_golds(track, rows),
            *look_at_keys(track, rows),
            *look_at_tools(track, splits, _list_facts(settings, track, splits)),
            *look_at_sizes(splits, near["largest"] if near else 0),
            *(_look_at_lengths(base, track, splits, max_new_tokens) if base else []),
        ]
        records += [{"track": track, **warning} for warning in warnings if warning["rows"]]
    return records


def find_checkpoint(settings: Settings) -> Checkpoint | None:
    """The local checkpoint, or None where there is none yet.

    Raises:
        ValueError: There is one that is not whole.
    """
    base = Checkpoint(settings.slm_model_path)
    try:
        base.check()
    except FileNotFoundError:
        return None
    return base


def _list_facts(settings: Settings, track: Track, splits: dict[str, list[Row]]) -> list[RowFacts]:
    """The facts of all rows; none for rows without any."""
    of_splits = [find_facts(settings, track, split, rows) or [] for split, rows in splits.items()]
    return [fact for of_split in of_splits for fact in of_split]


def _look_at_lengths(
    base: Checkpoint, track: Track, splits: Splits, max_new_tokens: int
) -> Warnings:
    """Answers and training texts that are too long, by the local checkpoint's tokenizer."""
    completions = [row.completion for of_split in splits.values() for row in of_split]
    # An answer ends with a token of its own, so one of exactly the limit does not fit.
    n_cut = sum(base.count_tokens(text) >= max_new_tokens for text in completions)
    taught = [row for split in ("train", "val") for row in splits[split]]
    chats = [
        [*build_messages(track, row.prompt), {"role": "assistant", "content": row.completion}]
        for row in taught
    ]
    lengths = measure_chats(base, chats, has_generation_prompt=False)
    n_long = sum(length > SEQUENCE_LENGTH for length in lengths)
    return [
        warn(
            f"answers that do not fit into {max_new_tokens} tokens",
            n_cut,
            len(completions),
            "No model can finish them: raise max_new_tokens in 02.",
        ),
        warn(
            f"train and val rows longer than {SEQUENCE_LENGTH:,} tokens, prompt and answer "
            "together",
            n_long,
            len(taught),
            "04 refuses to train on them: shorten their prompts, or leave them out.",
        ),
    ]


def preview_prompts(settings: Settings, rows: Rows) -> list[dict[str, str]]:
    """The first test prompt of each track as each model will see it, in the dataset's own form.

    Returns:
        Records of `track`, `model`, `part` and `text`: the messages as they are sent to the hosted
        LLM, one by one, and of a log the tools or response format that go with them; for the SLM
        the text that its chat template makes of them, or in words why that is not known here.
    """
    base, records = find_checkpoint(settings), []
    for track, splits in rows.items():
        messages, form = _ask_first(settings, track, splits["test"][0])
        if settings.slm_base_url:
            text = (
                "(the same messages, sent to SLM_BASE_URL; the server there fills in its own chat "
                "template)"
            )
        elif base is None:
            path = show_path(settings.slm_model_path)
            text = f"(no checkpoint at {path}, so its chat template is not known yet)"
        else:
            text = base.render(messages, tools=form.tools if form else ())
        shown = [("hosted LLM", f"{m['role']} message", m["content"]) for m in messages]
        for name, value in form.to_request().items() if form else ():
            shown.append(("hosted LLM", name, json.dumps(value, indent=2, ensure_ascii=False)))
        shown.append(("SLM", "text, by its chat template", text))
        records += [
            {"track": track, "model": model, "part": part, "text": text}
            for model, part, text in shown
        ]
    return records


def _ask_first(
    settings: Settings, track: Track, row: Row
) -> tuple[list[Message], NativeForm | None]:
    """The messages of the first test row, and its form where 02 asks natively by default."""
    if not is_hosted_gold(settings):
        [messages] = adapt_chats(settings, [build_messages(track, row.prompt)])
        return messages, None
    hosted = ModelName("azure", is_native=True)
    asked = read_eval_rows(settings, track, hosted, "test", limit=1)
    return asked.messages[0], asked.forms[0] if asked.forms else None


def count_tokens(rows: Rows, checkpoint: Path) -> list[dict[str, Any]]:
    """Lengths in tokens, with a checkpoint's own tokenizer and chat template.

    Returns:
        A record for each track and split: `track`, `split`, `rows`, and median, 95th percentile and
        maximum of the prompt (system message and template included) and of the completion. Where
        there is no checkpoint yet, one record that says so.
    """
    if not checkpoint.is_dir():
        path = show_path(checkpoint)
        return [{"track": f"no checkpoint at {path} yet, so lengths in tokens are not known"}]
    slm = Checkpoint(checkpoint)
    slm.check()
    return [
        {"track": track, "split": split, "rows": len(of_split)} | _count_split(slm, track, of_split)
        for track, splits in rows.items()
        for split, of_split in splits.items()
    ]


def _count_split(slm: Checkpoint, track: Track, rows: Sequence[Row]) -> dict[str, int]:
    import numpy as np

    lengths = {
        "prompt": measure_chats(slm, [build_messages(track, row.prompt) for row in rows]),
        "completion": [slm.count_tokens(row.completion) for row in rows],
    }
    quantiles = {"median": 0.5, "p95": 0.95, "max": 1.0}
    return {
        f"{part}_{label}": int(np.quantile(of_part, quantile))
        for part, of_part in lengths.items()
        for label, quantile in quantiles.items()
    }
