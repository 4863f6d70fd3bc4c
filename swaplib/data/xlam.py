"""Raw xLAM rows -> examples of both tracks -> splits that share no tool.

A raw row is `{id, query, answers, tools}`; `answers` and `tools` are JSON strings:

    {"id": 7, "query": "Area of a circle with radius 5?",
     "answers": "[{\\"name\\": \\"circle_area\\", \\"arguments\\": {\\"radius\\": 5}}]",
     "tools": "[{\\"name\\": \\"circle_area\\", \\"description\\": \\"…\\", \\"parameters\\": {\\"radius\\": {…}}}]"}

One answer makes a toolcall example, two or three answers (at most four tools) a structured one, so the tracks share no
row. Tools may be JSON Schemas, too, as the OpenAI API has them. Source of the data: APIGen, arXiv:2406.18518, CC-BY-4.0.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import networkx

from swaplib.data.answerability import is_default, is_named
from swaplib.data.tool_schemas import Tool, fits_type, format_signature, parse_tool
from swaplib.files import hash_file, hash_text
from swaplib.metrics import TRACKS, Track, canonical_json, format_tool_call, parse_json
from swaplib.prompts import build_prompt
from swaplib.rows import SPLITS, Row
from swaplib.settings import ROOT

HUB_ID = "Salesforce/xlam-function-calling-60k"
MAX_STRUCTURED_TOOLS = 4
SPLIT_RULE = (
    "Tools called together in one row form a group; groups are shuffled with the seed and each goes whole to test or "
    "val while it fits there (at most a tenth of a split from one group), else to train. Both tracks share the map; "
    "it is made before rows are left out for what their golds hold."
)
ADULT = re.compile(r"porn|onlyfans|hentai|erotic|\bxxx\b", re.IGNORECASE)

Splits = dict[Track, dict[str, list["SourceRow"]]]


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row, with what the audit needs to know of where it came from."""

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
        """The tools that the prompt shows: the called one of a single call, all that the row offers of several."""
        return (
            list(self.tools)
            if len(self.calls) > 1
            else [t for t in self.tools if t["name"] == self.called[0]]
        )

    @property
    def values(self) -> list[tuple[dict[str, Any] | None, Any]]:
        """Every gold argument: its parameter (None where the tool has none of the name), and its value."""
        parameters = {tool["name"]: tool["parameters"] for tool in self.tools}
        return [
            (parameters[call["name"]].get(k), v)
            for call in self.calls
            for k, v in call["arguments"].items()
        ]


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
        return raw, {
            "source": HUB_ID,
            "source_sha256": hash_text("\n".join(map(canonical_json, raw))),
        }
    path = sample if source == "sample" else ROOT / Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"source={source!r}: expected 'sample', 'hub', a file of raw rows, or a folder or file of own rows; nothing "
            f"at {path}"
        )
    return _parse_source(path), {"source": path.name, "source_sha256": hash_file(path)}


def _parse_source(path: Path) -> list[dict[str, Any]]:
    raw, problems = [], []
    try:
        text = path.read_text(encoding="utf-8")
        items = (
            json.loads(text)
            if text.lstrip().startswith("[")
            else text.removesuffix("\n").split("\n")
        )
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
        raise ValueError(
            f"{path}: {len(problems)} bad row(s), so nothing was read:\n" + "\n".join(problems)
        )
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


def make_examples(raw: list[dict[str, Any]]) -> tuple[dict[Track, list[SourceRow]], Counter[str]]:
    """Turn raw rows into examples, those with a flaw (find_flaw) among them: the map from tool to split needs all.

    Returns:
        The examples of each track, and how many raw rows were left out for which reason.

    Raises:
        ValueError: Raw rows are malformed; each is listed with its id, what was expected and what was found.
    """
    examples: dict[Track, list[SourceRow]] = {track: [] for track in TRACKS}
    left_out: Counter[str] = Counter()
    problems: list[str] = []
    seen: set[str] = set()
    for row in raw:
        try:
            calls, tools, query = _parse_calls(row), _parse_tools(row), _parse_query(row)
            json.dumps(
                [query, calls, tools], ensure_ascii=False
            ).encode()  # half of a surrogate pair cannot be written
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
            f"{len(problems)} malformed raw row(s), so nothing was made (at most 20 shown):\n{shown}"
        )
    return examples, left_out


def _parse_list(row: dict[str, Any], field: str) -> list[Any]:
    """A raw row's `answers` or `tools`: a list, or the JSON text of one."""
    try:
        items = parse_json(row[field]) if isinstance(row[field], str) else row[field]
    except ValueError as error:
        raise ValueError(f"{field} is not a JSON text ({error})") from None
    if not isinstance(items, list):
        raise ValueError(f"{field} must be a list, found {type(items).__name__}")
    return items


def _parse_calls(row: dict[str, Any]) -> list[dict[str, Any]]:
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


def _parse_tools(row: dict[str, Any]) -> list[Tool]:
    items = _parse_list(row, "tools")
    try:
        return [parse_tool(item) for item in items]
    except ValueError as error:
        raise ValueError(f"tools: {error}") from None


def _parse_query(row: dict[str, Any]) -> str:
    if not isinstance(row["query"], str) or not row["query"].strip():
        raise ValueError(
            f"query must be a text that is not blank, found {json.dumps(row['query'])[:120]}"
        )
    return row["query"]


def _reason_to_leave_out(calls: list[dict[str, Any]], tools: list[Tool]) -> str | None:
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


def _make_example(query: str, calls: list[dict[str, Any]], tools: list[Tool]) -> SourceRow:
    if len(calls) == 1:
        completion = format_tool_call(**calls[0])
    else:
        completion = json.dumps(calls, ensure_ascii=False, separators=(",", ":"))
    example = SourceRow(Row("", completion), query, tuple(calls), tuple(tools))
    return replace(example, row=Row(format_prompt(example), completion))


def format_prompt(example: SourceRow, template: str | None = None) -> str:
    """An example's prompt; `template` is another instruction than the track's (prompts.ROW_PROMPTS)."""
    track: Track = "toolcall" if len(example.calls) == 1 else "structured"
    return build_prompt(
        track, [format_signature(tool) for tool in example.shown], example.query, template
    )


def find_flaw(example: SourceRow) -> str | None:
    """Why an example is left out though it could be made: its gold breaks what the prompt asks for, or it is for adults.

    A gold that states a default which the request does not name word for word is one: the prompt says to leave it out. In
    about half of the shipped ones the request sets it in other words ("in English" for `en`): whether the gold should state
    it is a matter of opinion there, and they are left out, too.
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


def split_by_tool(
    examples: dict[Track, list[SourceRow]], sizes: dict[Track, dict[str, int]], seed: int
) -> Splits:
    """Split both tracks with one map from tool to split, so that no tool called in test is called in train or val.

    Args:
        examples: The examples of each track.
        sizes: Rows wanted for each track and split; a track may come out smaller when the source is too small.
        seed: Seeds the order of the groups and of the rows.

    Returns:
        Examples for each track and split, in a seeded order, those with a flaw (find_flaw) left out.
    """
    shuffler = random.Random(seed)  # noqa: S311 - a seeded order, no secret
    split_of = _assign_groups(examples, sizes, shuffler)
    splits: Splits = {}
    for track in TRACKS:
        shuffled = shuffler.sample(examples[track], len(examples[track]))
        sound = [example for example in shuffled if find_flaw(example) is None]
        splits[track] = {
            split: [e for e in sound if split_of[e.called[0]] == split][: sizes[track][split]]
            for split in SPLITS
        }
    return splits


def map_tools(
    examples: dict[Track, list[SourceRow]], sizes: dict[Track, dict[str, int]], seed: int
) -> dict[str, str]:
    """The map from every called tool to its split that split_by_tool uses for the same arguments."""
    return _assign_groups(examples, sizes, random.Random(seed))  # noqa: S311 - a seeded order, no secret


def _assign_groups(
    examples: dict[Track, list[SourceRow]],
    sizes: dict[Track, dict[str, int]],
    shuffler: random.Random,
) -> dict[str, str]:
    """Map every called tool to a split; SPLIT_RULE says how."""
    groups = group_tools([example.called for track in TRACKS for example in examples[track]])
    shuffler.shuffle(groups)
    weights = {track: Counter(e.called[0] for e in examples[track]) for track in TRACKS}
    room = {split: {track: sizes[track][split] for track in TRACKS} for split in SPLITS}
    split_of: dict[str, str] = {}
    for group in groups:
        rows = {track: sum(weights[track][tool] for tool in group) for track in TRACKS}
        fits = [
            split
            for split in ("test", "val")
            if all(
                n <= min(room[split][t], max(1, sizes[t][split] // 10))
                for t, n in rows.items()
                if n
            )
        ]
        chosen = fits[0] if fits else "train"
        for track, n in rows.items():
            room[chosen][track] -= n
        split_of.update(dict.fromkeys(group, chosen))
    return split_of


def group_tools(called: Iterable[Sequence[str]]) -> list[list[str]]:
    """Groups of tools that are called together, directly or by way of others; sorted, and each in order.

    Args:
        called: For each row, the names of the tools that its gold calls.
    """
    graph = networkx.Graph()
    for names in called:
        graph.add_nodes_from(names)
        networkx.add_path(graph, names)
    return sorted(sorted(group) for group in networkx.connected_components(graph))


def name_groups(called: Iterable[Sequence[str]]) -> dict[str, str]:
    """The group of each tool, by the first name in it; `called` as for group_tools."""
    return {name: group[0] for group in group_tools(called) for name in group}
