"""`delivered.jsonl` beside an outbox: the keys of the lines that were sent, by recipient.

A recipient is a server's address and a hash of its project's public key, since no key is written to
a file:

    {"to": "https://cloud.langfuse.com 5c1d0e6f0a3b", "lines": ["09c4b0f1d2a37e55", …]}
"""

import json
from collections.abc import Sequence
from pathlib import Path

from swaplib.files import append_line, read_appended, write_text


def read_delivered(path: Path) -> dict[str, set[str]]:
    """The keys of the lines of an outbox that were delivered, by recipient."""
    delivered: dict[str, set[str]] = {}
    for text in read_appended(_file_beside(path)):
        try:
            record = json.loads(text)
        except ValueError:  # torn by a kill: these lines are sent again
            continue
        delivered.setdefault(record["to"], set()).update(record["lines"])
    return delivered


def note_delivered(path: Path, recipient: str, keys: Sequence[str]) -> None:
    """Record that a recipient has taken lines of an outbox."""
    append_line(_file_beside(path), json.dumps({"to": recipient, "lines": keys}))


def forget_delivered(path: Path, recipient: str) -> None:
    """Forget what a recipient has taken of an outbox, so that all of it is sent again."""
    others = {to: sorted(keys) for to, keys in read_delivered(path).items() if to != recipient}
    lines = [json.dumps({"to": to, "lines": keys}) + "\n" for to, keys in others.items()]
    write_text(_file_beside(path), "".join(lines))


def _file_beside(path: Path) -> Path:
    return path.with_name("delivered.jsonl")
