"""Your own rows, checked and taken as they are: a folder of `<track>/<split>.jsonl`, or one file.

One file, `rows.jsonl` in a folder or of any other name, is split here (one_file.py). What may come
with the rows, tools and a schema, is read and checked by own_facts.py. A row:

    {"prompt": "Reply with JSON, key city, for: Two nights in Rome",
     "completion": "{\\"city\\":\\"Rome\\"}"}
"""

import json
from pathlib import Path

from swaplib.data.facts import Collection, name_places
from swaplib.data.one_file import read_own_file
from swaplib.data.own_facts import add_facts
from swaplib.formats.manifest import Origin
from swaplib.metrics import TRACKS
from swaplib.rows import SPLITS, Rows, read_rows
from swaplib.settings import show_path

ONE_FILE = "rows.jsonl"


def is_own(path: Path) -> bool:
    """Whether a source is own rows, a folder or a file of them, rather than raw xLAM rows.

    False, too, for a path where there is nothing.

    Raises:
        ValueError: The file holds neither; says what both look like.
    """
    if not path.is_file():
        return path.is_dir()
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1 and line.lstrip().startswith(b"["):
                return False  # a list: raw xLAM rows may be one
            try:
                keys = set(json.loads(line))
            except (ValueError, TypeError, RecursionError):
                continue  # bad lines are named when the rows are read
            if keys & {"prompt", "completion", "query", "answers"}:
                return bool(keys & {"prompt", "completion"})
    raise ValueError(
        f"{path}: neither own rows nor raw xLAM rows. Expected a JSON object on each line: own "
        'rows look like {"prompt": "…", "completion": "…"}, raw xLAM rows like '
        '{"id": 7, "query": "…", "answers": "[…]", "tools": "[…]"}.'
    )


def read_source(path: Path, seed: int) -> tuple[Collection, Origin]:
    """Read own rows, and split them where they are one file.

    Args:
        path: A file of rows of one track, a folder with such a file as `rows.jsonl`, or one with a
            folder for each track.
        seed: Seeds the split of one file.

    Returns:
        The rows, and what the manifest says of their origin.

    Raises:
        FileNotFoundError, ValueError: As for read_own_file and read_own_rows, or a folder holds
            both forms.
    """
    file = path / ONE_FILE if path.is_dir() else path
    if not file.is_file():
        return read_own_rows(path), {"source": show_path(path), "split_rule": "as given"}
    if path.is_dir() and (tracks := [track for track in TRACKS if (path / track).is_dir()]):
        raise ValueError(
            f"{path} holds {ONE_FILE} and {', '.join(tracks)}/. Keep one of the two forms in it."
        )
    return read_own_file(file, seed)


def read_own_rows(folder: Path) -> Collection:
    """Read and check own rows that are split already, and what came with them.

    Raises:
        FileNotFoundError: There is no track in the folder.
        ValueError: A split is missing, rows, tools or schema are not what they should be, or golds
            do not fit them; all bad lines are listed.
    """
    tracks = [track for track in TRACKS if (folder / track).is_dir()]
    if not tracks:
        raise FileNotFoundError(
            f"{folder}: expected structured/ or toolcall/ with train.jsonl, val.jsonl, test.jsonl, "
            f"or one file {ONE_FILE}"
        )
    rows: Rows = {track: {} for track in tracks}
    problems = []
    for track in tracks:
        for split in SPLITS:
            try:
                rows[track][split] = read_rows(folder / track / f"{split}.jsonl", track)
            except (FileNotFoundError, ValueError) as error:
                problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
    return add_facts(Collection(rows, {}, {}, name_places(rows)), folder)
