"""The manifest of 02_dataset: where its rows come from, and how many there are of which kind."""

from typing import Literal, NotRequired, TypedDict


class NearDuplicates(TypedDict):
    """Clusters of two or more nearly equal prompts."""

    clusters: int
    rows: int
    """In all of these clusters."""
    largest: int
    """Rows of the largest."""


class GivenCounts(TypedDict):
    """Where the gold values of a split come from."""

    values: int
    values_request: int
    values_default: int
    values_neither: int
    rows_with_neither: int
    """Rows with at least one value that neither the request nor a default gives."""


class Origin(TypedDict):
    """Where rows come from, and how they were split."""

    source: str
    """A file's or folder's name, or the hub id."""
    split_rule: str
    """In words."""
    source_sha256: NotRequired[str]
    """Of one file, or of the hub's rows; missing, as the next three, for rows that came split."""
    source_rows: NotRequired[int]
    seed: NotRequired[int]
    sizes_asked: NotRequired[dict[str, dict[str, int | str]]]
    """By track and split: rows, or for own rows a percentage such as `60%`."""
    left_out: NotRequired[dict[str, int]]
    """Raw rows that are in no split, by reason; not for own rows."""
    near_duplicates: NotRequired[NearDuplicates]
    """Only for own rows that were split here."""
    gold: NotRequired[Literal["hosted"]]
    """Of a log: the gold is what the hosted LLM answered; nobody has checked it."""
    exchanges: NotRequired[dict[str, int]]
    """Of a log: how many of its exchanges the rows of each track are, repeats counted."""
    broken: NotRequired[list[str]]
    """Of a log: the first lines that are no exchange, as file:line and reason."""


class Manifest(Origin):
    """`02_dataset/manifest.json`."""

    rows: dict[str, dict[str, int]]
    """By track and split."""
    repeated_prompts: dict[str, dict[str, int]]
    """Rows with the prompt of an earlier one, by track and split."""
    answerability: dict[str, dict[str, GivenCounts]]
    """By track and split; only of rows with facts."""
    tools_in_several_splits: int
    sha256: dict[str, str]
    """Of every file, by its path in the dataset's folder."""
