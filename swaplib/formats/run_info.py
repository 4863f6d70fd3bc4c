"""The `run` section of a file: which run made it, when, and with what."""

from typing import NotRequired, TypedDict


class Delivery(TypedDict):
    """What became of a run's trace."""

    trace_id: str
    outbox: str
    """The local file that holds the whole trace."""
    made: int
    """Spans and scores of the trace."""
    delivered: int
    """Of these, how many Langfuse has."""
    failed: int
    problem: NotRequired[str | None]
    """Why some are not delivered."""


class RunInfo(TypedDict):
    """What every run says of itself."""

    run_id: str
    """Also the name of its folder in `05_eval/runs`."""
    started: str
    """UTC, ISO 8601, to the second; `ended` as well."""
    ended: str
    git_commit: str | None
    """None outside of a checkout; `git_dirty` as well."""
    git_dirty: bool | None
    versions: dict[str, str | None]
    """Of Python and of packages by name; None for one that is not installed."""
    device: str
    """The GPU and its memory, or the processor's cores and the machine's memory."""
    trace: NotRequired[Delivery]
    """Not in the run card of an exported adapter."""
