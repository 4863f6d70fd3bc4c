"""Whether faster decoding costs quality: a merged adapter, and outputs other than `generate`'s.

    python -m benchmarks.throughput_quality merging  # scores with the adapter merged and unmerged
    python -m benchmarks.throughput_quality ties     # how close the logits are where outputs part

Records go to benchmarks/results/throughput.json, as parts of their own for a GPU.
"""

import math
import sys
from operator import ne

import torch

from benchmarks.local_timing import (
    BATCH,
    HAS_GPU,
    MAX_NEW_TOKENS,
    TRACK,
    count_differing,
    measure_parts,
    name_checkpoint,
    read_chats,
    sort_chats,
)
from benchmarks.records import Record, make_record
from swaplib.metrics import score_row
from swaplib.models.decoding import ATTENTION
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.models.local_model import LoadedModel, load
from swaplib.prompts import build_messages
from swaplib.rows import read_rows
from swaplib.settings import Settings


def measure_merging(settings: Settings) -> list[Record]:
    """Scores of all test rows at the full limit: `ours` merged, `other` unmerged."""
    rows = read_rows(settings.dataset / TRACK / "test.jsonl", TRACK)
    chats = [build_messages(TRACK, row.prompt) for row in rows]
    scores: list[list[dict[str, bool]]] = []
    outputs: list[dict[int, str]] = []
    checkpoint = name_checkpoint(settings, "slm_ft")
    prompts = [checkpoint.render(chat) for chat in chats]
    for is_merged in (True, False):
        model = load(checkpoint, is_dequantised=True, is_merged=is_merged)
        found = {i: generation.output for i, generation in model.generate(prompts, 256, 64)}
        outputs.append(found)
        scores.append([score_row(TRACK, row.completion, found[i]) for i, row in enumerate(rows)])
    records, differing = [], count_differing(*outputs)
    for metric in scores[0][0]:
        merged, unmerged = ([row[metric] for row in of_side] for of_side in scores)
        rates = (sum(merged) / len(rows), sum(unmerged) / len(rows))
        changed = f"{sum(map(ne, merged, unmerged))} of {len(rows)}"
        more = {"rows": len(rows), "differing": differing, "scored_differently": changed}
        case = f"{metric}, adapter merged into the weights against beside them"
        records.append(make_record(case, *rates, "rate", **more))
    return records


def collect_ids(model: LoadedModel, prompts: list[str], attention: str) -> list[list[int]]:
    """The tokens of each prompt's answer; attention `sdpa` means transformers' own `generate`."""
    model.network.set_attn_implementation(attention)
    ids: list[list[int]] = [[] for _ in prompts]

    def keep(index: int, token: int) -> None:
        ids[index].append(token)

    list(model.generate(prompts, MAX_NEW_TOKENS, BATCH, on_token=keep))
    return ids


@torch.inference_mode()
def measure_ties(settings: Settings) -> list[Record]:
    """Rows that differ from `generate` in bfloat16: how far apart the logits are where they part.

    The logits of the two tokens are computed in float32.
    """
    checkpoint = Checkpoint(settings.slm_model_path, None, "bfloat16")
    model = load(checkpoint)
    network = load(Checkpoint(settings.slm_model_path, None, "float32")).network
    chats = sort_chats(checkpoint, read_chats(settings))[:: 1 if HAS_GPU else 2]
    prompts = [checkpoint.render(chat) for chat in chats]
    found = [collect_ids(model, prompts, attention) for attention in (ATTENTION, "sdpa")]
    gaps, spacings, best_two = [], [], 0
    for text, ours, other in zip(prompts, *found, strict=True):
        if ours != other:
            pairs = zip(ours, other, strict=False)
            at = next(k for k, (mine, its) in enumerate(pairs) if mine != its)
            ids = torch.tensor([checkpoint.encode(text) + ours[:at]], device=checkpoint.device)
            logits = network(input_ids=ids, logits_to_keep=1).logits[0, -1]
            gaps.append(abs(float(logits[ours[at]] - logits[other[at]])))
            spacings.append(2.0 ** (math.floor(math.log2(float(logits.max()))) - 7))
            best_two += {ours[at], other[at]} == set(logits.topk(2).indices.tolist())
    case = "rows that differ from generate: largest gap of the two tokens' logits "
    case += "against bfloat16's spacing there"
    more = {"differing": f"{len(gaps)} of {len(prompts)}", "both_are_the_best_two": best_two}
    if not gaps:
        return [make_record("rows that differ from generate", 0, None, "rows", **more)]
    worst = max(range(len(gaps)), key=lambda n: gaps[n] / spacings[n])
    more["gaps"] = sorted(round(gap, 4) for gap in gaps)
    return [make_record(case, gaps[worst], spacings[worst], "logit", **more)]


if __name__ == "__main__":
    measure_parts({"merging": measure_merging, "ties": measure_ties}, *sys.argv[1:])
