"""The messages of a chat completion request: texts, calls, and results of calls.

{"role": "user", "content": [{"type": "text", "text": "Hi"}]}    has the content "Hi"
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator
from pydantic_core import PydanticCustomError


class CalledFunction(BaseModel):
    """A function that was called, and its arguments as JSON."""

    model_config = ConfigDict(extra="forbid")

    name: str
    arguments: str


class MadeCall(BaseModel):
    """A call in an assistant's message; `index` is left over from a stream."""

    model_config = ConfigDict(extra="forbid")

    index: int | None = None
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(BaseModel):
    """One message of a request; a content that is a list of text parts becomes one text.

    `name` may be that of the tool whose result this is; other names, and the other fields of an
    assistant's message, must be empty.
    """

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None = None
    tool_calls: list[MadeCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    refusal: Any = None
    audio: Any = None
    function_call: Any = None
    annotations: Any = None
    reasoning_content: Any = None

    @field_validator("refusal", "audio", "function_call", "annotations", "reasoning_content")
    @classmethod
    def refuse_other(cls, value: Any) -> None:
        """Refuse other fields of an answer; the official client sends them back empty."""
        if value:
            raise PydanticCustomError(
                "other", "only content and tool_calls of a message are used: leave it out"
            )

    @field_validator("content", mode="before")
    @classmethod
    def join_parts(cls, content: Any) -> Any:
        """Join the parts of a content, which must all be text."""
        if not isinstance(content, list):
            return content
        for i, part in enumerate(content):
            kind = part.get("type") if isinstance(part, dict) else None
            if kind != "text" or not isinstance(part.get("text"), str):
                raise PydanticCustomError(
                    "part",
                    "part {part} is not text (type {kind}): only text is supported here",
                    {"part": i, "kind": ascii(kind)[:40]},
                )
        return "".join(part["text"] for part in content)
