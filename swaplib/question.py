"""What a run asks: the rows, what is sent for each, and what of it makes two runs the same question."""

from dataclasses import dataclass
from typing import Any

from swaplib.facts import find_facts
from swaplib.files import hash_file, hash_text
from swaplib.metrics import Track, canonical_json, parse_json
from swaplib.model_names import ModelName
from swaplib.native import NativeForm, ask_natively
from swaplib.prompts import Message, build_messages, pick_shots
from swaplib.rows import Row, hash_rows, read_rows
from swaplib.settings import Settings


@dataclass(frozen=True)
class Question:
    """Rows, the messages of each, the form of each where they are asked natively, and the facts that a run's key hashes."""

    rows: list[Row]
    messages: list[list[Message]]
    forms: list[NativeForm] | None
    facts: dict[str, Any]


def make_question(settings: Settings, track: Track, model: ModelName, split: str, limit: int | None) -> Question:
    """What a model is asked.

    `messages_sha256` is of the messages as the specification has them, without examples and whatever form is asked for: a
    comparison asks whether it is equal. What else is sent has a hash of its own.

    Args:
        settings: Says where the rows lie.
        track: `structured` or `toolcall`.
        model: Its name says whether there are examples, and whether it is asked natively.
        split: `train`, `val` or `test`.
        limit: Only the first rows; None for all.

    Raises:
        FileNotFoundError, ValueError: Rows or examples are not there, or cannot be asked so.
    """
    path = settings.dataset / track / f"{split}.jsonl"
    before = hash_file(path) if path.is_file() else ""
    rows = read_rows(path, track)[:limit]
    if hash_file(path) != before:
        raise ValueError(f"{path} was changed while it was read. Run this again.")
    plain = [build_messages(track, row.prompt) for row in rows]
    facts = {
        "track": track,
        "split": split,
        "n_rows": len(rows),
        "dataset_sha256": before,
        "rows_sha256": hash_rows(rows),
        "messages_sha256": hash_text(canonical_json(plain)),
    }
    if model.is_native:
        return _ask_natively(settings, track, model, split, Question(rows, plain, None, facts))
    if not model.shots:
        return Question(rows, plain, None, facts)
    examples = _read_shots(settings, track, split, model.shots)
    if asked := {example.prompt for example in examples} & {row.prompt for row in rows}:
        raise ValueError(f"{len(asked)} of the examples are asked rows themselves. Keep {split} rows out of train.")
    facts |= {"shots": model.shots, "shots_sha256": hash_rows(examples)}
    return Question(rows, [build_messages(track, row.prompt, examples) for row in rows], None, facts)


def _ask_natively(settings: Settings, track: Track, model: ModelName, split: str, plain: Question) -> Question:
    """The same rows by tools or a response format."""
    if model.shots:
        raise ValueError(
            f"{model}: examples are turns in the form that is written by hand. Leave -native or -shotsN out"
        )
    known, path = find_facts(settings, track, split, plain.rows), settings.dataset / track / "schema.json"
    schema = parse_json(path.read_text(encoding="utf-8")) if path.is_file() else None
    pairs = zip(plain.rows, known or [None] * len(plain.rows), strict=True)
    asked = [ask_natively(track, row, fact, schema) for row, fact in pairs]
    sent = [[messages, form.to_request()] for messages, form in asked]
    facts = plain.facts | {"native_sha256": hash_text(canonical_json(sent))}
    return Question(plain.rows, [messages for messages, _ in asked], [form for _, form in asked], facts)


def _read_shots(settings: Settings, track: Track, split: str, shots: int) -> list[Row]:
    """The examples of a few-shot run; none of them may be a row that is asked."""
    if split == "train":
        raise ValueError("shots are examples from train: evaluate test or val with them")
    return pick_shots(read_rows(settings.dataset / track / "train.jsonl", track), shots)
