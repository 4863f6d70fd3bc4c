"""What an audit of rows finds before they are written: prompts or tools in two splits, golds that contradict, repeats."""

from dataclasses import asdict

from swaplib.data.facts import Places, list_parts, name_places
from swaplib.metrics import Track, canonical_json, parse_gold
from swaplib.rows import Row, Rows


def check_leaks(rows: Rows, may_share_tools: bool = False, places: Places | None = None) -> int:
    """Stop when a prompt, or a tool, stands in two splits.

    A prompt (white space and case apart) may stand in one split of its track only. A tool may be called by the golds of
    one split only, of whatever track, unless `may_share_tools`: an agent with a fixed set of tools calls them everywhere.

    Args:
        rows: Rows by track and split.
        may_share_tools: Whether a tool may be called in several splits.
        places: Where the rows stand (facts.name_places); in their splits by default.

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
                prompt = _fold(row.prompt)
                keys = {(f"prompt of {track}", prompt): "have the same prompt"}
                keys |= {
                    ("tool", tool): f"both call the tool {tool!r}"
                    for tool in called_tools(track, row.completion)
                }
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


def _fold(prompt: str) -> str:
    """A prompt without what does not make it another one: white space and case."""
    return " ".join(prompt.lower().split())


def called_tools(track: Track, completion: str) -> list[str]:
    """The tools that a gold calls: one for a toolcall, those of a structured array of calls, else none."""
    return [name for name, _ in list_parts(parse_gold(track, completion)) if name is not None]


def count_repeats(rows: Rows, places: Places | None = None) -> dict[Track, dict[str, int]]:
    """How many rows of each split repeat the prompt of an earlier one: no new evidence, so intervals come out too narrow.

    Args:
        rows: Rows by track and split.
        places: Where the rows stand (facts.name_places); in their splits by default.

    Raises:
        ValueError: Two rows of a split have one prompt and different golds, so one of them is wrong; both are named.
    """
    places = name_places(rows) if places is None else places
    return {
        track: {
            split: _count_repeats(places[track][split], track, found)
            for split, found in splits.items()
        }
        for track, splits in rows.items()
    }


def _count_repeats(places: list[str], track: Track, rows: list[Row]) -> int:
    first: dict[str, tuple[str, str]] = {}
    for place, row in zip(places, rows, strict=True):
        gold = canonical_json(asdict(parse_gold(track, row.completion)))
        other, other_gold = first.setdefault(_fold(row.prompt), (place, gold))
        if gold != other_gold:
            raise ValueError(
                f"{other} and {place} have the same prompt and different completions, so one of them is wrong. "
                "Mend or remove one; nothing was written."
            )
    return len(rows) - len(first)
