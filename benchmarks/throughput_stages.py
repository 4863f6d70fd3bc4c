"""Where the time of a local evaluation goes: loading, prefill, decoding, scoring, ledger, trace.

    python -m benchmarks.throughput_stages

The packaged checkpoint with the stand-in's adapter. Records go to
benchmarks/results/throughput.json, part `stages`.
"""

import statistics
import time
from collections.abc import Sequence

from benchmarks.local_timing import (
    MAX_NEW_TOKENS,
    REPEATS,
    ROWS,
    SLOTS,
    TRACK,
    measure_parts,
    name_checkpoint,
    read_chats,
    run,
    sort_chats,
)
from benchmarks.records import Record, make_record
from swaplib.files import append_line, hash_text
from swaplib.metrics import score_row
from swaplib.models.local_model import load
from swaplib.prompts import build_messages
from swaplib.rows import Generation, LedgerLine, Row, read_rows
from swaplib.settings import Settings
from swaplib.tracing.run_trace import RunTrace


def measure_stages(settings: Settings) -> list[Record]:
    """Seconds of an evaluation of the stand-in's adapter by stage."""
    checkpoint = name_checkpoint(settings, "slm_ft")
    load(checkpoint)  # the first load also pays for imports and fills the disk's cache
    start = time.perf_counter()
    model = load(checkpoint)
    stages = {"loading": time.perf_counter() - start}
    chats = sort_chats(checkpoint, read_chats(settings))
    run(model, chats[:2], 2)
    for name, limit in {"prefill (one token each)": 1, "decode": MAX_NEW_TOKENS}.items():
        runs = [run(model, chats, SLOTS[-1], max_new_tokens=limit)[0] for _ in range(REPEATS)]
        stages[name] = statistics.median(runs) * ROWS
    stages["decode"] -= stages["prefill (one token each)"]
    stages |= time_records(settings)
    return [
        make_record(f"{stage} ({ROWS} rows, slm_ft)", seconds, None, "s")
        for stage, seconds in stages.items()
    ]


def time_records(settings: Settings) -> dict[str, float]:
    """Seconds for the scores, ledger lines and spans of all rows."""
    rows = read_rows(settings.dataset / TRACK / "test.jsonl", TRACK)[:ROWS]
    start = time.perf_counter()
    scores = [score_row(TRACK, row.completion, row.completion) for row in rows]
    stages = {"scoring": time.perf_counter() - start}
    start = time.perf_counter()
    for i, row in enumerate(rows):
        answer = Generation(row.completion, "ok", "stop", 1, 1, 1.0)
        line = LedgerLine(i, hash_text(""), answer, scores[i], 1.0)
        append_line(settings.swap_home / "ledger.jsonl", line.to_json())
    stages["ledger"] = time.perf_counter() - start
    return stages | {"tracing": time_trace(settings, rows, scores)}


def time_trace(settings: Settings, rows: Sequence[Row], scores: Sequence[dict[str, bool]]) -> float:
    """Seconds for the spans and scores of all rows, in the outbox."""
    start = time.perf_counter()
    run_id, folder = "20260101T000000000Z-x", settings.swap_home / "x"
    with RunTrace(settings, run_id, folder, "x", {}, []) as trace:
        for i, row in enumerate(rows):
            answer = Generation(row.completion, "ok", "stop", 1, 1, 1.0)
            line = LedgerLine(i, hash_text(row.prompt), answer, scores[i], time.time())
            trace.add_generation(line, build_messages(TRACK, row.prompt), "x", MAX_NEW_TOKENS)
        trace.finish({}, {})
    return time.perf_counter() - start


if __name__ == "__main__":
    measure_parts({"stages": measure_stages}, "stages")
