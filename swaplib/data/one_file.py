"""Own rows as one file of one track, split here: nearly equal prompts go to one split.

A line of it:

    {"prompt": "Reply with JSON, key city, for: Two nights in Rome",
     "completion": "{\\"city\\":\\"Rome\\"}"}

The track follows from the completions; a file with rows of both is refused.
"""

from collections import Counter
from pathlib import Path

from swaplib.data.facts import Collection
from swaplib.data.near_duplicates import (
    SHARES,
    SPLIT_RULE,
    cluster_prompts,
    count_near_duplicates,
    split_clusters,
)
from swaplib.data.own_facts import add_facts
from swaplib.files import hash_file
from swaplib.formats.manifest import Origin
from swaplib.metrics import TRACKS, Track, parse_gold
from swaplib.rows import SPLITS, Row, number_lines, parse_row, refuse_lines
from swaplib.settings import show_path

FEWEST = 10  # rows of one file: with less than that a split has none


def read_own_file(file: Path, seed: int) -> tuple[Collection, Origin]:
    """Read, check and split one file of own rows, with what is beside it.

    Returns:
        The rows, and what the manifest says of their origin.

    Raises:
        ValueError: Lines are bad or of two tracks, the rows or their clusters are too few, or golds
            do not fit the tools or schema beside the file; all bad lines are listed.
    """
    track, rows = _read_rows_of_one_track(file)
    if len(rows) < FEWEST:
        raise ValueError(
            f"{file}: {len(rows)} row(s); expected at least {FEWEST}, which are split into "
            f"{', '.join(SPLITS)}"
        )
    clusters = cluster_prompts([row.prompt for row in rows])
    splits = split_clusters(clusters, seed)
    _check_splits(file, splits, clusters)
    places = {
        split: [f"{file.name}:{index + 1}" for index in indices]
        for split, indices in splits.items()
    }
    own = Collection(
        rows={track: {split: [rows[i] for i in indices] for split, indices in splits.items()}},
        facts={},
        schemas={},
        places={track: places},
    )
    origin: Origin = {
        "source": show_path(file),
        "source_sha256": hash_file(file),
        "source_rows": len(rows),
        "seed": seed,
        "sizes_asked": {track: {split: f"{share}%" for split, share in SHARES.items()}},
        "split_rule": SPLIT_RULE,
        "near_duplicates": count_near_duplicates(clusters),
    }
    return add_facts(own, file.parent), origin


def _check_splits(file: Path, splits: dict[str, list[int]], clusters: list[list[int]]) -> None:
    """Raise ValueError when a split is empty, because there are too few clusters."""
    if empty := [split for split, indices in splits.items() if not indices]:
        sizes = [len(cluster) for cluster in clusters]
        raise ValueError(
            f"{file}: no rows for {', '.join(empty)}. Nearly equal prompts go to one split, and "
            f"these {sum(sizes)} rows make {len(sizes)} cluster(s) of such, the largest of "
            f"{max(sizes)}. Bring prompts that differ more: an instruction does not count only "
            "where all prompts begin or end with it, word for word."
        )


def _read_rows_of_one_track(file: Path) -> tuple[Track, list[Row]]:
    """Read and check rows, and find the track of their completions.

    Raises:
        ValueError: Lines are bad, or rows are of another track than most; every one is listed with
            file:line and reason.
    """
    rows: list[Row] = []
    tracks: list[tuple[int, Track]] = []
    problems: list[tuple[int, str]] = []
    for number, line in number_lines(file):
        try:
            row = parse_row(line)
            rows.append(row)
            tracks.append((number, _find_track(row.completion)))
        except ValueError as error:
            problems.append((number, str(error)))
    counts = Counter(track for _, track in tracks)
    track = counts.most_common(1)[0][0] if counts else TRACKS[0]
    problems += [
        (
            number,
            f"a {other} answer, where {counts[track]} are {track} answers: a file holds rows of "
            "one track",
        )
        for number, other in tracks
        if other != track
    ]
    refuse_lines(file, sorted(problems))
    return track, rows


def _find_track(completion: str) -> Track:
    """The track of a completion: no text is an answer of both."""
    reasons = {}
    for track in TRACKS:
        try:
            parse_gold(track, completion)
            return track
        except ValueError as error:
            reasons[track] = str(error)
    listed = ", ".join(f"no {track} answer ({reason})" for track, reason in reasons.items())
    raise ValueError(f"completion is {listed}")
