"""The decisions of 03 and 05, `05_eval/<track>_decision.json` and `<track>_post_decision.json`."""

from typing import Literal, NotRequired, TypedDict

from swaplib.formats.caveats import Caveats
from swaplib.formats.evidence import Evidence
from swaplib.formats.metrics_file import Measured
from swaplib.formats.run_info import RunInfo


class Rule(TypedDict):
    """What the rule says of one model."""

    FINE_TUNE: int
    """1 when it is worse than the reference by more than delta on any core metric, else 0."""
    worse_on: list[str]
    """Those core metrics."""
    gaps: dict[str, float]
    """The reference's rate less the model's, by core metric."""


class PricesRecord(TypedDict):
    """US dollars; None where no price is set."""

    usd_per_million_input: float | None
    usd_per_million_output: float | None
    usd_per_hour: float | None
    """Of the SLM's machine."""


class ModelCosts(Measured):
    """What a model's run took and would cost."""

    rows: int
    """All of its rows; `rows_read` and `right` as in Extra, None where an older file lacks them."""
    rows_read: int | None
    right: int | None
    usd_per_1000_rows: float | None
    """Of rows that were read."""
    usd_per_right_row: float | None


class Pay(TypedDict):
    """From which volume on a machine of its own is cheaper than the hosted LLM."""

    usd_per_day: float
    """Of one machine, busy or not."""
    capacity_rows_per_day: float
    from_rows_per_day: float | None
    """None when one machine cannot answer so many."""
    from_rows_per_day_by_right: float | None
    """The same for the price of a right answer."""


class Costs(TypedDict):
    """What the runs of a report took and would cost."""

    prices: PricesRecord
    models: dict[str, ModelCosts]
    pays: dict[str, Pay]
    """By local model; empty without all prices."""
    requests: NotRequired[int]
    """Of a log: how many requests the rows are. Dollars and volumes are then of its requests, each
    row weighed by how often it was asked; what a run took is of its rows, each once."""


class DecisionRunInfo(RunInfo):
    """The `run` section of a decision: also the runs and the question that it compares."""

    compared: dict[str, str]
    """Run ids, by model."""
    split: str
    n_rows: int
    dataset_sha256: str
    rows_sha256: str
    messages_sha256: str
    max_new_tokens: int
    temperature: NotRequired[int]
    """Only in older files."""


class Ruling(Rule):
    """What the rule finds, and on what; the keys of Rule are about `model`."""

    track: Literal["structured", "toolcall"]
    model: str
    """03: `slm`. 05: the candidate."""
    reference: str
    """The hosted LLM's run."""
    delta: float
    """How much worse is still good enough for the rule, a rate."""
    margin: float
    """How much worse still counts as not worse in the evidence, a rate."""
    verdict: NotRequired[str]
    """05: `swap`, `swap with …`, `stay` or `not comparable`."""
    recommended: NotRequired[str]
    """05: the model that the verdict is about."""
    chosen: NotRequired[str | None]
    """05: the few-shot run that val chose."""
    rules: NotRequired[dict[str, Rule]]
    """05: by each model that the verdict can be about."""


class Decision(Ruling):
    """What 03 and 05 write."""

    n_rows: int
    earlier: list[float]
    """Deltas of the decisions taken on the same runs before, the oldest first."""
    caveats: Caveats
    evidence: Evidence
    costs: Costs
    run: DecisionRunInfo
