"""Rows, generations and ledger lines: what they hold, and JSONL in and out.

It scores nothing and asks no model.

A row has exactly two keys; a toolcall row, for example:

    {"prompt": "Call the tool … Request: Find the area of a circle with radius 5.",
     "completion": "<tool_call name=\\"circle_area\\">{\\"radius\\":5}</tool_call>"}
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from swaplib.files import hash_text, parse_appended, write_text
from swaplib.metrics import Track, parse_gold, parse_json

SPLITS = ("train", "val", "test")

Status = Literal["ok", "empty", "truncated", "filtered", "error"]
LONGEST_LINE = 10_000_000  # bytes of a row; no model reads as much

STATUSES: tuple[Status, ...] = ("ok", "empty", "truncated", "filtered", "error")


@dataclass(frozen=True, slots=True)
class Row:
    """One question with its gold: the whole user message, and the right completion."""

    prompt: str
    completion: str


Rows = dict[Track, dict[str, list[Row]]]  # by track and split


@dataclass(frozen=True, slots=True)
class Generation:
    """What came back for one row, and how it ended.

    Attributes:
        output: The raw text; empty where there is none.
        status: `ok`, `empty` (no text), `truncated` (token limit), `filtered` (content filter) or
            `error` (no answer).
        finish_reason: The endpoint's word for how it ended.
        prompt_tokens: None where the endpoint did not report it.
        completion_tokens: As prompt_tokens.
        latency_ms: Wall time of the call; of a local row from prefill to its last token, while
            other rows share the batch.
        error: Why there is no answer, in one line.
        mean_logprob: The mean of the natural logs of the answer's token probabilities, end token
            included: how sure a local model was. None for other models and unanswered rows.
        min_logprob: The least of them.
    """

    output: str
    status: Status
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    latency_ms: float
    error: str | None = None
    mean_logprob: float | None = None
    min_logprob: float | None = None


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """One line of a run's ledger: a row's index and prompt hash, its generation and score bits.

    `ended_at` is when the answer came, in Unix seconds: with the latency it says when the model was
    busy. In older ledgers it is None, and so are the logprobs.
    """

    index: int
    prompt_sha256: str
    generation: Generation
    scores: dict[str, bool]
    ended_at: float | None = None

    def to_json(self) -> str:
        """The line as it is in the file, without the newline: one flat object."""
        flat = {"index": self.index, "prompt_sha256": self.prompt_sha256, **asdict(self.generation)}
        ended = {} if self.ended_at is None else {"ended_at": self.ended_at}
        return json.dumps(flat | {"scores": self.scores} | ended)

    @classmethod
    def from_json(cls, text: str) -> "LedgerLine":
        """Parse a line; raises ValueError, KeyError or TypeError when it is not one."""
        flat = json.loads(text)
        _check_types(flat)
        own = {name: flat.pop(name) for name in ("index", "prompt_sha256", "scores")}
        return cls(**own, ended_at=flat.pop("ended_at", None), generation=Generation(**flat))


_TYPES = {
    int: ("index", "prompt_tokens", "completion_tokens"),
    str: ("prompt_sha256", "output", "status", "finish_reason", "error"),
    float: ("latency_ms", "mean_logprob", "min_logprob", "ended_at"),
    dict: ("scores",),
}
_NEEDED = ("index", "prompt_sha256", "output", "status", "latency_ms", "scores")


def _check_types(flat: Any) -> None:
    """Raise ValueError unless a ledger line's values have the types they were written with."""
    if not isinstance(flat, dict):
        raise ValueError(f"expected an object, found {type(flat).__name__}")
    for kind, names in _TYPES.items():
        for name in names:
            value = flat.get(name)
            kinds = (float, int) if kind is float else (kind,)
            if type(value) not in kinds and (value is not None or name in _NEEDED):
                raise ValueError(f"{name}: expected {kind.__name__}, found {type(value).__name__}")
    if flat["status"] not in STATUSES:
        raise ValueError(f"status: expected one of {', '.join(STATUSES)}")
    if wrong := [name for name, bit in flat["scores"].items() if type(bit) is not bool]:
        raise ValueError(f"scores: expected true or false for {', '.join(wrong)}")


def check_prompts(path: Path, lines: Iterable[LedgerLine], rows: Sequence[Row]) -> None:
    """Raise ValueError when a line answers another prompt than the row of its index has."""
    for line in lines:
        is_row = 0 <= line.index < len(rows)
        if not is_row or hash_text(rows[line.index].prompt) != line.prompt_sha256:
            raise ValueError(
                f"{path}: the line of row {line.index} answers another prompt than that row has: "
                "the ledger was changed, or is another run's. Move its folder away and run "
                "notebooks/02_eval.ipynb again."
            )


def read_rows(path: Path, track: Track) -> list[Row]:
    """Read and check a split; every completion must be an answer of the track.

    Raises:
        FileNotFoundError: There is no such file; the message names the notebook that makes it.
        ValueError: Lines are bad; every one is listed with file:line and reason. None is dropped.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no rows at {path}. Run notebooks/01_data.ipynb first.")
    rows = []
    problems = []
    for number, line in number_lines(path):
        try:
            rows.append(_check_gold(parse_row(line), track))
        except ValueError as error:
            problems.append((number, str(error)))
    refuse_lines(path, problems)
    return rows


def number_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their numbers, from 1, split at line feeds alone."""
    yield from enumerate(path.read_bytes().removesuffix(b"\n").split(b"\n"), start=1)


def refuse_lines(path: Path, problems: Sequence[tuple[int, str]]) -> None:
    """Raise ValueError that lists bad lines by number and reason, where there are any."""
    if problems:
        listed = "\n".join(f"  {path.name}:{number}: {_shorten(why)}" for number, why in problems)
        raise ValueError(
            f"{path}: {len(problems)} bad line(s), so nothing was read. Mend them and run again:\n"
            f"{listed}"
        )


def _shorten(text: str) -> str:
    """A reason short enough for a list; keys of a bad row may be as long as the row."""
    return text if len(text) <= 300 else f"{text[:200]} … {text[-60:]}"


def parse_row(line: bytes) -> Row:
    """A row of a line of JSONL; raises ValueError that says why it is none."""
    if len(line) > LONGEST_LINE:
        raise ValueError(f"a line of {len(line)} bytes; at most {LONGEST_LINE} are read")
    try:
        row = parse_json(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start + 1})") from None
    except ValueError as error:
        raise ValueError(f"not JSON ({error})" if line.strip() else "a blank line") from None
    if not isinstance(row, dict) or set(row) != {"prompt", "completion"}:
        found = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise ValueError(
            f"expected an object with exactly the keys prompt and completion, found {found}"
        )
    for key, value in row.items():
        if not isinstance(value, str) or not value.strip():
            raise ValueError(
                f"{key} must be a text that is not blank, found {type(value).__name__}"
            )
        if not value.isprintable() and any("\ud800" <= c <= "\udfff" for c in value):
            raise ValueError(
                f"{key} holds half of a surrogate pair, which cannot be sent or written"
            )
    return Row(**row)


def _check_gold(row: Row, track: Track) -> Row:
    try:
        parse_gold(track, row.completion)
    except ValueError as error:
        raise ValueError(f"completion is not a {track} answer ({error})") from None
    return row


def format_rows(rows: Iterable[Row]) -> str:
    """Rows as JSONL."""
    return "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a split as JSONL, atomically."""
    write_text(path, format_rows(rows))


def read_ledger(path: Path) -> dict[int, LedgerLine]:
    """Read a ledger: the last line of each row index. Empty when there is no file.

    A line that a kill left torn (it does not parse, and is the file's last or was followed by a
    resumed run) counts as never written: its row is asked again.

    Raises:
        ValueError: A line parses but is not a ledger line; file:line is named.
    """
    lines = parse_appended(path, LedgerLine.from_json, "a ledger line")
    return {line.index: line for line in lines}


def hash_rows(rows: Sequence[Row]) -> str:
    """One sha256 over the prompts and completions of rows in their order."""
    return hash_text(
        "".join(f"{hash_text(row.prompt)} {hash_text(row.completion)}\n" for row in rows)
    )
