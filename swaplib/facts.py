"""What is known of each row beside its prompt and completion: line i of `<split>.facts.jsonl` is about row i.

Rows keep exactly two keys; whatever else somebody needs of them stands here, and no model is shown it. A line, for example:

    {"prompt_sha256": "9f…", "request": "Area of a circle with radius 5?",
     "tools": [{"type": "function", "function": {"name": "circle_area", "description": "…", "parameters": {…}}}],
     "group": "circle_area", "given": [{"radius": "request"}]}

Own rows have facts when they come with their tools (tools.json) or the schema of their answers (schema.json).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from swaplib.answerability import find_origin
from swaplib.metrics import Prediction, ToolCall, Track, parse_gold, parse_json
from swaplib.rows import Row, Rows, hash_text
from swaplib.settings import Settings, show_path
from swaplib.tool_schemas import Tool, to_openai


@dataclass(frozen=True, slots=True)
class RowFacts:
    """What is known of one row.

    `request` is what is asked, without the instruction (of own rows the whole prompt: nobody says where it begins). `tools`
    are those that the prompt shows, as the OpenAI API has them. `group` is the first name of the group of tools that are
    called together (None where no tool is called). `given` says of each gold value where it comes from
    (answerability.Origin), one object for each call; of a gold that is no call, for each object of it, or `{"value": …}`.
    """

    prompt_sha256: str
    request: str
    tools: list[dict[str, Any]]
    group: str | None
    given: list[dict[str, str]]

    def list_types(self) -> dict[str, dict[str, Any]]:
        """The JSON Schema of each parameter, by tool and parameter."""
        functions = [tool["function"] for tool in self.tools]
        return {function["name"]: function["parameters"].get("properties", {}) for function in functions}


@dataclass(frozen=True)
class Collection:
    """Rows by track and split; their facts likewise, where there are any; and the JSON Schema of a track's answers."""

    rows: Rows
    facts: dict[Track, dict[str, list[RowFacts]]]
    schemas: dict[Track, dict[str, Any]]


def make_facts(track: Track, row: Row, request: str, tools: Sequence[Tool], groups: dict[str, str]) -> RowFacts:
    """The facts of a row.

    Args:
        track: `structured` or `toolcall`.
        row: The row.
        request: What is asked, without the instruction.
        tools: The tools that the prompt shows.
        groups: The group of each called tool.
    """
    parameters = {tool["name"]: tool["parameters"] for tool in tools}
    parts = list_parts(parse_gold(track, row.completion))
    given = [
        {key: find_origin(value, parameters.get(name or "", {}).get(key, {}), request) for key, value in values.items()}
        for name, values in parts
    ]
    group = next((groups[name] for name, _ in parts if name in groups), None)
    return RowFacts(hash_text(row.prompt), request, [to_openai(tool) for tool in tools], group, given)


def list_parts(answer: Prediction) -> list[tuple[str | None, dict[str, Any]]]:
    """An answer as named values: for each call its tool and arguments; None as the tool's name where there is no call."""
    if isinstance(answer, ToolCall):
        return [(answer.name, answer.arguments)]
    return [_read_part(item) for item in (answer.value if isinstance(answer.value, list) else [answer.value])]


def _read_part(item: Any) -> tuple[str | None, dict[str, Any]]:
    if not isinstance(item, dict):
        return None, {"value": item}
    if set(item) == {"name", "arguments"} and isinstance(item["name"], str) and isinstance(item["arguments"], dict):
        return item["name"], item["arguments"]
    return None, item


def format_facts(facts: Sequence[RowFacts]) -> str:
    """Facts as JSONL."""
    return "".join(json.dumps(asdict(fact), ensure_ascii=False) + "\n" for fact in facts)


def file_of(rows: Path) -> Path:
    """Where the facts of a file of rows lie."""
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
            f"no facts at {show_path(file)}, so nobody knows the tools or the schema of these rows. Run "
            'notebooks/01_data.ipynb; own rows must bring tools.json or schema.json (README, "Your own task").'
        )
    lines = file.read_bytes().removesuffix(b"\n").split(b"\n")
    if len(lines) < len(rows):
        raise ValueError(
            f"{show_path(file)}: {len(lines)} lines for {len(rows)} rows. Run notebooks/01_data.ipynb again."
        )
    found = []
    for number, (line, row) in enumerate(zip(lines, rows, strict=False), start=1):
        try:
            fact = RowFacts(**parse_json(line.decode("utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{show_path(file)}:{number}: not the facts of a row ({error})") from None
        if fact.prompt_sha256 != hash_text(row.prompt):
            raise ValueError(
                f"{show_path(file)}:{number} is about another prompt than line {number} of {path.name}. Run "
                "notebooks/01_data.ipynb again."
            )
        found.append(fact)
    return found


def find_facts(settings: Settings, track: Track, split: str, rows: Sequence[Row]) -> list[RowFacts] | None:
    """The facts of a split of the dataset, or None where there are none: own rows need not have any.

    Raises:
        ValueError: As for read_facts.
    """
    path = settings.dataset / track / f"{split}.jsonl"
    return read_facts(path, rows) if file_of(path).is_file() else None


def count_given(facts: Sequence[RowFacts]) -> dict[str, int]:
    """How many gold values come from where, and `rows_with_neither`: rows with at least one that nothing gives."""
    origins = [origin for fact in facts for part in fact.given for origin in part.values()]
    counts = {f"values_{name}": origins.count(name) for name in ("request", "default", "neither")}
    needy = sum(any("neither" in part.values() for part in fact.given) for fact in facts)
    return {"values": len(origins), **counts, "rows_with_neither": needy}
