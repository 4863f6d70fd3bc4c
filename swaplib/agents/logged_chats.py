"""Whole tool loops out of a log as chats to learn from: what the hosted LLM said carries loss.

    user: Is Emma in?                          read
    assistant calls find_book(title="Emma")    learned
    tool: 2 copies                             read: an observation, never learned
    assistant: Yes, two copies.                learned

An application sends the whole conversation with every call, so a loop is its last exchange; those
that it begins with are the same loop. A loop counts when it ends in a text and every call in it
fits the schema of its tool. Turns with several calls at once are read, not learned, since a model
that `swap serve` serves makes one call at a time.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from swaplib.data.conversation import NoRowError, format_conversation
from swaplib.data.exchange_files import Exchange, Json, Line, parse_exchange, read_again, read_lines
from swaplib.data.near_duplicates import cluster_prompts, split_clusters
from swaplib.data.private_values import Placeholders
from swaplib.data.traffic import check_complete, identify_call, read_calls, read_offered
from swaplib.metrics import canonical_json
from swaplib.models.templates import CONTROL_TOKENS
from swaplib.serving.chat_messages import ChatMessage
from swaplib.serving.tool_api import Refused, read_messages
from swaplib.training.chats import Chat

UNANSWERED = "a call without its result"
OPEN_END = "ends in a call, so it is no whole loop"
NO_LOOP = "no call of a tool"


@dataclass
class LoggedChats:
    """The chats of a log, and how many loops were left out for which reason."""

    chats: list[Chat]
    left_out: Counter[str] = field(default_factory=Counter)


def read_logged_chats(path: Path, seed: int) -> LoggedChats:
    """The whole tool loops of a log, split as 01 splits its rows: nearly equal requests together.

    Lines that are no complete exchange are 01's to report; here they are passed over.
    """
    ends, begun = _find_ends(path)
    found = LoggedChats([])
    loops: list[Chat] = []
    for line in read_again(path, (line for digest, line in ends.items() if digest not in begun)):
        try:
            exchange = parse_exchange(line.value)
            loops.append(_make_chat(f"{path.name}:{line.number}", exchange))
        except NoRowError as why:
            found.left_out[str(why)] += 1
    requests = [_first_request(chat) for chat in loops]
    splits = split_clusters(cluster_prompts(requests), seed) if loops else {}
    split_of = {i: split for split, indices in splits.items() for i in indices}
    found.chats = [replace(chat, split=split_of[i]) for i, chat in enumerate(loops)]
    return found


def _find_ends(path: Path) -> tuple[dict[bytes, Line], set[bytes]]:
    """The last line of each different conversation, and those that others begin with."""
    ends: dict[bytes, Line] = {}
    begun: set[bytes] = set()
    for line, exchange in _read_complete(path):
        digests = list(_digest_prefixes([*exchange.messages, exchange.answer or {}]))
        begun |= set(digests[:-1])
        ends[digests[-1]] = replace(line, value=None)
    return ends, begun


def _read_complete(path: Path) -> Iterator[tuple[Line, Exchange]]:
    for line in read_lines(path):
        try:
            exchange = None if line.problem else parse_exchange(line.value)
            if exchange is not None:
                check_complete(exchange)
                yield line, exchange
        except (ValueError, NoRowError):
            continue


def _digest_prefixes(messages: list[Json]) -> Iterator[bytes]:
    """A hash of the first message, of the first two, and so on."""
    state = hashlib.blake2b(digest_size=16)
    for message in messages:
        calls = [[c.get("id"), *identify_call(c)] for c in message.get("tool_calls") or []]
        known = [message.get("role"), message.get("content") or "", calls]
        state.update(canonical_json(known).encode("utf-8", "surrogatepass"))
        yield state.digest()


def _make_chat(name: str, exchange: Exchange | None) -> Chat:
    """A loop as a chat, its split still to be found.

    Raises:
        NoRowError: It is no loop to learn from.
    """
    if exchange is None or exchange.answer is None:
        raise NoRowError("no answer")
    whole = [*exchange.messages, exchange.answer]
    if not any(message.get("tool_calls") for message in whole):
        raise NoRowError(NO_LOOP)
    if exchange.answer.get("tool_calls"):
        raise NoRowError(OPEN_END)
    tools = read_offered(exchange)
    for message in whole:
        read_calls(replace(exchange, answer=message), tools)
    messages = _read_for_template(Placeholders().replace(whole))
    if any(CONTROL_TOKENS.search(format_conversation([message])) for message in whole):
        raise NoRowError("a text holds a chat template's control token")
    is_trained = [
        message["role"] == "assistant" and len(message.get("tool_calls", [])) < 2
        for message in messages
    ]
    return Chat(name, "", tuple(messages), tuple(is_trained), tools=tuple(exchange.tools))


def _read_for_template(messages: list[Json]) -> list[dict[str, Any]]:
    """Messages as `swap serve` gives them to chat templates: training sees what serving will."""
    names = ("role", "content", "tool_calls", "tool_call_id")
    answered = {message.get("tool_call_id") for message in messages}
    calls = [call for message in messages for call in message.get("tool_calls") or []]
    if any(call.get("id") not in answered for call in calls):
        raise NoRowError(UNANSWERED)
    try:
        known = [
            ChatMessage.model_validate({n: m[n] for n in names if m.get(n) is not None})
            for m in messages
        ]
        return read_messages(known)
    except (ValidationError, Refused):
        raise NoRowError("messages that `swap serve` would refuse") from None


def _first_request(chat: Chat) -> str:
    """What a loop began with."""
    users = [m["content"] for m in chat.messages if m["role"] == "user"]
    return str(users[0]) if users else ""
