"""What a run costs besides its calls: imports, ledger, trace, resuming, scoring.

    python -m benchmarks.throughput_hosted overheads        # measures them all
    python -m benchmarks.run_overheads score toolcall 1000  # one task: its seconds and peak memory

Tasks whose memory counts run in processes of their own, by the second command.
"""

import contextlib
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

from benchmarks.homes import DATASET, make_prompt, name_endpoint, open_scripted_home, use_home
from benchmarks.records import Record, compare_medians
from benchmarks.scripted_endpoint import Options, answering
from swaplib.evaluation import evaluate
from swaplib.files import append_line, hash_text, read_appended, write_text
from swaplib.metrics import score_rows
from swaplib.models.replies import CallFailed
from swaplib.prompts import build_messages
from swaplib.provenance import describe_machine
from swaplib.rows import read_ledger, read_rows
from swaplib.serving.server_process import find_free_port
from swaplib.settings import Settings
from swaplib.tracing.run_trace import RunTrace

REPEATS, LIMIT = 3, 256
LINES, MANY = 500, 100_000


def measure_overheads() -> list[Record]:
    """Imports, a row's ledger line and span, and what grows with the rows: scoring, resuming."""
    records = []
    bare = time_all(lambda: run_python("pass"))
    for module in ("swaplib.metrics", "swaplib.cli"):
        ours = time_all(lambda module=module: run_python(f"import {module}"))
        records.append(compare_medians(f"import {module} against bare Python", ours, bare, "s"))
    records += measure_lines()
    sizes = (MANY // 2, MANY)
    for track in ("toolcall", "structured"):
        scored = {n: measure_apart(REPEATS, "score", track, str(n)) for n in sizes}
        records += describe_growth(f"scoring {{}} rows, {track}", scored)
    read, resumed = {}, {}
    for n in sizes:
        with broken_run(n) as (settings, ledger):
            read[n] = measure_apart(REPEATS, "read", str(ledger))
            words = (str(settings.swap_home), settings.azure_endpoint or "")
            resumed[n] = measure_apart(1, "resume", *words)
            if (found := len(read_ledger(ledger))) != n:
                raise RuntimeError(f"expected {n} rows in {ledger}, found {found}")
    records += describe_growth("reading a ledger of {} rows", read)
    case = "resuming a run of {} rows of which one is left, the whole call"
    return records + describe_growth(case, resumed)


def measure_lines() -> list[Record]:
    """A row's ledger line, synced against only written, and with its span against alone."""
    with answering(Options()) as address, open_scripted_home(1, address) as settings:
        run = evaluate.run_model(settings, "toolcall", "azure")
        line, messages = run.ledger[0], build_messages("toolcall", make_prompt(0))
        folder = settings.runs / "20260101T000000000Z-lines"
        path, plain = folder / "ledger.jsonl", folder / "plain.jsonl"

        def write(index: int) -> None:
            append_line(path, replace(line, index=index).to_json())

        def write_and_trace(index: int) -> None:
            write(index)
            trace.add_generation(replace(line, index=index), messages, "scripted", LIMIT)

        synced = [time_each(write) for _ in range(REPEATS)]
        with plain.open("a") as file:

            def write_plainly(index: int) -> None:
                file.write(replace(line, index=index).to_json() + "\n")

            written = [time_each(write_plainly) for _ in range(REPEATS)]
        traced = []
        for repeat in range(REPEATS):
            run_id = f"{folder.name}-{repeat}"
            with RunTrace(settings, run_id, settings.runs / run_id, "lines", {}, []) as trace:
                traced.append(time_each(write_and_trace))
    line_alone = "a ledger line, synced to disk, against one that is only written"
    with_span = "a ledger line and its span, both synced, against the ledger line"
    return [
        compare_medians(line_alone, synced, written, "ms"),
        compare_medians(with_span, traced, synced, "ms"),
    ]


def describe_growth(case: str, found: dict[int, list[dict[str, float]]]) -> list[Record]:
    """Seconds and peak memory for twice the rows against the rows: a ratio of 2 is linear."""
    (few, others), (many, ours) = found.items()
    what = f"{case.format(f'{many:,}')} against {few:,}"
    records = []
    for key, case, unit in (("seconds", what, "s"), ("gib", f"{what}: peak memory", "GiB")):
        sides = [[one[key] for one in side] for side in (ours, others)]
        records.append(compare_medians(case, *sides, unit))
    return records


@contextmanager
def broken_run(n: int) -> Iterator[tuple[Settings, Path]]:
    """A run of n rows that lacks its last answer, and its ledger, while an endpoint answers.

    Its first line and span were made by a real run that the endpoint refused after one call; the
    others are copies of them under the other rows' indices and ids.
    """
    port = find_free_port()
    with open_scripted_home(n, f"http://127.0.0.1:{port}/v1") as settings:
        with answering(Options(calls=1), port), contextlib.suppress(CallFailed):
            evaluate.run_model(settings, "toolcall", "azure", concurrency=1)
        [ledger] = settings.runs.glob("2*/ledger.jsonl")
        run_id, trace = ledger.parent.name, ledger.with_name("trace.jsonl")
        [line] = read_ledger(ledger).values()
        hashes = [hash_text(make_prompt(i)) for i in range(n - 1)]
        copies = [replace(line, index=i, prompt_sha256=h) for i, h in enumerate(hashes)]
        lines = [copy.to_json() for copy in copies]
        write_text(ledger, "".join(f"{text}\n" for text in lines))
        ids = [hashlib.sha256(f"{run_id}/{text}".encode()).hexdigest()[:16] for text in lines]
        [span] = [text for text in read_appended(trace) if ids[0] in text]
        with trace.open("a") as file:
            file.writelines(span.replace(ids[0], other) + "\n" for other in ids[1:])
        with answering(Options(), port):
            yield settings, ledger


def measure_apart(repeats: int, *words: str) -> list[dict[str, float]]:
    """Seconds and peak memory of one task, each time in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.run_overheads", *words]
    answers = []
    for _ in range(repeats):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        answers.append(json.loads(done.stdout.splitlines()[-1]))
    return answers


def work_apart(what: str, *words: str) -> None:
    """One task in this process; prints its seconds and the process's peak memory as JSON."""
    step = {"score": prepare_score, "read": prepare_read, "resume": prepare_resume}[what](*words)
    start = time.perf_counter()
    step()
    seconds = time.perf_counter() - start
    # Not resource's ru_maxrss, which a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text().splitlines()
    [peak] = [row.split()[1] for row in status if row.startswith("VmHWM")]
    print(json.dumps({"seconds": seconds, "gib": int(peak) / 2**20}))


def prepare_score(track: str, n: str) -> Callable[[], object]:
    """Scoring of n rows: the shipped test rows' golds again and again, as gold and as output."""
    shipped = read_rows(DATASET / track / "test.jsonl", track)
    golds = [row.completion for row in islice(cycle(shipped), int(n))]
    return lambda: score_rows(track, golds, golds)


def prepare_read(ledger: str) -> Callable[[], object]:
    """Reading of a ledger."""
    return lambda: read_ledger(Path(ledger))


def prepare_resume(home: str, address: str) -> Callable[[], object]:
    """The call that finishes a broken run."""
    settings = use_home(Path(home), **name_endpoint(address))
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


if __name__ == "__main__":
    work_apart(*sys.argv[1:])
