"""Tables of 01: what was built and left out, what may go wrong, what is asked, rows to read. It computes nothing."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from swaplib.metrics import Track
from swaplib.report.tables import show_records, show_texts, style, style_texts
from swaplib.rows import Row

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler


def show_manifest(manifest: dict[str, Any]) -> "Styler":
    """Rows of each track and split, asked for and made, those that repeat a prompt, and the sha256 of each file.

    Of one file of own rows the caption says how many clusters of nearly equal prompts there are.
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
    near, caption = manifest.get("near_duplicates"), ""
    if near is not None:
        caption = (
            f"{near['clusters']} cluster(s) of nearly equal prompts, {near['rows']} rows in them"
        )
        caption += (
            f", the largest of {near['largest']}; each in one split" if near["clusters"] else ""
        )
    return style(pd.DataFrame(records), caption)


def show_left_out(manifest: dict[str, Any]) -> "Styler":
    """Why source rows did not become rows, with counts; own rows are all kept."""
    left_out = manifest.get("left_out", {"(own rows: all kept)": 0})
    return style(pd.DataFrame({"reason": left_out.keys(), "rows": left_out.values()}))


def show_answerability(manifest: dict[str, Any]) -> "Styler":
    """Where the gold values of each track and split come from; nothing to count for own rows without facts."""
    counts = manifest["answerability"]
    heads = {
        "values_request": "in the request",
        "values_default": "a default",
        "values_neither": "neither",
    }
    records = [
        {"track": track, "split": split, "rows": manifest["rows"][track][split]}
        | {heads.get(name, name): n for name, n in numbers.items()}
        for track, splits in counts.items()
        for split, numbers in splits.items()
    ]
    return show_records(
        records
        or [
            {
                "track": "own rows without tools.json or schema.json: nothing is known of their values"
            }
        ]
    )


def show_warnings(records: list[dict[str, Any]]) -> "Styler":
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


def show_asked(records: list[dict[str, str]]) -> "Styler":
    """One test prompt of each track as each model will see it (foresight.preview_prompts)."""
    return show_texts(records, "the first test row of each track, as it will be asked")


def show_rows(rows: dict[str, dict[str, list[Row]]], track: Track, n: int = 3) -> "Styler":
    """The first n test rows of a track, prompt beside completion; an empty table when the dataset lacks the track."""
    found = rows.get(track, {}).get("test", [])
    table = pd.DataFrame(
        [{"prompt": r.prompt, "completion": r.completion} for r in found[:n]], dtype=object
    )
    return style_texts(table, f"{track}: {min(n, len(found))} of {len(found)} test rows")
