"""A hosted endpoint on loopback that fails a share of its calls, and counts all of them.

    with failing_endpoint(0.3) as endpoint:
        endpoint.address    http://127.0.0.1:40123/v1
        endpoint.calls      how each call ended: "200", "500", "429", …, "closed" for none

What it answers holds the hash of what it was asked, so that an answer shows whose it is. Which
calls fail, and how, is drawn with a seed; their order is that of arrival.
"""

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from swaplib.files import hash_text

ENDS = ("500", "503", "429", "closed")  # of failing calls; with `closed` no byte is sent
SEED = 42


@dataclass
class Endpoint:
    """Its address, and how its calls ended, in order."""

    address: str
    failing: float
    latency_s: float
    calls: list[str] = field(default_factory=list)
    _draw: random.Random = field(default_factory=lambda: random.Random(SEED))  # noqa: S311
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def end_call(self) -> str:
        """How the next call ends."""
        with self._lock:
            end = self._draw.choice(ENDS) if self._draw.random() < self.failing else "200"
            self.calls.append(end)
            return end


def make_text(body: Any) -> str:
    """The answer to a request."""
    asked = hash_text(body["messages"][-1]["content"])[:16]
    return f'<tool_call name="echo">{{"asked":"{asked}"}}</tool_call>'


def make_completion(body: Any) -> dict[str, Any]:
    """A chat completion that answers a request."""
    message = {"role": "assistant", "content": make_text(body)}
    usage = {"prompt_tokens": 50, "completion_tokens": 12, "total_tokens": 62}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    head = {"id": "x", "object": "chat.completion", "created": 0, "model": "scripted"}
    return head | {"choices": [choice], "usage": usage}


class _Server(ThreadingHTTPServer):
    request_queue_size = 512  # all clients may connect at once


@contextmanager
def failing_endpoint(failing: float, latency_s: float = 0.2) -> Iterator[Endpoint]:
    """Run the endpoint in threads of this process.

    Args:
        failing: The share of calls that fail, 0..1.
        latency_s: Seconds of each call.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            end = endpoint.end_call()
            time.sleep(endpoint.latency_s)
            if end == "closed":
                self.close_connection = True
                return
            status = int(end)
            error = {"error": {"message": "scripted", "code": "scripted"}}
            content = make_completion(body) if status == 200 else error
            self.write(status, json.dumps(content).encode())

        def do_OPTIONS(self) -> None:
            self.write(200, b"{}")

        def write(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    endpoint = Endpoint(f"http://127.0.0.1:{server.server_port}/v1", failing, latency_s)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
