"""The files of rows and facts, and their manifest: from xLAM or your own rows, audited first.

The audit stops on a leak (a prompt in two splits, or, in rows made from xLAM, a tool called in two
splits) or on golds that contradict each other, and counts repeated prompts and values that the
prompts do not give. It repairs nothing.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swaplib.data import tool_split, xlam
from swaplib.data.audit import check_leaks, count_repeats
from swaplib.data.facts import Collection, RowFacts, count_given, format_facts, make_facts
from swaplib.data.own_rows import is_own, read_source
from swaplib.data.traffic_rows import is_traffic, read_traffic
from swaplib.files import format_json, hash_text, read_json, replace_files
from swaplib.formats.manifest import GivenCounts, Manifest, Origin
from swaplib.metrics import TRACKS, Track
from swaplib.rows import SPLITS, Rows, format_rows
from swaplib.settings import ROOT, Settings, show_path

MADE_OF = {
    "toolcall": "requests with one answer",
    "structured": "requests with two or three answers",
}


@dataclass(frozen=True)
class Dataset:
    """Rows by track and split, and the manifest that says where they come from."""

    rows: Rows
    manifest: Manifest


def build_dataset(
    settings: Settings, source: str, sizes: Mapping[Track, str], seed: int = 42
) -> Dataset:
    """Make, audit and write the rows of both tracks with their manifest.

    Args:
        settings: Where the dataset is.
        source: `sample`, `hub`, or a path: a file of raw xLAM rows, a log (traffic_rows.py), or a
            file or folder of own rows (own_rows.py), which are checked and taken as they are.
        sizes: Rows wanted of each track as "train/val/test", for example "340/60/100"; of a log
            their sum is the most; not used for own rows.
        seed: Seeds the split; not used for own rows that are split already.

    Raises:
        FileNotFoundError, ValueError: The source or a row is not what was expected, a split is
            empty, or a leak was found. Nothing was written then.
    """
    path = ROOT / Path(source).expanduser()
    has_own = (is_log := is_traffic(path)) or is_own(path)
    if is_log:
        made, origin = read_traffic(path, _parse_all(sizes), seed)
    elif has_own:
        made, origin = read_source(path, seed)
    else:
        made, origin = _make_rows(settings, source, _parse_all(sizes), seed)
    _check_counts(counts := _count_rows(made.rows))
    shared = check_leaks(made.rows, may_share_tools=has_own, places=made.places)
    repeats = count_repeats(made.rows, made.places)
    _check_home(settings, origin["source"])
    files = format_files(made)
    manifest: Manifest = {
        **origin,
        "rows": counts,
        "repeated_prompts": repeats,
        "answerability": count_answers(made.facts),
        "tools_in_several_splits": shared,
        "sha256": {file: hash_text(text) for file, text in files.items()},
    }
    _write_files(settings.dataset, files, manifest)
    return Dataset(made.rows, manifest)


def format_files(made: Collection) -> dict[str, str]:
    """What is written, by path below the dataset: rows, facts and schemas."""
    files = {}
    for track, splits in made.rows.items():
        for split in SPLITS:
            files[f"{track}/{split}.jsonl"] = format_rows(splits[split])
    for track, facts in made.facts.items():
        for split in SPLITS:
            files[f"{track}/{split}.facts.jsonl"] = format_facts(facts[split])
    for track, schema in made.schemas.items():
        files[f"{track}/schema.json"] = json.dumps(schema, indent=2) + "\n"
    return files


def count_answers(
    facts: Mapping[Track, Mapping[str, Sequence[RowFacts]]],
) -> dict[str, dict[str, GivenCounts]]:
    """Where the gold values of each track and split come from (facts.count_given)."""
    return {
        track: {split: count_given(of_split) for split, of_split in splits.items()}
        for track, splits in facts.items()
    }


def _write_files(folder: Path, files: Mapping[str, str], manifest: Manifest) -> None:
    """Replace a dataset by another, whose manifest is written before any of its rows.

    A kill leaves splits missing, which readers say, and a manifest with which the same source can
    be built again.
    """
    names = [f"{split}{end}" for split in SPLITS for end in (".jsonl", ".facts.jsonl")]
    names.append("schema.json")
    # rows come last, so that a split that exists has its facts
    ordered = sorted(files, key=lambda name: name.count(".") == 1 and name.endswith(".jsonl"))
    texts = {"manifest.json": format_json(manifest), **{name: files[name] for name in ordered}}
    replace_files(folder, texts, old=[f"{track}/{name}" for track in TRACKS for name in names])


def _check_home(settings: Settings, source: str) -> None:
    """Keep rows of one source from ending up beside, or in place of, rows of another."""
    manifest = settings.dataset / "manifest.json"
    if not manifest.is_file():
        rows = [path for path in settings.dataset.glob("*/*.jsonl") if path.parent.name in TRACKS]
        if rows:
            raise ValueError(
                f"{show_path(rows[0])} is there already, and no manifest says whose it is. Move it "
                "away first."
            )
        return
    earlier = read_json(manifest, "Move the dataset away.")["source"]
    if earlier != source:
        raise ValueError(
            f"{show_path(settings.dataset)} holds rows made from {earlier}, not from {source}. Set "
            "SWAP_HOME to a folder of its own for each source, or move that dataset away."
        )


def _make_rows(
    settings: Settings, source: str, sizes: tool_split.Sizes, seed: int
) -> tuple[Collection, Origin]:
    """Rows and facts from raw xLAM rows, and what the manifest says of their origin."""
    raw, read_from = xlam.read_source(source, settings.sample)
    examples, left_out = xlam.make_examples(raw)
    everything = [example for of_track in examples.values() for example in of_track]
    left_out.update(flaw for example in everything if (flaw := xlam.find_flaw(example)))
    splits = tool_split.split_by_tool(examples, sizes, seed)
    made = collect(splits, tool_split.name_groups([example.called for example in everything]))
    kept = sum(len(of_split) for by_split in made.rows.values() for of_split in by_split.values())
    left_out["more than the sizes asked for"] = len(raw) - left_out.total() - kept
    origin: Origin = {
        "source": read_from["source"],
        "source_sha256": read_from["source_sha256"],
        "source_rows": len(raw),
        "left_out": dict(left_out),
        "seed": seed,
        "sizes_asked": {track: dict(of_track) for track, of_track in sizes.items()},
        "split_rule": tool_split.SPLIT_RULE,
    }
    return made, origin


def collect(splits: tool_split.Splits, groups: Mapping[str, str]) -> Collection:
    """Rows and facts of examples; `groups` names the group of each called tool."""
    rows: Rows = {}
    facts: dict[Track, dict[str, list[RowFacts]]] = {}
    for track, by_split in splits.items():
        rows[track] = {
            split: [example.row for example in examples] for split, examples in by_split.items()
        }
        facts[track] = {
            split: [make_facts(track, e.row, e.query, e.shown, groups) for e in examples]
            for split, examples in by_split.items()
        }
    return Collection(rows, facts, {})


def _count_rows(rows: Rows) -> dict[str, dict[str, int]]:
    return {
        track: {split: len(of_split) for split, of_split in splits.items()}
        for track, splits in rows.items()
    }


def _check_counts(counts: Mapping[str, Mapping[str, int]]) -> None:
    """Raise ValueError when a track or a split has no rows."""
    for track, splits in counts.items():
        if not sum(splits.values()):
            raise ValueError(
                f"no {track} rows: they are made of {MADE_OF[track]}, and the source has none that "
                "can be used."
            )
    sizes = {f"{track}/{split}": n for track in counts for split, n in counts[track].items()}
    if empty := [name for name, n in sizes.items() if not n]:
        raise ValueError(
            f"no rows for {', '.join(empty)}: the source is too small. Take a larger one, or "
            "smaller sizes."
        )


def _parse_all(sizes: Mapping[Track, str]) -> dict[Track, dict[str, int]]:
    return {track: parse_sizes(sizes[track]) for track in TRACKS}


def parse_sizes(text: str) -> dict[str, int]:
    """Parse "340/60/100" into rows for train, val and test.

    Raises:
        ValueError: The text is not three whole numbers of at least 1.
    """
    if not re.fullmatch(r"[1-9]\d*/[1-9]\d*/[1-9]\d*", text):
        raise ValueError(
            f"sizes {text!r}: expected train/val/test as three whole numbers, for example "
            "340/60/100"
        )
    return dict(zip(SPLITS, map(int, text.split("/")), strict=True))
