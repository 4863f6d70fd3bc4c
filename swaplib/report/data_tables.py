"""Tables of 01: what was built and left out, what may go wrong, what is asked, rows to read.

It computes nothing.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from swaplib.formats.manifest import Manifest
from swaplib.metrics import Track
from swaplib.report.styles import style, style_texts
from swaplib.report.tables import show_records, show_texts
from swaplib.rows import Row, Rows

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler


def show_manifest(manifest: Manifest) -> "Styler":
    """By track and split: rows asked for and made, repeated prompts, the file's sha256.

    For own rows from one file the caption counts the clusters of nearly equal prompts.
    """
    asked = manifest.get("sizes_asked", {})
    records = [
        {
            "track": track,
            "split": split,
            "rows": n,
            "rows asked for": str(asked.get(track, {}).get(split, "as given")),
            "repeated prompts": manifest["repeated_prompts"][track][split],
            "sha256": manifest["sha256"][f"{track}/{split}.jsonl"][:12],
        }
        for track, splits in manifest["rows"].items()
        for split, n in splits.items()
    ]
    near = manifest.get("near_duplicates")
    caption = ""
    if near is not None:
        caption = (
            f"{near['clusters']} cluster(s) of nearly equal prompts, {near['rows']} rows in them"
        )
        if near["clusters"]:
            caption += f", the largest of {near['largest']}; each in one split"
    if manifest.get("gold") == "hosted":
        of_log = sum(manifest.get("exchanges", {}).values())
        caption = (
            f"{of_log} of the log's {manifest.get('source_rows')} exchanges; every gold is what "
            f"the hosted LLM answered. {caption}"
        )
    return style(pd.DataFrame(records), caption)


def show_left_out(manifest: Mapping[str, Any]) -> "Styler":
    """Why source rows did not become rows or tasks, with counts; own rows are all kept."""
    left_out = manifest.get("left_out", {"(own rows: all kept)": 0})
    broken = manifest.get("broken", [])
    caption = "; ".join(["Lines that are no exchange:", *broken[:5]]) if broken else ""
    return style(pd.DataFrame({"reason": left_out.keys(), "rows": left_out.values()}), caption)


def show_answerability(manifest: Manifest) -> "Styler":
    """Where the gold values of each track and split come from; unknown for rows without facts."""
    heads = {
        "values_request": "in the request",
        "values_default": "a default",
        "values_neither": "neither",
    }
    records = [
        {"track": track, "split": split, "rows": manifest["rows"][track][split]}
        | {heads.get(name, name): n for name, n in counts.items()}
        for track, splits in manifest["answerability"].items()
        for split, counts in splits.items()
    ]
    unknown = "own rows without tools.json or schema.json: nothing is known of their values"
    return show_records(records or [{"track": unknown}])


def show_warnings(records: Sequence[Mapping[str, Any]]) -> "Styler":
    """What is likely to go wrong, track by track (foresight.list_warnings)."""
    shown = [
        {
            "track": r["track"],
            "rows": f"{r['rows']} of {r['of']}",
            "what": r["warning"],
            "what it means": r["meaning"],
        }
        for r in records
    ]
    return show_texts(shown or [{"track": "nothing found"}])


def show_asked(records: Sequence[Mapping[str, str]]) -> "Styler":
    """One test prompt of each track as each model will see it (foresight.preview_prompts)."""
    return show_texts(records, "the first test row of each track, as it will be asked")


def show_rows(rows: Rows, track: Track, n: int = 3) -> "Styler":
    """The first n test rows of a track, prompt beside completion; none where it has no rows."""
    of_test: Sequence[Row] = rows.get(track, {}).get("test", [])
    records = [{"prompt": row.prompt, "completion": row.completion} for row in of_test[:n]]
    caption = f"{track}: {len(records)} of {len(of_test)} test rows"
    return style_texts(pd.DataFrame(records, dtype=object), caption)
