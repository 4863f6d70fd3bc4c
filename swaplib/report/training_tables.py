"""Tables of a training: its chats, the label proof, the run card. It computes nothing."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from swaplib.formats.run_card import RunCard
from swaplib.metrics import format_tool_call
from swaplib.report.styles import style
from swaplib.report.tables import show_texts
from swaplib.training.chats import Chat

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler


def show_labels(records: Sequence[Mapping[str, Any]]) -> "Styler":
    """The label proof's records: what would be trained of each chat, and what would not."""
    return show_texts(records)


def show_run_card(card: RunCard | None) -> "Styler":
    """What a training did, from its run card; without one, that nothing was trained."""
    if card is None:
        nothing = "none: nothing had to be trained, or nothing was kept"
        return style(pd.DataFrame({"training": [nothing]}))
    rows = [f"{track}: {n['train']} train, {n['val']} val" for track, n in card["rows"].items()]
    facts = {
        "base": card["base"],
        "rows": "; ".join(rows),
        "steps": card["steps"],
        **{name.replace("_", " "): f"{loss:.3f}" for name, loss in card["final"].items()},
        **{name.replace("_", " "): value for name, value in card["recipe"].items()},
        "seconds": card["seconds"] or "(unknown)",
        "resumed from": card["resumed_from"] or "(not killed)",
        "device": card["run"]["device"],
        "departures from the fixed settings": "; ".join(card["departures"]) or "none",
    }
    values = [str(value) for value in facts.values()]
    return style(pd.DataFrame({"what": facts.keys(), "value": values}))


def show_chat(chats: Sequence[Chat]) -> "Styler":
    """The longest chat, message by message, and which messages carry loss; empty without chats."""
    chat = max(chats, key=lambda chat: len(chat.messages), default=Chat("", "", (), ()))
    records = [
        {
            "role": message["role"],
            "trained": "yes" if is_trained else "no",
            "text": _show_message(message),
        }
        for message, is_trained in zip(chat.messages, chat.is_trained, strict=True)
    ]
    return show_texts(records or [{"role": "(nothing was kept)"}])


def _show_message(message: Mapping[str, Any]) -> str:
    """A message's text, and its calls in the form of the toolcall track."""
    functions = [call["function"] for call in message.get("tool_calls", [])]
    calls = [format_tool_call(f["name"], f["arguments"]) for f in functions]
    return "\n".join(text for text in (message["content"] or "", *calls) if text)
