"""What decoding under a grammar costs: tokens a second with the hook and without, on the same prompts, turn and turn about.

    python -m benchmarks.grammar_cost SLM [ROWS]

SLM is a folder of a checkpoint. Replaces the part `grammar` of benchmarks/results/throughput.json.
"""

import statistics
import sys
import time
from pathlib import Path

from benchmarks.records import make_record, write_records
from swaplib.facts import read_facts
from swaplib.local_checkpoint import Checkpoint
from swaplib.local_model import LoadedModel, load
from swaplib.metrics import TRACKS
from swaplib.native import NativeForm, ask_natively
from swaplib.rows import read_rows
from swaplib.settings import ROOT

LIMIT, REPEATS = 64, 3


def read_prompts(checkpoint: Checkpoint, track: str, n: int) -> tuple[list[str], list[NativeForm]]:
    """The first n test rows of a track, asked natively."""
    path = ROOT / "slm_swap" / "02_dataset" / track / "test.jsonl"
    rows = read_rows(path, track)[:n]
    asked = [ask_natively(track, row, fact, None) for row, fact in zip(rows, read_facts(path, rows), strict=True)]
    return [checkpoint.render(messages, tools=form.tools) for messages, form in asked], [form for _, form in asked]


def measure(model: LoadedModel, prompts: list[str], forms: list[NativeForm] | None) -> float:
    """Tokens a second; the compilation of the grammars counts."""
    start = time.perf_counter()
    hook = model.constrain([form.to_grammar() for form in forms]) if forms else None
    answers = [answer for _, answer in model.generate(prompts, LIMIT, len(prompts), logits_hook=hook)]
    return sum(answer.completion_tokens for answer in answers) / (time.perf_counter() - start)


def main(folder: str, n: str = "64") -> None:
    """Measure both tracks."""
    model, records = load(Checkpoint(Path(folder).resolve())), []
    for track in TRACKS:
        prompts, forms = read_prompts(model.checkpoint, track, int(n))
        found: dict[str, list[float]] = {"bound": [], "free": []}
        measure(model, prompts[:2], forms[:2])  # what is made once, such as the vocabulary, is made here
        measure(model, prompts, None)
        for _ in range(REPEATS):
            found["bound"].append(measure(model, prompts, forms))
            found["free"].append(measure(model, prompts, None))
        bound, free = (statistics.median(found[name]) for name in ("bound", "free"))
        case = f"{Path(folder).name}, {len(prompts)} {track} rows at once, under their grammars against free"
        spread = {name: [round(value, 1) for value in values] for name, values in found.items()}
        records.append(make_record(case, bound, free, "tokens/s", spread=str(spread)))
        print(records[-1])
    write_records("grammar", records)


if __name__ == "__main__":
    main(*sys.argv[1:])
