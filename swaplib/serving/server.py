"""An OpenAI-compatible endpoint over LocalSLM: `/v1/chat/completions` and the Azure-shaped path.

guard.py is in front of everything; chat_endpoint.py answers requests; they join those in flight and
leave when their clients do (batcher.py). Greedy only: what that cannot honour is refused, not
ignored (openai_format.py).

    POST /v1/chat/completions {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}
    -> {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello!"}, …}], …}
"""

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from swaplib.models.local import LocalSLM
from swaplib.serving.batcher import Batcher
from swaplib.serving.chat_endpoint import ChatEndpoint
from swaplib.serving.guard import Connection, Guard, ServeOptions, count_descriptors
from swaplib.serving.openai_format import ChatRequest, make_error
from swaplib.serving.routed import Router
from swaplib.web import is_loopback

STOP_LIMIT_S = 60


def make_app(
    slm: LocalSLM, name: str, options: ServeOptions | None = None, router: Router | None = None
) -> FastAPI:
    """The application.

    Args:
        slm: The model to serve; loaded before the first request is accepted.
        name: The model's name in answers and in `/v1/models`; requests for another are refused.
        options: Key and limits.
        router: Decides who answers each request; without one, the model does.
    """
    options = options or ServeOptions()
    batcher = Batcher(slm, options.max_waiting)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(lambda: slm.model)
        worker = asyncio.create_task(batcher.run())
        async with router.running() if router else nullcontext():
            yield
        worker.cancel()

    app = FastAPI(
        title="SLM swap", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.add_middleware(Guard, options=options)
    _add_error_handlers(app)
    _add_routes(app, ChatEndpoint(batcher, name, options.max_new_tokens, router))
    return app


def _add_routes(app: FastAPI, endpoint: ChatEndpoint) -> None:
    name, batcher = endpoint.name, endpoint.batcher

    @app.get("/health")
    async def health() -> dict[str, Any]:
        state = {"status": "ok", "model": name, "pid": os.getpid(), "requests": batcher.requests}
        return state | batcher.count()

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        model = {"id": name, "object": "model", "created": 0, "owned_by": "local"}
        return {"object": "list", "data": [model]}

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatRequest, request: Request) -> Response | dict[str, Any]:
        return await endpoint.answer(body, body.model or name, request)

    @app.post("/openai/deployments/{deployment}/chat/completions", response_model=None)
    async def chat_azure(
        deployment: str, body: ChatRequest, request: Request
    ) -> Response | dict[str, Any]:
        return await endpoint.answer(body, deployment, request)


def _add_error_handlers(app: FastAPI) -> None:
    """Have every error leave in OpenAI's shape."""

    @app.exception_handler(RequestValidationError)
    async def refuse_body(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:]) or None
        message = first["msg"]
        if first["type"] == "extra_forbidden":
            message = "this field is not known here: leave it out"
        return make_error(400, f"{param or 'body'}: {message}", param)

    @app.exception_handler(HTTPException)
    async def refuse_request(request: Request, error: HTTPException) -> JSONResponse:
        return make_error(error.status_code, f"{error.detail}: {request.method} {request.url.path}")

    @app.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> JSONResponse:
        return make_error(500, f"the model failed ({type(error).__name__})")


def serve(
    slm: LocalSLM,
    name: str,
    port: int,
    host: str = "127.0.0.1",
    options: ServeOptions | None = None,
    router: Router | None = None,
) -> None:
    """Serve until stopped; SIGTERM and Ctrl-C let the requests in flight end first.

    Args:
        slm: The model to serve.
        name: Its name in answers.
        port: The port; 0 for a free one.
        host: The name or address to listen at.
        options: Key and limits; `is_local` is set by the host.
        router: As make_app takes it.

    Raises:
        FileNotFoundError, ValueError: The checkpoint or the adapter is missing or broken.
        OSError: The address is in use, or not one of this machine's.
    """
    slm.check()
    options = replace(options or ServeOptions(), is_local=is_loopback(host))
    if not options.is_local:
        _warn_of_strangers(host, options)
    with _listen(host, port) as listener:
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/v1"
        print(f"loading {slm.checkpoint.path.name}; then {name} answers at {address}", flush=True)
        config = uvicorn.Config(
            make_app(slm, name, options, router),
            http=Connection,
            ws="none",
            log_level="warning",
            backlog=max(8, count_descriptors() // 8),
            timeout_graceful_shutdown=STOP_LIMIT_S,
        )
        uvicorn.Server(config).run(sockets=[listener])


def _warn_of_strangers(host: str, options: ServeOptions) -> None:
    who = "with the key" if options.api_key else "at all (there is no --api-key)"
    print(
        f"warning: {host} is reachable from other machines, unencrypted, by anyone {who}.",
        file=sys.stderr,
    )


def _listen(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(
            f"cannot serve at {host}, port {port} ({error.strerror}). "
            "Choose another --port or --host."
        ) from None
    return listener


def stop_with_stdin() -> None:
    """End this process, as SIGTERM does, when its standard input ends.

    So it ends with the process that holds the other end, however that one ended.
    """

    def wait() -> None:
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
