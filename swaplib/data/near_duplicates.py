"""Prompts that are nearly the same: found, and kept in one split.

A model that has learned one of them knows the others.

    "Book two nights in Rome, please"      one cluster: the same words
    "book two nights in Rome please!"
    "Book two nights in Oslo by train"     another one

It knows no files and no golds.
"""

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from swaplib.formats.manifest import NearDuplicates
from swaplib.rows import SPLITS

if TYPE_CHECKING:
    import numpy as np

BLOCK = 500  # rows that are compared with all others at once

SHARES = {"train": 60, "val": 10, "test": 30}  # of 100 rows
SPLIT_RULE = (
    "60% train, 10% val and 30% test of the rows of one file, drawn with the seed. Prompts whose "
    "sets of words are equal or nearly so (Jaccard similarity of at least 0.8, directly or by way "
    "of others; the words that all prompts begin and end with are left out) go to one split: "
    "clusters larger than a tenth of test to train while it has room for them, the others wherever "
    "they fit, in proportion to the room."
)


def cluster_prompts(prompts: Sequence[str]) -> list[list[int]]:
    """Clusters of prompts that are equal or nearly so; a prompt like no other is one alone.

    Two prompts are nearly equal when their sets of words (runs of letters and digits, in lower
    case) have a Jaccard similarity of at least 0.8; prompts that are connected so, directly or by
    way of others, are a cluster. What all prompts begin and end with, word by word, is left out
    first: a long instruction that all share would make everything nearly equal.

    Returns:
        Clusters of indices, each in order, sorted by their first index.
    """
    words = _leave_out_shared([re.findall(r"\w+", prompt.lower()) for prompt in prompts])
    alike: dict[frozenset[str], list[int]] = defaultdict(list)
    for index, of_prompt in enumerate(words):
        alike[frozenset(of_prompt)].append(index)
    clusters: dict[int, list[int]] = defaultdict(list)
    for label, indices in zip(_label_similar(list(alike)), alike.values(), strict=True):
        clusters[int(label)] += indices
    return sorted(map(sorted, clusters.values()))


def count_near_duplicates(clusters: Iterable[Sequence[int]]) -> NearDuplicates:
    """How many clusters there are of two or more prompts, and how many rows are in them."""
    sizes = [len(cluster) for cluster in clusters if len(cluster) > 1]
    return {"clusters": len(sizes), "rows": sum(sizes), "largest": max(sizes, default=0)}


def _leave_out_shared(words: list[list[str]]) -> list[list[str]]:
    """Lists of words without what all of them begin with, and then without what all end with."""
    for _ in range(2):
        columns = zip(*words, strict=False)
        shared = len(list(takewhile(lambda column: len(set(column)) == 1, columns)))
        words = [of_prompt[shared:][::-1] for of_prompt in words]
    return words


def _label_similar(sets: Sequence[frozenset[str]]) -> "np.ndarray":
    """The cluster of each set, by a number: an int array of shape (sets,).

    The sizes of intersections are products of sparse matrices. The similarity is compared in whole
    numbers, so that exactly 0.8 counts.
    """
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    columns: dict[str, int] = {}
    cells = [
        (row, columns.setdefault(word, len(columns)))
        for row, words in enumerate(sets)
        for word in words
    ]
    n = len(sets)
    places = np.array(cells, dtype=np.int64).reshape(-1, 2).T
    ones_of_cells = np.ones(len(cells), dtype=np.int32)
    holds = coo_array((ones_of_cells, tuple(places)), shape=(n, len(columns) + 1)).tocsr()
    held_by = holds.T.tocsr()
    sizes = np.array([len(words) for words in sets])
    labels = np.arange(n)
    for start in range(0, n, BLOCK):
        shared = (holds[start : start + BLOCK] @ held_by).toarray()
        ones, others = np.nonzero(9 * shared >= 4 * (sizes[start : start + BLOCK, None] + sizes))
        first = np.unique(labels, return_index=True)[1][labels]  # of each set's cluster so far
        pairs = (np.concatenate([ones + start, np.arange(n)]), np.concatenate([others, first]))
        graph = coo_array((np.ones(len(pairs[0]), dtype=bool), pairs), shape=(n, n))
        labels = connected_components(graph, directed=False)[1]
    return labels


def split_clusters(clusters: Sequence[Sequence[int]], seed: int) -> dict[str, list[int]]:
    """Split rows so that no cluster is torn; SPLIT_RULE says how.

    Args:
        clusters: As cluster_prompts gives them.
        seed: Seeds which cluster goes where, and the order of the rows.

    Returns:
        The indices of each split's rows, in a seeded order. A split is empty when the clusters are
        too few.
    """
    shuffler = random.Random(seed)  # noqa: S311 - a seeded order, no secret
    rows = sum(map(len, clusters))
    room = {split: round(rows * SHARES[split] / 100) for split in ("val", "test")}
    room = {"train": rows - sum(room.values())} | room
    largest = max(1, room["test"] // 10)
    splits: dict[str, list[int]] = {split: [] for split in SPLITS}
    for cluster in sorted(shuffler.sample(list(clusters), len(clusters)), key=len, reverse=True):
        fits = [split for split in SPLITS if len(cluster) <= room[split]]
        if len(cluster) > largest and "train" in fits:
            chosen = "train"
        elif fits:
            chosen = shuffler.choices(fits, weights=[room[split] for split in fits])[0]
        else:
            chosen = max(room, key=lambda split: room[split])
        room[chosen] -= len(cluster)
        splits[chosen] += cluster
    return {split: shuffler.sample(indices, len(indices)) for split, indices in splits.items()}
