"""Reads logs of chat completions: what an application asked a hosted LLM, and what came back.

A line of a log has one of these forms (`…` stands for what the OpenAI API has there):

    {"exchange": {"request": {…}, "response": {…}}, …}    what `capture.record` writes
    {"request": {…}, "response": {…}}                     an application's own log
    {"body": {…}, "response": {"body": {…}}}              a batch's request with its answer
    {"messages": […, {"role": "assistant", …}]}           OpenAI's format for fine-tuning
    {"traceId": …, "type": "GENERATION", "input": …, "output": …}    exported by Langfuse

A streamed response may be a list of its chunks. A file that begins with `[`, or is one object with
`data`, holds such objects in one JSON list.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from swaplib.data.stream_chunks import as_dict, as_list, join_chunks

Json = dict[str, Any]

FORMS = (
    "a line of capture.record, an object with request and response, one with messages, or an "
    "observation that Langfuse has exported"
)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One chat completion.

    `answer` is the assistant's message, None where none came. `error` says why the call failed.
    `is_filtered` says that a content filter has taken the answer, or a part of it.
    """

    messages: list[Json]
    tools: list[Json] = field(default_factory=list)
    response_format: Json = field(default_factory=dict)
    answer: Json | None = None
    finish_reason: str | None = None
    n_choices: int = 1
    is_filtered: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a log: its number from 1, the byte it begins at, and its value or its problem."""

    number: int
    offset: int
    value: Any = None
    problem: str | None = None


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a log, one at a time, so that its size does not matter; blank ones are left out.

    A log that is one JSON list is read whole; its items' offsets are their indices.
    """
    with path.open("rb") as file:
        head = file.read(1)
        if head == b"[" or (head == b"{" and _is_one_object(path)):
            yield from _read_list(path)
            return
        file.seek(0)
        offset = 0
        for number, data in enumerate(file, start=1):
            if data.strip():
                yield _parse_line(number, offset, data)
            offset += len(data)


def read_again(path: Path, lines: Iterable[Line]) -> Iterator[Line]:
    """Lines that read_lines has given, with their values again; the file is opened once."""
    with path.open("rb") as file:
        if file.read(1) == b"[" or _is_one_object(path):
            items = _load_list(path)
            yield from (replace(line, value=items[line.offset]) for line in lines)
            return
        for line in lines:
            file.seek(line.offset)
            yield _parse_line(line.number, line.offset, file.readline())


def _parse_line(number: int, offset: int, data: bytes) -> Line:
    try:
        return Line(number, offset, json.loads(data.decode("utf-8-sig")))
    except RecursionError:
        return Line(number, offset, problem="JSON that is nested too deeply")
    except ValueError as error:
        return Line(number, offset, problem=f"not JSON ({str(error)[:100]})")


def _is_one_object(path: Path) -> bool:
    """Whether a file is one object over several lines, or one line of a page of Langfuse's API."""
    with path.open("rb") as file:
        first = file.readline()
    try:
        return isinstance(json.loads(first).get("data"), list)
    except (ValueError, AttributeError, RecursionError):
        return first.strip() == b"{"


def _load_list(path: Path) -> list[Any]:
    value = json.loads(path.read_text(encoding="utf-8-sig"))
    return value if isinstance(value, list) else as_list(as_dict(value).get("data"))


def _read_list(path: Path) -> Iterator[Line]:
    try:
        items = _load_list(path)
    except (ValueError, RecursionError) as error:
        yield Line(1, 0, problem=f"not JSON ({str(error)[:100]})")
        return
    for index, item in enumerate(items):
        yield Line(index + 1, index, item)


def is_log(value: Any) -> bool:
    """Whether a line's value looks like an exchange of one of the forms."""
    keys = set(as_dict(value))
    return bool(
        {"exchange"} & keys
        or {"request", "response"} <= keys
        or {"body", "response"} <= keys
        or ("messages" in keys and "prompt" not in keys)
        or ({"input", "output"} <= keys and keys & {"traceId", "trace_id"})
    )


def parse_exchange(value: Any) -> Exchange | None:
    """The exchange of a line's value; None for an observation of Langfuse that is no generation.

    Raises:
        ValueError: It is none of the forms; says what was expected and found.
    """
    record = as_dict(value)
    if "exchange" in record:
        exchange = as_dict(record["exchange"])
        return _make_exchange(
            exchange.get("request"), exchange.get("response"), record.get("error")
        )
    if "response" in record and ({"request", "body"} & set(record)):
        request = record["request"] if "request" in record else record["body"]
        return _make_exchange(_unwrap(request), _unwrap(record["response"]), record.get("error"))
    if {"input", "output"} <= set(record) and {"traceId", "trace_id"} & set(record):
        return _read_observation(record)
    if isinstance(record.get("messages"), list):
        messages = record["messages"]
        if as_dict(messages[-1] if messages else None).get("role") != "assistant":
            raise ValueError("messages whose last one is no assistant's, so there is no answer")
        answer = {"choices": [{"message": messages[-1]}]}
        return _make_exchange(record | {"messages": messages[:-1]}, answer, None)
    if "custom_id" in record and "response" in record:
        raise ValueError("a batch's answer without its request: put the request's body beside it")
    found = f"an object with {', '.join(sorted(record)[:8])}" if record else type(value).__name__
    raise ValueError(f"expected {FORMS}; found {found}")


def _unwrap(part: Any) -> Any:
    """A request or response itself, where a log has HTTP's parts around it."""
    inner = as_dict(part).get("body")
    if isinstance(inner, str):
        with suppress(ValueError, RecursionError):
            inner = json.loads(inner)
    return inner if isinstance(inner, dict | list) else part


def _read_observation(record: Json) -> Exchange | None:
    """An observation of Langfuse's: input and output are values, or JSON texts of them."""
    if record.get("type") not in (None, "GENERATION"):
        return None
    asked, output = _load(record["input"]), _load(record["output"])
    request = {"messages": asked} if isinstance(asked, list) else as_dict(asked)
    parameters = as_dict(_load(record.get("modelParameters") or record.get("model_parameters")))
    request = {"response_format": _load(parameters.get("response_format"))} | request
    answer = {"role": "assistant", "content": output} if isinstance(output, str) else output
    failed = record.get("level") == "ERROR"
    error = str(record.get("statusMessage") or "an error") if failed else None
    response = None if answer is None else {"choices": [{"message": answer}]}
    return _make_exchange(request, response, error)


def _load(value: Any) -> Any:
    """A value, or what a JSON text of an object or array holds."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        with suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def _make_exchange(request: Any, response: Any, error: Any) -> Exchange:
    asked = as_dict(request)
    if not isinstance(asked.get("messages"), list):
        raise ValueError("a request without messages: only chat completions are read")
    came = join_chunks(response) if isinstance(response, list) else as_dict(response)
    choices = [as_dict(choice) for choice in as_list(came.get("choices"))]
    first = choices[0] if choices else {}
    problem = error or came.get("error")
    reason = first.get("finish_reason")
    return Exchange(
        messages=[_modernise(as_dict(message)) for message in asked["messages"]],
        tools=_read_tools(asked),
        response_format=as_dict(asked.get("response_format")),
        answer=_modernise(first["message"]) if isinstance(first.get("message"), dict) else None,
        finish_reason=reason if isinstance(reason, str) else None,
        n_choices=len(choices),
        is_filtered=_is_filtered(came) or _is_filtered(first),
        error=str(problem)[:200] if problem else None,
    )


def _read_tools(request: Json) -> list[Json]:
    functions = [{"type": "function", "function": f} for f in as_list(request.get("functions"))]
    return [as_dict(tool) for tool in as_list(request.get("tools"))] + functions


def _modernise(message: Json) -> Json:
    """A message with its call under `tool_calls`, where it was in the older `function_call`."""
    call = message.get("function_call")
    if not isinstance(call, dict):
        return message
    rest = {name: value for name, value in message.items() if name != "function_call"}
    return rest | {"tool_calls": [{"type": "function", "function": call}]}


def _is_filtered(part: Json) -> bool:
    """Whether Azure says of an answer, or of what was asked, that its content filter has acted."""
    found = [part.get("content_filter_results")]
    found += [
        as_dict(item).get("content_filter_results")
        for item in as_list(part.get("prompt_filter_results"))
    ]
    return any(
        as_dict(kind).get("filtered") is True for of in found for kind in as_dict(of).values()
    )
