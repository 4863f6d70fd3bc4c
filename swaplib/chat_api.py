"""OpenAI's chat completion format: the part of a request that greedy decoding can honour, answers, chunks, errors.

{"model": "slm", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "temperature": 0}
"""

import json
import time
import uuid
from typing import Any, Literal

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from swaplib.rows import Generation


class ChatMessage(BaseModel):
    """One message of a request."""

    role: Literal["system", "user", "assistant"]
    content: str


class StreamOptions(BaseModel):
    """What a streamed answer should hold besides its text."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False


class ChatRequest(BaseModel):
    """A request; sampling, several choices and fields that are not here are refused, not ignored."""

    model_config = ConfigDict(extra="forbid")

    messages: list[ChatMessage] = Field(min_length=1)
    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: Literal[0] | None = None
    n: Literal[1] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    top_p: float | None = None  # with greedy decoding these three change nothing
    seed: int | None = None
    user: str | None = None

    @property
    def limit(self) -> int:
        """The limit of the answer in tokens, under its new name or its old one; 256 when none is given."""
        return self.max_completion_tokens or self.max_tokens or 256

    @property
    def has_usage(self) -> bool:
        """Whether a streamed answer ends with its token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)


def make_answer(generation: Generation, name: str) -> dict[str, Any]:
    """A whole answer."""
    message = {"role": "assistant", "content": generation.output}
    choice = {"index": 0, "message": message, "finish_reason": generation.finish_reason}
    return {**_make_head("chat.completion", name), "choices": [choice], "usage": count_usage(generation)}


class ChunkMaker:
    """The chunks of one streamed answer, as lines of server-sent events; they share an id."""

    def __init__(self, name: str, has_usage: bool):
        self._head = _make_head("chat.completion.chunk", name)
        self._usage = {"usage": None} if has_usage else {}

    def make_text(self, text: str) -> str:
        """A part of the text."""
        return self._make([{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}])

    def make_end(self, generation: Generation) -> str:
        """Why the answer ended, its token counts when they were asked for, and the end of the stream."""
        lines = self._make([{"index": 0, "delta": {}, "finish_reason": generation.finish_reason}])
        if self._usage:
            lines += _make_event({**self._head, "choices": [], "usage": count_usage(generation)})
        return lines + "data: [DONE]\n\n"

    def _make(self, choices: list[dict[str, Any]]) -> str:
        return _make_event({**self._head, "choices": choices, **self._usage})


def count_usage(generation: Generation) -> dict[str, int]:
    """Token counts of prompt and answer."""
    asked, answered = generation.prompt_tokens or 0, generation.completion_tokens or 0
    return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}


def make_error(status: int, message: str, param: str | None = None, code: str | None = None) -> JSONResponse:
    """An error in OpenAI's shape."""
    return JSONResponse(describe_error(status, message, param, code), status)


def describe_error(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The body of an error."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def make_error_event(message: str) -> str:
    """An error after the stream has begun, when the status has been sent."""
    return _make_event(describe_error(500, message)) + "data: [DONE]\n\n"


def _make_event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"


def _make_head(kind: str, name: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": name}
