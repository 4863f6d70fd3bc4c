"""What a run asks: the rows, what is sent for each, and what makes two runs the same question.

A comparison asks every model the same. So where the SLM's chat template has no place for a system
message, its text goes before the request for all models, and each run says so:
`"template": {"system": "folded"}`.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from swaplib.data.facts import find_facts
from swaplib.files import hash_file, hash_text
from swaplib.formats.metrics_file import RowsQuestion
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
class EvalRows:
    """Rows and the messages of each.

    `forms` has the form of each row where models are asked natively. `question` is the rows' part
    of what a run's key hashes.
    """

    rows: list[Row]
    messages: list[list[Message]]
    forms: list[NativeForm] | None
    question: RowsQuestion


def adapt_chats(settings: Settings, chats: Sequence[Sequence[Message]]) -> list[list[Message]]:
    """Chats as every model is asked them: folded where the checkpoint's template needs it.

    Nothing but the template's file is read. Where there is no checkpoint, chats stay as they are.
    """
    if not Checkpoint(settings.slm_model_path).folds_system:
        return [list(messages) for messages in chats]
    return [[dict(message) for message in fold_system(messages)] for messages in chats]


def check_served(settings: Settings, client: object) -> None:
    """Refuse a served SLM that cannot be asked as all models are, before any of them is paid.

    Args:
        settings: Without SLM_BASE_URL there is nothing to check.
        client: Who is to be asked now: the served SLM, or the hosted LLM that it will be compared
            with. Any other client passes.

    Raises:
        ValueError: It refuses a system message and answers without one; says what to do.
    """
    if not settings.slm_base_url or not isinstance(client, HostedLLM):
        return
    served = client if client.is_slm else HostedLLM.from_slm_settings(settings, "slm")
    once = replace(served, max_retries=0, deadline_s=60.0)
    [as_asked] = adapt_chats(settings, [TRIAL])
    folded = [dict(message) for message in fold_system(TRIAL)]
    with suppress(CallFailed):  # a wrong name or key is reported by its own check
        refused = [_is_refused(once, chat) for chat in (folded, as_asked)]
        if refused == [False, True]:
            path = show_path(settings.slm_model_path)
            raise ValueError(
                f"{served.endpoint} refuses a system message, as the chat templates of some models "
                "do. All models are asked alike, so let SLM_MODEL_PATH name a folder with the chat "
                "template of the served checkpoint (it has chat_template.jinja or "
                f"tokenizer_config.json; now {path}): the system text then goes before the request "
                "for all of them."
            )


def _is_refused(client: HostedLLM, chat: list[Message]) -> bool:
    [(_, answer)] = client.generate([chat], 1)
    return answer.status == "error"


def read_eval_rows(
    settings: Settings, track: Track, model: ModelName, split: str, limit: int | None
) -> EvalRows:
    """Read the rows of a split, and make what a model is sent for each.

    `messages_sha256` is of the plain messages, without examples and whatever form is asked for: a
    comparison checks that it is equal. What else is sent has a hash of its own.

    Args:
        settings: The home whose rows are read.
        track: The track of the rows.
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
    messages = adapt_chats(settings, [build_messages(track, row.prompt) for row in rows])
    question: RowsQuestion = {
        "track": track,
        "split": split,
        "n_rows": len(rows),
        "dataset_sha256": before,
        "rows_sha256": hash_rows(rows),
        "messages_sha256": hash_text(canonical_json(messages)),
    }
    if Checkpoint(settings.slm_model_path).folds_system:
        question["template"] = FOLDED
    plain = EvalRows(rows, messages, None, question)
    if model.is_native:
        return _ask_natively(settings, model, plain)
    return _add_shots(settings, plain, model.shots) if model.shots else plain


def _ask_natively(settings: Settings, model: ModelName, plain: EvalRows) -> EvalRows:
    """The same rows by tools or a response format."""
    if model.shots:
        raise ValueError(
            f"{model}: examples are turns in the form that is written by hand. Leave -native or "
            "-shotsN out"
        )
    track, rows = plain.question["track"], plain.rows
    facts = find_facts(settings, track, plain.question["split"], rows)
    path = settings.dataset / track / "schema.json"
    schema = parse_json(path.read_text(encoding="utf-8")) if path.is_file() else None
    asked = [
        ask_natively(track, row, facts[index] if facts else None, schema)
        for index, row in enumerate(rows)
    ]
    chats = adapt_chats(settings, [messages for messages, _ in asked])
    forms = [form for _, form in asked]
    sent = [[messages, form.to_request()] for messages, form in zip(chats, forms, strict=True)]
    native_sha256 = hash_text(canonical_json(sent))
    return EvalRows(rows, chats, forms, {**plain.question, "native_sha256": native_sha256})


def _add_shots(settings: Settings, plain: EvalRows, shots: int) -> EvalRows:
    """The same rows with examples from train in every prompt."""
    track, split = plain.question["track"], plain.question["split"]
    if split == "train":
        raise ValueError("shots are examples from train: evaluate test or val with them")
    examples = pick_shots(read_rows(settings.dataset / track / "train.jsonl", track), shots)
    prompts = {row.prompt for row in plain.rows}
    if n := len(prompts & {example.prompt for example in examples}):
        raise ValueError(
            f"{n} of the examples are evaluated rows themselves. Keep {split} rows out of train."
        )
    chats = [build_messages(track, row.prompt, examples) for row in plain.rows]
    question: RowsQuestion = {
        **plain.question,
        "shots": shots,
        "shots_sha256": hash_rows(examples),
    }
    return EvalRows(plain.rows, adapt_chats(settings, chats), None, question)
