"""What `capture.record` costs a call of the official `openai` client, on this machine.

    python -m benchmarks.capture_overhead

Two clients ask the same loopback server in turns, one recorded, one not; every recorded call is
synced to disk. Writes benchmarks/results/capture_overhead.json and a Markdown table beside it.
"""

import json
import statistics
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import openai

from benchmarks.records import write_table
from swaplib.agents import capture
from swaplib.agents.trajectory import read_trajectories

CALLS, REPEATS, WARM_UP = 200, 5, 20
QUESTION = {"role": "user", "content": "What is a shim? " * 50}
MESSAGES = [{"role": "system", "content": "Be short."}, QUESTION]
ANSWER = {"role": "assistant", "content": "A thin thing. " * 50}
COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "loopback",
    "choices": [{"index": 0, "message": ANSWER, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 400, "completion_tokens": 200, "total_tokens": 600},
}
BODY = json.dumps(COMPLETION).encode()


class Handler(BaseHTTPRequestHandler):
    """Answers every request immediately with the same completion."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        """Answer."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def time_calls(client: openai.OpenAI, n: int) -> list[float]:
    """Milliseconds of each of n calls."""
    times = []
    for _ in range(n):
        start = time.perf_counter()
        client.chat.completions.create(model="loopback", messages=MESSAGES, temperature=0)
        times.append((time.perf_counter() - start) * 1000)
    return times


def main() -> None:
    """Measure, print, and write the record."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = {"base_url": f"http://127.0.0.1:{server.server_port}/v1", "api_key": "none"}
    times: dict[str, list[float]] = {"plain": [], "recorded": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trajectories.jsonl"
        clients = {
            "plain": openai.OpenAI(**options),
            "recorded": capture.record(openai.OpenAI(**options), path),
        }
        for client in clients.values():
            time_calls(client, WARM_UP)
        for _ in range(REPEATS):
            for name, client in clients.items():
                times[name].append(statistics.median(time_calls(client, CALLS)))
        n_lines = len(read_trajectories(path))
    server.shutdown()
    medians = {name: statistics.median(found) for name, found in times.items()}
    record = {
        "case": "one call of the openai client, recorded against plain, "
        "loopback server that answers at once",
        "calls": f"{REPEATS} x {CALLS} each",
        "plain_ms": round(medians["plain"], 3),
        "recorded_ms": round(medians["recorded"], 3),
        "overhead_ms": round(medians["recorded"] - medians["plain"], 3),
        "ratio": round(medians["recorded"] / medians["plain"], 2),
        "lines": f"{n_lines} of {REPEATS * CALLS + WARM_UP}",
    }
    write_table("capture_overhead", [record])


if __name__ == "__main__":
    main()
