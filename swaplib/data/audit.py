"""What an audit of rows finds before they are written.

It finds prompts or tools in two splits, golds that contradict each other, and repeated prompts.
"""

from collections.abc import Sequence
from dataclasses import asdict

from swaplib.data.facts import Places, list_parts, name_places
from swaplib.metrics import Track, canonical_json, parse_gold
from swaplib.rows import Row, Rows


def check_leaks(rows: Rows, may_share_tools: bool = False, places: Places | None = None) -> int:
    """Stop when a prompt, or a tool, is in two splits.

    A prompt (white space and case apart) may be in one split of its track only. A tool may be
    called by the golds of one split only, of whatever track.

    Args:
        rows: Rows by track and split.
        may_share_tools: Allow tools that are called in several splits, since an agent with a fixed
            set of tools calls them everywhere.
        places: Where the rows are (facts.name_places); in their splits by default.

    Returns:
        How many tools are called in several splits.

    Raises:
        ValueError: Names the two rows as file:line, and what they share.
    """
    places = name_places(rows) if places is None else places
    owners: dict[tuple[str, str], tuple[str, str]] = {}
    shared: set[str] = set()
    for track, splits in rows.items():
        for split, of_split in splits.items():
            for place, row in zip(places[track][split], of_split, strict=True):
                for key, what in _list_keys(track, row).items():
                    other_split, other = owners.setdefault(key, (split, place))
                    if other_split == split:
                        continue
                    if key[0] != "tool" or not may_share_tools:
                        raise ValueError(
                            f"leak: {other} and {place} {what}. Put both into one split; nothing "
                            "was written."
                        )
                    shared.add(key[1])
    return len(shared)


def _list_keys(track: Track, row: Row) -> dict[tuple[str, str], str]:
    """What a row may not have in common with rows of other splits, and what is said of two such."""
    keys = {(f"prompt of {track}", _fold(row.prompt)): "have the same prompt"}
    for tool in called_tools(track, row.completion):
        keys["tool", tool] = f"both call the tool {tool!r}"
    return keys


def _fold(prompt: str) -> str:
    """A prompt with single spaces and in lower case: white space and case do not count."""
    return " ".join(prompt.lower().split())


def called_tools(track: Track, completion: str) -> list[str]:
    """The tools that a gold calls; none for a structured answer that is not an array of calls."""
    return [name for name, _ in list_parts(parse_gold(track, completion)) if name is not None]


def count_repeats(rows: Rows, places: Places | None = None) -> dict[str, dict[str, int]]:
    """How many rows of each split repeat the prompt of an earlier one.

    They are no new evidence, so intervals come out too narrow.

    Args:
        rows: Rows by track and split.
        places: Where the rows are (facts.name_places); in their splits by default.

    Raises:
        ValueError: Two rows of a split have one prompt and different golds, so one of them is
            wrong; both are named.
    """
    places = name_places(rows) if places is None else places
    return {
        track: {
            split: _count_repeats(places[track][split], track, found)
            for split, found in splits.items()
        }
        for track, splits in rows.items()
    }


def _count_repeats(places: Sequence[str], track: Track, rows: Sequence[Row]) -> int:
    first: dict[str, tuple[str, str]] = {}
    for place, row in zip(places, rows, strict=True):
        gold = canonical_json(asdict(parse_gold(track, row.completion)))
        other, other_gold = first.setdefault(_fold(row.prompt), (place, gold))
        if gold != other_gold:
            raise ValueError(
                f"{other} and {place} have the same prompt and different completions, so one of "
                "them is wrong. Mend or remove one; nothing was written."
            )
    return len(rows) - len(first)
