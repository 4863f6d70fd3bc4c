"""What the ledger's log-probabilities cost: decoding with them against decoding without, in turn, in one process.

    .venv/bin/python -m benchmarks.logprobs                       # the packaged checkpoint, CPU or GPU
    .venv/bin/python -m benchmarks.logprobs models/qwen2.5-7b     # any other one

Both sides decode the same test rows many short times, each side first in every other pair; the cost is the median over the
pairs, so that what else the machine does falls on both. Records go to benchmarks/results/throughput.json.
"""

import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.records import make_record, write_records
from benchmarks.throughput import HAS_GPU, TRACK, count_differing, without
from swaplib import decoding
from swaplib.checkpoints import PACKAGED_NAME, download
from swaplib.local import LocalSLM
from swaplib.prompts import build_messages
from swaplib.rows import read_rows
from swaplib.settings import ROOT

ROWS, TOKENS, PAIRS = (64, 64, 24) if HAS_GPU else (8, 16, 24)


def pick_alone(logits: torch.Tensor) -> torch.Tensor:
    """In place of decoding._pick: the likeliest tokens, nothing about their probability."""
    return logits.argmax(-1).double().expand(2, -1)


class Unwatched(decoding._LogprobWatch):
    """In place of what watches `generate`: it looks at no score."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Keep a number that costs nothing, so that there is one for each token."""
        self.by_length[input_ids.shape[1]] = scores[:, 0]
        return scores


def decode_once(slm: LocalSLM, prompts: list[list[int]]) -> tuple[float, dict[int, list[int]]]:
    """Seconds for all prompts at once, and their tokens."""
    start = time.perf_counter()
    answers = list(decoding.decode(slm.model, prompts, TOKENS, len(prompts)))
    return time.perf_counter() - start, {answer.index: answer.ids for answer in answers}


def decode_without(slm: LocalSLM, prompts: list[list[int]]) -> tuple[float, dict[int, list[int]]]:
    """The same without log-probabilities."""
    with without(decoding, "_pick", pick_alone), without(decoding, "_LogprobWatch", Unwatched):
        return decode_once(slm, prompts)


def measure(slm: LocalSLM, prompts: list[list[int]], how: str, attention: str) -> dict[str, Any]:
    """Rows a second with and without, and the median slowdown of a pair in percent, with its quartiles."""
    slm.model.set_attn_implementation(attention)
    sides = {"with": decode_once, "without": decode_without}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    tokens = {name: side(slm, prompts)[1] for name, side in sides.items()}  # warm up
    for turn in range(PAIRS):
        for name in sorted(sides, reverse=bool(turn % 2)):
            seconds[name].append(sides[name](slm, prompts)[0])
    slower = [100 * (a / b - 1) for a, b in zip(seconds["with"], seconds["without"], strict=True)]
    first, median, third = (round(part, 2) for part in statistics.quantiles(slower, n=4))
    rates = [len(prompts) / statistics.median(found) for found in seconds.values()]
    case = f"{how}, with log-probabilities against without"
    more = {"model": slm.path.name, "rows": len(prompts), "tokens": TOKENS, "pairs": PAIRS}
    more |= {"differing": count_differing(*tokens.values())}
    return make_record(case, *rates, "rows/s", slower_percent=median, quartiles=[first, third], **more)


def main(checkpoint: str | None = None) -> None:
    """Measure our decoding, where the model takes it, and `generate`; write the records."""
    slm = LocalSLM(Path(checkpoint) if checkpoint else download(PACKAGED_NAME, ROOT / "slm_swap" / "models"))
    rows = read_rows(ROOT / "slm_swap" / "02_dataset" / TRACK / "test.jsonl", TRACK)[:ROWS]
    prompts = [slm._encode(slm.render(build_messages(TRACK, row.prompt))) for row in rows]
    ways = {"generate": "sdpa"}
    if slm.model.config._attn_implementation == decoding.ATTENTION:
        ways = {"our decoding": decoding.ATTENTION} | ways
    records = [measure(slm, prompts, how, attention) for how, attention in ways.items()]
    for record in records:
        print(record)
    write_records(f"logprobs{', GPU' if HAS_GPU else ''}", records)


if __name__ == "__main__":
    main(*sys.argv[1:])
