"""What came back for a row as a Langfuse generation, and a run's rates as Langfuse scores."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Literal, TypedDict

from langfuse.api import MapValue

from swaplib.prompts import Message
from swaplib.rows import Generation, LedgerLine

Level = Literal["DEFAULT", "ERROR"]


class GenerationFields(TypedDict):
    """The arguments of LangfuseGeneration that say what was asked and what came back."""

    input: object
    output: str
    model: str
    model_parameters: dict[str, MapValue]
    usage_details: dict[str, int]
    cost_details: dict[str, float] | None
    metadata: dict[str, object]
    level: Level
    status_message: str | None


def describe_line(
    line: LedgerLine,
    messages: Sequence[Message],
    model: str,
    max_new_tokens: int,
    asked: Mapping[str, Any] | None,
    cost: Mapping[str, float] | None,
    temperature: float | None,
) -> GenerationFields:
    """A ledger line as a generation; the arguments are those of RunTrace.add_generation."""
    sent = {} if temperature is None else {"temperature": temperature}
    return describe_generation(
        line.generation,
        messages,
        model,
        {**sent, "max_tokens": max_new_tokens},
        asked,
        cost,
        {"index": line.index, "status": line.generation.status, "scores": line.scores},
    )


def describe_generation(
    generation: Generation,
    messages: Sequence[Mapping[str, Any]],
    model: str,
    parameters: Mapping[str, MapValue],
    asked: Mapping[str, Any] | None,
    cost: Mapping[str, float] | None,
    metadata: Mapping[str, object],
) -> GenerationFields:
    """What came back as a Langfuse generation.

    Args:
        messages: What `model` was asked.
        parameters: How it was asked, such as `temperature` and `max_tokens`.
        asked: What else was sent with the messages, such as tools.
        cost: US dollars of `input` and `output`; None where no price is known.
        metadata: What is shown beside it.
    """
    sent = [{key: _clean(text) for key, text in message.items()} for message in messages]
    usage = {"input": generation.prompt_tokens, "output": generation.completion_tokens}
    is_ok = generation.status == "ok"
    return {
        "input": {"messages": sent, **asked} if asked else sent,
        "output": _clean(generation.output),
        "model": model,
        "model_parameters": dict(parameters),
        "usage_details": {name: n for name, n in usage.items() if n is not None},
        "cost_details": dict(cost) if cost else None,
        "metadata": dict(metadata),
        "level": "ERROR" if generation.status == "error" else "DEFAULT",
        "status_message": None if is_ok else generation.error or generation.finish_reason,
    }


def _clean(value: Any) -> Any:
    """A text that OTLP can carry: half of a surrogate pair becomes a question mark."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def make_scores(
    trace_id: str,
    named: Mapping[str, tuple[str, float]],
    times: Mapping[str, str],
    environment: str | None,
) -> list[dict[str, Any]]:
    """A run's scores, as the request body that Langfuse takes.

    Args:
        trace_id: The trace that they belong to.
        named: For each score's id its name and value; values that are not finite are left out,
            since JSON has no such numbers.
        times: For the id of each score that was written before, when it was made (ISO 8601).
        environment: Langfuse's environment of the trace, where it has one.
    """
    now = datetime.now(UTC).isoformat()
    shared = {"traceId": trace_id}
    if environment:
        shared["environment"] = environment
    return [
        {
            "id": score_id,
            "name": name,
            "value": float(value),
            "timestamp": times.get(score_id, now),
            **shared,
        }
        for score_id, (name, value) in named.items()
        if isfinite(value)
    ]
