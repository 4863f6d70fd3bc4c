"""A route, a scripted hosted LLM, and `swap serve --route` over the packaged checkpoint."""

import json
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import openai
import uvicorn
from langfuse_server import attributes
from servers import completion

from swaplib.routing.open_router import open_router
from swaplib.routing.router import RouteOptions
from swaplib.serving.server import make_app
from swaplib.serving.server_process import find_free_port
from swaplib.settings import Settings
from swaplib.tracing import outbox

ACCEPT, REFUSE = -100.0, 0.0  # thresholds of mean_logprob that every answer passes, and none
CALL = '<tool_call name="area">{"radius":5}</tool_call>'


def write_route(settings: Settings, slm, threshold: float = ACCEPT, **changes) -> Path:
    """A route for the packaged checkpoint that accepts or refuses by the threshold alone."""
    path = settings.evaluation / "toolcall_router.json"
    policy = {"has_validators": False, "signal": "mean_logprob", "threshold": threshold}
    agreement = {"n": 100, "agreed": 95, "rate": 0.95, "interval": [0.89, 0.98]}
    content = {
        "track": "toolcall",
        "model": "slm-native",
        "policy": policy,
        "identity": slm.identity(),
        "agreement": {"val": agreement},
        **changes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def hosted_at(settings: Settings, root: str, **changes) -> Settings:
    """Settings whose hosted LLM is a loopback server."""
    azure = {
        "azure_endpoint": f"{root}/v1",
        "azure_api_key": "key-of-the-test",
        "azure_deployment": "big",
        "azure_api_version": None,
    }
    return settings.model_copy(update=azure | changes)


@contextmanager
def served_route(settings: Settings, slm, route: Path, max_waiting: int = 256, **options):
    """Serve in this process, a thread with an event loop of its own; yields the address."""
    from swaplib.serving.guard import ServeOptions

    router = open_router(settings, route, slm, "slm", RouteOptions(**options))
    app = make_app(slm, "slm", ServeOptions(max_waiting=max_waiting), router)
    port = find_free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        thread.join()


def open_openai(root: str, **options) -> openai.OpenAI:
    return openai.OpenAI(base_url=root, api_key="any", max_retries=0, **options)


def list_calls(exchanges) -> list:
    """The chat completions that a scripted hosted LLM was asked for."""
    return [exchange for exchange in exchanges if exchange.method == "POST"]


def read_traces(settings: Settings) -> list[dict[str, dict]]:
    """The traces on disk, each as its spans by name, attributes read."""
    traces: dict[str, dict] = {}
    for path in sorted(settings.runs.glob("*-route-*/trace.jsonl")):
        for line in outbox.read_outbox(path):
            for span in outbox.list_spans(line):
                known = traces.setdefault(span["traceId"], {})
                assert span["name"] not in known
                known[span["name"]] = attributes(span)
    return list(traces.values())


def always(text: str):
    """A hosted LLM that says one thing."""
    return lambda exchange: completion(text)
