"""OpenAI's chat completion format: the part of a request that greedy decoding can honour, answers, chunks, errors.

{"model": "slm", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "temperature": 0}
"""

import json
import re
import time
import uuid
from typing import Annotated, Any, Literal

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, field_validator
from pydantic_core import PydanticCustomError

from swaplib.metrics import ToolCall
from swaplib.rows import Generation
from swaplib.serving.chat_messages import ChatMessage
from swaplib.serving.neutral_fields import NeutralFields

Limit = Annotated[StrictInt, Field(ge=1)]


class OfferedFunction(BaseModel):
    """A function that may be called; its parameters are a JSON Schema. `strict` changes nothing: it is always so."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class OfferedTool(BaseModel):
    """A tool that may be called."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["function"]
    function: OfferedFunction


class NamedTool(BaseModel):
    """The function that is to be called."""

    name: str


class AnswerSchema(BaseModel):
    """The JSON Schema of an answer. `strict` changes nothing: the answer always fits."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """What an answer is to be: any text, any JSON object, or JSON that fits a schema."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: AnswerSchema | None = None


class StreamOptions(BaseModel):
    """What a streamed answer should hold besides its text."""

    model_config = ConfigDict(extra="forbid")

    include_usage: StrictBool | None = None
    include_obfuscation: Literal[False] | None = None


class ChatRequest(NeutralFields):
    """A request; sampling, several choices and fields that are not here are refused, not ignored.

    `parallel_tool_calls` may be either: at most one call is made. What tools and formats mean is said in tool_api.py.
    """

    model_config = ConfigDict(extra="forbid")

    messages: list[ChatMessage] = Field(min_length=1)
    model: str | None = None
    max_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    tools: list[OfferedTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: StrictBool | None = None
    response_format: ResponseFormat | None = None
    top_p: float | None = Field(
        None, gt=0, le=1, strict=True
    )  # whatever these are, greedy decoding does not change
    seed: StrictInt | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @field_validator("tool_choice", mode="plain")
    @classmethod
    def read_choice(cls, choice: Any) -> str | NamedTool | None:
        """A choice by its word, or the function that it names."""
        match choice:
            case None | "none" | "auto" | "required":
                return choice
            case {"type": "function", "function": {"name": str(name)}}:
                return NamedTool(name=name)
        expected = 'expected none, auto, required or {"type": "function", "function": {"name": …}}'
        raise PydanticCustomError("tool_choice", "{expected}", {"expected": expected})

    @property
    def limit(self) -> int:
        """The limit of the answer in tokens, under its new name or its old one; 256 when none is given."""
        return self.max_completion_tokens or self.max_tokens or 256

    @property
    def has_usage(self) -> bool:
        """Whether a streamed answer ends with its token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)


def make_answer(generation: Generation, name: str, call: ToolCall | None = None) -> dict[str, Any]:
    """A whole answer: its text, or the call that the text was found to be."""
    if call:
        message = {"role": "assistant", "content": None, "tool_calls": [_describe_call(call)]}
    else:
        message = {"role": "assistant", "content": generation.output}
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": "tool_calls" if call else generation.finish_reason,
    }
    return {
        **_make_head("chat.completion", name),
        "choices": [choice],
        "usage": count_usage(generation),
    }


class ChunkMaker:
    """The chunks of one streamed answer, as lines of server-sent events; they share an id, and the first names the role."""

    def __init__(self, name: str, has_usage: bool):
        self._head = _make_head("chat.completion.chunk", name)
        self._usage = {"usage": None} if has_usage else {}
        self._role = {"role": "assistant"}

    def make_text(self, text: str) -> str:
        """A part of the text."""
        return self._make_delta({"content": text})

    def make_call(self, call: ToolCall) -> str:
        """A call: which tool, then its arguments."""
        described = _describe_call(call)
        arguments = described["function"]["arguments"]
        head = {"index": 0, **described, "function": {**described["function"], "arguments": ""}}
        lines = self._make_delta({"content": None, "tool_calls": [head]})
        return lines + self._make_delta(
            {"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]}
        )

    def make_end(self, generation: Generation, has_called: bool = False) -> str:
        """Why the answer ended, its token counts when they were asked for, and the end of the stream."""
        lines = self._make_delta({}, "tool_calls" if has_called else generation.finish_reason)
        if self._usage:
            lines += _make_event({**self._head, "choices": [], "usage": count_usage(generation)})
        return lines + "data: [DONE]\n\n"

    def _make_delta(self, delta: dict[str, Any], finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": {**self._role, **delta}, "finish_reason": finish_reason}
        self._role = {}
        return _make_event({**self._head, "choices": [choice], **self._usage})


def _describe_call(call: ToolCall) -> dict[str, Any]:
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    if not arguments.isascii() and re.search(
        "[\ud800-\udfff]", arguments
    ):  # half a pair, which no answer can carry
        arguments = json.dumps(call.arguments)
    function = {"name": call.name, "arguments": arguments}
    return {"id": f"call_{uuid.uuid4().hex}", "type": "function", "function": function}


def count_usage(generation: Generation) -> dict[str, int]:
    """Token counts of prompt and answer."""
    asked, answered = generation.prompt_tokens or 0, generation.completion_tokens or 0
    return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}


def make_error(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> JSONResponse:
    """An error in OpenAI's shape."""
    return JSONResponse(describe_error(status, message, param, code), status)


def describe_error(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """The body of an error."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    # a field's name may be anything, half of a surrogate pair too, which no answer can carry
    message, param = (
        text and text.encode(errors="backslashreplace").decode() for text in (message, param)
    )
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def make_error_event(message: str) -> str:
    """An error after the stream has begun, when the status has been sent."""
    return _make_event(describe_error(500, message)) + "data: [DONE]\n\n"


def _make_event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"


def _make_head(kind: str, name: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": name,
    }
