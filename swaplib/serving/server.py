"""An OpenAI-compatible endpoint over LocalSLM: `/v1/chat/completions` and the Azure-shaped path, whole or streamed.

Requests join those that are being answered, and leave when their clients do (batcher.py); guard.py stands before all of it.
Greedy only: what that cannot honour is refused, not ignored (openai_format.py). Tools and formats are read in tool_api.py;
where tools are offered, a streamed text is held back for as long as it may still become a call, and a call goes out whole.
"""

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from swaplib.models.local import LocalSLM
from swaplib.rows import Generation
from swaplib.serving.batcher import Batcher, Busy
from swaplib.serving.guard import Connection, Guard, ServeOptions, count_descriptors
from swaplib.serving.openai_format import (
    ChatRequest,
    ChunkMaker,
    make_answer,
    make_error,
    make_error_event,
)
from swaplib.serving.tool_api import Asked, Refused, read_request
from swaplib.web import is_loopback

STOP_LIMIT_S = 60
RETRY_AFTER_S = 5


def make_app(slm: LocalSLM, name: str, options: ServeOptions | None = None) -> FastAPI:
    """The application.

    Args:
        slm: The model to serve; loaded before the first request is taken.
        name: The model's name in answers and in `/v1/models`; requests for another one are refused.
        options: Key and limits.
    """
    options = options or ServeOptions()
    batcher = Batcher(slm, options.max_waiting)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(lambda: slm.model)
        worker = asyncio.create_task(batcher.run())
        yield
        worker.cancel()

    app = FastAPI(
        title="SLM swap", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.add_middleware(Guard, options=options)
    _add_error_handlers(app)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {
            "status": "ok",
            "model": name,
            "pid": os.getpid(),
            "requests": batcher.requests,
            **batcher.count(),
        }

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {
            "object": "list",
            "data": [{"id": name, "object": "model", "created": 0, "owned_by": "local"}],
        }

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Any:
        return await _answer(batcher, name, options, body, body.model or name, request)

    @app.post("/openai/deployments/{deployment}/chat/completions")
    async def chat_azure(deployment: str, body: ChatRequest, request: Request) -> Any:
        return await _answer(batcher, name, options, body, deployment, request)

    return app


def _add_error_handlers(app: FastAPI) -> None:
    """Every error leaves in OpenAI's shape."""

    @app.exception_handler(RequestValidationError)
    async def refuse_body(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:]) or None
        what = (
            "this field is not known here: leave it out"
            if first["type"] == "extra_forbidden"
            else first["msg"]
        )
        return make_error(400, f"{param or 'body'}: {what}", param)

    @app.exception_handler(HTTPException)
    async def refuse_request(request: Request, error: HTTPException) -> JSONResponse:
        return make_error(error.status_code, f"{error.detail}: {request.method} {request.url.path}")

    @app.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> JSONResponse:
        return make_error(500, f"the model failed ({type(error).__name__})")


async def _answer(
    batcher: Batcher,
    name: str,
    options: ServeOptions,
    body: ChatRequest,
    asked_model: str,
    request: Request,
) -> Any:
    """Check what only the model can check, then answer whole or as a stream."""
    if asked_model != name:
        return make_error(
            404, f"no model {asked_model!r} here: expected {name!r}", "model", "model_not_found"
        )
    try:
        batcher.check_room()
        if body.limit > options.max_new_tokens:
            raise Refused(
                "max_tokens", f"an answer may have at most {options.max_new_tokens} tokens here"
            )
        asked = await asyncio.to_thread(read_request, body)  # the schemas of a client may be large
        text = await asyncio.to_thread(
            _render, batcher.slm, asked, body.limit
        )  # a body of 1 MB takes a second
        await _check_grammar(batcher, asked)
    except Refused as refusal:
        return make_error(400, str(refusal), refusal.param, refusal.code)
    except Busy:
        return _refuse_busy()
    if body.stream:
        events = _stream(batcher, asked, text, body.limit, ChunkMaker(name, body.has_usage))
        return StreamingResponse(events, media_type="text/event-stream")
    try:
        generation = await _while_connected(request, batcher.ask(text, body.limit, asked.schema))
    except Busy:
        return _refuse_busy()
    if generation is None:
        return Response(status_code=499)  # nobody reads it
    return make_answer(generation, name, asked.find_call(generation))


def _refuse_busy() -> JSONResponse:
    refusal = make_error(
        503, f"too many requests wait: come back in {RETRY_AFTER_S} s", code="server_busy"
    )
    refusal.headers["Retry-After"] = str(RETRY_AFTER_S)
    return refusal


async def _while_connected(
    request: Request, answer: Coroutine[Any, Any, Generation]
) -> Generation | None:
    """An answer, or None once the client has gone: then the request leaves its place."""

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


def _render(slm: LocalSLM, asked: Asked, limit: int) -> str:
    """The prompt; Refused where the template cannot write the messages, or they leave no room for the answer."""
    from jinja2 import TemplateError

    try:
        text = slm.checkpoint.render(asked.messages, tools=asked.tools)
        text.encode()
    except (TemplateError, TypeError, RecursionError) as error:
        raise Refused(
            "messages", f"the model's chat template cannot write them ({error})"
        ) from None
    except UnicodeEncodeError:
        raise Refused("messages", "a text holds half of a surrogate pair") from None
    # checked here, because it is the request's fault and OpenAI's format has an error for it
    if (tokens := slm.checkpoint.count_tokens(text)) + limit > slm.model.context:
        what = f"the prompt has {tokens} tokens and the answer may have {limit}; together at most {slm.model.context}"
        raise Refused("messages", what, "context_length_exceeded")
    return text


async def _check_grammar(batcher: Batcher, asked: Asked) -> None:
    """Refuse a schema that cannot bind the decoding, before it is queued with others; of several tools each for itself."""
    for param, schema in asked.list_grammars():
        try:
            await batcher.check_schema(schema)
        except ValueError as error:
            raise Refused(param, str(error)) from None


async def _stream(
    batcher: Batcher, asked: Asked, text: str, limit: int, chunks: ChunkMaker
) -> AsyncIterator[str]:
    held, is_text = "", False
    try:
        async for part in batcher.stream(text, limit, asked.schema):
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


def serve(
    slm: LocalSLM,
    name: str,
    port: int,
    host: str = "127.0.0.1",
    options: ServeOptions | None = None,
) -> None:
    """Serve until stopped; SIGTERM and Ctrl-C let the requests in flight end first.

    Raises:
        FileNotFoundError, ValueError: The checkpoint or the adapter is not there or not whole.
        OSError: The address is taken, or is none of this machine's.
    """
    import uvicorn

    slm.check()
    options = replace(options or ServeOptions(), is_local=is_loopback(host))
    if not options.is_local:
        who = "with the key" if options.api_key else "at all (there is no --api-key)"
        print(
            f"warning: {host} is reachable from other machines, unencrypted, by anyone {who}.",
            file=sys.stderr,
        )
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            what = f"cannot serve at {host}, port {port} ({error.strerror}). Choose another --port or --host."
            raise OSError(what) from None
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/v1"
        print(f"loading {slm.checkpoint.path.name}; then {name} answers at {address}", flush=True)
        limits = {
            "backlog": max(8, count_descriptors() // 8),
            "timeout_graceful_shutdown": STOP_LIMIT_S,
        }
        app = make_app(slm, name, options)
        config = uvicorn.Config(app, http=Connection, ws="none", log_level="warning", **limits)
        uvicorn.Server(config).run(sockets=[listener])


def stop_with_stdin() -> None:
    """End this process, as SIGTERM does, once its standard input has ended: whoever holds the other end is gone."""

    def wait() -> None:
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
