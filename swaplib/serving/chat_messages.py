"""The messages of a chat completion request, as far as they can be read here: texts, calls that were made, their results.

{"role": "user", "content": [{"type": "text", "text": "Hi"}]}    the content "Hi"
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
    """A call that an assistant's message holds; `index` is left over from a stream."""

    model_config = ConfigDict(extra="forbid")

    index: int | None = None
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(BaseModel):
    """One message of a request. A content that came as a list of texts is one text here: they are joined as they are.

    A `name` is read where it is the called tool's; other names, and what else an assistant may have said, must be empty.
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
        """Only an answer's text and its calls are read; the official client sends the other fields back empty."""
        if value:
            raise PydanticCustomError(
                "other", "only content and tool_calls are read of a message: leave it out", {}
            )

    @field_validator("content", mode="before")
    @classmethod
    def join_parts(cls, content: Any) -> Any:
        """Join the parts of a content; only texts are read here."""
        if not isinstance(content, list):
            return content
        for i, part in enumerate(content):
            kind = part.get("type") if isinstance(part, dict) else None
            if kind != "text" or not isinstance(part.get("text"), str):
                what = {"part": i, "kind": ascii(kind)[:40]}
                raise PydanticCustomError(
                    "part", "part {part} is no text (type {kind}); only texts are read here", what
                )
        return "".join(part["text"] for part in content)
