"""The six JSONL files and their manifest: built from xLAM, or taken from a person's own rows; audited before written.

The audit stops on a leak (a prompt in two splits, or, in rows made from xLAM, a tool called in two splits) and counts what
the prompts do not tell. It mends nothing.
"""

import json
import os
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swaplib import templates, xlam
from swaplib.checkpoints import check_checkpoint
from swaplib.metrics import TRACKS, ToolCall, Track, parse_gold
from swaplib.prompts import build_messages
from swaplib.rows import SPLITS, Row, format_rows, hash_text, read_rows, write_json, write_text
from swaplib.settings import ROOT, Settings, show_path

Rows = dict[Track, dict[str, list[Row]]]


@dataclass(frozen=True)
class Dataset:
    """Rows by track and split, and the manifest that says where they come from."""

    rows: Rows
    manifest: dict[str, Any]


def build_dataset(settings: Settings, source: str, sizes: dict[Track, str], seed: int = 42) -> Dataset:
    """Make, audit and write the rows of both tracks with their manifest.

    Args:
        settings: Says where the dataset lies.
        source: `sample`, `hub`, the path of a file of raw xLAM rows, or the path of a folder of own rows
            (`<track>/{train,val,test}.jsonl` for one track or both), which are checked and copied as they are.
        sizes: Rows wanted of each track as "train/val/test", for example {"toolcall": "340/60/100", …}; not used for
            own rows.
        seed: Seeds the split.

    Raises:
        FileNotFoundError, ValueError: The source or a row is not what was expected, a split came out empty, or a leak
            was found. Nothing was written then.
    """
    folder = ROOT / Path(source).expanduser()
    if folder.is_dir():
        rows, facts = _read_own_rows(folder), {"source": show_path(folder), "split_rule": "as given"}
    else:
        rows, facts = _make_rows(settings, source, {track: parse_sizes(sizes[track]) for track in TRACKS}, seed)
    counts = {track: {split: len(of_split) for split, of_split in splits.items()} for track, splits in rows.items()}
    if empty := [f"{track}/{split}" for track, splits in counts.items() for split, n in splits.items() if not n]:
        raise ValueError(
            f"no rows for {', '.join(empty)}: the source is too small. Take a larger one, or smaller sizes."
        )
    shared = check_leaks(rows, may_share_tools=folder.is_dir())
    _check_home(settings, facts["source"])
    files = {f"{track}/{split}.jsonl": format_rows(rows[track][split]) for track in rows for split in SPLITS}
    hashes = {file: hash_text(text) for file, text in files.items()}
    manifest = facts | {"rows": counts, "tools_in_several_splits": shared, "sha256": hashes}
    _replace_files(settings.dataset, files, manifest)
    return Dataset(rows, manifest)


def _replace_files(folder: Path, files: dict[str, str], manifest: dict[str, Any]) -> None:
    """Put a dataset in the place of another: never rows of both, and its manifest before any of its rows.

    Everything is written beside its place first, where a full disk harms nothing. A kill while files are moved leaves
    splits missing, which readers say, and a manifest that lets the same source be built again.
    """
    staged = folder / ".build"
    shutil.rmtree(staged, ignore_errors=True)  # what a kill has left
    try:
        for file, text in files.items():
            write_text(staged / file, text)
            (folder / file).parent.mkdir(exist_ok=True)
        write_json(staged / "manifest.json", manifest)
        for track in TRACKS:
            for split in SPLITS:
                (folder / track / f"{split}.jsonl").unlink(missing_ok=True)
        for file in ("manifest.json", *files):
            os.replace(staged / file, folder / file)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _check_home(settings: Settings, source: str) -> None:
    """Keep rows of one source from ending up beside, or in place of, rows of another."""
    manifest = settings.dataset / "manifest.json"
    rows = [path for path in settings.dataset.glob("*/*.jsonl") if path.parent.name in TRACKS]
    if rows and not manifest.is_file():
        raise ValueError(
            f"{show_path(rows[0])} is there already, and no manifest says whose it is. Move it away first."
        )
    known = json.loads(manifest.read_text(encoding="utf-8"))["source"] if manifest.is_file() else source
    if known != source:
        raise ValueError(
            f"{show_path(settings.dataset)} holds rows made from {known}, not from {source}. Set SWAP_HOME to a folder of "
            "its own for each source, or move that dataset away."
        )


def _make_rows(
    settings: Settings, source: str, sizes: dict[Track, dict[str, int]], seed: int
) -> tuple[Rows, dict[str, Any]]:
    """Rows from raw xLAM rows, and what the manifest says of them."""
    raw, origin = xlam.read_source(source, settings.sample)
    examples, left_out = xlam.make_examples(raw)
    splits = xlam.split_by_tool(examples, sizes, seed)
    rows = {track: {s: [e.row for e in es] for s, es in by_split.items()} for track, by_split in splits.items()}
    kept = sum(len(of_split) for by_split in rows.values() for of_split in by_split.values())
    left_out["more than the sizes asked for"] = sum(map(len, examples.values())) - kept
    facts = origin | {
        "source_rows": len(raw),
        "left_out": dict(left_out),
        "seed": seed,
        "sizes_asked": sizes,
        "split_rule": xlam.SPLIT_RULE,
        "answerability": {track: audit_answers(splits[track]) for track in splits},
    }
    return rows, facts


def parse_sizes(text: str) -> dict[str, int]:
    """Parse "340/60/100" into rows for train, val and test.

    Raises:
        ValueError: The text is not three whole numbers of at least 1.
    """
    if not re.fullmatch(r"[1-9]\d*/[1-9]\d*/[1-9]\d*", text):
        raise ValueError(f"sizes {text!r}: expected train/val/test as three whole numbers, for example 340/60/100")
    return dict(zip(SPLITS, map(int, text.split("/")), strict=True))


def _read_own_rows(folder: Path) -> Rows:
    tracks = [track for track in TRACKS if (folder / track).is_dir()]
    if not tracks:
        raise FileNotFoundError(f"{folder}: expected structured/ or toolcall/ with train.jsonl, val.jsonl, test.jsonl")
    rows: Rows = {track: {} for track in tracks}
    problems = []
    for track in tracks:
        for split in SPLITS:
            try:
                rows[track][split] = read_rows(folder / track / f"{split}.jsonl", track)
            except (FileNotFoundError, ValueError) as error:
                problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
    return rows


def check_leaks(rows: Rows, may_share_tools: bool = False) -> int:
    """Stop when a prompt, or a tool, stands in two splits.

    A prompt (white space and case apart) may stand in one split of its track only. A tool may be called by the golds of
    one split only, of whatever track, unless `may_share_tools`: an agent with a fixed set of tools calls them everywhere.

    Returns:
        How many tools are called in several splits.

    Raises:
        ValueError: Names the two rows as track/split.jsonl:line, and what they share.
    """
    owners: dict[tuple[str, str], tuple[str, str]] = {}
    shared: set[str] = set()
    for track, splits in rows.items():
        for split, of_split in splits.items():
            for line, row in enumerate(of_split, start=1):
                place = f"{track}/{split}.jsonl:{line}"
                prompt = " ".join(row.prompt.lower().split())
                keys = {(f"prompt of {track}", prompt): "have the same prompt"}
                keys |= {("tool", tool): f"both call the tool {tool!r}" for tool in called_tools(track, row.completion)}
                for key, what in keys.items():
                    other_split, other = owners.setdefault(key, (split, place))
                    if other_split == split:
                        continue
                    if key[0] != "tool" or not may_share_tools:
                        raise ValueError(
                            f"leak: {other} and {place} {what}. Put both into one split; nothing was written."
                        )
                    shared.add(key[1])
    return len(shared)


def called_tools(track: Track, completion: str) -> list[str]:
    """The tools that a gold calls: one for a toolcall, those of a structured array of calls, else none."""
    gold = parse_gold(track, completion)
    if isinstance(gold, ToolCall):
        return [gold.name]
    items = gold.value if isinstance(gold.value, list) else []
    calls = [item for item in items if isinstance(item, dict) and set(item) == {"name", "arguments"}]
    return [call["name"] for call in calls if isinstance(call["name"], str) and isinstance(call["arguments"], dict)]


def audit_answers(splits: dict[str, list[xlam.Example]]) -> dict[str, int]:
    """Count whether the prompts tell what the golds hold.

    Returns:
        `keys` and `keys_not_in_prompt` (argument names), then of the values: `values_in_request`, `values_default` (equal
        to the parameter's default) and `values_neither` (to be inferred, converted, or known).
    """
    counts: Counter[str] = Counter()
    for example in (e for of_split in splits.values() for e in of_split):
        for key, parameter, value in list_values(example):
            counts["keys"] += 1
            counts["keys_not_in_prompt"] += f"- {key} (" not in example.row.prompt
            counts[f"values_{_where_given(value, parameter or {}, example.query)}"] += 1
    names = ("keys", "keys_not_in_prompt", "values_in_request", "values_default", "values_neither")
    return {name: counts[name] for name in names}


def list_values(example: xlam.Example) -> list[tuple[str, dict[str, Any] | None, Any]]:
    """Every gold argument of an example: key, the raw entry of its parameter (None where there is none), value."""
    parameters = {tool["name"]: tool["parameters"] for tool in example.tools}
    return [
        (key, parameters[call["name"]].get(key), value)
        for call in example.calls
        for key, value in call["arguments"].items()
    ]


def _where_given(value: Any, parameter: dict[str, Any], query: str) -> str:
    if _is_in_request(value, query):
        return "in_request"
    return "default" if "default" in parameter and str(parameter["default"]) == str(value) else "neither"


def _is_in_request(value: Any, query: str) -> bool:
    """Whether a value stands in the request: texts anywhere, numbers as numbers, containers when all parts do."""
    if value in ("", [], {}):
        return False
    if isinstance(value, dict):
        return all(_is_in_request(part, query) for part in value.values())
    if isinstance(value, list):
        return all(_is_in_request(part, query) for part in value)
    if isinstance(value, bool) or value is None:
        return False
    if isinstance(value, str):
        return value.lower() in query.lower()
    numbers = re.findall(r"-?\d+(?:\.\d+)?", re.sub(r"(?<=\d),(?=\d{3})", "", query))
    return any(float(number) == value for number in numbers)


def count_tokens(rows: Rows, checkpoint: Path) -> list[dict[str, Any]]:
    """Lengths in tokens with a checkpoint's own tokenizer and chat template, one record for each track and split.

    Returns:
        Records with `track`, `split`, `rows`, and median, 95th percentile and maximum of the prompt (system message and
        template included) and of the completion.
    """
    import numpy as np
    from transformers import AutoTokenizer

    check_checkpoint(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    records = []
    for track, splits in rows.items():
        for split, of_split in splits.items():
            chats = [build_messages(track, row.prompt) for row in of_split]
            prompts = [templates.render(tokenizer, chat) for chat in chats]
            record: dict[str, Any] = {"track": track, "split": split, "rows": len(of_split)}
            for name, texts in {"prompt": prompts, "completion": [row.completion for row in of_split]}.items():
                lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
                for label, quantile in {"median": 0.5, "p95": 0.95, "max": 1.0}.items():
                    record[f"{name}_{label}"] = int(np.quantile(lengths, quantile))
            records.append(record)
    return records
