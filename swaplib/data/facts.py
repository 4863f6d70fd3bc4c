"""What is known of each row beside its two keys: line i of `<split>.facts.jsonl` is about row i.

Rows keep exactly two keys; whatever else is needed of them is here, and no model is shown it. A
line, for example:

    {"prompt_sha256": "9f…", "request": "Area of a circle with radius 5?",
     "tools": [{"type": "function",
                "function": {"name": "circle_area", "description": "…", "parameters": {…}}}],
     "group": "circle_area", "given": [{"radius": "request"}]}

Own rows have facts when they come with their tools (tools.json) or the schema of their answers
(schema.json).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swaplib.data.answerability import find_origin
from swaplib.data.tool_schemas import Tool, to_openai
from swaplib.files import hash_text
from swaplib.formats.manifest import GivenCounts
from swaplib.metrics import Prediction, ToolCall, Track, parse_gold, parse_json
from swaplib.rows import Row, Rows
from swaplib.settings import Settings, show_path


@dataclass(frozen=True, slots=True)
class RowFacts:
    """What is known of one row.

    `request` is what is asked, without the instruction (of own rows the whole prompt: where the
    request begins is not known). `tools` are those that the prompt shows, as the OpenAI API has
    them. `group` is the first name of the group of tools that are called together (None where no
    tool is called). `given` says of each gold value where it comes from (answerability.Origin), one
    object for each call; of a gold that is no call, for each object of it, or `{"value": …}`. Of a
    row out of a log, `count` says how often it was asked, and `schema` is that of its answer.
    """

    prompt_sha256: str
    request: str
    tools: list[dict[str, Any]]
    group: str | None
    given: Sequence[Mapping[str, str]]
    count: int = 1
    schema: dict[str, Any] | None = None

    def list_types(self) -> dict[str, dict[str, Any]]:
        """The JSON Schema of each parameter, by tool and parameter."""
        functions = [tool["function"] for tool in self.tools]
        return {f["name"]: f["parameters"].get("properties", {}) for f in functions}


Places = dict[Track, dict[str, list[str]]]  # file:line of each row, by track and split


@dataclass(frozen=True)
class Collection:
    """Rows and facts by track and split, and the JSON Schema of each track's answers.

    Facts and schemas may be missing. `places` says where own rows are in the files they came in.
    """

    rows: Rows
    facts: dict[Track, dict[str, list[RowFacts]]]
    schemas: dict[Track, dict[str, Any]]
    places: Places | None = None


def name_places(rows: Rows) -> Places:
    """The places of rows with a file for each split: `toolcall/test.jsonl:1` for the first."""
    return {
        track: {
            split: [f"{track}/{split}.jsonl:{i + 1}" for i in range(len(of_split))]
            for split, of_split in splits.items()
        }
        for track, splits in rows.items()
    }


def make_facts(
    track: Track,
    row: Row,
    request: str,
    tools: Sequence[Tool],
    groups: Mapping[str, str],
    written: list[dict[str, Any]] | None = None,
) -> RowFacts:
    """The facts of a row.

    Args:
        track: The row's track.
        row: Its prompt and gold.
        request: What is asked, without the instruction.
        tools: The tools that the prompt shows.
        groups: The group of each called tool.
        written: The tools as the OpenAI API has them, where many rows share them.
    """
    parameters = {tool["name"]: tool["parameters"] for tool in tools}
    parts = list_parts(parse_gold(track, row.completion))
    given = [
        {
            key: find_origin(value, parameters.get(name or "", {}).get(key, {}), request)
            for key, value in values.items()
        }
        for name, values in parts
    ]
    group = next((groups[name] for name, _ in parts if name is not None and name in groups), None)
    written = [to_openai(tool) for tool in tools] if written is None else written
    return RowFacts(hash_text(row.prompt), request, written, group, given)


def list_parts(answer: Prediction) -> list[tuple[str | None, dict[str, Any]]]:
    """An answer as named values: for each call its tool and arguments.

    The tool's name is None for a part that is no call.
    """
    if isinstance(answer, ToolCall):
        return [(answer.name, answer.arguments)]
    items = answer.value if isinstance(answer.value, list) else [answer.value]
    return [_read_part(item) for item in items]


def _read_part(item: Any) -> tuple[str | None, dict[str, Any]]:
    if not isinstance(item, dict):
        return None, {"value": item}
    if set(item) == {"name", "arguments"}:
        name, arguments = item["name"], item["arguments"]
        if isinstance(name, str) and isinstance(arguments, dict):
            return name, arguments
    return None, item


def format_facts(facts: Sequence[RowFacts]) -> str:
    """Facts as JSONL; `count` and `schema` only where a log has given them."""
    lines = []
    for fact in facts:
        record = {name: getattr(fact, name) for name in RowFacts.__slots__}
        usual = {"count": 1, "schema": None}
        lines.append({n: v for n, v in record.items() if n not in usual or v != usual[n]})
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def file_of(rows: Path) -> Path:
    """The file of the facts of a file of rows."""
    return rows.with_suffix(".facts.jsonl")


def read_facts(path: Path, rows: Sequence[Row]) -> list[RowFacts]:
    """Read the facts of a split.

    Args:
        path: The file of rows.
        rows: The rows of the split, or its first ones.

    Raises:
        FileNotFoundError: There are none; says what own rows must bring.
        ValueError: A line is not what it should be, or is about another row; file:line is named.
    """
    file = file_of(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"no facts at {show_path(file)}, so tools and schema of these rows are not known. Run "
            "notebooks/01_data.ipynb; own rows must bring tools.json or schema.json "
            "(docs/own_task.md)."
        )
    lines = file.read_bytes().removesuffix(b"\n").split(b"\n")
    if len(lines) < len(rows):
        raise ValueError(
            f"{show_path(file)}: {len(lines)} lines for {len(rows)} rows. Run "
            "notebooks/01_data.ipynb again."
        )
    found = []
    for number, (line, row) in enumerate(zip(lines, rows, strict=False), start=1):
        try:
            fact = _parse_facts(parse_json(line.decode("utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{show_path(file)}:{number}: not the facts of a row ({error})"
            ) from None
        if fact.prompt_sha256 != hash_text(row.prompt):
            raise ValueError(
                f"{show_path(file)}:{number} is about another prompt than line {number} of "
                f"{path.name}. Run notebooks/01_data.ipynb again."
            )
        found.append(fact)
    return found


def _parse_facts(record: dict[str, Any]) -> RowFacts:
    """Check a line as far as it is used; raises ValueError or TypeError."""
    fact = RowFacts(**record)
    is_list = isinstance(fact.tools, list) and isinstance(fact.given, list)
    if not isinstance(fact.request, str) or not is_list:
        raise ValueError("expected request as a text, tools and given as lists")
    if not isinstance(fact.count, int) or fact.count < 1:
        raise ValueError("expected count as a whole number of at least 1")
    for tool in fact.tools:
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not {"name", "parameters"} <= set(function):
            raise ValueError("expected each tool with a function, its name and its parameters")
        parameters = function["parameters"]
        is_schema = isinstance(parameters, dict)
        if not is_schema or not isinstance(parameters.get("properties", {}), dict):
            raise ValueError(
                f"tool {function['name']}: expected a schema with an object of properties"
            )
    if not all(isinstance(part, dict) for part in fact.given):
        raise ValueError("expected an object for each part of given")
    return fact


def find_facts(
    settings: Settings, track: Track, split: str, rows: Sequence[Row]
) -> list[RowFacts] | None:
    """The facts of a split of the dataset; None for own rows without any.

    Raises:
        ValueError: As for read_facts.
    """
    path = settings.dataset / track / f"{split}.jsonl"
    return read_facts(path, rows) if file_of(path).is_file() else None


def is_given(fact: RowFacts) -> bool:
    """Whether the request or a default gives every value of the row's gold."""
    return not any("neither" in part.values() for part in fact.given)


def count_given(facts: Sequence[RowFacts]) -> GivenCounts:
    """How many gold values come from where, and how many rows have one that nothing gives."""
    origins = [origin for fact in facts for part in fact.given for origin in part.values()]
    return {
        "values": len(origins),
        "values_request": origins.count("request"),
        "values_default": origins.count("default"),
        "values_neither": origins.count("neither"),
        "rows_with_neither": sum(not is_given(fact) for fact in facts),
    }
