"""A hosted endpoint on loopback with known latencies and limits, in a process of its own.

    python -m benchmarks.scripted_endpoint 8202 '{"median_s": 0.6}'

Every call is answered with the same tool call. A call's latency is drawn with its prompt as the
seed, so the same rows take the same time whoever asks them and in whatever order. Over a limit it
answers 429 with Retry-After in whole seconds.
"""

import asyncio
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import httpx2

from swaplib.serving.server_process import find_free_port
from swaplib.web import open_client

ANSWER = '<tool_call name="tool">{"x":1}</tool_call>'
COMPLETION = {
    "id": "x",
    "object": "chat.completion",
    "created": 0,
    "model": "scripted",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": ANSWER},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 50, "completion_tokens": 12, "total_tokens": 62},
}
SIGMA, SEED = 0.35, 42
BURST_S = 1.0  # a limit allows this many seconds' worth at once


@dataclass(frozen=True)
class Options:
    """Median latency, limits a minute (None: no limit), and after how many calls it answers 401."""

    median_s: float = 0.0
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    calls: int | None = None


class Bucket:
    """A token bucket that holds BURST_S of a limit and is full at first."""

    def __init__(self, per_minute: float):
        self.rate = per_minute / 60
        self.left = self.rate * BURST_S
        self.seen = time.monotonic()

    def find_wait(self, amount: float) -> float:
        """Seconds until the amount is available; 0 when it is now."""
        now = time.monotonic()
        self.left = min(self.rate * BURST_S, self.left + (now - self.seen) * self.rate)
        self.seen = now
        return max(0.0, (amount - self.left) / self.rate)


def draw_latency(median_s: float, prompt: str) -> float:
    """Seconds, log-normal; the same for the same prompt."""
    draw = random.Random(f"{SEED} {prompt}")  # noqa: S311 - a latency, no secret
    return median_s * draw.lognormvariate(0, SIGMA)


def make_app(options: Options) -> Any:
    """The endpoint: `/v1/chat/completions`; `/seen` says when calls were let in, and the 429s."""
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse

    app, let_in, refused = FastAPI(), [], []
    limits = (options.requests_per_minute, options.tokens_per_minute)
    buckets = [None if limit is None else Bucket(limit) for limit in limits]

    @app.get("/seen")
    async def seen() -> dict[str, Any]:
        return {"let_in": let_in, "n_429": len(refused)}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> JSONResponse:
        body = await request.json()
        n_characters = sum(len(message["content"]) for message in body["messages"])
        amounts = (1, n_characters / 4 + body["max_tokens"])
        used = [(bucket, amount) for bucket, amount in zip(buckets, amounts, strict=True) if bucket]
        if options.calls is not None and len(let_in) == options.calls:
            return JSONResponse({"error": {"message": "no more", "code": "closed"}}, 401)
        if wait := max((bucket.find_wait(amount) for bucket, amount in used), default=0.0):
            refused.append(time.monotonic())
            error = {"message": "over the limit", "code": "rate_limit_exceeded"}
            return JSONResponse({"error": error}, 429, {"retry-after": str(math.ceil(wait))})
        for bucket, amount in used:
            bucket.left -= amount
        let_in.append(time.monotonic())
        if options.median_s:
            await asyncio.sleep(draw_latency(options.median_s, body["messages"][-1]["content"]))
        return JSONResponse(COMPLETION)

    return app


@contextmanager
def answering(options: Options, port: int | None = None) -> Iterator[str]:
    """Run the endpoint in its own process, at a free port unless given; yields its /v1 address."""
    port = port or find_free_port()
    command = [sys.executable, "-m", "benchmarks.scripted_endpoint", str(port)]
    process = subprocess.Popen([*command, json.dumps(asdict(options))])
    try:
        until = time.monotonic() + 60
        while not is_up(port):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the scripted endpoint did not come up at port {port}")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def is_up(port: int) -> bool:
    """Whether the endpoint answers."""
    try:
        with open_client(f"http://127.0.0.1:{port}") as client:
            return client.get("/seen").status_code == 200
    except httpx2.HTTPError:
        return False


if __name__ == "__main__":
    import uvicorn

    app = make_app(Options(**json.loads(sys.argv[2])))
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
