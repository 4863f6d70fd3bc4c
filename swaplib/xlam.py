"""Raw xLAM rows -> examples of both tracks -> splits that share no tool.

A raw row is `{id, query, answers, tools}`; `answers` and `tools` are JSON strings:

    {"id": 7, "query": "Area of a circle with radius 5?",
     "answers": "[{\\"name\\": \\"circle_area\\", \\"arguments\\": {\\"radius\\": 5}}]",
     "tools": "[{\\"name\\": \\"circle_area\\", \\"description\\": \\"…\\", \\"parameters\\": {\\"radius\\": {…}}}]"}

One answer makes a toolcall example, two or three answers (at most four tools) a structured one, so the tracks share no
row. Source of the data: APIGen, arXiv:2406.18518, CC-BY-4.0.
"""

import json
import random
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx

from swaplib.metrics import TRACKS, Track, canonical_json, format_tool_call, parse_json
from swaplib.rows import SPLITS, Row, hash_file, hash_text
from swaplib.settings import ROOT

HUB_ID = "Salesforce/xlam-function-calling-60k"
MAX_STRUCTURED_TOOLS = 4
SPLIT_RULE = (
    "Tools called together in one row form a group; groups are shuffled with the seed and each goes whole to test or "
    "val while it fits there (at most a tenth of a split from one group), else to train. Both tracks share the map."
)

Splits = dict[Track, dict[str, list["Example"]]]

TOOLCALL_PROMPT = """\
Answer the request with one call of the tool below. Reply with exactly one wrapper around one JSON object:
<tool_call name="TOOL">{{"PARAMETER": VALUE}}</tool_call>
Leave out a parameter with a default unless the request sets it.

{signature}

Request: {query}"""

STRUCTURED_PROMPT = """\
Answer the request with calls of the tools below. Reply with exactly one JSON array, its calls in the order asked:
[{{"name": TOOL, "arguments": {{"PARAMETER": VALUE}}}}]
Leave out a parameter with a default unless the request sets it.

{signatures}

Request: {query}"""


@dataclass(frozen=True, slots=True)
class Example:
    """A row, with what the audit needs to know of where it came from."""

    row: Row
    query: str
    calls: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...]

    @property
    def called(self) -> list[str]:
        """The names of the tools that the gold calls, in order."""
        return [call["name"] for call in self.calls]


def read_source(source: str, sample: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Read raw rows.

    Args:
        source: `sample` (the shipped rows), `hub` (the whole gated set), or the path of a JSON or JSONL file of raw rows.
        sample: Where the shipped rows lie.

    Returns:
        The raw rows, and the manifest's entries `source` and `source_sha256` (of the file; of the rows for the hub).

    Raises:
        FileNotFoundError, ValueError: The source is not there, or a row is not a raw row (file:line is named).
        PermissionError: The hub refused; the message says how to get access.
    """
    if source == "hub":
        raw = _read_hub()
        return raw, {"source": HUB_ID, "source_sha256": hash_text("\n".join(map(canonical_json, raw)))}
    path = sample if source == "sample" else ROOT / Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"source={source!r}: expected 'sample', 'hub', a file of raw rows, or a folder of own rows; nothing at {path}"
        )
    return _parse_source(path), {"source": path.name, "source_sha256": hash_file(path)}


def _parse_source(path: Path) -> list[dict[str, Any]]:
    raw, problems = [], []
    try:
        text = path.read_text(encoding="utf-8")
        items = json.loads(text) if text.lstrip().startswith("[") else text.removesuffix("\n").split("\n")
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    for number, item in enumerate(items, start=1):
        try:
            row = parse_json(item) if isinstance(item, str) else item
            if not isinstance(row, dict) or not {"id", "query", "answers", "tools"} <= set(row):
                raise ValueError("expected an object with id, query, answers and tools")
            raw.append(row)
        except ValueError as error:
            problems.append(f"  {path.name}:{number}: {error}")
    if problems:
        raise ValueError(f"{path}: {len(problems)} bad row(s), so nothing was read:\n" + "\n".join(problems))
    return raw


def _read_hub() -> list[dict[str, Any]]:
    from datasets import load_dataset

    try:
        return list(load_dataset(HUB_ID, split="train"))
    except Exception as error:  # the library raises many kinds for one cause; all of them end here
        raise PermissionError(
            f"the hub did not give {HUB_ID} ({type(error).__name__}). The set is gated: accept its terms on its page and "
            "run `hf auth login`; check the network too. Or use source='sample' or the path of a downloaded file."
        ) from error


def make_examples(raw: list[dict[str, Any]]) -> tuple[dict[Track, list[Example]], Counter[str]]:
    """Turn raw rows into examples.

    Returns:
        The examples of each track, and how many raw rows were left out for which reason.

    Raises:
        ValueError: A row's `answers` or `tools` is not a JSON list of calls or tools; its id is named.
    """
    examples: dict[Track, list[Example]] = {track: [] for track in TRACKS}
    left_out: Counter[str] = Counter()
    seen: set[str] = set()
    for row in raw:
        calls, tools = (
            _parse_list(row, "answers", {"name", "arguments"}),
            _parse_list(row, "tools", {"name", "parameters"}),
        )
        if reason := _reason_to_leave_out(calls, tools):
            left_out[reason] += 1
            continue
        track: Track = "toolcall" if len(calls) == 1 else "structured"
        example = Example(_make_row(track, row["query"], calls, tools), row["query"], tuple(calls), tuple(tools))
        if example.row.prompt in seen:
            left_out["same prompt as an earlier row"] += 1
            continue
        seen.add(example.row.prompt)
        examples[track].append(example)
    return examples, left_out


def _parse_list(row: dict[str, Any], field: str, keys: set[str]) -> list[dict[str, Any]]:
    """Parse a raw row's `answers` or `tools`: a JSON text of a list of objects that have the keys."""
    try:
        items = parse_json(row[field])
    except (ValueError, TypeError) as error:
        raise ValueError(f"raw row id {row['id']}: {field} is not a JSON text ({error})") from None
    if not isinstance(items, list) or not all(isinstance(item, dict) and keys <= set(item) for item in items):
        raise ValueError(f"raw row id {row['id']}: {field} must be a list of objects with {', '.join(sorted(keys))}")
    return items


def _reason_to_leave_out(calls: list[dict], tools: list[dict]) -> str | None:
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


def _make_row(track: Track, query: str, calls: list[dict], tools: list[dict]) -> Row:
    if track == "structured":
        signatures = "\n\n".join(format_signature(tool) for tool in tools)
        completion = json.dumps(
            [{"name": call["name"], "arguments": call["arguments"]} for call in calls],
            ensure_ascii=False,
            separators=(",", ":"),
        )
        return Row(STRUCTURED_PROMPT.format(signatures=signatures, query=query), completion)
    call = calls[0]
    tool = next(tool for tool in tools if tool["name"] == call["name"])
    prompt = TOOLCALL_PROMPT.format(signature=format_signature(tool), query=query)
    return Row(prompt, format_tool_call(call["name"], call["arguments"]))


def format_signature(tool: dict[str, Any]) -> str:
    """A tool as a prompt shows it: name and description, then one line for each parameter.

    xLAM's type `"str, optional"` becomes two words, since models copy the word `optional` into the call. The default is
    shown because golds use it; the parameter's description because it holds formats such as YYYY-MM-DD.
    """
    lines = [f"{tool['name']}: {tool.get('description', '')}"]
    for name, parameter in tool["parameters"].items():
        kind = re.sub(r"(,\s*(optional|default\s*=.*))+$", "", parameter["type"])
        facts = [kind] + ["optional"] * ("optional" in parameter["type"].removeprefix(kind))
        if "default" in parameter:
            facts.append(f"default {json.dumps(parameter['default'], ensure_ascii=False)}")
        lines.append(f"- {name} ({', '.join(facts)}): {parameter['description']}")
    return "\n".join(lines)


def split_by_tool(examples: dict[Track, list[Example]], sizes: dict[Track, dict[str, int]], seed: int) -> Splits:
    """Split both tracks with one map from tool to split, so that no tool called in test is called in train or val.

    Args:
        examples: The examples of each track.
        sizes: Rows wanted for each track and split; a track may come out smaller when the source is too small.
        seed: Seeds the order of the groups and of the rows.

    Returns:
        Examples for each track and split, in a seeded order.
    """
    shuffler = random.Random(seed)  # noqa: S311 - a seeded order, no secret
    split_of = _assign_groups(examples, sizes, shuffler)
    splits: Splits = {}
    for track in TRACKS:
        shuffled = shuffler.sample(examples[track], len(examples[track]))
        splits[track] = {
            split: [e for e in shuffled if split_of[e.called[0]] == split][: sizes[track][split]] for split in SPLITS
        }
    return splits


def map_tools(examples: dict[Track, list[Example]], sizes: dict[Track, dict[str, int]], seed: int) -> dict[str, str]:
    """The map from every called tool to its split that split_by_tool uses for the same arguments."""
    return _assign_groups(examples, sizes, random.Random(seed))  # noqa: S311 - a seeded order, no secret


def _assign_groups(
    examples: dict[Track, list[Example]], sizes: dict[Track, dict[str, int]], shuffler: random.Random
) -> dict[str, str]:
    """Map every called tool to a split; SPLIT_RULE says how."""
    graph = networkx.Graph()
    for example in (e for track in TRACKS for e in examples[track]):
        graph.add_nodes_from(example.called)
        networkx.add_path(graph, example.called)
    groups = sorted(sorted(group) for group in networkx.connected_components(graph))
    shuffler.shuffle(groups)
    weights = {track: Counter(e.called[0] for e in examples[track]) for track in TRACKS}
    room = {split: {track: sizes[track][split] for track in TRACKS} for split in SPLITS}
    split_of: dict[str, str] = {}
    for group in groups:
        rows = {track: sum(weights[track][tool] for tool in group) for track in TRACKS}
        fits = [
            split
            for split in ("test", "val")
            if all(n <= min(room[split][t], max(1, sizes[t][split] // 10)) for t, n in rows.items() if n)
        ]
        chosen = fits[0] if fits else "train"
        for track, n in rows.items():
            room[chosen][track] -= n
        split_of.update(dict.fromkeys(group, chosen))
    return split_of
