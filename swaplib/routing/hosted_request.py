"""A client's own request as the hosted LLM gets it: its messages, tools, format and limit.

The fields that `swap serve` takes and that ask for nothing are left out. What is greedy here is
greedy there: temperature 0, or as a reasoning model takes it (HostedLLM.make_body).
"""

from typing import Any

from swaplib.models.hosted import HostedLLM
from swaplib.serving.chat_messages import ChatMessage
from swaplib.serving.openai_format import ChatRequest, NamedTool


def make_request(hosted: HostedLLM, request: ChatRequest) -> dict[str, Any]:
    """The body of a call that asks a client's request; never streamed."""
    messages = [_write_message(message) for message in request.messages]
    return hosted.make_body(messages, request.max_new_tokens, _list_fields(request))


def _write_message(message: ChatMessage) -> dict[str, Any]:
    written = message.model_dump(exclude_none=True)
    for call in written.get("tool_calls", ()):
        call.pop("index", None)  # left over from a stream
    return {"content": None} | written if message.tool_calls else written


def _list_fields(request: ChatRequest) -> dict[str, Any]:
    """Tools that may be called, and the format, as they came.

    The local model is not shown tools under `tool_choice: none`, so neither is the hosted LLM.
    """
    fields: dict[str, Any] = {}
    if request.tools and request.tool_choice != "none":
        tools = [tool.model_dump(exclude_unset=True) for tool in request.tools]
        fields["tools"] = [{"type": "function"} | tool for tool in tools]
        choice = request.tool_choice
        if isinstance(choice, NamedTool):
            fields["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
        elif choice is not None:
            fields["tool_choice"] = choice
        if request.parallel_tool_calls is not None:
            fields["parallel_tool_calls"] = request.parallel_tool_calls
    if request.response_format:
        format_ = request.response_format.model_dump(exclude_unset=True, by_alias=True)
        fields["response_format"] = format_
    return fields
