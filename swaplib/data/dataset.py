"""The files of rows and facts, and their manifest: built from xLAM, or a person's own rows; audited before written.

The audit stops on a leak (a prompt in two splits, or, in rows made from xLAM, a tool called in two splits) or on golds that
contradict each other, and counts repeats and what the prompts do not tell. It mends nothing.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swaplib.data import xlam
from swaplib.data.audit import check_leaks, count_repeats
from swaplib.data.facts import Collection, RowFacts, count_given, format_facts, make_facts
from swaplib.data.own_rows import is_own, read_source
from swaplib.data.traffic_rows import is_traffic, read_traffic
from swaplib.files import format_json, hash_text, read_json, replace_files
from swaplib.metrics import TRACKS, Track
from swaplib.rows import SPLITS, Rows, format_rows
from swaplib.settings import ROOT, Settings, show_path

MADE_OF: dict[Track, str] = {
    "toolcall": "requests with one answer",
    "structured": "requests with two or three answers",
}


@dataclass(frozen=True)
class Dataset:
    """Rows by track and split, and the manifest that says where they come from."""

    rows: Rows
    manifest: dict[str, Any]


def build_dataset(
    settings: Settings, source: str, sizes: dict[Track, str], seed: int = 42
) -> Dataset:
    """Make, audit and write the rows of both tracks with their manifest.

    Args:
        settings: Says where the dataset lies.
        source: `sample`, `hub`, the path of a file of raw xLAM rows, or the path of a file or folder of own rows
            (own_rows.read_source), which are checked and taken as they are.
        sizes: Rows wanted of each track as "train/val/test", for example {"toolcall": "340/60/100", …}; not used for
            own rows.
        seed: Seeds the split; not used for own rows that are split already.

    Raises:
        FileNotFoundError, ValueError: The source or a row is not what was expected, a split came out empty, or a leak
            was found. Nothing was written then.
    """
    path = ROOT / Path(source).expanduser()
    has_own = True
    if is_traffic(path):
        made, origin = read_traffic(path, _parse_all(sizes), seed)
    elif has_own := is_own(path):
        made, origin = read_source(path, seed)
    else:
        made, origin = _make_rows(settings, source, _parse_all(sizes), seed)
    counts = {
        track: {split: len(of_split) for split, of_split in splits.items()}
        for track, splits in made.rows.items()
    }
    _check_counts(counts)
    shared = check_leaks(made.rows, may_share_tools=has_own, places=made.places)
    repeats = count_repeats(made.rows, made.places)
    _check_home(settings, origin["source"])
    files = format_files(made)
    manifest = origin | {
        "rows": counts,
        "repeated_prompts": repeats,
        "answerability": count_answers(made.facts),
        "tools_in_several_splits": shared,
        "sha256": {file: hash_text(text) for file, text in files.items()},
    }
    _write_files(settings.dataset, files, manifest)
    return Dataset(made.rows, manifest)


def format_files(made: Collection) -> dict[str, str]:
    """What is written, by path below the dataset: rows, and facts and schemas where there are any."""
    files = {
        f"{track}/{split}.jsonl": format_rows(made.rows[track][split])
        for track in made.rows
        for split in SPLITS
    }
    files |= {
        f"{track}/{split}.facts.jsonl": format_facts(made.facts[track][split])
        for track in made.facts
        for split in SPLITS
    }
    return files | {
        f"{track}/schema.json": json.dumps(s, indent=2) + "\n" for track, s in made.schemas.items()
    }


def count_answers(
    facts: dict[Track, dict[str, list[RowFacts]]],
) -> dict[Track, dict[str, dict[str, int]]]:
    """Where the gold values of each track and split come from (facts.count_given)."""
    return {
        track: {split: count_given(found) for split, found in splits.items()}
        for track, splits in facts.items()
    }


def _write_files(folder: Path, files: dict[str, str], manifest: dict[str, Any]) -> None:
    """Put a dataset in the place of another, its manifest before any of its rows.

    A kill leaves splits missing, which readers say, and a manifest that lets the same source be built again.
    """
    names = [
        *(f"{split}{end}" for split in SPLITS for end in (".jsonl", ".facts.jsonl")),
        "schema.json",
    ]
    # rows come last: a split that is there has its facts
    ordered = sorted(files, key=lambda name: name.count(".") == 1 and name.endswith(".jsonl"))
    texts = {"manifest.json": format_json(manifest), **{name: files[name] for name in ordered}}
    replace_files(folder, texts, old=[f"{track}/{name}" for track in TRACKS for name in names])


def _check_home(settings: Settings, source: str) -> None:
    """Keep rows of one source from ending up beside, or in place of, rows of another."""
    manifest = settings.dataset / "manifest.json"
    rows = [path for path in settings.dataset.glob("*/*.jsonl") if path.parent.name in TRACKS]
    if rows and not manifest.is_file():
        raise ValueError(
            f"{show_path(rows[0])} is there already, and no manifest says whose it is. Move it away first."
        )
    known = (
        read_json(manifest, "Move the dataset away.")["source"] if manifest.is_file() else source
    )
    if known != source:
        raise ValueError(
            f"{show_path(settings.dataset)} holds rows made from {known}, not from {source}. Set SWAP_HOME to a folder of "
            "its own for each source, or move that dataset away."
        )


def _make_rows(
    settings: Settings, source: str, sizes: dict[Track, dict[str, int]], seed: int
) -> tuple[Collection, dict[str, Any]]:
    """Rows and facts from raw xLAM rows, and what the manifest says of their origin."""
    raw, origin = xlam.read_source(source, settings.sample)
    examples, left_out = xlam.make_examples(raw)
    everything = [example for of_track in examples.values() for example in of_track]
    left_out.update(flaw for example in everything if (flaw := xlam.find_flaw(example)))
    splits = xlam.split_by_tool(examples, sizes, seed)
    made = collect(splits, xlam.name_groups([example.called for example in everything]))
    kept = sum(len(of_split) for by_split in made.rows.values() for of_split in by_split.values())
    left_out["more than the sizes asked for"] = len(raw) - left_out.total() - kept
    origin |= {
        "source_rows": len(raw),
        "left_out": dict(left_out),
        "seed": seed,
        "sizes_asked": sizes,
        "split_rule": xlam.SPLIT_RULE,
    }
    return made, origin


def collect(splits: xlam.Splits, groups: dict[str, str]) -> Collection:
    """Rows and facts of examples, by track and split; `groups` names the group of each called tool."""
    rows = {
        track: {s: [e.row for e in es] for s, es in by_split.items()}
        for track, by_split in splits.items()
    }
    facts = {
        track: {
            s: [make_facts(track, e.row, e.query, e.shown, groups) for e in es]
            for s, es in by_split.items()
        }
        for track, by_split in splits.items()
    }
    return Collection(rows, facts, {})


def _check_counts(counts: dict[Track, dict[str, int]]) -> None:
    """Raise ValueError when a split has no rows, and say whether the source has any for its track at all."""
    for track, splits in counts.items():
        if not sum(splits.values()):
            raise ValueError(
                f"no {track} rows: they are made of {MADE_OF[track]}, and the source has none that can be used."
            )
    if empty := [
        f"{track}/{split}"
        for track, splits in counts.items()
        for split, n in splits.items()
        if not n
    ]:
        raise ValueError(
            f"no rows for {', '.join(empty)}: the source is too small. Take a larger one, or smaller sizes."
        )


def _parse_all(sizes: dict[Track, str]) -> dict[Track, dict[str, int]]:
    return {track: parse_sizes(sizes[track]) for track in TRACKS}


def parse_sizes(text: str) -> dict[str, int]:
    """Parse "340/60/100" into rows for train, val and test.

    Raises:
        ValueError: The text is not three whole numbers of at least 1.
    """
    if not re.fullmatch(r"[1-9]\d*/[1-9]\d*/[1-9]\d*", text):
        raise ValueError(
            f"sizes {text!r}: expected train/val/test as three whole numbers, for example 340/60/100"
        )
    return dict(zip(SPLITS, map(int, text.split("/")), strict=True))
