"""Chats as tokens and labels, and the proof that only trained turns and their ends carry loss.

Prompts are rendered by the code that renders them for evaluation, so a model is trained on what it
will be asked. A row is a chat with one trained turn (chats.py), a trajectory one with several:

    … <|im_start|>assistant\\n | <tool_call name="circle_area">{"radius":5}</tool_call><|im_end|>
    no loss: IGNORED          | loss: the label is the token
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest
from typing import Any

from swaplib.models.local_checkpoint import Checkpoint
from swaplib.models.native import read_call
from swaplib.training.chats import Chat

IGNORED = -100  # the label of a token that carries no loss


@dataclass(frozen=True)
class TokenizedChat:
    """One chat as tokens, and as many labels; a label of IGNORED carries no loss."""

    input_ids: list[int]
    labels: list[int]


def label_chat(slm: Checkpoint, chat: Chat) -> TokenizedChat:
    """Tokenise a chat; labels cover each trained turn and the token that ends it.

    What follows the last trained turn is left out. Each turn is tokenised apart from the text
    before it, because that is how generation meets it.

    Raises:
        ValueError: The chat template does not render a turn as prompt, turn and end of turn, or
            changes earlier turns when later ones follow; the model would be asked with something
            else than it was trained on.
    """
    ids: list[int] = []
    labels: list[int] = []
    reached = ""
    for i, message in enumerate(chat.messages):
        if not chat.is_trained[i]:
            continue
        prompt = slm.render(chat.messages[:i], tools=chat.tools)
        whole = slm.render(chat.messages[: i + 1], has_generation_prompt=False, tools=chat.tools)
        turn = whole[len(prompt) :].rstrip()
        if not (
            prompt.startswith(reached)
            and whole.startswith(prompt)
            and _is_turn(turn, message, slm.turn_end)
        ):
            raise ValueError(
                f"the chat template of {slm.path.name} does not render chat {chat.id} as prompt, "
                f"turn and {slm.turn_end!r} one after the other: message {i} comes out as "
                f"{whole[len(prompt) :][-80:]!r}"
            )
        for text, carries_loss in ((prompt[len(reached) :], False), (turn, True)):
            tokens = slm.encode(text)
            ids += tokens
            labels += tokens if carries_loss else [IGNORED] * len(tokens)
        reached = prompt + turn
    return TokenizedChat(ids, labels)


def _is_turn(text: str, message: Mapping[str, Any], turn_end: str) -> bool:
    """Whether a rendered turn is the message and its end, and nothing else.

    A call is written in the chat template's own form, which must be one that `swap serve` reads
    back as the same call.
    """
    calls, content = message.get("tool_calls") or [], message["content"] or ""
    if not calls:
        return text == content + turn_end
    if not (text.startswith(content) and text.endswith(turn_end)):
        return False
    call = read_call(text.removesuffix(turn_end).removeprefix(content))
    expected = [(made["function"]["name"], made["function"]["arguments"]) for made in calls]
    return call is not None and expected == [(call.name, call.arguments)]


def label_chats(
    slm: Checkpoint, chats: Mapping[str, Sequence[Chat]], limit: int
) -> dict[str, list[TokenizedChat]]:
    """Tokenise and prove the chats of several splits, such as train and val.

    Raises:
        ValueError: Chats are longer than `limit` tokens (all are listed, none is cut), or the label
            proof fails.
    """
    examples = {
        split: [label_chat(slm, chat) for chat in of_split] for split, of_split in chats.items()
    }
    lengths = [
        (chat.id, len(example.input_ids))
        for split, of_split in examples.items()
        for chat, example in zip(chats[split], of_split, strict=True)
    ]
    if too_long := [f"  {name}: {length} tokens" for name, length in lengths if length > limit]:
        raise ValueError(
            f"{len(too_long)} chat(s) exceed {limit} tokens. Shorten these rows, or capture these "
            "tasks with fewer steps or shorter answers:\n" + "\n".join(too_long)
        )
    for split, of_split in examples.items():
        prove_labels(slm, chats[split], of_split)
    return examples


def prove_labels(
    slm: Checkpoint, chats: Sequence[Chat], examples: Sequence[TokenizedChat]
) -> list[dict[str, Any]]:
    """Decode what would be trained and what would not, and compare both with the chats.

    Nobody has to believe a mask then.

    Args:
        slm: Has the tokenizer, and the rendering that evaluation uses.
        chats: What was tokenised.
        examples: The chats' tokens and labels, in the same order.

    Returns:
        One record for each chat: `chat`, `tokens`, `trained_tokens`, and the texts `trained` and
        `not_trained`.

    Raises:
        ValueError: Names the first chat where a prompt, an observation or a failed turn would be
            trained, where a good turn or its end would not or is changed, or where the prompt of a
            turn is not the one that evaluation or the agent asks with.
    """
    records = []
    for chat, example in zip(chats, examples, strict=True):
        runs = _list_runs(example)
        trained, others = (
            [slm.tokenizer.decode(ids) for is_loss, ids in runs if is_loss is kind]
            for kind in (True, False)
        )
        if problem := _find_problem(slm, chat, example, trained):
            raise ValueError(
                f"label proof, chat {chat.id}: {problem}. Nothing was trained. Mend the row, or "
                "take the trajectory's line out of its capture's trajectories.jsonl and run "
                "07_build again."
            )
        n_trained = sum(label != IGNORED for label in example.labels)
        record = {"chat": chat.id, "tokens": len(example.labels), "trained_tokens": n_trained}
        records.append(
            record | {"trained": "\n\n".join(trained), "not_trained": "\n[…]\n".join(others)}
        )
    return records


def _list_runs(example: TokenizedChat) -> list[tuple[bool, list[int]]]:
    """Stretches of tokens with and without loss, in order."""
    pairs = zip(example.input_ids, example.labels, strict=True)
    stretches = groupby(pairs, key=lambda pair: pair[1] != IGNORED)
    return [(is_loss, [token for token, _ in stretch]) for is_loss, stretch in stretches]


def _find_problem(
    slm: Checkpoint, chat: Chat, example: TokenizedChat, trained: Sequence[str]
) -> str | None:
    """What is wrong with a chat's labels, in words, or None."""
    pairs = zip(example.input_ids, example.labels, strict=True)
    if any(label not in (IGNORED, token) for token, label in pairs):
        return "a label is another token than the one it is for"
    places = [i for i, carries_loss in enumerate(chat.is_trained) if carries_loss]
    if problem := _compare_turns(trained, [chat.messages[i] for i in places], slm.turn_end):
        return problem
    if any(slm.control_ids & set(ids[:-1]) for is_loss, ids in _list_runs(example) if is_loss):
        return (
            "a trained turn holds a control token, so it would teach the model to continue in the "
            "part of another speaker"
        )
    reached = 0
    for i, turn in zip(places, trained, strict=True):
        prompt_ids = slm.encode(slm.render(chat.messages[:i], tools=chat.tools))
        if example.input_ids[: len(prompt_ids)] != prompt_ids:
            return "the prompt of a turn is not the one that the model is asked with"
        reached = len(prompt_ids) + len(slm.encode(turn))
    return None if reached == len(example.input_ids) else "tokens follow the last trained turn"


def _compare_turns(
    trained: Sequence[str], messages: Sequence[Mapping[str, Any]], turn_end: str
) -> str | None:
    """Where the trained texts first differ from a chat's trained turns, in words, or None."""
    turns = zip_longest(trained, messages)
    for number, (actual, message) in enumerate(turns, start=1):
        actual = actual or ""
        right = "" if message is None else (message["content"] or "") + turn_end
        if message is None or not _is_turn(actual, message, turn_end):
            characters = enumerate(zip_longest(actual, right))
            k = next((k for k, (one, other) in characters if one != other), 0)
            return (
                f"trained turn {number} of {len(messages)}: from character {k} on "
                f"{actual[k : k + 60]!a} is trained where {right[k : k + 60]!a} is expected"
            )
    return None
