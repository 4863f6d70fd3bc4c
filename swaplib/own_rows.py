"""A person's own rows: `<track>/{train,val,test}.jsonl` in a folder, checked and taken as they are.

Beside them may lie `tools.json`, a list of the tools that every prompt offers, and `schema.json`, the JSON Schema of the
answers; both in the track's folder, or in the folder above for all tracks. With one of them each row has facts (facts.py).
"""

from pathlib import Path
from typing import Any

from swaplib.audit import called_tools
from swaplib.facts import Collection, RowFacts, list_parts, make_facts
from swaplib.metrics import TRACKS, Prediction, Track, parse_gold, parse_json
from swaplib.rows import SPLITS, Row, read_rows
from swaplib.tool_schemas import Tool, parse_tool, to_openai
from swaplib.xlam import name_groups


def read_own_rows(folder: Path) -> Collection:
    """Read and check own rows and what came with them.

    Raises:
        FileNotFoundError: There is no track in the folder.
        ValueError: A split is missing, rows, tools or schema are not what they should be, or golds do not fit them; all
            bad lines are listed.
    """
    tracks = [track for track in TRACKS if (folder / track).is_dir()]
    if not tracks:
        raise FileNotFoundError(f"{folder}: expected structured/ or toolcall/ with train.jsonl, val.jsonl, test.jsonl")
    own, problems = Collection({track: {} for track in tracks}, {}, {}), []
    for track in tracks:
        for split in SPLITS:
            try:
                own.rows[track][split] = read_rows(folder / track / f"{split}.jsonl", track)
            except (FileNotFoundError, ValueError) as error:
                problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
    for track in tracks:
        tools, schema = _read_tools(folder, track), _read_schema(folder, track)
        problems += _check_golds(track, own.rows[track], tools, schema)
        if schema is not None:
            own.schemas[track] = schema
        if tools is not None or schema is not None:
            own.facts[track] = _make_facts(track, own.rows[track], tools or [])
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise ValueError(f"{folder}: {len(problems)} completion(s) do not fit what came with them:\n{listed}")
    return own


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
    track: Track, splits: dict[str, list[Row]], tools: list[Tool] | None, schema: dict[str, Any] | None
) -> list[str]:
    """Golds that call a tool which is not offered, or do not fit its schema or that of answers, as file:line and reason."""
    schemas = None if tools is None else {tool["name"]: to_openai(tool)["function"]["parameters"] for tool in tools}
    problems = []
    for split, rows in splits.items():
        for line, row in enumerate(rows, start=1):
            place, gold = f"{track}/{split}.jsonl:{line}", parse_gold(track, row.completion)
            problems += (
                [f"{place}: {problem}" for problem in _check_calls(gold, schemas)] if schemas is not None else []
            )
            if schema is not None and (misfit := _find_misfit(schema, gold.value, "schema.json")):
                problems.append(f"{place}: {misfit}")
    return problems


def _check_calls(gold: Prediction, schemas: dict[str, dict[str, Any]]) -> list[str]:
    """What is wrong with a gold's calls: a tool that is not offered, or arguments that do not fit it."""
    problems = []
    for name, arguments in list_parts(gold):
        if name is not None and name not in schemas:
            problems.append(f"calls {name}, which tools.json does not offer")
        elif name is not None and (misfit := _find_misfit(schemas[name], arguments, f"the tool {name} of tools.json")):
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
        return f"{whose} refers to itself without end, or the completion is nested too deeply for it"
    return found and f"does not fit {whose} at {found.json_path} ({found.message[:200]})"


def _make_facts(track: Track, splits: dict[str, list[Row]], tools: list[Tool]) -> dict[str, list[RowFacts]]:
    called = [called_tools(track, row.completion) for rows in splits.values() for row in rows]
    groups = name_groups(called)
    written = [to_openai(tool) for tool in tools]
    return {
        split: [make_facts(track, row, row.prompt, tools, groups, written) for row in rows]
        for split, rows in splits.items()
    }
