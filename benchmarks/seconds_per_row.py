"""Seconds for one row on this machine: batch 1 against the default batch, with the packaged checkpoint in 4-bit.

    .venv/bin/python benchmarks/seconds_per_row.py

Both sides answer the same test rows with the same token limit, in one process, alternating; the batch size bounds the time
of tests and demo. Writes benchmarks/results/seconds_per_row.json (flat records) and a Markdown table beside it.
"""

import statistics
import time
from pathlib import Path

from swaplib.checkpoints import PACKAGED_NAME, download
from swaplib.local import LocalSLM
from swaplib.prompts import build_messages
from swaplib.provenance import describe_machine
from swaplib.rows import read_rows, write_json, write_text
from swaplib.settings import ROOT

RESULTS = Path(__file__).parent / "results"
ROWS, REPEATS, MAX_NEW_TOKENS, BATCH_SIZES = 16, 3, 48, (1, 16)


def time_rows(slm: LocalSLM, track: str) -> float:
    """Seconds for one row: whole time over rows, template and decoding included, loading not."""
    rows = read_rows(ROOT / "slm_swap" / "02_dataset" / track / "test.jsonl", track)[:ROWS]
    chats = [build_messages(track, row.prompt) for row in rows]
    start = time.perf_counter()
    list(slm.generate(chats, MAX_NEW_TOKENS))
    return (time.perf_counter() - start) / ROWS


def main() -> None:
    """Measure, print, and write the records."""
    checkpoint = download(PACKAGED_NAME, ROOT / "slm_swap" / "models")
    slms = {size: LocalSLM(checkpoint, batch_size=size) for size in BATCH_SIZES}
    for slm in slms.values():
        slm.generate_batch(["warm up"], 2)
    machine, records = describe_machine(), []
    for track in ("toolcall", "structured"):
        seconds = {size: [] for size in BATCH_SIZES}
        for _ in range(REPEATS):
            for size, slm in slms.items():
                seconds[size].append(time_rows(slm, track))
        medians = {size: statistics.median(times) for size, times in seconds.items()}
        for size in BATCH_SIZES:
            records.append(
                {
                    "track": track,
                    "batch_size": size,
                    "seconds_per_row": round(medians[size], 3),
                    "spread": [round(min(seconds[size]), 3), round(max(seconds[size]), 3)],
                    "ratio_to_batch_1": round(medians[1] / medians[size], 2),
                    "rows": ROWS,
                    "max_new_tokens": MAX_NEW_TOKENS,
                    "machine": machine["device"],
                    "torch": machine["versions"]["torch"],
                    "git_commit": machine["git_commit"],
                }
            )
    write_json(RESULTS / "seconds_per_row.json", records)
    heads = ("track", "batch_size", "seconds_per_row", "spread", "ratio_to_batch_1")
    lines = [
        f"SmolLM2-135M in 4-bit, {ROWS} test rows, {MAX_NEW_TOKENS} new tokens at most, median of {REPEATS} runs on"
    ]
    lines += [f"{machine['device']} (torch {machine['versions']['torch']}).", "", f"| {' | '.join(heads)} |"]
    lines += ["|" + " --- |" * len(heads)]
    lines += [f"| {' | '.join(str(record[head]) for head in heads)} |" for record in records]
    write_text(RESULTS / "seconds_per_row.md", "\n".join(lines) + "\n")
    print((RESULTS / "seconds_per_row.md").read_text())


if __name__ == "__main__":
    main()
