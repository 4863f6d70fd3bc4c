"""`swap serve`: its options, and what they put together.

What it needs is imported when it runs, so that `swap --help` is quick.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swaplib.settings import ROOT, load_settings

if TYPE_CHECKING:
    from swaplib.models.local import LocalSLM
    from swaplib.routing.router import ModelRouter, RouteOptions

Model = Annotated[Path, typer.Option(help="folder of the checkpoint")]
Adapter = Annotated[Path | None, typer.Option(help="folder of a PEFT adapter")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or 4bit")]
Host = Annotated[str, typer.Option(help="where to listen; only loopback keeps other machines out")]
Name = Annotated[str | None, typer.Option(help="slm, or slm_ft with an adapter")]
ApiKey = Annotated[str | None, typer.Option(help="SLM_API_KEY, or '' for none")]
ApiKeyFile = Annotated[Path | None, typer.Option(help="hides the key from `ps`")]
MaxWaiting = Annotated[int, typer.Option(help="requests; others get 503")]
RouteFile = Annotated[
    Path | None, typer.Option(help="a route that 09 wrote: the hosted LLM answers what it refuses")
]
Deadline = Annotated[
    float, typer.Option(help="for both models together, in seconds (with --route)", min=1)
]
DailyCalls = Annotated[
    int | None, typer.Option(help="most calls to the hosted LLM a day (UTC); else no limit", min=0)
]
FailOpen = Annotated[
    bool, typer.Option("--fail-open", help="where the hosted LLM fails, send the refused answer")
]
AuditShare = Annotated[
    float, typer.Option(help="share of accepted answers to ask the hosted LLM, too", min=0, max=1)
]
IsTied = Annotated[bool, typer.Option("--stop-with-stdin", hidden=True)]


def serve(
    model: Model,
    adapter: Adapter = None,
    dtype: Dtype = "4bit",
    host: Host = "127.0.0.1",
    port: int = 8000,
    batch_size: int = 16,
    name: Name = None,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
    max_body_bytes: int = 1_000_000,
    max_new_tokens: int = 4096,
    max_waiting: MaxWaiting = 256,
    route: RouteFile = None,
    deadline_s: Deadline = 60,
    daily_calls: DailyCalls = None,
    fail_open: FailOpen = False,
    audit: AuditShare = 0,
    is_tied: IsTied = False,
) -> None:
    """Serve a checkpoint as an OpenAI-compatible endpoint, on loopback unless told otherwise."""
    from swaplib.models.local import LocalSLM
    from swaplib.models.local_checkpoint import find_checkpoint
    from swaplib.routing.router import RouteOptions
    from swaplib.serving import server
    from swaplib.serving.guard import ServeOptions

    checkpoint = find_checkpoint(ROOT / model, ROOT / adapter if adapter else None, dtype)
    slm, name = LocalSLM(checkpoint, batch_size), name or ("slm_ft" if adapter else "slm")
    if is_tied:
        server.stop_with_stdin()
    key = _read_key(api_key, api_key_file)
    options = ServeOptions(key, max_body_bytes, max_new_tokens, max_waiting)
    how = RouteOptions(deadline_s, daily_calls, fail_open, audit)
    router = _open_router(route, how, slm, name)
    server.serve(slm, name, port, host, options, router)


def _open_router(
    route: Path | None, how: "RouteOptions", slm: "LocalSLM", name: str
) -> "ModelRouter | None":
    from swaplib.routing.open_router import open_router
    from swaplib.routing.router import RouteOptions

    if route is None:
        if how != RouteOptions():
            raise ValueError("--deadline-s, --daily-calls, --fail-open and --audit need --route")
        return None
    return open_router(load_settings(), ROOT / route, slm, name, how)


def _read_key(api_key: str | None, api_key_file: Path | None) -> str | None:
    """The key to ask clients for: the file's, else the typed one, else SLM_API_KEY."""
    if api_key_file:
        api_key = api_key_file.read_text(encoding="utf-8").strip()
    return load_settings().slm_api_key if api_key is None else api_key or None
