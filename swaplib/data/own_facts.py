"""What may come with own rows, and what it says of them: `tools.json` and `schema.json`.

`tools.json` is a list of the tools that every prompt offers, `schema.json` the JSON Schema of the
answers of the structured track. Each is in the track's folder, or in the folder above for all
tracks. The golds must fit them; with one of them each row has facts (facts.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from swaplib.data.audit import called_tools
from swaplib.data.facts import Collection, RowFacts, list_parts, make_facts, name_places
from swaplib.data.tool_schemas import Tool, parse_tool, to_openai
from swaplib.data.tool_split import name_groups
from swaplib.metrics import JsonDocument, Prediction, Track, parse_gold, parse_json
from swaplib.rows import Row

Schema = dict[str, Any]


def add_facts(own: Collection, folder: Path) -> Collection:
    """Check rows against the tools and the schema in a folder, and add what these say of them.

    Raises:
        ValueError: Tools or schema are not what they should be, or golds do not fit them; all of
            these are listed as file:line with the reason.
    """
    facts: dict[Track, dict[str, list[RowFacts]]] = {}
    schemas: dict[Track, Schema] = {}
    problems: list[str] = []
    for track, rows in own.rows.items():
        tools = _read_tools(folder, track)
        schema = _read_schema(folder, track)
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


def _read_schema(folder: Path, track: Track) -> Schema | None:
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
    track: Track, own: Collection, tools: Sequence[Tool] | None, schema: Schema | None
) -> list[str]:
    """Golds that do not fit the offered tools or the schema, as file:line and reason, in order."""
    parameters = None
    if tools is not None:
        parameters = {tool["name"]: to_openai(tool)["function"]["parameters"] for tool in tools}
    problems = []
    for place, row in _list_places(track, own):
        gold = parse_gold(track, row.completion)
        if parameters is not None:
            problems += [f"{place}: {problem}" for problem in _check_calls(gold, parameters)]
        if schema is not None and isinstance(gold, JsonDocument):
            misfit = _find_misfit(schema, gold.value, "schema.json")
            problems += [f"{place}: {misfit}"] if misfit else []
    return problems


def _list_places(track: Track, own: Collection) -> list[tuple[str, Row]]:
    """The rows of a track with their places, in the order of their files and lines."""
    places = (own.places or name_places(own.rows))[track]
    placed = [
        pair
        for split, rows in own.rows[track].items()
        for pair in zip(places[split], rows, strict=True)
    ]
    files = list(dict.fromkeys(place.rpartition(":")[0] for place, _ in placed))

    def order(pair: tuple[str, Row]) -> tuple[int, int]:
        file, _, line = pair[0].rpartition(":")
        return files.index(file), int(line)

    return sorted(placed, key=order)


def _check_calls(gold: Prediction, schemas: Mapping[str, Schema]) -> list[str]:
    """What is wrong with a gold's calls: a tool that is not offered, or arguments that misfit."""
    problems = []
    for name, arguments in list_parts(gold):
        if name is None:
            continue
        if name not in schemas:
            problems.append(f"calls {name}, which tools.json does not offer")
        elif misfit := _find_misfit(schemas[name], arguments, f"the tool {name} of tools.json"):
            problems.append(misfit)
    return problems


def _find_misfit(schema: Schema, value: object, whose: str) -> str | None:
    """Why a gold does not fit a schema, whose references are never looked up on a network."""
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
    if found is None:
        return None
    return f"does not fit {whose} at {found.json_path} ({found.message[:200]})"


def _make_facts(
    track: Track, splits: Mapping[str, Sequence[Row]], tools: Sequence[Tool]
) -> dict[str, list[RowFacts]]:
    called = [called_tools(track, row.completion) for rows in splits.values() for row in rows]
    groups = name_groups(called)
    written = [to_openai(tool) for tool in tools]
    return {
        split: [make_facts(track, row, row.prompt, tools, groups, written) for row in rows]
        for split, rows in splits.items()
    }
