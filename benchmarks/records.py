"""Records of the throughput benchmarks and their table: flat, in one JSON file that several benchmarks write.

Each benchmark owns the parts that it measures and replaces only those. A record, without what write_records adds:

    {"case": "rows of one batch", "ours": 12.5, "other": 5.0, "unit": "rows/s", "ratio": 2.5}
"""

import json
import os
from collections.abc import Collection
from itertools import groupby
from pathlib import Path
from typing import Any

from swaplib.files import write_json, write_text
from swaplib.provenance import describe_machine

RESULTS = Path(os.environ.get("OUT", Path(__file__).parent / "results"))
ABOUT = ("part", "machine", "git_commit")


def make_record(
    case: str, ours: float, other: float | None, unit: str, **more: Any
) -> dict[str, Any]:
    """One record: `ratio` is ours to other, both as measured; the numbers are kept to 4 significant digits.

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


def write_records(part: str, records: list[dict[str, Any]]) -> None:
    """Replace a part's records in throughput.json, and write all parts' tables beside it."""
    machine, path = describe_machine(), RESULTS / "throughput.json"
    about = {"part": part, "machine": machine["device"], "git_commit": machine["git_commit"]}
    known = json.loads(path.read_text()) if path.is_file() else []
    kept = [record for record in known if record["part"] != part] + [
        record | about for record in records
    ]
    kept.sort(key=lambda record: record["part"])
    write_json(path, kept)
    tables = [
        _format_part(name, list(found))
        for name, found in groupby(kept, key=lambda record: record["part"])
    ]
    write_text(path.with_suffix(".md"), "\n".join(tables))


def write_table(
    name: str, records: list[dict[str, Any]], note: str = "", left_out: Collection[str] = ()
) -> None:
    """Write a benchmark's own records, each with machine, versions and commit, and a Markdown table beside them.

    Args:
        name: The files' name, without an ending.
        records: Flat, in the order of the table's rows.
        note: What stands before the machine, above the table.
        left_out: Keys that the table does not show.
    """
    machine = describe_machine()
    about = {
        "machine": machine["device"],
        "versions": machine["versions"],
        "git_commit": machine["git_commit"],
    }
    write_json(RESULTS / f"{name}.json", [record | about for record in records])
    heads = [
        key
        for key in dict.fromkeys(key for record in records for key in record)
        if key not in left_out
    ]
    rows = [[_show(record.get(head, "")) for head in heads] for record in records]
    versions = ", ".join(
        f"{package} {machine['versions'][package]}" for package in ("torch", "unsloth", "openai")
    )
    head = f"{note} Machine: {machine['device']}; {versions}.".lstrip()
    write_text(RESULTS / f"{name}.md", "\n".join([head, "", *format_table(heads, rows)]) + "\n")
    print((RESULTS / f"{name}.md").read_text())


def format_table(heads: list[str], rows: list[list[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]


def _format_part(part: str, records: list[dict[str, Any]]) -> str:
    """A part's records as Markdown, under the machine they were measured on."""
    heads = list(dict.fromkeys(key for record in records for key in record if key not in ABOUT))
    rows = [
        ["" if record.get(head) is None else str(record[head]) for head in heads]
        for record in records
    ]
    machine, commit = records[0]["machine"], records[0]["git_commit"]
    return "\n".join(
        [f"## {part}", "", f"On {machine}; commit {commit}.", "", *format_table(heads, rows), ""]
    )


def _show(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {n}" for key, n in value.items() if n)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _shorten(number: float) -> float:
    """A number to 4 significant digits; whole numbers stay whole."""
    return number if isinstance(number, int) else float(f"{number:.4g}")
