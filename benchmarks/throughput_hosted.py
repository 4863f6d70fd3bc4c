"""How much of the time is ours: hosted calls with real latencies, and under rate limits.

    python -m benchmarks.throughput_hosted hosted      # 32 calls in flight against one; our part
    python -m benchmarks.throughput_hosted rate_limit  # the rate reached under a limit, the 429s
    python -m benchmarks.throughput_hosted overheads   # imports, ledger, trace, resume, scoring

Client and endpoint (scripted_endpoint.py) are two processes of this machine and share its cores.
Each command replaces its own part of benchmarks/results/throughput.json and throughput.md. Medians
of REPEATS, with their spread. The overheads are measured by run_overheads.py.
"""

import asyncio
import json
import os
import statistics
import sys
import time

from benchmarks.homes import make_prompt, open_scripted_home
from benchmarks.records import Record, compare_medians, write_part
from benchmarks.run_overheads import measure_overheads
from benchmarks.scripted_endpoint import BURST_S, Options, answering, draw_latency
from swaplib.evaluation import evaluate
from swaplib.prompts import build_messages
from swaplib.provenance import describe_machine
from swaplib.settings import Settings
from swaplib.web import open_client

REPEATS, CONCURRENCY, ROWS, MEDIAN_S, LIMIT = 3, 32, 1000, 0.6, 256
SEQUENTIAL_ROWS = 200
PER_MINUTE, LIMITED_ROWS = 1200, 300


def time_run(settings: Settings, limit: int, concurrency: int) -> float:
    """Seconds for one row of an evaluation: plan, calls, ledger, trace and metrics."""
    start = time.perf_counter()
    run = evaluate.run_model(
        settings, "toolcall", "azure", limit=limit, concurrency=concurrency, fresh=True
    )
    seconds = (time.perf_counter() - start) / limit
    if not run.metrics["complete"] or run.metrics["args_exact_rate"] != 1:
        raise RuntimeError(f"rows were lost: {run.metrics['n_by_status']}")
    return seconds


def time_sdk(address: str, n: int, concurrency: int) -> float:
    """Seconds for one call of the openai SDK alone, the same calls."""
    from openai import AsyncOpenAI

    chats = iter([build_messages("toolcall", make_prompt(i)) for i in range(n)])

    async def ask_all() -> None:
        async with (
            AsyncOpenAI(base_url=address, api_key="none-is-needed") as client,
            asyncio.TaskGroup() as group,
        ):

            async def work() -> None:
                for messages in chats:
                    await client.chat.completions.create(
                        model="scripted", messages=messages, temperature=0, max_tokens=LIMIT
                    )

            for _ in range(concurrency):
                group.create_task(work())

    start = time.perf_counter()
    asyncio.run(ask_all())
    return (time.perf_counter() - start) / n


def measure_hosted() -> list[Record]:
    """Many calls at once against one at a time, and our own part of a row."""
    with answering(Options(MEDIAN_S)) as address, open_scripted_home(ROWS, address) as settings:
        many = [1 / time_run(settings, ROWS, CONCURRENCY) for _ in range(REPEATS)]
        alone = 1 / time_run(settings, SEQUENTIAL_ROWS, 1)
    means = [
        statistics.mean(draw_latency(MEDIAN_S, make_prompt(i)) for i in range(n))
        for n in (ROWS, SEQUENTIAL_ROWS)
    ]
    shared = "client and endpoint share the machine's cores"
    latency = "mean latencies drawn {:.3f} and {:.3f} s; ".format(*means) + shared
    case = f"{CONCURRENCY} calls at once ({ROWS} rows) against one ({SEQUENTIAL_ROWS} rows), "
    case += f"median latency {MEDIAN_S:g} s"
    records = [compare_medians(case, many, [alone], "rows/s") | {"note": latency}]
    with answering(Options()) as address, open_scripted_home(ROWS, address) as settings:
        for n in (1, CONCURRENCY):
            pairs = [
                (1000 * time_run(settings, ROWS, n), 1000 * time_sdk(address, ROWS, n))
                for _ in range(REPEATS)
            ]
            own = [ours - bare for ours, bare in pairs]
            ours, bare = zip(*pairs, strict=True)
            case = f"a row of a run against a call of the SDK alone, answers at once, {n} at once"
            note = f"ours alone: {statistics.median(own):.2f} ms, "
            note += f"{min(own):.2f} to {max(own):.2f}; {shared}"
            records.append(compare_medians(case, ours, bare, "ms") | {"note": note})
    return records


def measure_rate_limit() -> list[Record]:
    """The rate reached under limits of requests and tokens, also where they are given wrongly."""
    chats = [build_messages("toolcall", make_prompt(i)) for i in range(LIMITED_ROWS)]
    mean = statistics.mean(len(message["content"]) for chat in chats for message in chat)
    per_call = 2 * mean / 4 + LIMIT  # two messages
    tokens = round(PER_MINUTE * per_call)
    requests = Options(MEDIAN_S, PER_MINUTE)
    both = Options(MEDIAN_S, 10 * PER_MINUTE, tokens)
    wrong = PER_MINUTE * 5 // 4
    cases = [
        (f"{PER_MINUTE} requests a minute", requests, (PER_MINUTE, None)),
        (f"{tokens:,} tokens a minute", both, (10 * PER_MINUTE, tokens)),
        (f"{PER_MINUTE} requests a minute, given as {wrong}", requests, (wrong, None)),
        (f"{PER_MINUTE} requests a minute, not given", requests, (None, None)),
    ]
    return [measure_limited(*case) for case in cases]


def measure_limited(what: str, options: Options, given: tuple[int | None, int | None]) -> Record:
    """Calls let in a minute against those allowed; 429s and rows in error of each repeat."""
    names = ("azure_requests_per_minute", "azure_tokens_per_minute")
    limits = dict(zip(names, given, strict=True))
    rates, refused, lost = [], [], []
    for _ in range(REPEATS):
        with answering(options) as address, open_scripted_home(LIMITED_ROWS, address) as settings:
            limited = settings.model_copy(update=limits)
            run = evaluate.run_model(limited, "toolcall", "azure", concurrency=CONCURRENCY)
            with open_client(address.removesuffix("/v1")) as client:
                seen = client.get("/seen").json()
        rates.append(60 * (len(seen["let_in"]) - 1) / (seen["let_in"][-1] - seen["let_in"][0]))
        refused.append(seen["n_429"])
        lost.append(run.metrics["n_by_status"]["error"])
    case = f"{what}: {LIMITED_ROWS} rows, {CONCURRENCY} calls at once at the most"
    note = f"allowed besides, once: {PER_MINUTE / 60 * BURST_S:.0f} calls, "
    note += "what the endpoint's full bucket holds"
    record = compare_medians(case, rates, [PER_MINUTE], "rows/min")
    return record | {"n_429": refused, "rows_in_error": lost, "note": note}


PARTS = {
    "hosted": measure_hosted,
    "rate_limit": measure_rate_limit,
    "overheads": measure_overheads,
}


def main(part: str) -> None:
    """Measure one part and write its records."""
    describe_machine()  # imports torch, which the first run would do otherwise
    print("load before:", os.getloadavg())
    records = PARTS[part]()
    write_part(part, records)
    print(json.dumps(records, indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
