"""What 09 writes and `swap serve --route` reads, `05_eval/<track>_router.json`."""

from typing import Any, Literal, NotRequired, TypedDict

from swaplib.formats.evidence import Interval, PairedRecord
from swaplib.formats.run_info import RunInfo


class PolicyRecord(TypedDict):
    """What an answer of the SLM must pass (policy.Policy)."""

    has_validators: bool
    signal: Literal["mean_logprob", "min_logprob"] | None
    threshold: float | None


class Bill(TypedDict):
    """What requests would cost; dollars are None where a price is not known.

    Where the rows come from a log, each is weighed by how often it was asked.
    """

    hosted_calls: int
    requests: int
    """All requests, answered by whomever."""
    prompt_tokens: int | None
    """Of the hosted calls; so are the next."""
    completion_tokens: int | None
    usd_hosted_per_1000: float | None
    """For 1,000 requests, the hosted LLM's part; `usd_per_1000` has the SLM's machine, too."""
    usd_per_1000: float | None
    usd_per_right: float | None
    """For each right answer."""


class Point(TypedDict):
    """What one way to route does on the rows of a split."""

    policy: PolicyRecord | None
    """None for the ends: always one model, or the oracle."""
    n_rows: int
    accepted: int
    """Rows that stay local; `coverage` is their share."""
    coverage: float
    right: int
    """Rows whose answer is right, whoever gives it; `rate` is their share."""
    rate: float
    accepted_wrong: int
    """Wrong answers of the SLM that were accepted."""
    lost: int
    """Of those, rows that the hosted LLM has right; the gap to it is made of these."""
    gained: int
    """Accepted rows that are right while the hosted LLM is wrong."""
    bill: Bill


class CurvePoint(TypedDict):
    """A threshold, and what it does."""

    threshold: float
    coverage: float
    rate: float
    usd_per_1000: float | None


class Agreement(TypedDict):
    """On how many accepted rows both models gave the same answer, with Wilson's interval."""

    n: int
    agreed: int
    rate: float | None
    interval: Interval | None


class RefusedBy(TypedDict):
    """The rows that one validator, or the threshold, refused first."""

    validator: str
    rows: int
    slm_right: int
    """Refused although right."""
    hosted_right: int
    example: str


class RefusedGroup(TypedDict):
    """A group of tools, and how many of its rows were refused."""

    group: str
    rows: int
    refused: int


class SplitReport(TypedDict):
    """Everything that is known of one split."""

    n_rows: int
    ends: dict[str, Point]
    """`always hosted`, `always the SLM`, `oracle`."""
    curves: dict[str, list[CurvePoint]]
    """By kind and signal, such as `confidence, mean_logprob`; from none accepted to all."""
    points: dict[str, Point]
    """What val chose for each kind: `validators`, `confidence`, `both`."""
    validators: Point
    """The validators alone, good enough or not."""
    runs: dict[str, str]
    """The run ids behind it, by model."""


class RouterFile(TypedDict):
    """The whole file."""

    track: Literal["structured", "toolcall"]
    model: str
    reference: str
    target: float
    """How much worse than the hosted LLM is still good enough, a rate."""
    chosen: str | None
    """The kind that val chose, a key of `points`; None where none is good enough there."""
    policy: PolicyRecord | None
    verdict: str
    """On test: `better`, `not worse`, `worse`, `not enough rows`; or `does not help`."""
    obstacle: Literal["form", "useless"] | None
    """Why the two models' rates cannot be compared, as in Caveats."""
    val: SplitReport
    test: SplitReport
    evidence: dict[str, PairedRecord]
    """On test, always hosted against routed: by core metric, and `right`."""
    gap_recovered: float | None
    """The routed answers' share of the gap between the models; None where there is none."""
    refused_by: list[RefusedBy]
    refused_groups: list[RefusedGroup]
    without_facts: Point | None
    """On test, where only form and confidence can be checked."""
    agreement: dict[str, Agreement]
    """By split, on accepted rows."""
    identity: dict[str, Any]
    """The SLM's, as its run on test has it."""
    gold: NotRequired[Literal["hosted"]]
    """Where the rows come from a log, as in Caveats."""
    run: NotRequired[RunInfo]
    """Always there in the file."""
