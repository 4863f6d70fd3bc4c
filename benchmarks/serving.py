"""Throughput of `swap serve` on this machine: 64 clients at once against one at a time.

    python -m benchmarks.serving

Both sides send the same requests over HTTP to the same server process with the packaged checkpoint,
in turns. Their answers are compared, since rounding depends on the batch. Writes
benchmarks/results/serving.json and a Markdown table beside it.
"""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.homes import DATASET
from benchmarks.records import write_table
from swaplib.demo.packaged import download_packaged
from swaplib.models.local import LocalSLM
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.prompts import build_messages
from swaplib.rows import read_rows
from swaplib.serving.server_process import running_server
from swaplib.settings import ROOT
from swaplib.web import open_client

REQUESTS, CLIENTS, MAX_NEW_TOKENS, REPEATS = 128, 64, 32, 1
SMALL = 16  # requests sent one at a time; that side's rate does not depend on their number


def send(root: str, bodies: list[dict], clients: int) -> tuple[float, list[str]]:
    """Requests a second, and the answers in the order of the bodies."""

    def ask(body: dict) -> str:
        with open_client(root, timeout_s=600) as client:
            answer = client.post("/v1/chat/completions", json=body).json()
        return answer["choices"][0]["message"]["content"]

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(ask, bodies))
    return len(bodies) / (time.perf_counter() - start), answers


def main() -> None:
    """Measure, print, and write the record."""
    rows = read_rows(DATASET / "toolcall" / "train.jsonl", "toolcall")[:REQUESTS]
    chats = [build_messages("toolcall", row.prompt) for row in rows]
    bodies = [{"messages": chat, "max_tokens": MAX_NEW_TOKENS} for chat in chats]
    slm = LocalSLM(Checkpoint(download_packaged(ROOT / "slm_swap" / "models")), CLIENTS)
    rates, equal, answered = {1: [], CLIENTS: []}, 0, 0
    with running_server(slm, "slm") as root:
        send(root, bodies[:2], 1)
        for _ in range(REPEATS):
            rate, alone = send(root, bodies[:SMALL], 1)
            rates[1].append(rate)
            rate, together = send(root, bodies, CLIENTS)
            rates[CLIENTS].append(rate)
            answered += len(together)
            equal += sum(a == b for a, b in zip(alone, together, strict=False))
    medians = {clients: statistics.median(found) for clients, found in rates.items()}
    record = {
        "case": f"{CLIENTS} clients at once against one at a time",
        "requests": REQUESTS,
        "max_new_tokens": MAX_NEW_TOKENS,
        "requests_per_s": round(medians[CLIENTS], 2),
        "one_at_a_time_per_s": round(medians[1], 2),
        "ratio": round(medians[CLIENTS] / medians[1], 2),
        "repeats": REPEATS,
        "answered": f"{answered} of {REQUESTS * REPEATS}",
        "equal_outputs": f"{equal} of {SMALL * REPEATS}",
    }
    write_table("serving", [record])


if __name__ == "__main__":
    main()
