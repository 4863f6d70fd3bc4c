"""What a run asks: the rows, what is sent for each, and what of it makes two runs the same question.

A comparison asks every model the same. So where the SLM's chat template has no place for a system message, its text stands
before the request for all of them, and the run says so: `"template": {"system": "folded"}`.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from swaplib.data.facts import find_facts
from swaplib.files import hash_file, hash_text
from swaplib.metrics import Track, canonical_json, parse_json
from swaplib.models.hosted import HostedLLM
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.models.names import ModelName
from swaplib.models.native import NativeForm, ask_natively
from swaplib.models.replies import CallFailed
from swaplib.models.templates import FOLDED, TRIAL, fold_system
from swaplib.prompts import Message, build_messages, pick_shots
from swaplib.rows import Row, hash_rows, read_rows
from swaplib.settings import Settings, show_path


@dataclass(frozen=True)
class Question:
    """Rows, the messages of each, the form of each where they are asked natively, and the facts that a run's key hashes."""

    rows: list[Row]
    messages: list[list[Message]]
    forms: list[NativeForm] | None
    facts: dict[str, Any]


def adapt_chats(settings: Settings, chats: Sequence[Sequence[Message]]) -> list[list[Message]]:
    """Chats as every model is asked them: without a system message where the checkpoint's template has no place for one.

    Where there is no checkpoint (nothing but its template's file is read), they stay as they are.
    """
    folds = Checkpoint(settings.slm_model_path).folds_system
    return [fold_system(messages) if folds else list(messages) for messages in chats]


def check_served(settings: Settings, client: object) -> None:
    """Refuse a served SLM that cannot be asked as all models are, before any of them is paid; others are let pass.

    Args:
        settings: With SLM_BASE_URL, else there is nothing to check.
        client: Who is to be asked now: the served SLM, or the hosted LLM that it will be compared with.

    Raises:
        ValueError: It refuses a system message and answers without one; says what to do.
    """
    if not settings.slm_base_url or not isinstance(client, HostedLLM):
        return
    served = client if client.is_slm else HostedLLM.from_slm_settings(settings, "slm")
    once, [asked] = replace(served, max_retries=0, deadline_s=60.0), adapt_chats(settings, [TRIAL])
    with suppress(CallFailed):  # another name, another key: its own check says so
        failed = [
            dict(once.generate([chat], 1))[0].status == "error"
            for chat in (fold_system(TRIAL), asked)
        ]
        if failed == [False, True]:
            raise ValueError(
                f"{served.endpoint} refuses a system message, as the chat templates of some models do. All models are asked "
                "alike, so let SLM_MODEL_PATH name a folder with the chat template of the served checkpoint (it has "
                f"chat_template.jinja or tokenizer_config.json; now {show_path(settings.slm_model_path)}): the system text "
                "then goes before the request for all of them."
            )


def make_question(
    settings: Settings, track: Track, model: ModelName, split: str, limit: int | None
) -> Question:
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
    plain = adapt_chats(settings, [build_messages(track, row.prompt) for row in rows])
    facts = {"track": track, "split": split, "n_rows": len(rows)}
    facts |= {
        "dataset_sha256": before,
        "rows_sha256": hash_rows(rows),
        "messages_sha256": hash_text(canonical_json(plain)),
    }
    facts |= {"template": FOLDED} if Checkpoint(settings.slm_model_path).folds_system else {}
    if model.is_native:
        return _ask_natively(settings, track, model, split, Question(rows, plain, None, facts))
    if not model.shots:
        return Question(rows, plain, None, facts)
    examples = _read_shots(settings, track, split, model.shots)
    if asked := {example.prompt for example in examples} & {row.prompt for row in rows}:
        raise ValueError(
            f"{len(asked)} of the examples are asked rows themselves. Keep {split} rows out of train."
        )
    facts |= {"shots": model.shots, "shots_sha256": hash_rows(examples)}
    shown = [build_messages(track, row.prompt, examples) for row in rows]
    return Question(rows, adapt_chats(settings, shown), None, facts)


def _ask_natively(
    settings: Settings, track: Track, model: ModelName, split: str, plain: Question
) -> Question:
    """The same rows by tools or a response format."""
    if model.shots:
        raise ValueError(
            f"{model}: examples are turns in the form that is written by hand. Leave -native or -shotsN out"
        )
    known, path = (
        find_facts(settings, track, split, plain.rows),
        settings.dataset / track / "schema.json",
    )
    schema = parse_json(path.read_text(encoding="utf-8")) if path.is_file() else None
    pairs = zip(plain.rows, known or [None] * len(plain.rows), strict=True)
    asked = [ask_natively(track, row, fact, schema) for row, fact in pairs]
    chats, forms = (
        adapt_chats(settings, [messages for messages, _ in asked]),
        [form for _, form in asked],
    )
    sent = [[messages, form.to_request()] for messages, form in zip(chats, forms, strict=True)]
    facts = plain.facts | {"native_sha256": hash_text(canonical_json(sent))}
    return Question(plain.rows, chats, forms, facts)


def _read_shots(settings: Settings, track: Track, split: str, shots: int) -> list[Row]:
    """The examples of a few-shot run; none of them may be a row that is asked."""
    if split == "train":
        raise ValueError("shots are examples from train: evaluate test or val with them")
    return pick_shots(read_rows(settings.dataset / track / "train.jsonl", track), shots)
