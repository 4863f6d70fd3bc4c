"""What a router tells of one request: who was asked, what came back, and what was answered.

It writes and sends nothing. All values are JSON values: texts, numbers, lists, dicts with texts as
keys.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from swaplib.rows import Generation


@dataclass(frozen=True, slots=True)
class Attempt:
    """One model that was asked for a request.

    Attributes:
        name: Who was asked, for example `slm` or `hosted`.
        model: The model's own name, which a price is known by.
        generation: What came back; an error is told by its status and its `error`.
        messages: What it was asked.
        started_at: Unix seconds.
        ended_at: Unix seconds.
        asked: What else was sent with the messages, such as tools.
        parameters: How it was asked, such as `temperature` and `max_tokens`.
        cost: US dollars of `input` and `output`; None where no price is known.
    """

    name: str
    model: str
    generation: Generation
    messages: Sequence[Mapping[str, Any]]
    started_at: float
    ended_at: float
    asked: Mapping[str, Any] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class RequestTrace:
    """One request to a router, when it is over.

    Attributes:
        request_id: What the caller was told; shown in the trace's metadata. Two requests with the
            same id have two traces.
        name: The trace's name, for example `route toolcall`.
        started_at: Unix seconds.
        ended_at: Unix seconds.
        inputs: The messages and what was asked; hidden by SWAP_TRACE_CONTENT=off.
        output: The answer that was sent; hidden as the inputs are.
        metadata: Why, such as `validator` and `reason`. Only `reason`, which may quote an answer,
            is hidden as the inputs are: no text of a request or an answer belongs into the rest.
        attempts: In the order in which they were made.
        answered_by: The name of the attempt whose answer was sent, None where no one's was. It is
            the trace's tag: `answered by slm`, or `not answered`.
        error: Why no answer was sent, or None; never hidden.
    """

    request_id: str
    name: str
    started_at: float
    ended_at: float
    inputs: Any
    output: Any
    metadata: Mapping[str, Any]
    attempts: tuple[Attempt, ...]
    answered_by: str | None
    error: str | None = None
