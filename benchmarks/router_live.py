"""A recorded route, served: do live requests go where 09 said, and are they as often right?

    python -m benchmarks.router_live HOSTED SLM [ROWS]    # folders of checkpoints; else all rows

09 chooses a route for the base SLM from the recorded `toolcall` runs. Then `swap serve --route`
answers the rows of test, each with its tools under `tool_choice: none`, so that the model is asked
in words and the validators know the tools; HOSTED answers what is refused, behind a server of its
own. Writes router_live.json and router_live.md.
"""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
from openai import OpenAI

from benchmarks.real_pair import serving
from benchmarks.recorded_pair import open_record
from benchmarks.records import write_table
from swaplib import web
from swaplib.data.facts import RowFacts, read_facts
from swaplib.metrics import Track, score_row
from swaplib.prompts import build_messages
from swaplib.routing.choose_route import choose_route, open_chosen
from swaplib.routing.route_file import path_of, read_route
from swaplib.rows import Row, read_rows
from swaplib.settings import ROOT, Settings

TRACK: Track = "toolcall"
MODEL = "slm"
PORT, CLIENTS, MAX_NEW_TOKENS = 8204, 32, 256
START_LIMIT_S = 300


@contextmanager
def running_route(route: Path, slm: Path, env: dict[str, str]) -> Iterator[str]:
    """Serve a route over an SLM until the context ends; yields its root."""
    root = f"http://127.0.0.1:{PORT}"
    words = ["--model", str(slm), "--dtype", "4bit", "--port", str(PORT), "--name", MODEL]
    words += ["--batch-size", "64", "--route", str(route), "--api-key", ""]
    words += ["--deadline-s", "250", "--stop-with-stdin"]
    command = [sys.executable, "-m", "swaplib.cli", "serve", *words]
    with subprocess.Popen(command, env=os.environ | env, cwd=ROOT, stdin=subprocess.PIPE) as server:
        try:
            _wait(server, root)
            yield root
        finally:
            server.terminate()


def _wait(server: "subprocess.Popen[bytes]", root: str) -> None:
    for _ in range(START_LIMIT_S):
        if server.poll() is not None:
            raise RuntimeError("the routed server ended while starting; its output is above")
        with suppress(httpx2.TransportError), web.open_client(root, timeout_s=5) as client:
            if client.get("/health").status_code == 200:
                return
        time.sleep(1)
    raise RuntimeError(f"no routed server at {root} within {START_LIMIT_S} s")


def ask(
    root: str, rows: list[Row], facts: list[RowFacts]
) -> list[tuple[str, str, dict[str, bool]]]:
    """Who answered each row, why, and the bits of what came back."""
    client = OpenAI(base_url=f"{root}/v1", api_key="none-is-needed", max_retries=0, timeout=300)

    def ask_one(pair: tuple[Row, RowFacts]) -> tuple[str, str, dict[str, bool]]:
        row, fact = pair
        body: dict[str, Any] = {
            "model": MODEL,
            "messages": build_messages(TRACK, row.prompt),
            "tools": fact.tools,
            "tool_choice": "none",
            "max_tokens": MAX_NEW_TOKENS,
            "temperature": 0,
        }
        came = client.chat.completions.with_raw_response.create(**body)
        text = came.parse().choices[0].message.content or ""
        who, why = came.headers["x-swap-route"], came.headers["x-swap-reason"]
        return who, why, score_row(TRACK, row.completion, text)

    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(ask_one, zip(rows, facts, strict=True)))


def record(settings: Settings, hosted: Path, slm: Path, n: int | None) -> None:
    """Choose, serve, ask, compare, write."""
    route = choose_route(settings, TRACK, MODEL)
    replay, policy = open_chosen(settings, route), read_route(path_of(settings, TRACK)).policy
    planned = replay.accept(policy)[:n]
    path = settings.dataset / TRACK / "test.jsonl"
    rows = read_rows(path, TRACK)[: len(planned)]
    with serving(hosted, slm) as known:
        env = known | {"SWAP_HOME": str(settings.swap_home)}
        with running_route(path_of(settings, TRACK), slm, env) as root:
            start = time.perf_counter()
            answers = ask(root, rows, read_facts(path, rows))
            seconds = time.perf_counter() - start
    local = [who == "slm" for who, _, _ in answers]
    point = route["test"]["points"][str(route["chosen"])]
    reasons = Counter(why.partition(":")[0] for who, why, _ in answers if who != "slm")
    records = [
        {
            "what": "09, from ledgers",
            "rows": len(rows),
            "local": point["accepted"],
            "right": point["right"],
            "refused by": {found["validator"]: found["rows"] for found in route["refused_by"]},
        },
        {
            "what": "served, live",
            "rows": len(rows),
            "local": sum(local),
            "right": sum(all(bits.values()) for _, _, bits in answers),
            "refused by": dict(reasons.most_common()),
            "decided alike": sum(a == bool(b) for a, b in zip(local, planned, strict=True)),
            "seconds": round(seconds, 1),
        },
    ]
    note = f"The route of {MODEL} on {TRACK}: {hosted.name} answers what {slm.name} may not."
    write_table("router_live", records, note)


def main(hosted: str, slm: str, n: str = "") -> None:
    """Record, in a temporary home with the recorded runs."""
    with open_record() as settings:
        record(settings, Path(hosted).resolve(), Path(slm).resolve(), int(n) if n else None)


if __name__ == "__main__":
    main(*sys.argv[1:])
