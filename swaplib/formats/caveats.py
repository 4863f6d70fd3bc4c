"""The caveats in a decision: what the numbers of a comparison cannot say by themselves."""

from typing import Literal, NotRequired, TypedDict

from swaplib.formats.evidence import PairedRecord, Rate


class FormRecord(TypedDict):
    """Whether form hides a model's skill (form.Form)."""

    n_rows: int
    strict: int
    """Rows that are right by the core metrics."""
    found: int
    """Rows whose right answer is anywhere in the output."""
    n_fenced: int
    """Outputs that begin with a code fence."""
    word: str | None
    """The name that most outputs call and no gold has; `n_word` outputs do."""
    n_word: int
    hides: bool


class Given(TypedDict):
    """Rates over the rows whose gold values come from the request or a default."""

    n_rows: int
    rates: dict[str, dict[str, Rate]]
    """By model and core metric; empty where there is no such row."""


class Ceiling(TypedDict):
    """Rows that no model of the report got on the metric that decides."""

    n_rows: int
    """All rows."""
    nobody: list[int]
    impossible: dict[str, str]
    """Of these, those that two readers found impossible: the reason by the row's number."""
    guess: dict[str, str]
    """As `impossible`, for golds that can only be guessed."""
    rate: float | None
    """What a perfect model can reach: 1 less the share of impossible rows."""


class Noise(TypedDict):
    """What changed when the hosted LLM was asked the same rows again."""

    n_rows: int
    """Rows that both runs have."""
    equal: int
    """Of these, equal outputs."""
    moved: dict[str, int]
    """Rows whose score changed, by core metric."""


class Caveats(TypedDict):
    """What the numbers of a comparison cannot say by themselves."""

    obstacle: Literal["form", "useless"] | None
    """Why no verdict can be had; None when one can."""
    models: list[str]
    """The two that are compared."""
    form: dict[str, FormRecord]
    """By model."""
    found: PairedRecord
    """As for a core metric, on right answers anywhere in the output."""
    margin: float
    given: Given | None
    """None for rows without facts."""
    offers_one_tool: bool
    """No row offers more than one tool."""
    ceiling: Ceiling
    noise: Noise | None
    """None unless the hosted LLM was asked rows twice."""
    not_greedy: NotRequired[list[str]]
    """Which of the two was asked without a temperature."""
    gold: NotRequired[Literal["hosted"]]
    """The golds are the hosted LLM's own answers, out of a log."""
