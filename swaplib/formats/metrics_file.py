"""The metrics file, `05_eval/<track>_<model>_<split>.json`: what one run of one model found."""

from typing import Any, Literal, NotRequired, TypedDict

from swaplib.formats.evidence import Interval
from swaplib.formats.run_info import RunInfo


class HostedIdentity(TypedDict):
    """Which model answered at an endpoint. Its weights are unknown to us."""

    endpoint: str
    """Host and path, without scheme and key."""
    model: str
    """The deployment's or the served model's name."""
    api_version: str | None
    is_reasoning: NotRequired[Literal[True]]
    """The deployment takes no temperature."""


class LocalIdentity(TypedDict):
    """Which weights answered in this process, and with which arithmetic."""

    model: str
    """The name of the checkpoint's folder or file."""
    checkpoint_sha256: str
    adapter_sha256: str | None
    quantisation: str | None
    """None for a checkpoint that is not quantised."""
    arithmetic: str
    """The type that it computes in, such as `bfloat16`."""
    is_dequantised: bool | None
    """Whether the 4-bit weights are expanded once, after loading; None where there are none."""
    template_options: dict[str, Any]
    """What the chat template is filled in with beside the messages."""
    is_merged: bool | None
    """Whether the adapter is added to the weights before decoding; None without an adapter."""
    template: NotRequired[dict[str, str]]
    """`{"system": "folded"}` where the template takes no system message."""


Identity = HostedIdentity | LocalIdentity


class EvalParameters(TypedDict):
    """What 02 or 05 was told; nothing here but `limit` and `max_new_tokens` changes an answer."""

    limit: int | None
    """Only the first rows; None for all."""
    batch_size: int
    concurrency: int
    max_new_tokens: int
    shots: int
    fresh: bool
    probe: NotRequired[int]
    """Rows that were evaluated and looked at before all others."""
    swap_row_limit: int | None


class RowsQuestion(TypedDict):
    """Which rows a run asks, and in which messages."""

    track: Literal["structured", "toolcall"]
    split: str
    n_rows: int
    """Rows of the split that are evaluated, from the first on."""
    dataset_sha256: str
    """Of the split's file; the hashes below are of the evaluated rows and their messages."""
    rows_sha256: str
    messages_sha256: str
    """Of the plain messages, without examples or tools: equal for all models of a comparison."""
    template: NotRequired[dict[str, str]]
    """As in LocalIdentity: so every model of the comparison is asked."""
    shots: NotRequired[int]
    """Examples in every prompt; only for few-shot runs."""
    shots_sha256: NotRequired[str]
    native_sha256: NotRequired[str]
    """Of messages and forms as sent; only for native runs."""


class EvalQuestion(RowsQuestion):
    """Everything that makes two runs the same question, which a run's key hashes."""

    identity: Identity
    max_new_tokens: int
    temperature: int | None
    """0, or None for a deployment that takes none."""
    grammar: NotRequired[str]
    """The library that bound the decoding; only for native runs of a local model."""
    is_repeat: NotRequired[Literal[True]]
    """The same rows asked once more, to see how much answers vary."""


class EvalRunInfo(RunInfo, EvalQuestion):
    """The `run` section of a metrics file: also what was asked of whom."""

    model: str
    """The model's name, such as `slm_ft-full`; `identity` says which model that was."""
    rows_asked: int
    """Lines of the ledger: a row that was asked again after an error counts again."""
    rows_scored: int
    dataset: str
    """The split's file."""
    model_path: str | None
    """The checkpoint's place on that machine; None for a hosted model."""
    parameters: EvalParameters


class Measured(TypedDict):
    """What a run took, over the rows that its model read. None: not known, or no row was read."""

    prompt_tokens: int | None
    completion_tokens: int | None
    p50_latency_ms: float | None
    p95_latency_ms: float | None
    busy_seconds: float | None
    """Time in which at least one call was in flight."""
    rows_per_second: float | None
    """Of the busy time."""


class Usage(Measured):
    """What a run took, and over how many rows."""

    rows_read: NotRequired[int]
    """Rows whose prompt the model read: it fitted, was not filtered, and the call did not fail."""


class Extra(Usage):
    """What a metrics file holds beside the rates."""

    right: int
    """Rows that are right on every core metric."""


class Rates(TypedDict):
    """Core metrics, over all rows; a file has those of its track."""

    json_valid_rate: NotRequired[float]
    exact_match_rate: NotRequired[float]
    valid_call_rate: NotRequired[float]
    name_match_rate: NotRequired[float]
    args_exact_rate: NotRequired[float]


class Taken(TypedDict):
    """What costs are counted from."""

    n_rows: int
    extra: Extra


class Summary(Rates, Taken):
    """What an evaluation run found."""

    complete: bool
    """No row ended in `error`."""
    n_by_status: dict[str, int]
    """Rows by `ok`, `empty`, `truncated`, `filtered`, `error`."""
    intervals: dict[str, Interval]
    """Wilson's, by core metric."""


class MetricsFile(Summary):
    """Also `…_<split>_repeat.json`, and `metrics.json` in a run's folder."""

    run: EvalRunInfo
