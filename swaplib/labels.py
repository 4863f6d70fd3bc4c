"""Rows as tokens and labels, and the proof that the loss is on the completion and its end-of-turn token only.

Prompts are rendered by the code that renders them for evaluation, so a model is trained on what it will be asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from swaplib.local_checkpoint import Checkpoint
from swaplib.metrics import Track
from swaplib.prompts import build_messages
from swaplib.rows import Row

IGNORED = -100  # the label of a token that carries no loss


@dataclass(frozen=True)
class Example:
    """One row as tokens: `input_ids` and `labels` of equal length; a label of IGNORED carries no loss."""

    input_ids: list[int]
    labels: list[int]


def label_row(slm: Checkpoint, track: Track, row: Row) -> Example:
    """Tokenise a row; labels cover the completion and the token that ends its turn.

    Prompt and completion are tokenised apart, because that is how generation meets them.

    Raises:
        ValueError: The checkpoint's chat template renders the whole chat in another way than prompt, completion, end of
            turn; a model trained on it would be prompted with something else than it learned.
    """
    messages, end = build_messages(track, row.prompt), slm.tokenizer.eos_token
    prompt = slm.render(messages)
    chat = [*messages, {"role": "assistant", "content": row.completion}]
    whole = slm.render(chat, has_generation_prompt=False)
    if not whole.startswith(prompt) or whole[len(prompt) :].rstrip() != row.completion + end:
        raise ValueError(
            f"the chat template of {slm.path.name} does not render a training text as prompt, completion and {end!r}: "
            f"after the prompt come {whole[len(prompt) :][-80:]!r}"
        )
    asked, answered = (
        slm.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, row.completion + end)
    )
    return Example(asked + answered, [IGNORED] * len(asked) + answered)


def label_splits(
    slm: Checkpoint, track: Track, splits: dict[str, Sequence[Row]], limit: int
) -> dict[str, list[Example]]:
    """Tokenise and prove the rows of several splits, such as train and val.

    Raises:
        ValueError: Rows are longer than `limit` tokens (all are listed, none is cut), or the label proof fails.
    """
    examples = {split: [label_row(slm, track, row) for row in rows] for split, rows in splits.items()}
    too_long = [
        f"  {split}.jsonl:{number}: {len(example.input_ids)} tokens"
        for split, made in examples.items()
        for number, example in enumerate(made, start=1)
        if len(example.input_ids) > limit
    ]
    if too_long:
        raise ValueError(f"{len(too_long)} {track} row(s) exceed {limit} tokens; shorten them:\n" + "\n".join(too_long))
    for split, made in examples.items():
        prove_labels(slm, track, splits[split], made, split)
    return examples


def prove_labels(
    slm: Checkpoint, track: Track, rows: Sequence[Row], examples: Sequence[Example], split: str = "train"
) -> list[dict[str, Any]]:
    """Decode what would be trained and compare it with the rows, so that nobody has to believe the mask.

    Args:
        slm: Has the tokenizer, and the rendering that evaluation uses.
        track: `structured` or `toolcall`.
        rows: The rows.
        examples: Their tokens and labels, in the same order.
        split: Their split, for the error.

    Returns:
        One record for each row: `row`, `tokens`, `trained_tokens`, `trained_text` (its end of turn made visible).

    Raises:
        ValueError: Names the first row where the prompt is not evaluation's, a prompt token is trained, the completion is
            cut or changed, the end of turn is not trained, or nothing is.
    """
    records, end = [], slm.tokenizer.eos_token
    for index, (row, example) in enumerate(zip(rows, examples, strict=True)):
        trained = [label for label in example.labels if label != IGNORED]
        start = len(example.labels) - len(trained)
        text = slm.tokenizer.decode(trained)
        prompt = slm.tokenizer(slm.render(build_messages(track, row.prompt)), add_special_tokens=False)["input_ids"]
        problem = None
        if not trained:
            problem = "no token is trained"
        elif any(label != IGNORED for label in example.labels[:start]) or trained != example.input_ids[start:]:
            problem = "the trained tokens are not the end of the row"
        elif trained[-1] != slm.tokenizer.eos_token_id:
            problem = f"the end of turn {end!r} is not trained, so the model would not stop"
        elif text != row.completion + end:
            problem = f"the trained text is {text[:80]!a}, the completion {row.completion[:80]!a}"
        elif example.input_ids[:start] != prompt:
            problem = "the prompt is not the one that evaluation renders"
        if problem:
            raise ValueError(f"label proof, {track}/{split}.jsonl:{index + 1}: {problem}. Nothing was trained.")
        records.append(
            {"row": index, "tokens": len(example.labels), "trained_tokens": len(trained), "trained_text": text}
        )
    return records
