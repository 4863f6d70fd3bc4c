"""OpenAI's chat completion format: the requests that are honoured, answers, chunks, errors.

{"model": "slm", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}
"""

import json
import re
import time
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, field_validator
from pydantic_core import PydanticCustomError

from swaplib.metrics import ToolCall
from swaplib.rows import Generation
from swaplib.serving.chat_messages import ChatMessage
from swaplib.serving.neutral_fields import NeutralFields

TokenLimit = Annotated[StrictInt, Field(ge=1)]
DEFAULT_MAX_NEW_TOKENS = 256
_SURROGATE = re.compile("[\ud800-\udfff]")


class OfferedFunction(BaseModel):
    """A function that may be called; `parameters` is a JSON Schema, and always strict."""

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
    """The function that must be called."""

    name: str


class AnswerSchema(BaseModel):
    """The JSON Schema of an answer; `strict` changes nothing, since the answer always fits."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """The form of an answer: any text, any JSON object, or JSON that fits a schema."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: AnswerSchema | None = None


class StreamOptions(BaseModel):
    """What a streamed answer holds besides its text."""

    model_config = ConfigDict(extra="forbid")

    include_usage: StrictBool | None = None
    include_obfuscation: Literal[False] | None = None


class ChatRequest(NeutralFields):
    """A request; sampling, several choices and unknown fields are refused, not ignored.

    `parallel_tool_calls` may be true or false: one call is made at most. tool_api.py says what
    tools and formats mean. `top_p` and the fields after it do not change greedy decoding.
    """

    model_config = ConfigDict(extra="forbid")

    messages: list[ChatMessage] = Field(min_length=1)
    model: str | None = None
    max_tokens: TokenLimit | None = None
    max_completion_tokens: TokenLimit | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    tools: list[OfferedTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: StrictBool | None = None
    response_format: ResponseFormat | None = None
    top_p: float | None = Field(None, gt=0, le=1, strict=True)
    seed: StrictInt | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @field_validator("tool_choice", mode="plain")
    @classmethod
    def read_choice(cls, choice: Any) -> str | NamedTool | None:
        """The choice as a word, or the function that it names."""
        match choice:
            case None | "none" | "auto" | "required":
                return choice
            case {"type": "function", "function": {"name": str(name)}}:
                return NamedTool(name=name)
        expected = 'expected none, auto, required or {"type": "function", "function": {"name": …}}'
        raise PydanticCustomError("tool_choice", "{expected}", {"expected": expected})

    @property
    def max_new_tokens(self) -> int:
        """The limit of the answer in tokens, by its newer name or its older one."""
        return self.max_completion_tokens or self.max_tokens or DEFAULT_MAX_NEW_TOKENS

    @property
    def has_usage(self) -> bool:
        """Whether a streamed answer ends with its token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)


def make_answer(generation: Generation, name: str, call: ToolCall | None = None) -> dict[str, Any]:
    """A whole answer: its text, or the call that the text is."""
    message: dict[str, Any] = {"role": "assistant", "content": generation.output}
    reason = generation.finish_reason
    if call:
        message = {"role": "assistant", "content": None, "tool_calls": [_describe_call(call)]}
        reason = "tool_calls"
    head = _make_head("chat.completion", name)
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return head | {"choices": [choice], "usage": count_usage(generation)}


class ChunkMaker:
    """The chunks of one streamed answer as server-sent events: one id, the role in the first."""

    def __init__(self, name: str, has_usage: bool):
        self._head = _make_head("chat.completion.chunk", name)
        self._usage = {"usage": None} if has_usage else {}
        self._role = {"role": "assistant"}

    def make_text(self, text: str) -> str:
        """A part of the text."""
        return self._make_delta({"content": text})

    def make_call(self, call: ToolCall) -> str:
        """A call in two chunks: the tool, then its arguments."""
        described = _describe_call(call)
        arguments = described["function"]["arguments"]
        head = {"index": 0, **described, "function": {"name": call.name, "arguments": ""}}
        tail = {"index": 0, "function": {"arguments": arguments}}
        first = self._make_delta({"content": None, "tool_calls": [head]})
        return first + self._make_delta({"tool_calls": [tail]})

    def make_end(
        self,
        generation: Generation,
        has_called: bool = False,
        more: Mapping[str, Any] | None = None,
    ) -> str:
        """Why the answer ended (`more` goes with it), token counts if asked for, the last event."""
        reason = "tool_calls" if has_called else generation.finish_reason
        lines = self._make_delta({}, reason, more)
        if self._usage:
            lines += make_event({**self._head, "choices": [], "usage": count_usage(generation)})
        return lines + "data: [DONE]\n\n"

    def _make_delta(
        self,
        delta: dict[str, Any],
        finish_reason: str | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> str:
        choice = {"index": 0, "delta": {**self._role, **delta}, "finish_reason": finish_reason}
        self._role = {}
        return make_event({**self._head, "choices": [choice], **self._usage, **(more or {})})


def _describe_call(call: ToolCall) -> dict[str, Any]:
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    if _SURROGATE.search(arguments):  # no answer can carry it, but its escape
        arguments = json.dumps(call.arguments)
    function = {"name": call.name, "arguments": arguments}
    return {"id": f"call_{uuid.uuid4().hex}", "type": "function", "function": function}


def count_usage(generation: Generation) -> dict[str, int]:
    """Token counts of prompt and answer."""
    n_prompt, n_answer = generation.prompt_tokens or 0, generation.completion_tokens or 0
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_answer,
        "total_tokens": n_prompt + n_answer,
    }


def make_error(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> JSONResponse:
    """An error in OpenAI's shape."""
    return JSONResponse(describe_error(status, message, param, code), status)


def describe_error(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """The body of an error; `param` names the field, and `code` is OpenAI's word if it has one."""
    return {
        "error": {
            "message": _escape_surrogates(message),
            "type": "invalid_request_error" if status < 500 else "server_error",
            "param": None if param is None else _escape_surrogates(param),
            "code": code,
        }
    }


def _escape_surrogates(text: str) -> str:
    """A text that UTF-8 can encode: a field's name may hold half of a surrogate pair."""
    return text.encode(errors="backslashreplace").decode()


def make_error_event(message: str) -> str:
    """An error in a stream that has begun, when the status has been sent."""
    return make_event(describe_error(500, message)) + "data: [DONE]\n\n"


def make_event(body: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(body)}\n\n"


def _make_head(kind: str, name: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": name,
    }
