"""The run card of an adapter: how it was trained, on which rows, from which base."""

from typing import NotRequired, TypedDict

from swaplib.formats.run_info import RunInfo


class RecipeRecord(TypedDict):
    """The settings of a training (sft.Recipe)."""

    rank: int
    alpha: int
    dropout: float
    learning_rate: float
    epochs: int
    sequence_length: int
    """Tokens."""
    batch_size: int
    seed: int


class FinalLosses(TypedDict):
    """Where a training ended."""

    mean_train_loss: float
    """Over all steps."""
    val_loss: float
    """Of the last validation."""


class LossPoint(TypedDict):
    """The loss at a step."""

    step: int
    loss: float


class TrainingOutcome(TypedDict):
    """What happened in a training."""

    steps: int
    rows_trained: int
    """Chats times epochs."""
    final: FinalLosses
    losses: list[LossPoint]
    """Training losses, one for each step."""
    validation: list[LossPoint]
    departures: list[str]
    """In words, everything that differs from the specification's settings."""
    resumed_from: str | None
    """The checkpoint's name where a killed training was resumed."""
    seconds: float | None
    """Validation included, loading not; None for a resumed training."""
    peak_memory_gib: float | None
    """Of the GPU; None without one."""


class RunCard(TrainingOutcome):
    """`run_card.json` in an adapter's folder and in its run's."""

    recipe: RecipeRecord
    rows_sha256: dict[str, dict[str, str]]
    """Of what was trained on, by track (or `agent`) and split; `rows` counts the same."""
    rows: dict[str, dict[str, int]]
    checkpoint: str
    """The base's sha256; `base` is its name."""
    base: str
    template: NotRequired[dict[str, str]]
    """As in LocalIdentity."""
    session_id: str | None
    """The Langfuse session of the training's trace."""
    run: RunInfo
