"""Whole trajectories as tokens and labels, and the proof that only the agent's own good turns carry loss.

A chat is a line of `02_dataset/captured/steps.jsonl` (captured.py shows one). Its task, observations and failed turns are
read, never learned: an agent must not be taught to make up what a tool would have said.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from swaplib.files import read_appended
from swaplib.labels import IGNORED, Example
from swaplib.local_checkpoint import Checkpoint
from swaplib.prompts import Message
from swaplib.settings import show_path


@dataclass(frozen=True)
class Chat:
    """One kept trajectory: its messages, and for each whether it carries loss, which only an assistant's may."""

    id: str
    split: str
    messages: tuple[Message, ...]
    is_trained: tuple[bool, ...]


def read_chats(path: Path) -> list[Chat]:
    """Read the chats of a build.

    Raises:
        FileNotFoundError: The file is not there; names the notebook that makes it.
        ValueError: Lines are no chats, or another message than an assistant's would be trained; each with file:line.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no chats at {show_path(path)}. Run notebooks/07_build.ipynb; it keeps right ones only."
        )
    chats, problems = [], []
    for number, line in enumerate(read_appended(path), start=1):
        try:
            chats.append(_parse_chat(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            problems.append(f"  {path.name}:{number}: {error}")
    if problems:
        raise ValueError(f"{show_path(path)}: {len(problems)} bad line(s). Run 07_build again:\n" + "\n".join(problems))
    return chats


def _parse_chat(record: dict[str, Any]) -> Chat:
    chat = Chat(record["id"], record["split"], tuple(record["messages"]), tuple(record["is_trained"]))
    roles = [message["role"] for message, _ in zip(chat.messages, chat.is_trained, strict=True)]
    if not all(isinstance(message["content"], str) for message in chat.messages):
        raise ValueError("expected texts as the messages' contents")
    trained = {role for role, is_trained in zip(roles, chat.is_trained, strict=True) if is_trained}
    if trained != {"assistant"}:
        raise ValueError(
            f"expected loss on turns of the assistant and nothing else, found it on {sorted(trained) or 'none'}"
        )
    return chat


def label_chat(slm: Checkpoint, chat: Chat) -> Example:
    """Tokenise a chat; labels cover each trained turn and the token that ends it. What follows the last one is left out.

    Each turn is tokenised apart from what stands before it, because that is how generation meets it.

    Raises:
        ValueError: The chat template renders a turn in another way than prompt, turn, end of turn, or changes earlier turns
            when later ones follow; the agent would be asked with something else than it learned.
    """
    ids: list[int] = []
    labels: list[int] = []
    reached = ""
    for i, message in enumerate(chat.messages):
        if not chat.is_trained[i]:
            continue
        prompt, turn = slm.render(chat.messages[:i]), message["content"] + slm.tokenizer.eos_token
        whole = slm.render(chat.messages[: i + 1], has_generation_prompt=False)
        if not (prompt.startswith(reached) and whole.startswith(prompt) and whole[len(prompt) :].rstrip() == turn):
            raise ValueError(
                f"the chat template of {slm.path.name} does not render chat {chat.id} as prompt, turn and "
                f"{slm.tokenizer.eos_token!r} one after the other: message {i} comes out as {whole[len(prompt) :][-80:]!r}"
            )
        for text, carries_loss in ((prompt[len(reached) :], False), (turn, True)):
            tokens = _tokenise(slm, text)
            ids += tokens
            labels += tokens if carries_loss else [IGNORED] * len(tokens)
        reached = prompt + turn
    return Example(ids, labels)


def _tokenise(slm: Checkpoint, text: str) -> list[int]:
    return slm.tokenizer(text, add_special_tokens=False)["input_ids"]


def label_chats(slm: Checkpoint, chats: Sequence[Chat], limit: int) -> list[Example]:
    """Tokenise and prove chats.

    Raises:
        ValueError: Chats are longer than `limit` tokens (all are listed, none is cut), or the label proof fails.
    """
    examples = [label_chat(slm, chat) for chat in chats]
    too_long = [
        f"  {chat.id}: {len(example.input_ids)} tokens"
        for chat, example in zip(chats, examples, strict=True)
        if len(example.input_ids) > limit
    ]
    if too_long:
        raise ValueError(
            f"{len(too_long)} trajectories exceed {limit} tokens. Capture them with fewer steps or shorter answers, or take "
            "their lines out of steps.jsonl:\n" + "\n".join(too_long)
        )
    prove_chats(slm, chats, examples)
    return examples


def prove_chats(slm: Checkpoint, chats: Sequence[Chat], examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Decode what would be trained and what would not, and compare both with the chats, token by token.

    Returns:
        One record for each chat: `chat`, `tokens`, `trained_tokens`, `trained` and `not_trained`, the texts.

    Raises:
        ValueError: Names the first chat where an observation, the task or a failed turn would be trained, a good turn or its
            end would not, or the prompt of a turn is not the one that the agent is asked with.
    """
    records = []
    for chat, example in zip(chats, examples, strict=True):
        runs = _list_runs(example)
        trained, others = (
            [slm.tokenizer.decode(ids) for is_loss, ids in runs if is_loss is kind] for kind in (True, False)
        )
        if problem := _find_problem(slm, chat, example, trained):
            raise ValueError(
                f"label proof, chat {chat.id}: {problem}. Nothing was trained; take its line out of steps.jsonl to go on."
            )
        n_trained = sum(label != IGNORED for label in example.labels)
        record = {"chat": chat.id, "tokens": len(example.labels), "trained_tokens": n_trained}
        records.append(record | {"trained": "\n\n".join(trained), "not_trained": "\n[…]\n".join(others)})
    return records


def _list_runs(example: Example) -> list[tuple[bool, list[int]]]:
    """Stretches of tokens with and without loss, in order."""
    pairs = zip(example.input_ids, example.labels, strict=True)
    stretches = groupby(pairs, key=lambda pair: pair[1] != IGNORED)
    return [(is_loss, [token for token, _ in stretch]) for is_loss, stretch in stretches]


def _find_problem(slm: Checkpoint, chat: Chat, example: Example, trained: list[str]) -> str | None:
    end = slm.tokenizer.eos_token
    wanted = [m["content"] + end for m, carries in zip(chat.messages, chat.is_trained, strict=True) if carries]
    if any(label not in (IGNORED, token) for token, label in zip(example.input_ids, example.labels, strict=True)):
        return "a label is another token than the one it stands at"
    if any(slm.control_ids & set(ids[:-1]) for is_loss, ids in _list_runs(example) if is_loss):
        return "a trained turn holds a control token, so it would teach the model to go on in another's part"
    if trained != wanted:
        i = next((i for i, pair in enumerate(zip(trained, wanted, strict=False)) if pair[0] != pair[1]), 0)
        found, right = (texts[i][-60:] if i < len(texts) else "nothing" for texts in (trained, wanted))
        return f"expected {len(wanted)} trained turns, each with {end!r}, found {len(trained)}; … {found!r} for … {right!r}"
    reached = 0
    prompts = [slm.render(chat.messages[:i]) for i, carries in enumerate(chat.is_trained) if carries]
    for prompt, turn in zip(prompts, wanted, strict=True):
        asked = _tokenise(slm, prompt)
        if example.input_ids[: len(asked)] != asked:
            return "the prompt of a turn is not the one that the agent is asked with"
        reached = len(asked) + len(_tokenise(slm, turn))
    return None if reached == len(example.input_ids) else "tokens stand behind the last trained turn"
