"""What an endpoint means by a refusal or by the end of an answer, with public sources.

It makes no call and raises nothing, whatever JSON a body is. The refusals are a table of their own,
refusals.txt; one that no line fits is an error that keeps its status and a few of its words.

    find_meaning(read_refusal(400, {"error": {"type": "exceed_context_size_error"}})).means
    -> "too long"
"""

import json
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from swaplib.masking import mask_secrets

Means = Literal[
    "too long",
    "cut off",
    "filtered",
    "quota",
    "unknown model",
    "refused parameter",
    "limit too high",
]
End = Literal["truncated", "filtered", "error"]

LONGEST_READ = 10_000  # characters of a message that are searched
LONGEST_SAID = 160  # characters of an endpoint's words that are kept
SAME = 16  # an endpoint's words repeat a prompt where so many characters in a row are the prompt's
HOPELESS = 5  # refusals in a row from the first call on, all alike: every further call is refused


@dataclass(frozen=True)
class Refusal:
    """What an endpoint says of a call that it refused; a text that it does not give is empty."""

    status: int
    code: str = ""
    type: str = ""
    param: str = ""
    message: str = ""


@dataclass(frozen=True)
class Meaning:
    """One line of the table: a refusal whose `field` matches `words` means this, whatever else."""

    name: str
    means: Means
    field: Literal["status", "code", "type", "message"]
    words: str
    source: str

    def fits(self, refusal: Refusal) -> bool:
        """Whether the line is about a refusal."""
        return re.search(self.words, str(getattr(refusal, self.field)), re.IGNORECASE) is not None


def _read_table(file: Path) -> tuple[Meaning, ...]:
    """The lines of a table: names of columns first, columns two or more spaces apart."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    names, *rows = [re.split(r" {2,}", line) for line in lines if not line.startswith("#")]
    cells = [dict(zip(names, row, strict=True)) for row in rows]
    return TypeAdapter(tuple[Meaning, ...]).validate_python(cells)


MEANINGS = _read_table(Path(__file__).with_name("refusals.txt"))

# How an answer ended, by its finish reason in lower case; with any other one it ended by itself.
ENDS: dict[str, tuple[End, str]] = {
    "length": ("truncated", "https://platform.openai.com/docs/api-reference/chat/object"),
    "max_tokens": (
        "truncated",
        "https://strandsagents.com/latest/documentation/docs/api-reference/python/models/mistral",
    ),
    "model_length": ("truncated", "https://docs.rs/crate/mistral-openapi-client/latest"),
    "model_context_window_exceeded": ("truncated", "genkit-ai/genkit/pull/6259"),
    "content_filter": ("filtered", "https://platform.openai.com/docs/api-reference/chat/object"),
    "sensitive": ("filtered", "anomalyco/opencode/issues/44092"),
    "safety": ("filtered", "MacPaw/OpenAI/pull/312"),
    "prohibited_content": ("filtered", "MacPaw/OpenAI/pull/312"),
    "blocklist": ("filtered", "MacPaw/OpenAI/pull/312"),
    "recitation": ("filtered", "MacPaw/OpenAI/pull/312"),
    "spii": ("filtered", "MacPaw/OpenAI/pull/312"),
    "error": ("error", "maximhq/bifrost/issues/5425"),
    "network_error": ("error", "genkit-ai/genkit/pull/6259"),
    "insufficient_system_resource": ("error", "genkit-ai/genkit/pull/6259"),
    "abort": ("error", "vllm-project/vllm/issues/57082"),
}


def find_meaning(refusal: Refusal) -> Meaning | None:
    """The first line of the table that fits a refusal; None where none does."""
    return next((meaning for meaning in MEANINGS if meaning.fits(refusal)), None)


def read_refusal(status: int, body: Any) -> Refusal:
    """What a body says of a refusal, in any of the shapes that endpoints have for it.

    Args:
        status: The HTTP status; an error inside a 200 takes the one that it names itself.
        body: The body's JSON, of any shape; None where it was none.
    """
    if isinstance(body, list):  # Google's gateways
        body = body[0] if body else None
    body = body if isinstance(body, Mapping) else {}
    error = body.get("error")
    if not isinstance(error, Mapping):
        if isinstance(error, str) and error:  # TGI, LM Studio, Ollama's own API
            error = {"message": error, "type": body.get("error_type")}
        else:  # vLLM and SGLang have no `error` around it
            error = body
    code = to_text(error.get("code"))
    codes = (code, to_text(error.get("status_code")))
    named = next((int(text) for text in codes if re.fullmatch(r"[45]\d\d", text)), status)
    message = to_text(error.get("message")) or to_text(error.get("detail"))
    return Refusal(
        status=named if status < 400 else status,
        code=code[:200],
        type=to_text(error.get("type"))[:200],
        param=to_text(error.get("param"))[:200],
        message=message[:LONGEST_READ],
    )


def make_printable(text: str, longest: int = 100) -> str:
    """A text for a terminal: one line, without control characters, at most so many characters."""
    characters = (
        character if character.isprintable() else " " for character in text[: longest * 20]
    )
    shown = " ".join("".join(characters).split())
    return shown if len(shown) <= longest else f"{shown[: longest - 2]} …"


def quote(refusal: Refusal, secrets: Sequence[str], asked: Sequence[str]) -> str:
    """An endpoint's words for terminal, ledger and trace: masked, short, never what it was asked.

    Args:
        refusal: What it said.
        secrets: Keys that it must not repeat.
        asked: The texts that it was sent; words that hold a part of one are left out as a whole.
    """
    said = make_printable(mask_secrets(refusal.message, secrets), LONGEST_SAID)
    sent = [" ".join(text.split()) for text in asked]
    same = min(SAME, max(8, len(said)))
    pieces = [said[i : i + same] for i in range(len(said) - same + 1)]
    holds_piece = any(piece in text for text in sent for piece in pieces)
    holds_text = any(len(text) >= 8 and text in said for text in sent)
    return "" if holds_piece or holds_text else said


def to_text(value: Any) -> str:
    """A JSON value as text: a string as it is, nothing as an empty one."""
    if isinstance(value, str):
        return value
    try:
        return "" if value is None else json.dumps(value)
    except (ValueError, RecursionError):
        return ""


@dataclass
class Streak:
    """How many calls in a row, from a client's first on, were refused for the same reason."""

    _reason: Any = None
    _n: int = 0
    _is_over: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def end(self) -> None:
        """Note that a call was answered: later refusals are about their own rows."""
        with self._lock:
            self._is_over = True

    def is_hopeless(self, reason: Any) -> bool:
        """Count a refusal; returns whether every further call would be refused, too."""
        with self._lock:
            self._n = self._n + 1 if reason == self._reason else 1
            self._reason = reason
            return not self._is_over and self._n >= HOPELESS
