"""The fields of one raw xLAM row, parsed and checked: request, calls and tools.

`answers` and `tools` are lists, or the JSON texts of lists:

    {"id": 7, "query": "Area of a circle with radius 5?",
     "answers": "[{\\"name\\": \\"circle_area\\", \\"arguments\\": {\\"radius\\": 5}}]",
     "tools": "[{\\"name\\": \\"circle_area\\", \\"description\\": \\"…\\", …}]"}
"""

import json
from collections.abc import Mapping
from typing import Any

from swaplib.data.tool_schemas import Tool, parse_tool
from swaplib.metrics import parse_json


def parse_raw_row(row: Mapping[str, Any]) -> tuple[str, list[dict[str, Any]], list[Tool]]:
    """A raw row's request, its calls (each `{name, arguments}`) and its tools.

    Raises:
        ValueError: A field is malformed, or holds half of a surrogate pair, which cannot be
            written; says what was expected and found.
    """
    calls = _parse_calls(row)
    tools = _parse_tools(row)
    query = _parse_query(row)
    json.dumps([query, calls, tools], ensure_ascii=False).encode()
    return query, calls, tools


def _parse_list(row: Mapping[str, Any], field: str) -> list[Any]:
    try:
        items = parse_json(row[field]) if isinstance(row[field], str) else row[field]
    except ValueError as error:
        raise ValueError(f"{field} is not a JSON text ({error})") from None
    if not isinstance(items, list):
        raise ValueError(f"{field} must be a list, found {type(items).__name__}")
    return items


def _parse_calls(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    calls = _parse_list(row, "answers")
    for call in calls:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            raise ValueError(
                f"answers must be calls with a name and arguments, found {json.dumps(call)[:120]}"
            )
        if not isinstance(call.get("arguments"), dict):
            found = type(call.get("arguments")).__name__
            raise ValueError(
                f"answers: the arguments of {call['name']} must be a JSON object, found {found}"
            )
    return [{"name": call["name"], "arguments": call["arguments"]} for call in calls]


def _parse_tools(row: Mapping[str, Any]) -> list[Tool]:
    items = _parse_list(row, "tools")
    try:
        return [parse_tool(item) for item in items]
    except ValueError as error:
        raise ValueError(f"tools: {error}") from None


def _parse_query(row: Mapping[str, Any]) -> str:
    query = row["query"]
    if not isinstance(query, str) or not query.strip():
        raise ValueError(f"query must be a text that is not blank, found {json.dumps(query)[:120]}")
    return query
