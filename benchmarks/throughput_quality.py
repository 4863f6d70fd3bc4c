"""Whether faster decoding costs quality: an adapter added to the weights, and rows whose outputs differ from `generate`'s.

    python -m benchmarks.throughput_quality merging   # scores, the adapter in the weights and beside them
    python -m benchmarks.throughput_quality ties      # how near the logits are where an output differs

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
    main,
    name_checkpoint,
    read_chats,
    sort_chats,
)
from swaplib.metrics import score_row
from swaplib.models.decoding import ATTENTION
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.models.local_model import LoadedModel, load
from swaplib.prompts import build_messages
from swaplib.rows import read_rows
from swaplib.settings import Settings


def measure_merging(settings: Settings) -> list[dict[str, Any]]:
    """Scores of all test rows at the full limit: `ours` with the adapter merged, `other` with it beside the weights."""
    rows = read_rows(settings.dataset / TRACK / "test.jsonl", TRACK)
    chats, scores, outputs = [build_messages(TRACK, row.prompt) for row in rows], [], []
    checkpoint = name_checkpoint(settings, "slm_ft")
    prompts = [checkpoint.render(chat) for chat in chats]
    for is_merged in (True, False):
        model = load(checkpoint, is_dequantised=True, is_merged=is_merged)
        outputs.append({i: generation.output for i, generation in model.generate(prompts, 256, 64)})
        scores.append(
            [score_row(TRACK, row.completion, outputs[-1][i]) for i, row in enumerate(rows)]
        )
    records, differing = [], count_differing(*outputs)
    for metric in scores[0][0]:
        merged, beside = ([row[metric] for row in found] for found in scores)
        changed = f"{sum(map(ne, merged, beside))} of {len(rows)}"
        rates = (sum(merged) / len(rows), sum(beside) / len(rows))
        case = f"{metric}, adapter merged into the weights against beside them"
        records.append(
            make_record(
                case,
                *rates,
                "rate",
                rows=len(rows),
                differing=differing,
                scored_differently=changed,
            )
        )
    return records


def collect_ids(model: LoadedModel, prompts: list[str], attention: str) -> list[list[int]]:
    """The tokens of each prompt's answer; `sdpa` as the attention means transformers' own `generate`."""
    model.network.set_attn_implementation(attention)
    ids: list[list[int]] = [[] for _ in prompts]
    for _ in model.generate(
        prompts, MAX_NEW_TOKENS, BATCH, on_token=lambda i, token: ids[i].append(token)
    ):
        pass
    return ids


@torch.inference_mode()
def measure_ties(settings: Settings) -> list[dict[str, Any]]:
    """Rows that differ from `generate` in bfloat16: how far apart the two tokens' logits are where they part, in float32."""
    checkpoint, exact = (
        Checkpoint(settings.slm_model_path, None, precision)
        for precision in ("bfloat16", "float32")
    )
    model, network = load(checkpoint), load(exact).network
    chats = sort_chats(checkpoint, read_chats(settings))[:: 1 if HAS_GPU else 2]
    prompts = [checkpoint.render(chat) for chat in chats]
    found = [collect_ids(model, prompts, attention) for attention in (ATTENTION, "sdpa")]
    gaps, spacings, best_two = [], [], 0
    for text, ours, other in zip(prompts, *found, strict=True):
        if ours != other:
            at = next(
                k for k, (mine, its) in enumerate(zip(ours, other, strict=False)) if mine != its
            )
            ids = torch.tensor([checkpoint.encode(text) + ours[:at]], device=checkpoint.device)
            logits = network(input_ids=ids, logits_to_keep=1).logits[0, -1]
            gaps.append(abs(float(logits[ours[at]] - logits[other[at]])))
            spacings.append(2.0 ** (math.floor(math.log2(float(logits.max()))) - 7))
            best_two += {ours[at], other[at]} == set(logits.topk(2).indices.tolist())
    case = "rows that differ from generate: largest gap of the two tokens' logits against bfloat16's spacing there"
    more = {"differing": f"{len(gaps)} of {len(prompts)}", "both_are_the_best_two": best_two}
    if not gaps:
        return [make_record("rows that differ from generate", 0, None, "rows", **more)]
    worst = max(range(len(gaps)), key=lambda n: gaps[n] / spacings[n])
    return [
        make_record(
            case,
            gaps[worst],
            spacings[worst],
            "logit",
            **more,
            gaps=sorted(round(gap, 4) for gap in gaps),
        )
    ]


if __name__ == "__main__":
    main({"merging": measure_merging, "ties": measure_ties}, *sys.argv[1:])
