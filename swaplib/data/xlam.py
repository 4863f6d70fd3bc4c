"""Raw xLAM rows, read, and made into examples of both tracks.

A raw row is `{id, query, answers, tools}` (xlam_fields.py shows one). One answer makes a toolcall
example, two or three answers (at most four tools) a structured one, so the tracks share no row.
Tools may be JSON Schemas, too, as in the OpenAI API. Source of the data: APIGen, arXiv:2406.18518,
CC-BY-4.0.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from swaplib.data.answerability import is_default, is_named
from swaplib.data.tool_schemas import Tool, fits_type, format_signature
from swaplib.data.xlam_fields import parse_raw_row
from swaplib.files import hash_file, hash_text
from swaplib.metrics import TRACKS, Track, canonical_json, format_tool_call, parse_json
from swaplib.prompts import build_prompt
from swaplib.rows import Row
from swaplib.settings import ROOT

HUB_ID = "Salesforce/xlam-function-calling-60k"
MAX_STRUCTURED_TOOLS = 4
ADULT = re.compile(r"porn|onlyfans|hentai|erotic|\bxxx\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row, with the request, calls and tools that it was made from."""

    row: Row
    query: str
    calls: tuple[dict[str, Any], ...]
    tools: tuple[Tool, ...]

    @property
    def called(self) -> list[str]:
        """The names of the tools that the gold calls, in order."""
        return [call["name"] for call in self.calls]

    @property
    def shown(self) -> list[Tool]:
        """The tools that the prompt shows: of a single call the called one, else all offered."""
        if len(self.calls) > 1:
            return list(self.tools)
        return [tool for tool in self.tools if tool["name"] == self.called[0]]

    @property
    def values(self) -> list[tuple[dict[str, Any] | None, Any]]:
        """Every gold argument as its parameter, None where the tool lacks it, and its value."""
        parameters = {tool["name"]: tool["parameters"] for tool in self.tools}
        return [
            (parameters[call["name"]].get(name), value)
            for call in self.calls
            for name, value in call["arguments"].items()
        ]


def read_source(source: str, sample: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Read raw rows.

    Args:
        source: `sample` (the shipped rows), `hub` (the whole gated set), or the path of a JSON or
            JSONL file of raw rows.
        sample: The file of the shipped rows.

    Returns:
        The raw rows, and the manifest's entries `source` and `source_sha256` (of the file; of the
        rows for the hub).

    Raises:
        FileNotFoundError, ValueError: The source does not exist, or a row is not a raw row
            (file:line is named).
        PermissionError: The hub refused; the message says how to get access.
    """
    if source == "hub":
        raw = _read_hub()
        sha256 = hash_text("\n".join(map(canonical_json, raw)))
        return raw, {"source": HUB_ID, "source_sha256": sha256}
    path = sample if source == "sample" else ROOT / Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"source={source!r}: expected 'sample', 'hub', a file of raw rows, or a folder or file "
            f"of own rows; nothing at {path}"
        )
    return _parse_source(path), {"source": path.name, "source_sha256": hash_file(path)}


def _parse_source(path: Path) -> list[dict[str, Any]]:
    """The raw rows of a file that is one JSON list, or JSONL."""
    try:
        text = path.read_text(encoding="utf-8")
        is_list = text.lstrip().startswith("[")
        items = json.loads(text) if is_list else text.removesuffix("\n").split("\n")
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    raw = []
    problems = []
    for number, item in enumerate(items, start=1):
        try:
            row = parse_json(item) if isinstance(item, str) else item
            if not isinstance(row, dict) or not {"id", "query", "answers", "tools"} <= set(row):
                raise ValueError("expected an object with id, query, answers and tools")
            raw.append(row)
        except ValueError as error:
            problems.append(f"  {path.name}:{number}: {error}")
    if problems:
        raise ValueError(
            f"{path}: {len(problems)} bad row(s), so nothing was read:\n" + "\n".join(problems)
        )
    return raw


def _read_hub() -> list[dict[str, Any]]:
    from datasets import load_dataset

    try:
        return list(load_dataset(HUB_ID, split="train"))
    except Exception as error:  # the library raises many kinds for one cause
        raise PermissionError(
            f"the hub did not give {HUB_ID} ({type(error).__name__}). The set is gated: accept its "
            "terms on its page and run `hf auth login`; check the network too. Or use "
            "source='sample' or the path of a downloaded file."
        ) from error


def make_examples(
    raw: Sequence[Mapping[str, Any]],
) -> tuple[dict[Track, list[SourceRow]], Counter[str]]:
    """Turn raw rows into examples.

    Those with a flaw (find_flaw) are among them, because the map from tool to split needs all.

    Returns:
        The examples of each track, and how many raw rows were left out for which reason.

    Raises:
        ValueError: Raw rows are malformed; each is listed with its id, what was expected and what
            was found.
    """
    examples: dict[Track, list[SourceRow]] = {track: [] for track in TRACKS}
    left_out: Counter[str] = Counter()
    problems: list[str] = []
    seen: set[str] = set()
    for row in raw:
        try:
            query, calls, tools = parse_raw_row(row)
        except ValueError as error:
            problems.append(f"raw row id {row['id']}: {error}")
            continue
        if reason := _reason_to_leave_out(calls, tools):
            left_out[reason] += 1
            continue
        example = _make_example(query, calls, tools)
        if example.row.prompt in seen:
            left_out["same prompt as an earlier row"] += 1
            continue
        seen.add(example.row.prompt)
        examples["toolcall" if len(calls) == 1 else "structured"].append(example)
    if problems:
        shown = "\n".join(f"  {problem}" for problem in problems[:20])
        raise ValueError(
            f"{len(problems)} malformed raw row(s), so nothing was made (at most 20 shown):\n"
            f"{shown}"
        )
    return examples, left_out


def _reason_to_leave_out(calls: Sequence[dict[str, Any]], tools: Sequence[Tool]) -> str | None:
    names = [tool["name"] for tool in tools]
    if not 1 <= len(calls) <= 3:
        return "no answer, or more than three"
    if len(calls) > 1 and len(tools) > MAX_STRUCTURED_TOOLS:
        return f"several answers and more than {MAX_STRUCTURED_TOOLS} tools"
    if any(names.count(call["name"]) != 1 for call in calls):
        return "a called tool is not offered exactly once"
    if any(character in call["name"] for call in calls for character in '"<>'):
        return "a tool's name does not fit the wrapper"
    return None


def _make_example(query: str, calls: Sequence[dict[str, Any]], tools: Sequence[Tool]) -> SourceRow:
    if len(calls) == 1:
        completion = format_tool_call(**calls[0])
    else:
        completion = json.dumps(calls, ensure_ascii=False, separators=(",", ":"))
    example = SourceRow(Row("", completion), query, tuple(calls), tuple(tools))
    return replace(example, row=Row(format_prompt(example), completion))


def format_prompt(example: SourceRow, template: str | None = None) -> str:
    """An example's prompt; `template` replaces the track's instruction (prompts.ROW_PROMPTS)."""
    track: Track = "toolcall" if len(example.calls) == 1 else "structured"
    signatures = [format_signature(tool) for tool in example.shown]
    return build_prompt(track, signatures, example.query, template)


def find_flaw(example: SourceRow) -> str | None:
    """Why an example is left out: its gold breaks the prompt's instruction, or it is for adults.

    A gold with a default that the request does not name word for word is flawed: the prompt says to
    leave it out. In about half of the shipped ones the request sets it in other words ("in English"
    for `en`); whether the gold should state it there is a matter of opinion, so they are left out,
    too.
    """
    for parameter, value in example.values:
        if parameter is None:
            return "a gold names a parameter that its tool lacks"
        if not fits_type(value, parameter):
            return "a gold value is of another type than declared"
        if is_default(value, parameter) and not is_named(value, example.query):
            return "a gold states a default that the request does not name word for word"
    if ADULT.search(example.row.prompt):
        return "a request or tool for adults"
    return None
