"""Splits rows made from xLAM so that no tool called in test is called in train or val.

Tools that are called together in one row form a group, and each group goes whole to one split, by
one seeded map for both tracks.
"""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import networkx

from swaplib.data.xlam import SourceRow, find_flaw
from swaplib.metrics import TRACKS, Track
from swaplib.rows import SPLITS

SPLIT_RULE = (
    "Tools called together in one row form a group; groups are shuffled with the seed and each "
    "goes whole to test or val while it fits there (at most a tenth of a split from one group), "
    "else to train. Both tracks share the map; it is made before rows are left out for what their "
    "golds hold."
)

Sizes = Mapping[Track, Mapping[str, int]]  # rows wanted, by track and split
Splits = dict[Track, dict[str, list[SourceRow]]]


def split_by_tool(examples: Mapping[Track, Sequence[SourceRow]], sizes: Sizes, seed: int) -> Splits:
    """Split both tracks with one map from tool to split.

    Args:
        examples: The examples of each track.
        sizes: Rows wanted; a track may come out smaller when the source is too small.
        seed: Seeds the order of the groups and of the rows.

    Returns:
        Examples for each track and split, in a seeded order, without those that have a flaw.
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
    examples: Mapping[Track, Sequence[SourceRow]], sizes: Sizes, seed: int
) -> dict[str, str]:
    """The map from every called tool to its split, as split_by_tool uses it."""
    shuffler = random.Random(seed)  # noqa: S311 - a seeded order, no secret
    return _assign_groups(examples, sizes, shuffler)


def _assign_groups(
    examples: Mapping[Track, Sequence[SourceRow]], sizes: Sizes, shuffler: random.Random
) -> dict[str, str]:
    """Map every called tool to a split; SPLIT_RULE says how."""
    groups = group_tools([example.called for track in TRACKS for example in examples[track]])
    shuffler.shuffle(groups)
    weights = {track: Counter(e.called[0] for e in examples[track]) for track in TRACKS}
    room = {split: {track: sizes[track][split] for track in TRACKS} for split in SPLITS}
    split_of: dict[str, str] = {}
    for group in groups:
        rows = {track: sum(weights[track][tool] for tool in group) for track in TRACKS}
        chosen = "train"
        for split in ("val", "test"):  # test is preferred
            most = {track: max(1, sizes[track][split] // 10) for track in TRACKS}
            if all(n <= min(room[split][track], most[track]) for track, n in rows.items() if n):
                chosen = split
        for track, n in rows.items():
            room[chosen][track] -= n
        split_of.update(dict.fromkeys(group, chosen))
    return split_of


def group_tools(called: Iterable[Sequence[str]]) -> list[list[str]]:
    """Groups of tools that are called together, directly or by way of others.

    Args:
        called: For each row, the names of the tools that its gold calls.

    Returns:
        The groups, sorted, each in order.
    """
    graph = networkx.Graph()
    for names in called:
        graph.add_nodes_from(names)
        networkx.add_path(graph, names)
    return sorted(sorted(group) for group in networkx.connected_components(graph))


def name_groups(called: Iterable[Sequence[str]]) -> dict[str, str]:
    """The group of each tool, by the first name in it; `called` as for group_tools."""
    return {name: group[0] for group in group_tools(called) for name in group}
