"""How much of the time is ours: the hosted path under a real model's latencies, under rate limits, and a run's overheads.

    python -m benchmarks.throughput_hosted hosted       # 32 calls at once against one; our own part of a row
    python -m benchmarks.throughput_hosted rate_limit   # the rate reached under a limit, and the 429s
    python -m benchmarks.throughput_hosted overheads    # imports, ledger, trace, resume, scoring

Client and endpoint (scripted_endpoint.py) are two processes of this machine and share its cores. Each command replaces its
own part of benchmarks/results/throughput.json and throughput.md. Medians of REPEATS, with their spread.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from benchmarks.records import make_record, write_records
from benchmarks.scripted_endpoint import ANSWER, BURST_S, Options, answering, draw_latency
from swaplib.evaluation import evaluate
from swaplib.files import append_line, hash_text, read_appended, write_text
from swaplib.metrics import score_rows
from swaplib.models.replies import CallFailed
from swaplib.prompts import build_messages
from swaplib.provenance import describe_machine
from swaplib.rows import Row, read_ledger, read_rows, write_rows
from swaplib.serving.server_process import find_free_port
from swaplib.settings import ROOT, Settings, load_settings
from swaplib.tracing.run_trace import RunTrace
from swaplib.web import open_client

REPEATS, CONCURRENCY, ROWS, MEDIAN_S, LIMIT = 3, 32, 1000, 0.6, 256
SEQUENTIAL_ROWS = 200
PER_MINUTE, LIMITED_ROWS = 1200, 300
LINES, MANY = 500, 100_000


def set_up(home: Path, address: str) -> Settings:
    """Settings with a home of their own and the endpoint as the hosted LLM."""
    known = {
        "azure_endpoint": address,
        "azure_deployment": "scripted",
        "azure_api_key": "none-is-needed",
    }
    known |= {"swap_home": home, "swap_tracing": "outbox", "swap_row_limit": None}
    return load_settings().model_copy(
        update=known | {"azure_requests_per_minute": None, "azure_tokens_per_minute": None}
    )


@contextmanager
def home_of(n: int, address: str) -> Iterator[Settings]:
    """Settings with n test rows of their own in a folder that goes with them."""
    with tempfile.TemporaryDirectory() as home:
        settings = set_up(Path(home), address)
        write_rows(
            settings.dataset / "toolcall" / "test.jsonl",
            [Row(prompt_of(i), ANSWER) for i in range(n)],
        )
        yield settings


def prompt_of(index: int) -> str:
    """A row's prompt, of 100 to 1,000 characters."""
    return f"Request {index}? " + "Call the tool with x. " * (5 + index * 7 % 40)


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

    chats = iter([build_messages("toolcall", prompt_of(i)) for i in range(n)])

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


def measure_hosted() -> list[dict[str, Any]]:
    """Many calls at once against one at a time, and our own part of a row."""
    with answering(Options(MEDIAN_S)) as address, home_of(ROWS, address) as settings:
        many = [1 / time_run(settings, ROWS, CONCURRENCY) for _ in range(REPEATS)]
        alone = 1 / time_run(settings, SEQUENTIAL_ROWS, 1)
    means = [
        statistics.mean(draw_latency(MEDIAN_S, prompt_of(i)) for i in range(n))
        for n in (ROWS, SEQUENTIAL_ROWS)
    ]
    shared = "client and endpoint share the machine's cores"
    latency = "mean latencies drawn {:.3f} and {:.3f} s; ".format(*means) + shared
    case = f"{CONCURRENCY} calls at once ({ROWS} rows) against one ({SEQUENTIAL_ROWS} rows), median latency {MEDIAN_S:g} s"
    records = [
        make_record(
            case, statistics.median(many), alone, "rows/s", spread=spread_of(many), note=latency
        )
    ]
    with answering(Options()) as address, home_of(ROWS, address) as settings:
        for n in (1, CONCURRENCY):
            pairs = [
                (1000 * time_run(settings, ROWS, n), 1000 * time_sdk(address, ROWS, n))
                for _ in range(REPEATS)
            ]
            own = [ours - bare for ours, bare in pairs]
            ours, bare = (statistics.median(times) for times in zip(*pairs, strict=True))
            case = f"a row of a run against a call of the SDK alone, answers at once, {n} at once"
            note = f"ours alone: {statistics.median(own):.2f} ms, {min(own):.2f} to {max(own):.2f}; {shared}"
            records.append(
                make_record(
                    case, ours, bare, "ms", spread=spread_of([o for o, _ in pairs]), note=note
                )
            )
    return records


def measure_rate_limit() -> list[dict[str, Any]]:
    """The rate reached under a limit of requests, of tokens, and where the limits are not given or given wrongly."""
    mean = statistics.mean(
        len(m["content"])
        for i in range(LIMITED_ROWS)
        for m in build_messages("toolcall", prompt_of(i))
    )
    per_call = 2 * mean / 4 + LIMIT  # two messages
    tokens = round(PER_MINUTE * per_call)
    requests, both = Options(MEDIAN_S, PER_MINUTE), Options(MEDIAN_S, 10 * PER_MINUTE, tokens)
    cases = [
        (f"{PER_MINUTE} requests a minute", requests, (PER_MINUTE, None)),
        (f"{tokens:,} tokens a minute", both, (10 * PER_MINUTE, tokens)),
        (
            f"{PER_MINUTE} requests a minute, given as {PER_MINUTE * 5 // 4}",
            requests,
            (PER_MINUTE * 5 // 4, None),
        ),
        (f"{PER_MINUTE} requests a minute, not given", requests, (None, None)),
    ]
    return [measure_limited(*case) for case in cases]


def measure_limited(
    what: str, options: Options, given: tuple[int | None, int | None]
) -> dict[str, Any]:
    """Calls let in a minute against those allowed; 429s and rows in error of each repeat."""
    rates, refused, lost = [], [], []
    for _ in range(REPEATS):
        with answering(options) as address, home_of(LIMITED_ROWS, address) as settings:
            limits = dict(
                zip(("azure_requests_per_minute", "azure_tokens_per_minute"), given, strict=True)
            )
            run = evaluate.run_model(
                settings.model_copy(update=limits), "toolcall", "azure", concurrency=CONCURRENCY
            )
            with open_client(address.removesuffix("/v1")) as client:
                seen = client.get("/seen").json()
        rates.append(60 * (len(seen["let_in"]) - 1) / (seen["let_in"][-1] - seen["let_in"][0]))
        refused.append(seen["n_429"])
        lost.append(run.metrics["n_by_status"]["error"])
    case = f"{what}: {LIMITED_ROWS} rows, {CONCURRENCY} calls at once at the most"
    more = {"spread": spread_of(rates), "n_429": refused, "rows_in_error": lost}
    more["note"] = (
        f"allowed besides, once: {PER_MINUTE / 60 * BURST_S:.0f} calls, what the endpoint's full bucket holds"
    )
    return make_record(case, statistics.median(rates), PER_MINUTE, "rows/min", **more)


def measure_overheads() -> list[dict[str, Any]]:
    """Imports, a row's ledger line and span, and what grows with the rows: scoring and resuming."""
    records = []
    bare = time_all(lambda: run_python("pass"))
    for module in ("swaplib.metrics", "swaplib.cli"):
        ours = time_all(lambda module=module: run_python(f"import {module}"))
        records.append(compare(f"import {module} against bare Python", ours, bare, "s"))
    records += measure_lines()
    sizes = (MANY // 2, MANY)
    for track in ("toolcall", "structured"):
        found = {n: measure_apart(REPEATS, "score", track, str(n)) for n in sizes}
        records += describe_growth(f"scoring {{}} rows, {track}", found)
    read, resumed = {}, {}
    for n in sizes:
        with broken_run(n) as (settings, ledger):
            read[n] = measure_apart(REPEATS, "read", str(ledger))
            resumed[n] = measure_apart(
                1, "resume", str(settings.swap_home), settings.azure_endpoint or ""
            )
            if len(read_ledger(ledger)) != n:
                raise RuntimeError(
                    f"expected {n} rows in {ledger}, found {len(read_ledger(ledger))}"
                )
    records += describe_growth("reading a ledger of {} rows", read)
    return records + describe_growth(
        "resuming a run of {} rows of which one is left, the whole call", resumed
    )


def measure_lines() -> list[dict[str, Any]]:
    """A row's ledger line synced and only written, and the line with its span against the line alone."""
    with answering(Options()) as address, home_of(1, address) as settings:
        run = evaluate.run_model(settings, "toolcall", "azure")
        line, messages = run.ledger[0], build_messages("toolcall", prompt_of(0))
        folder = settings.runs / "20260101T000000000Z-lines"
        path, plain = folder / "ledger.jsonl", folder / "plain.jsonl"

        def write(index: int) -> None:
            append_line(path, replace(line, index=index).to_json())

        def write_and_trace(index: int) -> None:
            write(index)
            trace.add_generation(replace(line, index=index), messages, "scripted", LIMIT)

        synced = [time_each(write) for _ in range(REPEATS)]
        with plain.open("a") as file:
            written = [
                time_each(lambda i: file.write(replace(line, index=i).to_json() + "\n"))
                for _ in range(REPEATS)
            ]
        traced = []
        for repeat in range(REPEATS):
            run_id = f"{folder.name}-{repeat}"
            with RunTrace(settings, run_id, settings.runs / run_id, "lines", {}, []) as trace:
                traced.append(time_each(write_and_trace))
    return [
        compare(
            "a ledger line, synced to disk, against one that is only written", synced, written, "ms"
        ),
        compare(
            "a ledger line and its span, both synced, against the ledger line", traced, synced, "ms"
        ),
    ]


def compare(case: str, ours: Sequence[float], other: Sequence[float], unit: str) -> dict[str, Any]:
    """A record of medians, with the spread of ours."""
    return make_record(
        case, statistics.median(ours), statistics.median(other), unit, spread=spread_of(ours)
    )


def describe_growth(case: str, found: dict[int, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Seconds, and peak memory of the process, for twice the rows against the rows: a ratio of 2 is linear."""
    (few, others), (many, ours) = found.items()
    what = f"{case.format(f'{many:,}')} against {few:,}"
    seconds = compare(
        what, [one["seconds"] for one in ours], [one["seconds"] for one in others], "s"
    )
    peak = compare(
        f"{what}: peak memory", [one["gib"] for one in ours], [one["gib"] for one in others], "GiB"
    )
    return [seconds, peak]


@contextmanager
def broken_run(n: int) -> Iterator[tuple[Settings, Path]]:
    """A run of n rows that lacks its last answer, its ledger, and an endpoint that answers.

    Its first line and span were made by a real run that the endpoint refused after one call; the others are copies of them
    under the other rows' indices and ids.
    """
    port = find_free_port()
    with home_of(n, f"http://127.0.0.1:{port}/v1") as settings:
        with answering(Options(calls=1), port), contextlib.suppress(CallFailed):
            evaluate.run_model(settings, "toolcall", "azure", concurrency=1)
        [ledger] = settings.runs.glob("2*/ledger.jsonl")
        run_id, trace = ledger.parent.name, ledger.with_name("trace.jsonl")
        [line] = read_ledger(ledger).values()
        lines = [
            replace(line, index=i, prompt_sha256=hash_text(prompt_of(i))).to_json()
            for i in range(n - 1)
        ]
        write_text(ledger, "".join(f"{text}\n" for text in lines))
        ids = [hashlib.sha256(f"{run_id}/{text}".encode()).hexdigest()[:16] for text in lines]
        [span] = [text for text in read_appended(trace) if ids[0] in text]
        with trace.open("a") as file:
            file.writelines(span.replace(ids[0], other) + "\n" for other in ids[1:])
        with answering(Options(), port):
            yield settings, ledger


def measure_apart(repeats: int, *words: str) -> list[dict[str, float]]:
    """Seconds and peak memory of one task, each time in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.throughput_hosted", "apart", *words]
    answers = [
        subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(repeats)
    ]
    return [json.loads(answer.stdout.splitlines()[-1]) for answer in answers]


def work_apart(what: str, *words: str) -> None:
    """One task in this process; prints its seconds and the process's peak memory as JSON."""
    step = {"score": prepare_score, "read": prepare_read, "resume": prepare_resume}[what](*words)
    start = time.perf_counter()
    step()
    seconds = time.perf_counter() - start
    # not resource's ru_maxrss, which a process inherits from the one that started it
    [peak] = [
        row.split()[1]
        for row in Path("/proc/self/status").read_text().splitlines()
        if row.startswith("VmHWM")
    ]
    print(json.dumps({"seconds": seconds, "gib": int(peak) / 2**20}))


def prepare_score(track: str, n: str) -> Callable[[], object]:
    """Scoring of n rows: the shipped test rows' golds over and over, as gold and as output."""
    shipped = read_rows(ROOT / "slm_swap" / "02_dataset" / track / "test.jsonl", track)
    golds = [row.completion for row in islice(cycle(shipped), int(n))]
    return lambda: score_rows(track, golds, golds)


def prepare_read(ledger: str) -> Callable[[], object]:
    """Reading of a ledger."""
    return lambda: read_ledger(Path(ledger))


def prepare_resume(home: str, address: str) -> Callable[[], object]:
    """The call that finishes a broken run."""
    settings = set_up(Path(home), address)
    describe_machine()  # imports torch, which is no part of resuming
    return lambda: evaluate.run_model(settings, "toolcall", "azure")


def run_python(code: str) -> None:
    """A Python process that runs code."""
    subprocess.run([sys.executable, "-c", code], check=True)


def time_each(step: Callable[[int], object]) -> float:
    """Milliseconds of one of LINES steps, on average."""
    start = time.perf_counter()
    for i in range(LINES):
        step(i)
    return 1000 * (time.perf_counter() - start) / LINES


def time_all(step: Callable[[], object]) -> list[float]:
    """Seconds of each of REPEATS."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return times


def spread_of(values: Sequence[float]) -> str:
    """Least and most."""
    return f"{min(values):.4g} to {max(values):.4g}"


def main(part: str, *words: str) -> None:
    """Measure one part and write its records; or do one task for another process."""
    if part == "apart":
        return work_apart(*words)
    describe_machine()  # imports torch, which the first run would do otherwise
    measure = {
        "hosted": measure_hosted,
        "rate_limit": measure_rate_limit,
        "overheads": measure_overheads,
    }[part]
    print("load before:", os.getloadavg())
    records = measure()
    write_records(part, records)
    print(json.dumps(records, indent=2))
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
