"""What a grammar costs in decoding: tokens a second under it, and without it for the same tokens.

    python -m benchmarks.grammar_cost SLM [ROWS]

SLM is a folder of a checkpoint. Both are measured in turns. Replaces the part `grammar, DEVICE` of
benchmarks/results/throughput.json.
"""

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.homes import DATASET
from benchmarks.records import make_record, write_part
from swaplib.data.facts import read_facts
from swaplib.metrics import TRACKS
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.models.local_model import LoadedModel, load
from swaplib.models.native import NativeForm, ask_natively
from swaplib.rows import read_rows

LIMIT, REPEATS = 64, 3


def read_prompts(checkpoint: Checkpoint, track: str, n: int) -> tuple[list[str], list[NativeForm]]:
    """The first n test rows of a track, asked natively."""
    path = DATASET / track / "test.jsonl"
    rows = read_rows(path, track)[:n]
    pairs = zip(rows, read_facts(path, rows), strict=True)
    asked = [ask_natively(track, row, fact, None) for row, fact in pairs]
    prompts = [checkpoint.render(messages, tools=form.tools) for messages, form in asked]
    return prompts, [form for _, form in asked]


def measure(
    model: LoadedModel, prompts: list[str], forms: list[NativeForm], tokens: dict[int, list[int]]
) -> float:
    """Tokens a second under the grammars, whose compilation counts; fills `tokens` by prompt."""
    tokens.clear()
    start = time.perf_counter()
    hook = model.constrain([form.to_grammar() for form in forms])

    def keep(index: int, token: int) -> None:
        tokens.setdefault(index, []).append(token)

    list(model.generate(prompts, LIMIT, len(prompts), on_token=keep, logits_hook=hook))
    return sum(map(len, tokens.values())) / (time.perf_counter() - start)


def replay(model: LoadedModel, prompts: list[str], tokens: dict[int, list[int]]) -> float:
    """Tokens a second when the same tokens are taken without any grammar: the same other work."""
    start = time.perf_counter()

    def take(
        indices: Sequence[int], generated: Sequence[Sequence[int]], logits: torch.Tensor
    ) -> torch.Tensor:
        found = [tokens[i][len(ids)] for i, ids in zip(indices, generated, strict=True)]
        return torch.tensor(found, device=logits.device)

    list(model.generate(prompts, LIMIT, len(prompts), on_token=lambda *_: None, sampler=take))
    return sum(map(len, tokens.values())) / (time.perf_counter() - start)


def main(folder: str, n: str = "64") -> None:
    """Measure both tracks."""
    model, records = load(Checkpoint(Path(folder).resolve())), []
    for track in TRACKS:
        prompts, forms = read_prompts(model.checkpoint, track, int(n))
        tokens: dict[int, list[int]] = {}
        # Warm up: what is made once, such as the vocabulary and a graph, is made here.
        measure(model, prompts, forms, tokens)
        found: dict[str, list[float]] = {"bound": [], "free": []}
        for _ in range(REPEATS):
            found["bound"].append(measure(model, prompts, forms, tokens))
            found["free"].append(replay(model, prompts, tokens))
        bound, free = (statistics.median(found[name]) for name in ("bound", "free"))
        case = f"{Path(folder).name}, {len(prompts)} {track} rows at once: "
        case += "under their grammars, the same tokens without"
        spread = {name: [round(value, 1) for value in values] for name, values in found.items()}
        records.append(make_record(case, bound, free, "tokens/s", spread=str(spread)))
        print(records[-1])
    write_part(f"grammar, {model.checkpoint.device}", records)


if __name__ == "__main__":
    main(*sys.argv[1:])
