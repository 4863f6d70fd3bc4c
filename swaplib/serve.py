"""An OpenAI-compatible endpoint over LocalSLM: plain `/v1/chat/completions` and the Azure-shaped path.

Requests that arrive while a batch is being answered are answered together in the next one. Greedy only: a request for
sampling, streaming or several choices is refused, not ignored. It serves the demo's hosted stand-in.
"""

import asyncio
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from swaplib.local import LocalSLM
from swaplib.rows import Generation

GATHER_S = 0.02


class ChatMessage(BaseModel):
    """One message of a request."""

    role: Literal["system", "user", "assistant"]
    content: str


class ChatRequest(BaseModel):
    """The part of OpenAI's chat completion request that greedy decoding can honour; other fields are refused."""

    model_config = ConfigDict(extra="forbid")

    messages: list[ChatMessage] = Field(min_length=1)
    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: Literal[0] | None = None
    n: Literal[1] = 1
    stream: Literal[False] = False
    top_p: float | None = None  # with greedy decoding these three change nothing
    seed: int | None = None
    user: str | None = None

    @property
    def limit(self) -> int:
        """The limit of the answer in tokens, under its new name or its old one; 256 when none is given."""
        return self.max_completion_tokens or self.max_tokens or 256


@dataclass
class Batcher:
    """Answers requests in batches, one batch at a time; those waiting are taken together, in the order of arrival."""

    slm: LocalSLM
    requests: int = 0
    _queue: asyncio.Queue = field(default_factory=asyncio.Queue)

    async def ask(self, text: str, limit: int) -> Generation:
        """Queue a rendered prompt and wait for its answer."""
        self.requests += 1
        answer: asyncio.Future[Generation] = asyncio.get_running_loop().create_future()
        await self._queue.put((text, limit, answer))
        return await answer

    async def run(self) -> None:
        """Answer batches until cancelled."""
        while True:
            batch = [await self._queue.get()]
            await asyncio.sleep(GATHER_S)  # requests sent together arrive a moment apart
            while not self._queue.empty() and len(batch) < self.slm.batch_size:
                batch.append(self._queue.get_nowait())
            for limit in sorted({limit for _, limit, _ in batch}):
                await self._answer(limit, [(text, answer) for text, asked, answer in batch if asked == limit])

    async def _answer(self, limit: int, batch: list[tuple[str, asyncio.Future]]) -> None:
        try:
            generations = await asyncio.to_thread(self.slm.generate_batch, [text for text, _ in batch], limit)
        except Exception as error:  # each request of the batch is told
            generations = [error] * len(batch)
        for (_, answer), result in zip(batch, generations, strict=True):
            if answer.cancelled():
                continue
            answer.set_exception(result) if isinstance(result, Exception) else answer.set_result(result)


def make_app(slm: LocalSLM, name: str) -> FastAPI:
    """The application.

    Args:
        slm: The model to serve; loaded before the first request is taken.
        name: The model's name in answers and in `/v1/models`.
    """
    batcher = Batcher(slm)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(lambda: slm.model)
        worker = asyncio.create_task(batcher.run())
        yield
        worker.cancel()

    app = FastAPI(title="SLM swap", lifespan=lifespan, docs_url=None, redoc_url=None)

    @app.exception_handler(RequestValidationError)
    async def refuse_body(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:]) or None
        return _make_error(400, f"{param or 'body'}: {first['msg']}", param)

    @app.exception_handler(HTTPException)
    async def refuse_path(request: Request, error: HTTPException) -> JSONResponse:
        return _make_error(error.status_code, f"{error.detail}: {request.method} {request.url.path}", None)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "model": name, "pid": os.getpid(), "requests": batcher.requests}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "local"}]}

    @app.post("/v1/chat/completions")
    @app.post("/openai/deployments/{deployment}/chat/completions")
    async def chat_completions(body: ChatRequest) -> Any:
        text = slm.render([message.model_dump() for message in body.messages])
        try:
            text.encode()
        except UnicodeEncodeError:
            return _make_error(400, "a message holds half of a surrogate pair", "messages")
        # checked here, so that one long prompt does not fail the others of its batch
        if (asked := slm.count_tokens(text)) + body.limit > slm.context:
            what = f"the prompt has {asked} tokens and the answer may have {body.limit}; together at most {slm.context}"
            return _make_error(400, what, "messages", "context_length_exceeded")
        generation = await batcher.ask(text, body.limit)
        return _make_answer(generation, name)

    return app


def _make_answer(generation: Generation, name: str) -> dict[str, Any]:
    asked, answered = generation.prompt_tokens or 0, generation.completion_tokens or 0
    message = {"role": "assistant", "content": generation.output}
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": name,
        "choices": [{"index": 0, "message": message, "finish_reason": generation.finish_reason}],
        "usage": {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered},
    }


def _make_error(status: int, message: str, param: str | None, code: str | None = None) -> JSONResponse:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": code}}, status)


def serve(slm: LocalSLM, name: str, port: int) -> None:
    """Serve on loopback until stopped.

    Raises:
        FileNotFoundError, ValueError: The checkpoint or the adapter is not there or not whole.
        OSError: The port is taken.
    """
    import uvicorn

    slm.check()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise OSError(f"port {port} on loopback is taken ({error.strerror}). Choose another with --port.") from None
        uvicorn.Server(uvicorn.Config(make_app(slm, name), log_level="warning")).run(sockets=[listener])
