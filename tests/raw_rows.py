"""Small made-up raw rows, and folders of own rows, for tests of how rows are made."""

import json
from pathlib import Path
from typing import Any

from swaplib.rows import Row, write_rows

TOOL = {
    "name": "area",
    "description": "Area of a circle.",
    "parameters": {
        "radius": {"type": "float", "description": "The radius."},
        "unit": {"type": "str, optional", "description": "The unit.", "default": "cm"},
        "pair": {"type": "Tuple[int, int], optional, default=1", "description": "Two."},
    },
}


def rename(name: str) -> dict[str, Any]:
    """The tool under another name."""
    return {**TOOL, "name": name}


def make_raw(
    index: int, calls: list[dict], tools: list[dict], query: str = "Radius 5?"
) -> dict[str, Any]:
    return {"id": index, "query": query, "answers": json.dumps(calls), "tools": json.dumps(tools)}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


def toolcall_row(prompt: str, tool: str, body: str = "{}") -> Row:
    return Row(prompt, f'<tool_call name="{tool}">{body}</tool_call>')


def write_own(folder: Path, track: str, **splits: list[Row]) -> Path:
    """Own rows of a track; a split not given holds one row of the tool `area`, or a total."""
    for split in ("train", "val", "test"):
        default = (
            toolcall_row(f"Area of {split}?", "area", '{"radius":5}')
            if track == "toolcall"
            else Row(split, '{"total":5}')
        )
        write_rows(folder / track / f"{split}.jsonl", splits.get(split, [default]))
    return folder
