"""A person's own rows, checked and taken as they are: one file of one track, or a folder of `<track>/<split>.jsonl`.

One file, `rows.jsonl` in a folder or any other name, is split here, nearly equal prompts into one split. A line of it:

    {"prompt": "Reply with JSON, key city, for: Two nights in Rome", "completion": "{\\"city\\":\\"Rome\\"}"}

Beside them may lie `tools.json`, a list of the tools that every prompt offers, and `schema.json`, the JSON Schema of the
answers; both in the track's folder, or in the folder above for all tracks. With one of them each row has facts (facts.py).
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from swaplib.data.audit import called_tools
from swaplib.data.facts import Collection, RowFacts, list_parts, make_facts, name_places
from swaplib.data.near_duplicates import SHARES, SPLIT_RULE, cluster_prompts, split_clusters
from swaplib.data.tool_schemas import Tool, parse_tool, to_openai
from swaplib.data.xlam import name_groups
from swaplib.files import hash_file
from swaplib.metrics import TRACKS, Prediction, Track, parse_gold, parse_json
from swaplib.rows import SPLITS, Row, read_rows, read_rows_of_one_track
from swaplib.settings import show_path

ONE_FILE = "rows.jsonl"
FEWEST = 10  # rows of one file: below it a split has none


def is_own(path: Path) -> bool:
    """Whether a source is own rows: a folder, or a file of them; else it is a file of raw xLAM rows, or nothing.

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
                continue  # whoever reads the rows names bad lines
            if keys & {"prompt", "completion", "query", "answers"}:
                return bool(keys & {"prompt", "completion"})
    raise ValueError(
        f"{path}: neither own rows nor raw xLAM rows. Expected a JSON object on each line: own rows look like "
        '{"prompt": "…", "completion": "…"}, raw xLAM rows like {"id": 7, "query": "…", "answers": "[…]", "tools": "[…]"}.'
    )


def read_source(path: Path, seed: int) -> tuple[Collection, dict[str, Any]]:
    """Read own rows, and split them where they are one file.

    Args:
        path: A file of rows of one track, a folder with such a file as `rows.jsonl`, or one with a folder for each track.
        seed: Seeds the split of one file.

    Returns:
        The rows, and what the manifest says of their origin.

    Raises:
        FileNotFoundError, ValueError: As for read_own_file and read_own_rows, or a folder holds both forms.
    """
    file = path / ONE_FILE if path.is_dir() else path
    if not file.is_file():
        return read_own_rows(path), {"source": show_path(path), "split_rule": "as given"}
    if path.is_dir() and (tracks := [track for track in TRACKS if (path / track).is_dir()]):
        raise ValueError(
            f"{path} holds {ONE_FILE} and {', '.join(tracks)}/. Keep one of the two forms in it."
        )
    return read_own_file(file, seed)


def read_own_file(file: Path, seed: int) -> tuple[Collection, dict[str, Any]]:
    """Read, check and split one file of own rows, with what lies beside it.

    Raises:
        ValueError: Lines are bad or of two tracks, the rows or their clusters are too few, or golds do not fit what came
            with them; all bad lines are listed.
    """
    track, rows = read_rows_of_one_track(file)
    if len(rows) < FEWEST:
        raise ValueError(
            f"{file}: {len(rows)} row(s); expected at least {FEWEST}, which are split into {', '.join(SPLITS)}"
        )
    clusters = cluster_prompts([row.prompt for row in rows])
    splits = split_clusters(clusters, seed)
    alike = [len(cluster) for cluster in clusters if len(cluster) > 1]
    if empty := [split for split, indices in splits.items() if not indices]:
        raise ValueError(
            f"{file}: no rows for {', '.join(empty)}. Nearly equal prompts go to one split, and these {len(rows)} rows "
            f"make {len(clusters)} cluster(s) of such, the largest of {max(map(len, clusters))}. Bring prompts that differ "
            "more: an instruction does not count only where all prompts begin or end with it, word for word."
        )
    places = {
        track: {
            split: [f"{file.name}:{i + 1}" for i in indices] for split, indices in splits.items()
        }
    }
    taken = {track: {split: [rows[i] for i in indices] for split, indices in splits.items()}}
    origin = {
        "source": show_path(file),
        "source_sha256": hash_file(file),
        "source_rows": len(rows),
        "seed": seed,
        "sizes_asked": {track: {split: f"{share}%" for split, share in SHARES.items()}},
        "split_rule": SPLIT_RULE,
        "near_duplicates": {
            "clusters": len(alike),
            "rows": sum(alike),
            "largest": max(alike, default=0),
        },
    }
    return _add_facts(Collection(taken, {}, {}, places), file.parent), origin


def read_own_rows(folder: Path) -> Collection:
    """Read and check own rows that are split already, and what came with them.

    Raises:
        FileNotFoundError: There is no track in the folder.
        ValueError: A split is missing, rows, tools or schema are not what they should be, or golds do not fit them; all
            bad lines are listed.
    """
    tracks = [track for track in TRACKS if (folder / track).is_dir()]
    if not tracks:
        raise FileNotFoundError(
            f"{folder}: expected structured/ or toolcall/ with train.jsonl, val.jsonl, test.jsonl, or one file {ONE_FILE}"
        )
    rows, problems = {track: {} for track in tracks}, []
    for track in tracks:
        for split in SPLITS:
            try:
                rows[track][split] = read_rows(folder / track / f"{split}.jsonl", track)
            except (FileNotFoundError, ValueError) as error:
                problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
    return _add_facts(Collection(rows, {}, {}, name_places(rows)), folder)


def _add_facts(own: Collection, folder: Path) -> Collection:
    """Check rows against the tools and the schema that lie in a folder, and add what these tell of them."""
    facts, schemas, problems = {}, {}, []
    for track, rows in own.rows.items():
        tools, schema = _read_tools(folder, track), _read_schema(folder, track)
        problems += _check_golds(track, own, tools, schema)
        if schema is not None:
            schemas[track] = schema
        if tools is not None or schema is not None:
            facts[track] = _make_facts(track, rows, tools or [])
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise ValueError(
            f"{folder}: {len(problems)} completion(s) do not fit what came with them:\n{listed}"
        )
    return replace(own, facts=facts, schemas=schemas)


def _find_file(folder: Path, track: Track, name: str) -> Path | None:
    return next((path for path in (folder / track / name, folder / name) if path.is_file()), None)


def _read_tools(folder: Path, track: Track) -> list[Tool] | None:
    if (path := _find_file(folder, track, "tools.json")) is None:
        return None
    try:
        items = parse_json(path.read_text(encoding="utf-8"))
        if not isinstance(items, list):
            raise ValueError(f"expected a list of tools, found {type(items).__name__}")
        tools = [parse_tool(item) for item in items]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    names = [tool["name"] for tool in tools]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path}: tools with one name: {', '.join(twice)}")
    return tools


def _read_schema(folder: Path, track: Track) -> dict[str, Any] | None:
    import jsonschema

    path = _find_file(folder, track, "schema.json") if track == "structured" else None
    if path is None:
        return None
    try:
        schema = parse_json(path.read_text(encoding="utf-8"))
        if not isinstance(schema, dict):
            raise ValueError(f"expected an object, found {type(schema).__name__}")
        jsonschema.validators.validator_for(schema).check_schema(schema)
    except (ValueError, jsonschema.SchemaError) as error:
        raise ValueError(f"{path}: not a JSON Schema ({str(error).splitlines()[0]})") from None
    return schema


def _check_golds(
    track: Track, own: Collection, tools: list[Tool] | None, schema: dict[str, Any] | None
) -> list[str]:
    """Golds that call a tool which is not offered, or do not fit its schema or that of answers, as file:line and reason."""
    schemas = (
        None
        if tools is None
        else {tool["name"]: to_openai(tool)["function"]["parameters"] for tool in tools}
    )
    splits = own.rows[track].items()
    placed = [
        pair for split, rows in splits for pair in zip(own.places[track][split], rows, strict=True)
    ]
    files = list(dict.fromkeys(place.rpartition(":")[0] for place, _ in placed))
    problems = []
    for place, row in sorted(placed, key=lambda pair: _order_place(files, pair[0])):
        gold = parse_gold(track, row.completion)
        problems += (
            [f"{place}: {problem}" for problem in _check_calls(gold, schemas)]
            if schemas is not None
            else []
        )
        if schema is not None and (misfit := _find_misfit(schema, gold.value, "schema.json")):
            problems.append(f"{place}: {misfit}")
    return problems


def _order_place(files: list[str], place: str) -> tuple[int, int]:
    """What puts file:line in the order of a list of files, and of the lines in each."""
    file, _, line = place.rpartition(":")
    return files.index(file), int(line)


def _check_calls(gold: Prediction, schemas: dict[str, dict[str, Any]]) -> list[str]:
    """What is wrong with a gold's calls: a tool that is not offered, or arguments that do not fit it."""
    problems = []
    for name, arguments in list_parts(gold):
        if name is not None and name not in schemas:
            problems.append(f"calls {name}, which tools.json does not offer")
        elif name is not None and (
            misfit := _find_misfit(schemas[name], arguments, f"the tool {name} of tools.json")
        ):
            problems.append(misfit)
    return problems


def _find_misfit(schema: dict[str, Any], value: Any, whose: str) -> str | None:
    """Why a gold does not fit its schema. What the schema refers to is looked for in the schema only, never on a network."""
    from jsonschema.validators import validator_for
    from referencing import Registry, exceptions

    try:
        found = next(validator_for(schema)(schema, registry=Registry()).iter_errors(value), None)
    except exceptions.Unresolvable as error:
        return f"{whose} refers to {error.ref}, which it does not hold"
    except RecursionError:
        return (
            f"{whose} refers to itself without end, or the completion is nested too deeply for it"
        )
    return found and f"does not fit {whose} at {found.json_path} ({found.message[:200]})"


def _make_facts(
    track: Track, splits: dict[str, list[Row]], tools: list[Tool]
) -> dict[str, list[RowFacts]]:
    called = [called_tools(track, row.completion) for rows in splits.values() for row in rows]
    groups = name_groups(called)
    written = [to_openai(tool) for tool in tools]
    return {
        split: [make_facts(track, row, row.prompt, tools, groups, written) for row in rows]
        for split, rows in splits.items()
    }
