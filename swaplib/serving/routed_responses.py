"""What a router has decided as an HTTP response: whole, in chunks, or an error.

The headers `x-swap-route` and `x-swap-reason`, and the field `route` of the answer (in a stream, of
the chunk with the finish reason), say who answered and why; `x-request-id` finds the trace:

    {"choices": […], "route": {"answered_by": "slm", "reason": "accepted", "validator": null}}
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi.responses import Response, StreamingResponse
from starlette.background import BackgroundTask

from swaplib.serving.openai_format import (
    ChatRequest,
    ChunkMaker,
    describe_error,
    make_answer,
    make_event,
)
from swaplib.serving.routed import Routed
from swaplib.serving.tool_api import Asked

LONGEST_REASON = 300  # characters of the header; the field has the whole reason


def respond(routed: Routed, body: ChatRequest, asked: Asked, name: str) -> Response:
    """The response to a request that was routed.

    Args:
        routed: Who answers.
        body: The request.
        asked: What it asked.
        name: The served model's name.
    """
    headers = {"x-swap-route": routed.answered_by, "x-swap-reason": _to_header(routed.reason)}
    headers["x-request-id"] = routed.request_id
    if failure := routed.failure:
        error = describe_error(failure.status, failure.message, code=failure.code)
        content = error | {"route": routed.describe()}
        return _write(content, headers | failure.headers, failure.status)
    after = BackgroundTask(routed.after_sent) if routed.after_sent else None
    if body.stream:
        events = _stream(routed, body, asked, name)
        return StreamingResponse(
            events, media_type="text/event-stream", headers=headers, background=after
        )
    if routed.generation:
        call = asked.find_call(routed.generation)
        content = make_answer(routed.generation, name, call)
    else:
        content = dict(routed.completion or {})
    content["route"] = routed.describe()
    return _write(content, headers, background=after)


def _write(
    content: Mapping[str, Any],
    headers: dict[str, str],
    status: int = 200,
    background: BackgroundTask | None = None,
) -> Response:
    """A JSON response, in ASCII: what a hosted LLM said may hold half of a surrogate pair."""
    text = json.dumps(content)
    return Response(text, status, headers, "application/json", background)


def _to_header(reason: str) -> str:
    """A reason as a header can hold it: ASCII, one line."""
    text = " ".join(reason.encode("ascii", "backslashreplace").decode().split())
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= LONGEST_REASON else f"{text[: LONGEST_REASON - 4]} ..."


def _stream(routed: Routed, body: ChatRequest, asked: Asked, name: str) -> Iterator[str]:
    """The events of an answer that is there already."""
    route = {"route": routed.describe()}
    generation = routed.generation
    if generation is None:
        yield from _chunk_completion(routed.completion or {}, route, body.has_usage)
        return
    chunks = ChunkMaker(name, body.has_usage)
    call = asked.find_call(generation)
    if call or generation.output:
        yield chunks.make_call(call) if call else chunks.make_text(generation.output)
    yield chunks.make_end(generation, call is not None, route)


def _chunk_completion(
    completion: Mapping[str, Any], route: dict[str, Any], has_usage: bool
) -> Iterator[str]:
    """A chat completion of any endpoint in chunks: for each choice its message, then its end."""
    head = {key: completion[key] for key in ("id", "created", "model") if key in completion}
    head = {**head, "object": "chat.completion.chunk"}
    usage = {"usage": None} if has_usage else {}
    for choice in completion["choices"]:
        index = {"index": choice.get("index", 0)}
        delta = {
            k: value for k, value in (choice.get("message") or {}).items() if value is not None
        }
        if calls := delta.get("tool_calls"):
            delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(calls)]
        first = index | {"delta": {"role": "assistant"} | delta, "finish_reason": None}
        last = index | {"delta": {}, "finish_reason": choice.get("finish_reason")}
        yield make_event({**head, "choices": [first], **usage})
        yield make_event({**head, "choices": [last], **usage, **route})
    if has_usage:
        yield make_event({**head, "choices": [], "usage": completion.get("usage")})
    yield "data: [DONE]\n\n"
