"""Many clients at once against `swap serve --route`, whose hosted LLM fails a share of its calls.

    python -m benchmarks.router_load
    python -m benchmarks.router_load --model MODEL --adapter ADAPTER --dtype 4bit --batch-size 64

All clients ask at once, the requests of train rows alone (a CPU takes seconds for each whole
prompt): first the server without a route, then the same server with one, whose threshold lets about
half of the answers stay. Counted are the answers, the failures and whether they have a reason, the
calls that the hosted LLM has seen against the budget, and the traces. Writes
benchmarks/results/router_load.json and a Markdown table beside it.
"""

import argparse
import json
import os
import statistics
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.failing_endpoint import Endpoint, failing_endpoint, make_text
from benchmarks.homes import DATASET, open_home
from benchmarks.records import write_table
from swaplib.data.facts import read_facts
from swaplib.demo.packaged import download_packaged
from swaplib.files import write_json
from swaplib.models.local import LocalSLM
from swaplib.models.local_checkpoint import find_checkpoint
from swaplib.prompts import build_messages
from swaplib.routing.route_file import path_of
from swaplib.rows import read_rows
from swaplib.serving.server_process import running_server
from swaplib.settings import ROOT, Settings
from swaplib.tracing.outbox import list_spans, read_outbox
from swaplib.web import open_client, parse_body

PILOT = 24  # rows that tell where half of the answers are above the threshold


@dataclass(frozen=True)
class Reply:
    """What came back for one request."""

    status: int
    seconds: float
    who: str
    reason: str
    code: str
    request_id: str
    is_own: bool


def ask(root: str, body: dict[str, Any]) -> Reply:
    """Send one request, as a client of its own."""
    start = time.perf_counter()
    with open_client(root, timeout_s=3600) as client:
        answer = client.post("/v1/chat/completions", json=body)
    seconds = time.perf_counter() - start
    content = parse_body(answer.content)
    who = answer.headers.get("x-swap-route", "")
    text = content["choices"][0]["message"]["content"] if answer.status_code == 200 else ""
    return Reply(
        status=answer.status_code,
        seconds=seconds,
        who=who,
        reason=answer.headers.get("x-swap-reason", ""),
        code=(content.get("error") or {}).get("code") or "",
        request_id=answer.headers.get("x-request-id", ""),
        is_own=who != "hosted" or not text or text == make_text(body),
    )


def ask_all(root: str, bodies: Sequence[dict[str, Any]], clients: int) -> list[Reply]:
    """Send all requests, so many at once from the first on."""
    at_once = threading.Barrier(clients)

    def send(number: int) -> list[Reply]:
        at_once.wait()
        return [ask(root, body) for body in bodies[number::clients]]

    with ThreadPoolExecutor(clients) as pool:
        return [reply for replies in pool.map(send, range(clients)) for reply in replies]


def find_threshold(slm: LocalSLM, bodies: Sequence[dict[str, Any]]) -> float:
    """The mean log-probability that half of the first answers have."""
    chats = [body["messages"] for body in bodies[:PILOT]]
    found = slm.generate(chats, bodies[0]["max_tokens"])
    return statistics.median(generation.mean_logprob or 0.0 for _, generation in found)


def write_route(settings: Settings, slm: LocalSLM, threshold: float) -> Path:
    """A route of the confidence alone, in the form in which 09 writes one."""
    path = path_of(settings, "toolcall")
    policy = {"has_validators": False, "signal": "mean_logprob", "threshold": threshold}
    agreement = {"val": {"n": 0, "agreed": 0, "rate": None, "interval": None}}
    route = {"track": "toolcall", "model": "slm", "policy": policy, "agreement": agreement}
    write_json(path, route | {"identity": slm.identity()})
    return path


def describe(case: str, replies: Sequence[Reply], wall_s: float) -> dict[str, Any]:
    """What holds for a server with a route and without one."""
    seconds = sorted(reply.seconds for reply in replies)
    answered = [reply for reply in replies if reply.status == 200]
    failed = [reply for reply in replies if reply.status != 200]
    centiles = statistics.quantiles(seconds, n=100, method="inclusive")
    return {
        "case": case,
        "requests": len(replies),
        "answered": len(answered),
        "failed_with_a_reason": sum(bool(reply.code and reply.reason) for reply in failed),
        "failed_without": sum(not (reply.code and reply.reason) for reply in failed),
        "p50_s": round(centiles[49], 2),
        "p95_s": round(centiles[94], 2),
        "requests_per_s": round(len(replies) / wall_s, 2),
    }


def describe_route(
    replies: Sequence[Reply], endpoint: Endpoint, budget: int, settings: Settings
) -> dict[str, Any]:
    """What holds for a route alone."""
    asked = {reply.request_id for reply in replies}
    traced = count_traces(settings)
    return {
        "answered_by": dict(Counter(reply.who for reply in replies if reply.status == 200)),
        "failures": dict(Counter(reply.code for reply in replies if reply.status != 200)),
        "answers_of_another": sum(not reply.is_own for reply in replies),
        "hosted_calls": len(endpoint.calls),
        "hosted_failed": sum(end != "200" for end in endpoint.calls),
        "budget": budget,
        "traced_once": f"{sum(traced[found] == 1 for found in asked)} of {len(replies)}",
    }


def count_traces(settings: Settings) -> Counter[str]:
    """How many traces of each request are on disk, by the request's id."""
    found: Counter[str] = Counter()
    for path in settings.runs.glob("*-route-*/trace.jsonl"):
        for line in read_outbox(path):
            for span in list_spans(line):
                for attribute in span["attributes"]:
                    if attribute["key"].endswith("metadata.request_id"):
                        found[json.loads(attribute["value"]["stringValue"])] += 1
    return found


def make_bodies(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The requests: those of train rows, with the whole prompt or alone."""
    path = DATASET / "toolcall" / "train.jsonl"
    rows = read_rows(path, "toolcall")
    chats: list[Any] = [build_messages("toolcall", row.prompt) for row in rows]
    if not options.whole_prompts:
        facts = read_facts(path, rows) or []
        chats = [[{"role": "user", "content": fact.request}] for fact in facts]
    return [
        {"messages": chats[i % len(chats)], "max_tokens": options.max_new_tokens}
        for i in range(options.requests)
    ]


def measure(slm: LocalSLM, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Both cases, one after the other."""
    bodies = make_bodies(options)
    more = ["--max-waiting", str(options.requests)]
    with failing_endpoint(options.failing) as endpoint, open_home() as settings:
        route = write_route(settings, slm, find_threshold(slm, bodies))
        routed = ["--route", str(route), "--daily-calls", str(options.daily_calls)]
        routed += ["--deadline-s", str(options.deadline_s)]
        env = os.environ | {
            "AZURE_ENDPOINT": endpoint.address,
            "AZURE_DEPLOYMENT": "scripted",
            "AZURE_API_KEY": "none-is-needed",
            "SWAP_HOME": str(settings.swap_home),
            "SWAP_TRACING": "outbox",
        }
        records = []
        for case, words in (("without a route", more), ("with a route", [*more, *routed])):
            with running_server(slm, "slm", options=words, env=env) as root:
                ask_all(root, bodies[:2], 2)  # the first ones load what is loaded late
                start = time.perf_counter()
                replies = ask_all(root, bodies, options.clients)
                wall_s = time.perf_counter() - start
            records.append({"clients": options.clients} | describe(case, replies, wall_s))
        records[-1] |= describe_route(replies, endpoint, options.daily_calls, settings)
    return records


def main() -> None:
    """Measure, print, and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, help="the packaged checkpoint where left out")
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--dtype", default="4bit")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--max-new-tokens", type=int, default=8)
    parser.add_argument("--whole-prompts", action="store_true", help="not the requests alone")
    parser.add_argument("--failing", type=float, default=0.3, help="share of hosted calls")
    parser.add_argument("--daily-calls", type=int, default=110)
    parser.add_argument("--deadline-s", type=float, default=600)
    parser.add_argument("--name", default="router_load", help="of the record")
    options = parser.parse_args()
    folder = options.model or download_packaged(ROOT / "slm_swap" / "models")
    checkpoint = find_checkpoint(folder, options.adapter, options.dtype)
    records = measure(LocalSLM(checkpoint, options.batch_size), options)
    about = {"model": folder.name, "dtype": options.dtype, "max_new_tokens": options.max_new_tokens}
    note = (
        f"{options.clients} clients at once over loopback; a share of {options.failing:g} of the "
        "hosted LLM's calls fails (500, 503, 429 and closed connections)."
    )
    write_table(options.name, [record | about for record in records], note)


if __name__ == "__main__":
    main()
