"""Rows, generations and ledger lines: what they hold, and JSONL in and out. It scores nothing and asks no model.

A row has exactly two keys; a toolcall row, for example:

    {"prompt": "Call the tool … Request: Find the area of a circle with radius 5.",
     "completion": "<tool_call name=\\"circle_area\\">{\\"radius\\":5}</tool_call>"}
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from swaplib.files import hash_text, parse_appended, write_text
from swaplib.metrics import TRACKS, Track, parse_gold, parse_json

SPLITS = ("train", "val", "test")

Status = Literal["ok", "empty", "truncated", "filtered", "error"]
LONGEST_LINE = 10_000_000  # bytes of a row; no model reads as much

STATUSES: tuple[Status, ...] = ("ok", "empty", "truncated", "filtered", "error")


@dataclass(frozen=True, slots=True)
class Row:
    """One question with its gold: the whole user message, and the completion that counts as right."""

    prompt: str
    completion: str


Rows = dict[Track, dict[str, list[Row]]]  # by track and split


@dataclass(frozen=True, slots=True)
class Generation:
    """What came back for one row, and how it ended.

    `status`: `ok`, `empty` (no text), `truncated` (token limit), `filtered` (content filter), `error` (no answer).
    `latency_ms` is the wall time of the call; for a local row, from the reading of its prompt to its end, beside others.
    Token counts are None where nobody told them. `error` says in one line why there is no answer.
    `mean_logprob` and `min_logprob` are the mean and the least of the natural logs of the answer's tokens' probabilities,
    end token included: how sure a local model was. None for every other model, and for a row that was never answered.
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
    """One line of a run's ledger: the row's index and prompt hash, its generation, and its score bits.

    `ended_at` is when the answer came, in Unix seconds: with the latency it says when the model was at work. In ledgers of
    old it is None, and so are the logprobs.
    """

    index: int
    prompt_sha256: str
    generation: Generation
    scores: dict[str, bool]
    ended_at: float | None = None

    def to_json(self) -> str:
        """The line as it stands in the file, without the newline: one flat object."""
        flat = {"index": self.index, "prompt_sha256": self.prompt_sha256, **asdict(self.generation)}
        ended = {} if self.ended_at is None else {"ended_at": self.ended_at}
        return json.dumps(flat | {"scores": self.scores} | ended)

    @classmethod
    def from_json(cls, text: str) -> "LedgerLine":
        """Parse a line; raises ValueError, KeyError or TypeError when it is not one."""
        flat = json.loads(text)
        _check_types(flat)
        keys = (flat.pop("index"), flat.pop("prompt_sha256"))
        scores, ended_at = flat.pop("scores"), flat.pop("ended_at", None)
        return cls(*keys, Generation(**flat), scores, ended_at)


_TYPES = {
    int: ("index", "prompt_tokens", "completion_tokens"),
    str: ("prompt_sha256", "output", "status", "finish_reason", "error"),
    float: ("latency_ms", "mean_logprob", "min_logprob", "ended_at"),
    dict: ("scores",),
}
_NEEDED = ("index", "prompt_sha256", "output", "status", "latency_ms", "scores")


def _check_types(flat: Any) -> None:
    """Raise ValueError unless what a ledger line holds is of the types that it was written with."""
    if not isinstance(flat, dict):
        raise ValueError(f"expected an object, found {type(flat).__name__}")
    for kind, names in _TYPES.items():
        for name in names:
            value, kinds = flat.get(name), (kind, int) if kind is float else (kind,)
            if type(value) not in kinds and (value is not None or name in _NEEDED):
                raise ValueError(f"{name}: expected {kind.__name__}, found {type(value).__name__}")
    if flat["status"] not in STATUSES:
        raise ValueError(f"status: expected one of {', '.join(STATUSES)}")
    if wrong := [name for name, bit in flat["scores"].items() if type(bit) is not bool]:
        raise ValueError(f"scores: expected true or false for {', '.join(wrong)}")


def check_prompts(path: Path, lines: Iterable[LedgerLine], rows: Sequence[Row]) -> None:
    """Raise ValueError when a ledger has a line that answers another prompt than the row of its index has."""
    for line in lines:
        if (
            not 0 <= line.index < len(rows)
            or hash_text(rows[line.index].prompt) != line.prompt_sha256
        ):
            raise ValueError(
                f"{path}: the line of row {line.index} answers another prompt than that row has: the ledger was changed, or "
                "is another run's. Move its folder away and run notebooks/02_eval.ipynb again."
            )


def read_rows(path: Path, track: Track) -> list[Row]:
    """Read and check a split.

    Args:
        path: A JSONL file of objects with exactly the keys `prompt` and `completion`, both strings.
        track: What every completion must be.

    Raises:
        FileNotFoundError: The split is not there; the message names the notebook that makes it.
        ValueError: Lines are bad; every one is listed with file:line and reason. None is dropped.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no rows at {path}. Run notebooks/01_data.ipynb first.")
    rows, problems = [], []
    for number, line in enumerate(path.read_bytes().removesuffix(b"\n").split(b"\n"), start=1):
        try:
            rows.append(_check_gold(_parse_row(line), track))
        except ValueError as error:
            problems.append((number, str(error)))
    _refuse(path, problems)
    return rows


def read_rows_of_one_track(path: Path) -> tuple[Track, list[Row]]:
    """Read and check a file of rows whose track is the one that its completions tell.

    Args:
        path: As for read_rows.

    Raises:
        ValueError: Lines are bad, or rows are of another track than most; every one is listed with file:line and reason.
    """
    rows, tracks, problems = [], [], []
    for number, line in enumerate(path.read_bytes().removesuffix(b"\n").split(b"\n"), start=1):
        try:
            rows.append(_parse_row(line))
            tracks.append((number, _find_track(rows[-1].completion)))
        except ValueError as error:
            problems.append((number, str(error)))
    counts = Counter(track for _, track in tracks)
    track = counts.most_common(1)[0][0] if counts else TRACKS[0]
    mixed = (
        f"a {{}} answer, where {counts[track]} are {track} answers: a file holds rows of one track"
    )
    problems += [(number, mixed.format(other)) for number, other in tracks if other != track]
    _refuse(path, sorted(problems))
    return track, rows


def _refuse(path: Path, problems: list[tuple[int, str]]) -> None:
    """Raise ValueError with all bad lines, where there are any."""
    if problems:
        listed = "\n".join(
            f"  {path.name}:{number}: {_shorten(problem)}" for number, problem in problems
        )
        raise ValueError(
            f"{path}: {len(problems)} bad line(s), so nothing was read. Mend them and run again:\n{listed}"
        )


def _shorten(text: str) -> str:
    """A reason short enough for a list; keys of a bad row may be as long as the row."""
    return text if len(text) <= 300 else f"{text[:200]} … {text[-60:]}"


def _parse_row(line: bytes) -> Row:
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
        if not value.isprintable() and any(
            "\ud800" <= character <= "\udfff" for character in value
        ):
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


def _find_track(completion: str) -> Track:
    """The track of a completion: no text is the answer of both."""
    reasons = {}
    for track in TRACKS:
        try:
            parse_gold(track, completion)
            return track
        except ValueError as error:
            reasons[track] = str(error)
    listed = ", ".join(f"no {track} answer ({reason})" for track, reason in reasons.items())
    raise ValueError(f"completion is {listed}")


def format_rows(rows: Iterable[Row]) -> str:
    """Rows as JSONL."""
    return "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a split as JSONL, atomically."""
    write_text(path, format_rows(rows))


def read_ledger(path: Path) -> dict[int, LedgerLine]:
    """Read a ledger: the last line of each row index. Empty when there is no file.

    A line that a kill left torn (it does not parse, and is the file's last or was followed by a resumed run) counts as
    never written: its row is asked again.

    Raises:
        ValueError: A line parses but is no ledger line; file:line is named.
    """
    return {
        line.index: line for line in parse_appended(path, LedgerLine.from_json, "a ledger line")
    }


def hash_rows(rows: Sequence[Row]) -> str:
    """One sha256 over the prompts and completions of rows in their order."""
    return hash_text(
        "".join(f"{hash_text(row.prompt)} {hash_text(row.completion)}\n" for row in rows)
    )
