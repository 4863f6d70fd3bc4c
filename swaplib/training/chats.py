"""What an adapter is trained on: chats, and for each message whether it carries loss.

A row is a chat with one trained turn, its completion; a toolcall row, for example:

    Chat(
        "toolcall/train.jsonl:3",
        "train",
        messages=(
            {"role": "system", …},
            {"role": "user", "content": "Answer the …"},
            {"role": "assistant", "content": "<tool_call …"},
        ),
        is_trained=(False, False, True),
    )

A kept trajectory has one trained turn for each step that did not fail. Its task, observations and
failed turns carry no loss: an agent must not be taught to make up what a tool would have said.
Kept trajectories are the lines of `02_dataset/captured/chats.jsonl`:

    {"id": "98", "split": "train", "is_recovered": false,
     "messages": [{"role": "system", "content": "Solve the task …"},
                  {"role": "user", "content": "Task: …"},
                  {"role": "assistant", "content": "… <code>…</code>"},
                  {"role": "user", "content": "Observation…"}, …],
     "is_trained": [false, false, true, false, …]}
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swaplib.files import hash_text, read_appended
from swaplib.metrics import Track
from swaplib.prompts import Message, build_messages
from swaplib.rows import Row, hash_rows
from swaplib.settings import show_path


@dataclass(frozen=True)
class Chat:
    """Messages, and for each whether it carries loss, which only an assistant's may.

    `id` is a row's file and line, or a trajectory's task. `is_recovered` marks a trajectory that
    was kept although steps of it failed.
    """

    id: str
    split: str
    messages: tuple[Message, ...]
    is_trained: tuple[bool, ...]
    is_recovered: bool = False


@dataclass(frozen=True)
class ChatSet:
    """The chats of `train` and `val` that one track, or the agent, has for an adapter.

    `sha256` holds for each split the hash of what its chats were made from; an adapter is matched
    with its rows by it. `cut` says in words, for the run card, how these are not all the rows or
    not a track's own.
    """

    chats: Mapping[str, list[Chat]]
    sha256: dict[str, str]
    cut: str | None = None


def gather_rows(track: Track, rows: Mapping[str, Sequence[Row]], cut: str | None = None) -> ChatSet:
    """Rows by split as chats.

    A chat is the messages that evaluation asks with, then the completion, which alone carries loss.
    """
    chats: dict[str, list[Chat]] = {split: [] for split in rows}
    for split, of_split in rows.items():
        for number, row in enumerate(of_split, start=1):
            messages = (
                *build_messages(track, row.prompt),
                {"role": "assistant", "content": row.completion},
            )
            chats[split].append(
                Chat(f"{track}/{split}.jsonl:{number}", split, messages, (False, False, True))
            )
    return ChatSet(chats, {split: hash_rows(of_split) for split, of_split in rows.items()}, cut)


def gather_chats(chats: Mapping[str, list[Chat]], cut: str | None = None) -> ChatSet:
    """Kept trajectories by split."""
    lines = {
        split: [json.dumps([chat.id, chat.messages, chat.is_trained]) + "\n" for chat in of_split]
        for split, of_split in chats.items()
    }
    hashes = {split: hash_text("".join(of_split)) for split, of_split in lines.items()}
    return ChatSet(chats, hashes, cut)


def format_chat(chat: Chat) -> str:
    """The line of a kept trajectory in `chats.jsonl`, with its newline."""
    record = {
        "id": chat.id,
        "split": chat.split,
        "is_recovered": chat.is_recovered,
        "messages": chat.messages,
        "is_trained": chat.is_trained,
    }
    return json.dumps(record) + "\n"


def read_chats(path: Path) -> list[Chat]:
    """Read the chats of a build.

    Raises:
        FileNotFoundError: There is no such file; names the notebook that makes it.
        ValueError: Lines are not chats, or a message that is not the assistant's would be trained;
            each is named with file:line.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no chats at {show_path(path)}. Run notebooks/07_build.ipynb; it saves those of right "
            "trajectories only."
        )
    chats, problems = [], []
    for number, line in enumerate(read_appended(path), start=1):
        try:
            chats.append(_parse_chat(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            problems.append(f"  {path.name}:{number}: {error}")
    if problems:
        raise ValueError(
            f"{show_path(path)}: {len(problems)} bad line(s). Run 07_build again:\n"
            + "\n".join(problems)
        )
    return chats


def _parse_chat(record: dict[str, Any]) -> Chat:
    chat = Chat(
        record["id"],
        record["split"],
        tuple(record["messages"]),
        tuple(record["is_trained"]),
        record.get("is_recovered", False),
    )
    roles = [message["role"] for message, _ in zip(chat.messages, chat.is_trained, strict=True)]
    if not all(isinstance(message["content"], str) for message in chat.messages):
        raise ValueError("expected texts as the messages' contents")
    trained = {role for role, is_trained in zip(roles, chat.is_trained, strict=True) if is_trained}
    if trained != {"assistant"}:
        raise ValueError(
            "expected loss on turns of the assistant and nothing else, "
            f"found it on {sorted(trained) or 'none'}"
        )
    return chat
