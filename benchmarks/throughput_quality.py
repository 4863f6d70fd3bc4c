"""Whether faster decoding costs quality: an adapter added to the weights, and rows whose outputs differ from `generate`'s.

    .venv/bin/python -m benchmarks.throughput_quality merging   # scores, the adapter in the weights and beside them
    .venv/bin/python -m benchmarks.throughput_quality ties      # how near the logits are where an output differs

Records go to benchmarks/results/throughput.json, as parts of their own for a GPU.
"""

import math
import sys
from operator import ne
from typing import Any

import torch

from benchmarks.records import make_record
from benchmarks.throughput import (
    BATCH,
    HAS_GPU,
    MAX_NEW_TOKENS,
    TRACK,
    count_differing,
    load,
    load_beside,
    main,
    read_chats,
    sort_chats,
)
from swaplib import decoding
from swaplib.metrics import score_row
from swaplib.prompts import build_messages
from swaplib.rows import read_rows
from swaplib.settings import Settings


def measure_merging(settings: Settings) -> list[dict[str, Any]]:
    """Scores of all test rows at the full limit: `ours` with the adapter merged, `other` with it beside the weights."""
    rows = read_rows(settings.dataset / TRACK / "test.jsonl", TRACK)
    chats, scores, outputs = [build_messages(TRACK, row.prompt) for row in rows], [], []
    path, adapter = settings.slm_model_path, settings.adapter_of(TRACK)
    for slm in (load(path, adapter), load_beside(path, adapter)):
        decoding.prepare(slm.model)
        outputs.append({i: generation.output for i, generation in slm.generate(chats, 256)})
        scores.append([score_row(TRACK, row.completion, outputs[-1][i]) for i, row in enumerate(rows)])
    records, differing = [], count_differing(*outputs)
    for metric in scores[0][0]:
        merged, beside = ([row[metric] for row in found] for found in scores)
        changed = f"{sum(map(ne, merged, beside))} of {len(rows)}"
        rates = (sum(merged) / len(rows), sum(beside) / len(rows))
        case = f"{metric}, adapter merged into the weights against beside them"
        records.append(
            make_record(case, *rates, "rate", rows=len(rows), differing=differing, scored_differently=changed)
        )
    return records


@torch.inference_mode()
def measure_ties(settings: Settings) -> list[dict[str, Any]]:
    """Rows that differ from `generate` in bfloat16: how far apart the two tokens' logits are where they part, in float32."""
    slm, exact = load(settings.slm_model_path, precision="bfloat16"), load(settings.slm_model_path, precision="float32")
    chats = sort_chats(slm, read_chats(settings))[:: 1 if HAS_GPU else 2]
    prompts, found = [slm._encode(slm.render(chat)) for chat in chats], []
    for attention in (decoding.ATTENTION, "sdpa"):
        slm.model.set_attn_implementation(attention)
        decoded = decoding.decode(slm.model, prompts, MAX_NEW_TOKENS, BATCH)
        found.append({answer.index: answer.ids for answer in decoded})
    gaps, spacings, best_two = [], [], 0
    for i, ours in found[0].items():
        other = found[1][i]
        if ours != other:
            at = next(k for k, (mine, its) in enumerate(zip(ours, other, strict=False)) if mine != its)
            ids = torch.tensor([prompts[i] + ours[:at]], device=slm.device)
            logits = exact.model(input_ids=ids, logits_to_keep=1).logits[0, -1]
            gaps.append(abs(float(logits[ours[at]] - logits[other[at]])))
            spacings.append(2.0 ** (math.floor(math.log2(float(logits.max()))) - 7))
            best_two += {ours[at], other[at]} == set(logits.topk(2).indices.tolist())
    case = "rows that differ from generate: largest gap of the two tokens' logits against bfloat16's spacing there"
    more = {"differing": f"{len(gaps)} of {len(prompts)}", "both_are_the_best_two": best_two}
    if not gaps:
        return [make_record("rows that differ from generate", 0, None, "rows", **more)]
    worst = max(range(len(gaps)), key=lambda n: gaps[n] / spacings[n])
    return [
        make_record(case, gaps[worst], spacings[worst], "logit", **more, gaps=sorted(round(gap, 4) for gap in gaps))
    ]


if __name__ == "__main__":
    main({"merging": measure_merging, "ties": measure_ties}, *sys.argv[1:])
