"""Answers a chat completion request: checks it, queues it (batcher.py), sends it whole or streamed.

Where tools are offered, a streamed text is held back for as long as it may still become a call, and
a call goes out whole (tool_api.py). Who may ask at all is decided before (guard.py).
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from jinja2 import TemplateError

from swaplib.models.local import LocalSLM
from swaplib.rows import Generation
from swaplib.serving.batcher import Batcher, Busy
from swaplib.serving.openai_format import (
    ChatRequest,
    ChunkMaker,
    make_answer,
    make_error,
    make_error_event,
)
from swaplib.serving.routed import RoutedRequest, Router
from swaplib.serving.routed_responses import respond
from swaplib.serving.tool_api import Asked, Refused, read_request

RETRY_AFTER_S = 5
Answered = TypeVar("Answered")


class TooLong(Refused):
    """The prompt leaves no room for the answer in the model's context."""


@dataclass(frozen=True)
class ChatEndpoint:
    """Answers chat completion requests.

    Attributes:
        batcher: The queue of the model.
        name: The model's name; requests for another one are refused.
        max_new_tokens: The longest answer that a request may ask for.
        router: Decides who answers, where there is one.
    """

    batcher: Batcher
    name: str
    max_new_tokens: int
    router: Router | None = None

    async def answer(
        self, body: ChatRequest, model: str, request: Request
    ) -> Response | dict[str, Any]:
        """The answer to a request, or its refusal.

        Args:
            body: The request's body.
            model: The name of the model that is asked for.
            request: The request itself, which knows when its client has gone.
        """
        if model != self.name:
            message = f"no model {model!r} here: expected {self.name!r}"
            return make_error(404, message, "model", "model_not_found")
        try:
            if self.router is not None:
                return await self._route(self.router, body, request)
            self.batcher.check_room()
            asked = await self._read(body)
            text = await self._render(asked, body)
            await self._check_grammars(asked)
            if body.stream:
                chunks = ChunkMaker(self.name, body.has_usage)
                events = self._stream(asked, text, body.max_new_tokens, chunks)
                return StreamingResponse(events, media_type="text/event-stream")
            answer = self.batcher.ask(text, body.max_new_tokens, asked.schema)
            generation = await _while_connected(request, answer)
        except Refused as refusal:
            return make_error(400, str(refusal), refusal.param, refusal.code)
        except Busy:
            return _refuse_busy()
        if generation is None:
            return _say_nothing()
        return make_answer(generation, self.name, asked.find_call(generation))

    async def _route(self, router: Router, body: ChatRequest, request: Request) -> Response:
        """Have a router answer a request that could be answered here, or is only too long."""
        started = asyncio.get_running_loop().time()
        asked = await self._read(body)
        text: str | TooLong
        try:
            text = await self._render(asked, body)
        except TooLong as problem:
            text = problem
        await self._check_grammars(asked)

        async def ask_slm() -> Generation:
            if isinstance(text, TooLong):
                raise text
            return await self.batcher.ask(text, body.max_new_tokens, asked.schema)

        routing = router.decide(RoutedRequest(body, asked, ask_slm, started))
        routed = await _while_connected(request, routing)
        return respond(routed, body, asked, self.name) if routed else _say_nothing()

    async def _read(self, body: ChatRequest) -> Asked:
        """What a request asks, worked out in a thread: schemas may be large.

        Raises:
            Refused: It cannot be answered.
        """
        if body.max_new_tokens > self.max_new_tokens:
            message = f"an answer may have at most {self.max_new_tokens} tokens here"
            raise Refused("max_tokens", message)
        return await asyncio.to_thread(read_request, body)

    async def _render(self, asked: Asked, body: ChatRequest) -> str:
        """The prompt, in a thread: one of 1 MB takes a second. Raises Refused as _render."""
        return await asyncio.to_thread(_render, self.batcher.slm, asked, body.max_new_tokens)

    async def _check_grammars(self, asked: Asked) -> None:
        """Raise Refused where a schema cannot bind the answer."""
        for param, schema in asked.list_grammars():
            try:
                await self.batcher.check_schema(schema)
            except ValueError as error:
                raise Refused(param, str(error)) from None

    async def _stream(
        self, asked: Asked, text: str, max_new_tokens: int, chunks: ChunkMaker
    ) -> AsyncIterator[str]:
        held, is_text = "", False
        try:
            async for part in self.batcher.stream(text, max_new_tokens, asked.schema):
                if isinstance(part, Generation):
                    call = asked.find_call(part)
                    if call or held:
                        yield chunks.make_call(call) if call else chunks.make_text(held)
                    yield chunks.make_end(part, call is not None)
                elif not is_text and asked.may_be_call(held + part):
                    held += part
                else:
                    yield chunks.make_text(held + part)
                    held, is_text = "", True
        except Exception as error:  # the status has been sent, so the stream must say it
            yield make_error_event(f"the model failed ({type(error).__name__})")


def _render(slm: LocalSLM, asked: Asked, max_new_tokens: int) -> str:
    """The prompt of a request.

    Raises:
        Refused: The template cannot write the messages, or (TooLong) they leave no room for the
            answer.
    """
    try:
        text = slm.checkpoint.render(asked.messages, tools=asked.tools)
        text.encode()
    except (TemplateError, TypeError, RecursionError) as error:
        message = f"the model's chat template cannot write them ({error})"
        raise Refused("messages", message) from None
    except UnicodeEncodeError:
        raise Refused("messages", "a text holds half of a surrogate pair") from None
    n_tokens, context = slm.checkpoint.count_tokens(text), slm.model.context
    # Checked here, since OpenAI's format has an error for it; decoding would truncate the answer.
    if n_tokens + max_new_tokens > context:
        message = (
            f"the prompt has {n_tokens} tokens and the answer may have {max_new_tokens}; "
            f"together at most {context}"
        )
        raise TooLong("messages", message, "context_length_exceeded")
    return text


async def _while_connected(
    request: Request, answer: Coroutine[Any, Any, Answered]
) -> Answered | None:
    """Wait for an answer; None once the client has gone, and then the answer is cancelled."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answering, watching = asyncio.create_task(answer), asyncio.create_task(watch())
    try:
        await asyncio.wait({answering, watching}, return_when=asyncio.FIRST_COMPLETED)
        return answering.result() if answering.done() else None
    finally:
        answering.cancel()
        watching.cancel()


def _say_nothing() -> Response:
    """The response to a client that has gone: nobody reads it."""
    return Response(status_code=499)


def _refuse_busy() -> JSONResponse:
    message = f"too many requests wait: come back in {RETRY_AFTER_S} s"
    refusal = make_error(503, message, code="server_busy")
    refusal.headers["Retry-After"] = str(RETRY_AFTER_S)
    return refusal
