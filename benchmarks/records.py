"""Records of the benchmarks, and their Markdown tables, below benchmarks/results/.

A record is flat. `write_table` writes the records of a benchmark that has files of its own;
`replace_records` replaces some of a file that several benchmarks or runs share. One of
throughput.json, without the machine:

    {"case": "rows of one batch", "ours": 12.5, "other": 5.0, "unit": "rows/s", "ratio": 2.5}
"""

import json
import os
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from swaplib.files import write_json, write_text
from swaplib.provenance import describe_machine

RESULTS = Path(os.environ.get("OUT", Path(__file__).parent / "results"))
ABOUT = ("part", "machine", "git_commit")

Record = dict[str, Any]


def make_record(case: str, ours: float, other: float | None, unit: str, **more: Any) -> Record:
    """A record of throughput.json: numbers to 4 significant digits, `ratio` from unrounded ones.

    Args:
        case: What was measured against what.
        ours: Our number.
        other: The number to compare with; None where there is none (then there is no ratio).
        unit: Of both numbers.
        **more: Further fields, for example `spread` of a repeated measurement.
    """
    ratio = None if other is None else round(ours / other, 2)
    shown = {"ours": _shorten(ours), "other": None if other is None else _shorten(other)}
    return {"case": case, **shown, "unit": unit, "ratio": ratio, **more}


def compare_medians(case: str, ours: Sequence[float], other: Sequence[float], unit: str) -> Record:
    """A record of two medians, with the spread of ours."""
    medians = (statistics.median(ours), statistics.median(other))
    return make_record(case, *medians, unit, spread=format_spread(ours))


def format_spread(values: Sequence[float]) -> str:
    """Least and most."""
    return f"{min(values):.4g} to {max(values):.4g}"


def replace_records(path: Path, records: Sequence[Record], keys: Sequence[str]) -> list[Record]:
    """Replace the records of a file that have the same values under `keys` as one of the new ones.

    Returns:
        All records of the file, each new one with its machine and commit.
    """
    machine = describe_machine()
    about = {"machine": machine["device"], "git_commit": machine["git_commit"]}
    replaced = {tuple(record[key] for key in keys) for record in records}
    known = json.loads(path.read_text()) if path.is_file() else []
    others = [record for record in known if tuple(record[key] for key in keys) not in replaced]
    records = others + [record | about for record in records]
    write_json(path, records)
    return records


def write_part(part: str, records: Sequence[Record]) -> None:
    """Replace a part's records in throughput.json, and write all parts' tables beside it."""
    path = RESULTS / "throughput.json"
    named = [record | {"part": part} for record in records]
    known = replace_records(path, named, ["part"])
    known.sort(key=lambda record: record["part"])
    write_json(path, known)
    parts = groupby(known, key=lambda record: record["part"])
    tables = [_format_part(name, list(found)) for name, found in parts]
    write_text(path.with_suffix(".md"), "\n".join(tables))


def write_table(
    name: str, records: Sequence[Record], note: str = "", left_out: Collection[str] = ()
) -> None:
    """Write a benchmark's own records, with machine, versions and commit, and a table beside them.

    Args:
        name: The files' name, without an ending.
        records: In the order of the table's rows.
        note: Put above the table, before the machine.
        left_out: Keys that the table does not show.
    """
    machine = describe_machine()
    about = {"machine": machine["device"], "versions": machine["versions"]}
    about |= {"git_commit": machine["git_commit"]}
    write_json(RESULTS / f"{name}.json", [record | about for record in records])
    packages = ("torch", "unsloth", "openai")
    versions = ", ".join(f"{package} {machine['versions'][package]}" for package in packages)
    head = f"{note} Machine: {machine['device']}; {versions}.".lstrip()
    text = "\n".join([head, "", *format_records(records, left_out)]) + "\n"
    write_text(RESULTS / f"{name}.md", text)
    print(text)


def show_value(value: object) -> str:
    """A value as a table's cell: counts in words, rates to 4 significant digits."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {n}" for key, n in value.items() if n)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def format_records(
    records: Sequence[Mapping[str, object]],
    left_out: Collection[str] = (),
    show: Callable[[object], str] = show_value,
) -> list[str]:
    """The lines of a Markdown table with a column for each key; a record without it has no text."""
    keys = dict.fromkeys(key for record in records for key in record)
    heads = [key for key in keys if key not in left_out]
    return format_table(
        heads, [[show(record.get(head, "")) for head in heads] for record in records]
    )


def format_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]


def _format_part(part: str, records: Sequence[Record]) -> str:
    machine, commit = records[0]["machine"], records[0]["git_commit"]
    table = format_records(records, ABOUT, lambda value: "" if value is None else str(value))
    return "\n".join([f"## {part}", "", f"On {machine}; commit {commit}.", "", *table, ""])


def _shorten(number: float) -> float:
    """A number to 4 significant digits; whole numbers stay whole."""
    return number if isinstance(number, int) else float(f"{number:.4g}")
