"""What 01 can say before any model is asked: what is likely to go wrong, and what exactly each model will be asked.

It changes no row and stops nothing. A warning, for example:

    {"track": "toolcall", "warning": "prompts without <tool_call", "rows": 180, "of": 180,
     "meaning": "The wrapper stands nowhere, so nobody can write it: show a finished call of another tool in the prompt."}
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swaplib.data.audit import called_tools
from swaplib.data.dataset import Dataset
from swaplib.data.facts import find_facts, list_parts
from swaplib.evaluation.intervals import wilson_interval
from swaplib.evaluation.question import adapt_chats
from swaplib.metrics import ToolCall, Track, canonical_json, format_tool_call, parse_gold
from swaplib.models.local_checkpoint import SEQUENCE_LENGTH, Checkpoint, measure_chats
from swaplib.prompts import build_messages
from swaplib.rows import Row, Rows
from swaplib.settings import Settings, show_path

MAX_NEW_TOKENS = 256  # 02's max_new_tokens
FEWEST_TEST_ROWS = 50
_FORM = re.compile(r"\b(json|arrays?|objects?)\b", re.IGNORECASE)

Warnings = list[dict[str, Any]]


def list_warnings(
    settings: Settings, data: Dataset, max_new_tokens: int = MAX_NEW_TOKENS
) -> Warnings:
    """What is likely to go wrong with the rows of a dataset that was just built.

    Args:
        settings: Says where the facts and the local checkpoint lie; without a checkpoint no lengths are looked at.
        data: The dataset.
        max_new_tokens: The limit of answers in 02, in tokens.

    Returns:
        Records of `track`, `warning`, `rows` (how many it is about), `of` (how many were looked at) and `meaning`.
    """
    base, records = find_checkpoint(settings), []
    for track, splits in data.rows.items():
        rows = [row for of_split in splits.values() for row in of_split]
        found = [
            *_look_at_prompts(track, rows),
            *_look_at_golds(track, rows),
            *_look_at_keys(track, rows),
            *_look_at_tools(settings, track, splits),
            *_look_at_sizes(splits, data.manifest.get("near_duplicates", {})),
            *(_look_at_lengths(base, track, splits, max_new_tokens) if base else []),
        ]
        records += [{"track": track, **warning} for warning in found if warning["rows"]]
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


def _warn(warning: str, rows: int, of: int, meaning: str) -> dict[str, Any]:
    return {"warning": warning, "rows": rows, "of": of, "meaning": meaning}


def _look_at_prompts(track: Track, rows: Sequence[Row]) -> Warnings:
    """Prompts that do not say which form the answer has."""
    if track == "structured":
        silent = sum(not _FORM.search(row.prompt) for row in rows)
        meaning = "Only the system message asks for JSON then: say in the prompt what it is and which keys it has."
        return [
            _warn("prompts with none of the words JSON, array, object", silent, len(rows), meaning)
        ]
    silent = sum("<tool_call" not in row.prompt for row in rows)
    meaning = "The wrapper stands nowhere, so nobody can write it: show a finished call of another tool in the prompt."
    return [_warn("prompts without <tool_call", silent, len(rows), meaning)]


def _look_at_golds(track: Track, rows: Sequence[Row]) -> Warnings:
    """Golds that are not written as canonical JSON."""
    other = sum(not _is_canonical(track, row.completion) for row in rows)
    meaning = "Harmless: scoring compares canonically. Examples in a prompt and training show them as they are written."
    return [
        _warn(
            "golds that are not canonical JSON (keys sorted, no spaces)", other, len(rows), meaning
        )
    ]


def _is_canonical(track: Track, completion: str) -> bool:
    """Whether a gold has sorted keys and no spaces; letters beyond ASCII may be escaped or not."""
    gold = parse_gold(track, completion)
    is_call = isinstance(gold, ToolCall)
    value, wrapper = (
        (gold.arguments, format_tool_call(gold.name, {})) if is_call else (gold.value, "{}")
    )
    before, _, after = wrapper.rpartition("{}")
    plain = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return completion in {f"{before}{body}{after}" for body in (plain, canonical_json(value))}


def _look_at_keys(track: Track, rows: Sequence[Row]) -> Warnings:
    """Golds with the same keys in different orders, and keys that some golds of a structured track lack."""
    orders: dict[Any, Counter[tuple[str, ...]]] = defaultdict(Counter)
    golds = [parse_gold(track, row.completion) for row in rows]
    for gold in golds:
        for name, part in list_parts(gold):
            orders[name, frozenset(part)][tuple(part)] += 1
    odd = sum(counts.total() - max(counts.values()) for counts in orders.values())
    parts = sum(counts.total() for counts in orders.values())
    meaning = "Scoring does not care, but who learns from them learns no order."
    found = [
        _warn(
            "objects in golds whose keys stand in another order than in most", odd, parts, meaning
        )
    ]
    if track == "structured" and all(isinstance(gold.value, dict) for gold in golds):
        counts = Counter(key for gold in golds for key in gold.value)
        lacking = sum(len(gold.value) < len(counts) for gold in golds)
        some = sorted(key for key, n in counts.items() if n < len(golds))
        meaning = f"The prompt must say when a key is left out: {', '.join(some[:8])}{' …' if len(some) > 8 else ''}."
        found.append(_warn("golds without a key that others have", lacking, len(golds), meaning))
    return found


def _look_at_tools(settings: Settings, track: Track, splits: dict[str, list[Row]]) -> Warnings:
    """Toolcall rows that offer one tool only, or golds that all call the same one where nobody says what is offered."""
    if track != "toolcall":
        return []
    facts = [
        fact
        for split, rows in splits.items()
        for fact in find_facts(settings, track, split, rows) or []
    ]
    rows = sum(map(len, splits.values()))
    called = {
        name
        for of_split in splits.values()
        for row in of_split
        for name in called_tools(track, row.completion)
    }
    single = sum(len(fact.tools) == 1 for fact in facts) if facts else rows * (len(called) == 1)
    meaning = "The tool's name is given then: name_match_rate says how well it is copied, not how well a tool is chosen."
    return [_warn("rows with one tool to call", single, rows, meaning)]


def _look_at_sizes(splits: dict[str, list[Row]], near: dict[str, int]) -> Warnings:
    """A test split with few rows, and many prompts that are nearly the same."""
    n, rows = len(splits["test"]), sum(map(len, splits.values()))
    low, high = wilson_interval(n // 2, n)
    few = f"A rate of {n // 2 / n:.2f} has the 95% interval [{low:.2f}, {high:.2f}] then: few gaps can be told from none."
    largest = near.get("largest", 0)
    alike = (
        "They stand in one split, as nearly equal prompts must. Where only the instruction is alike, write it the same, "
        "word for word, in all prompts."
    )
    return [
        _warn(
            f"test rows: fewer than {FEWEST_TEST_ROWS}", n if n < FEWEST_TEST_ROWS else 0, n, few
        ),
        _warn(
            "prompts in one cluster of nearly equal ones",
            largest if 10 * largest > rows else 0,
            rows,
            alike,
        ),
    ]


def _look_at_lengths(
    base: Checkpoint, track: Track, splits: dict[str, list[Row]], max_new_tokens: int
) -> Warnings:
    """Answers and training texts that are too long, by the local checkpoint's tokenizer."""
    rows = [row for of_split in splits.values() for row in of_split]
    cut = sum(
        base.count_tokens(row.completion) >= max_new_tokens for row in rows
    )  # an answer ends with a token, too
    taught = [row for split in ("train", "val") for row in splits[split]]
    chats = [
        [*build_messages(track, row.prompt), {"role": "assistant", "content": row.completion}]
        for row in taught
    ]
    longest = SEQUENCE_LENGTH
    long = sum(
        length > longest for length in measure_chats(base, chats, has_generation_prompt=False)
    )
    return [
        _warn(
            f"answers that do not fit into {max_new_tokens} tokens",
            cut,
            len(rows),
            "No model can finish them: raise max_new_tokens in 02.",
        ),
        _warn(
            f"train and val rows longer than {longest:,} tokens, prompt and answer together",
            long,
            len(taught),
            "04 refuses to train on them: shorten their prompts, or leave them out.",
        ),
    ]


def preview_prompts(settings: Settings, rows: Rows) -> list[dict[str, str]]:
    """The first test prompt of each track as each model will see it.

    Returns:
        Records of `track`, `model`, `part` and `text`: the messages as they are sent to the hosted LLM, one by one; for the
        SLM the text that its chat template makes of them, or in words why that is not known here.
    """
    base, records = find_checkpoint(settings), []
    for track, splits in rows.items():
        [messages] = adapt_chats(settings, [build_messages(track, splits["test"][0].prompt)])
        asked = [
            ("hosted LLM", f"{message['role']} message", message["content"]) for message in messages
        ]
        if settings.slm_base_url:
            text = "(the same messages, sent to SLM_BASE_URL; the server there fills in its own chat template)"
        elif base is None:
            text = f"(no checkpoint at {show_path(settings.slm_model_path)}, so its chat template is not known yet)"
        else:
            text = base.render(messages)
        asked.append(("SLM", "text, by its chat template", text))
        records += [
            {"track": track, "model": model, "part": part, "text": text}
            for model, part, text in asked
        ]
    return records


def count_tokens(rows: Rows, checkpoint: Path) -> list[dict[str, Any]]:
    """Lengths in tokens with a checkpoint's own tokenizer and chat template, one record for each track and split.

    Returns:
        Records with `track`, `split`, `rows`, and median, 95th percentile and maximum of the prompt (system message and
        template included) and of the completion. Where there is no checkpoint yet, one record that says so.
    """
    import numpy as np

    if not checkpoint.is_dir():
        return [
            {
                "track": f"no checkpoint at {show_path(checkpoint)} yet, so nobody knows lengths in tokens"
            }
        ]
    slm, records = Checkpoint(checkpoint), []
    slm.check()
    for track, splits in rows.items():
        for split, of_split in splits.items():
            prompts = measure_chats(slm, [build_messages(track, row.prompt) for row in of_split])
            completions = [slm.count_tokens(row.completion) for row in of_split]
            record: dict[str, Any] = {"track": track, "split": split, "rows": len(of_split)}
            for name, lengths in {"prompt": prompts, "completion": completions}.items():
                for label, quantile in {"median": 0.5, "p95": 0.95, "max": 1.0}.items():
                    record[f"{name}_{label}"] = int(np.quantile(lengths, quantile))
            records.append(record)
    return records
