"""A log of exchanges as rows, facts and splits: repeats merged, all that is left out counted.

The log is read twice. The first reading keeps a few bytes for each different question, so a log of
any size fits into memory; the second takes the rows that were chosen.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from swaplib.data.audit import called_tools
from swaplib.data.conversation import NoRowError
from swaplib.data.exchange_files import Line, is_log, parse_exchange, read_again, read_lines
from swaplib.data.facts import Collection, RowFacts, list_parts, make_facts
from swaplib.data.near_duplicates import (
    SHARES,
    SPLIT_RULE,
    cluster_prompts,
    count_near_duplicates,
    split_clusters,
)
from swaplib.data.tool_schemas import parse_tool
from swaplib.data.tool_split import name_groups
from swaplib.data.traffic import LoggedRow, make_row
from swaplib.files import hash_file
from swaplib.formats.manifest import Origin
from swaplib.metrics import TRACKS, Track, canonical_json, parse_gold
from swaplib.rows import SPLITS
from swaplib.settings import show_path

FEWEST = 10  # rows of a track: below it a split has none
LISTED = 50  # broken lines that the manifest names; all are counted
CONTRADICTS = "the same question was answered in different ways"
NOT_CALLS = "an observation that is no call of a model"


@dataclass(slots=True)
class _Known:
    """A question that was met: where first, how often, and whether its answers differ."""

    line: Line
    answer: bytes
    count: int = 1
    differs: bool = False


@dataclass
class _Reading:
    """What the first reading of a log finds."""

    lines: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    questions: dict[tuple[Track, bytes], _Known] = field(default_factory=dict)


def is_traffic(path: Path) -> bool:
    """Whether a file is a log of exchanges: its first line that is JSON has one of their forms."""
    if not path.is_file():
        return False
    values = (line.value for line in read_lines(path) if line.problem is None)
    return is_log(next(values, None))


def read_traffic(
    path: Path, sizes: dict[Track, dict[str, int]], seed: int
) -> tuple[Collection, Origin]:
    """Rows and facts out of a log, split; and what the manifest says of their origin.

    Args:
        path: The log.
        sizes: At most as many rows of a track as its sizes add up to; a seeded choice where there
            are more.
        seed: Seeds that choice and the split.

    Raises:
        ValueError: No track has enough rows; says what became of the lines.
    """
    found = _read_all(path)
    chosen = {track: _choose(found, track, sum(sizes[track].values()), seed) for track in TRACKS}
    if not any(chosen.values()):
        raise ValueError(f"{path}: {_describe(found)}")
    made = Collection({}, {}, {}, {})
    clusters: dict[Track, list[list[int]]] = {}
    for track, known in chosen.items():
        if known:
            clusters[track] = _add_track(made, path, track, known, seed)
    return made, _describe_origin(path, found, chosen, clusters, seed)


def _describe_origin(
    path: Path,
    found: _Reading,
    chosen: dict[Track, list[_Known]],
    clusters: dict[Track, list[list[int]]],
    seed: int,
) -> Origin:
    """What the manifest says of rows out of a log."""
    return {
        "source": show_path(path),
        "source_sha256": hash_file(path),
        "source_rows": found.lines,
        "gold": "hosted",
        "exchanges": {track: sum(k.count for k in known) for track, known in chosen.items()},
        "left_out": dict(found.left_out),
        "broken": found.broken[:LISTED],
        "seed": seed,
        "sizes_asked": {track: {s: f"{n}%" for s, n in SHARES.items()} for track in clusters},
        "split_rule": SPLIT_RULE.replace("of one file", "of a log"),
        "near_duplicates": count_near_duplicates(chain(*clusters.values())),
    }


def _read_all(path: Path) -> _Reading:
    """The first reading: each line is a question, is counted under a reason, or is broken."""
    found = _Reading()
    for line in read_lines(path):
        found.lines += 1
        try:
            if (row := _read_row(line)) is None:
                found.left_out[NOT_CALLS] += 1
                continue
        except NoRowError as why:
            found.left_out[str(why)] += 1
            continue
        except ValueError as error:
            found.left_out["not an exchange"] += 1
            found.broken.append(f"{path.name}:{line.number}: {error}")
            continue
        key = row.track, _digest(row.row.prompt)
        answer = _digest(_canonical(row))
        if (known := found.questions.get(key)) is None:
            found.questions[key] = _Known(replace(line, value=None), answer)
        else:
            known.count += 1
            known.differs |= known.answer != answer
    return found


def _read_row(line: Line) -> LoggedRow | None:
    if line.problem:
        raise ValueError(line.problem)
    exchange = parse_exchange(line.value)
    return None if exchange is None else make_row(exchange)


def _canonical(row: LoggedRow) -> str:
    gold = parse_gold(row.track, row.row.completion)
    return canonical_json([[name, arguments] for name, arguments in list_parts(gold)])


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _choose(found: _Reading, track: Track, most: int, seed: int) -> list[_Known]:
    """The questions of a track that become rows, in the order of the log; others are counted."""
    of_track = [known for (of, _), known in found.questions.items() if of == track]
    sound = [known for known in of_track if not known.differs]
    found.left_out[CONTRADICTS] += sum(known.count for known in of_track if known.differs)
    if len(sound) < FEWEST:
        found.left_out[f"fewer than {FEWEST} rows of its track"] += sum(k.count for k in sound)
        return []
    draw = random.Random(seed)  # noqa: S311 - a seeded choice, no secret
    kept = sorted(draw.sample(range(len(sound)), min(most, len(sound))))
    chosen = [sound[i] for i in kept]
    left = sum(known.count for known in sound) - sum(known.count for known in chosen)
    found.left_out["more than the sizes asked for"] += left
    found.left_out = +found.left_out  # without what nothing was left out for
    return chosen


def _add_track(
    made: Collection, path: Path, track: Track, chosen: list[_Known], seed: int
) -> list[list[int]]:
    """The second reading: a track's rows, facts and places. Returns its clusters."""
    rows = list(_read_chosen(path, chosen))
    clusters = cluster_prompts([row.request for row in rows])
    splits = split_clusters(clusters, seed)
    groups = name_groups([called_tools(row.track, row.row.completion) for row in rows])
    facts = [
        replace(_make_facts(row, groups), count=known.count)
        for row, known in zip(rows, chosen, strict=True)
    ]
    assert made.places is not None  # noqa: S101 - made here
    made.rows[track] = {split: [rows[i].row for i in splits[split]] for split in SPLITS}
    made.facts[track] = {split: [facts[i] for i in splits[split]] for split in SPLITS}
    made.places[track] = {
        split: [f"{path.name}:{chosen[i].line.number}" for i in splits[split]] for split in SPLITS
    }
    return clusters


def _read_chosen(path: Path, chosen: list[_Known]) -> Iterator[LoggedRow]:
    for line in read_again(path, (known.line for known in chosen)):
        if (row := _read_row(line)) is None:
            raise ValueError(f"{path} was changed while it was read. Run this again.")
        yield row


def _make_facts(row: LoggedRow, groups: dict[str, str]) -> RowFacts:
    tools = [parse_tool(tool) for tool in row.tools]
    made = make_facts(row.track, row.row, row.request, tools, groups)
    return replace(made, schema=row.schema)


def _describe(found: _Reading) -> str:
    """What became of the lines of a log that gives no rows."""
    reasons: list[Any] = [f"{n} {reason}" for reason, n in found.left_out.most_common()]
    first = f" The first broken line: {found.broken[0]}." if found.broken else ""
    return (
        f"{found.lines} lines give no track {FEWEST} rows or more, so nothing can be split "
        f"({json.dumps(reasons, ensure_ascii=False)[1:-1]}).{first}"
    )
