"""The whole decision on real runs: the stand-in as the hosted LLM, against the SLM as it is, few-shot, and fine-tuned.

    python benchmarks/full_report.py train toolcall [BATCH_SIZE]         # a process of its own: Unsloth patches transformers
    swap stand-in python benchmarks/full_report.py before toolcall       # azure, slm, slm-shots4, decision
    swap stand-in python benchmarks/full_report.py after toolcall        # slm_ft, second decision
    python benchmarks/full_report.py render toolcall                     # needs no GPU: the page, from the recorded files

The first three write to SWAP_HOME, as the notebooks do. What such a home's 05_eval holds, less the traces, was copied to
benchmarks/results/recorded/ with its test rows; `render` reads it there and writes benchmarks/results/report_<track>.html.
"""

import base64
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from swaplib import decision, diagnosis, evaluate, figures, report, runs, training, verdicts
from swaplib.rows import read_rows, write_text
from swaplib.settings import ROOT, Settings, load_settings

RESULTS = Path(__file__).parent / "results"
OPTIONS = {"batch_size": 128, "concurrency": 32, "max_new_tokens": 256}
SHOTS = 4


def copy_rows(settings: Settings) -> None:
    """The committed rows, unless the home has some."""
    if not settings.dataset.exists():
        shutil.copytree(ROOT / "slm_swap" / "02_dataset", settings.dataset)


def train(settings: Settings, track: str, batch_size: str = "1") -> None:
    """Train the track's adapter with the specification's settings and a batch size."""
    copy_rows(settings)
    training.fine_tune(settings, track, force=True, recipe=training.Recipe(batch_size=int(batch_size)))


def evaluate_before(settings: Settings, track: str) -> None:
    """The hosted LLM, the SLM as it is and few-shot, and the decision."""
    copy_rows(settings)
    evaluate.run_models(settings, track, "azure,slm", **OPTIONS)
    evaluate.run_models(settings, track, "slm", shots=SHOTS, **OPTIONS)
    decision.decide(settings, track)


def evaluate_after(settings: Settings, track: str) -> None:
    """The fine-tuned SLM, and the second decision."""
    evaluate.run_models(settings, track, "slm_ft", **OPTIONS)
    decision.decide_again(settings, track, "slm_ft")


def render(settings: Settings, track: str) -> None:
    """The recorded runs as one page: what 05 shows, by the functions that show it there."""
    home = settings.model_copy(update={"swap_home": RESULTS / "recorded"})
    decided = json.loads((home.evaluation / f"{track}_post_decision.json").read_text())
    metrics = {model: runs.read_metrics(home, track, model) for model in decided["evidence"]["rates"]}
    ledgers = runs.read_ledgers(home, metrics)
    rows = read_rows(home.dataset / track / "test.jsonl", track)  # those that were asked then
    diagnoses = diagnosis.diagnose_split(home, track, "test", ledgers)
    card = json.loads((home.adapter_of(track) / "run_card.json").read_text())
    tables = {
        "The rule": verdicts.show_decision(decided),
        "Metrics": figures.plot_metrics(track, list(metrics.values())),
        "How sure are we?": verdicts.show_evidence(decided),
        "Examples in the prompt": verdicts.show_few_shot(decided),
        "What the adapter changed": verdicts.show_changes(decided),
        "Format or skill?": report.show_diagnosis(diagnoses),
        "Why rows failed": figures.plot_reasons(diagnoses),
        "Rates over answered rows": report.show_answered(track, diagnoses),
        "What it took (two trainings and two evaluations shared the GPU, so the speeds are no benchmark)": (
            verdicts.show_costs(decided)
        ),
        "The training": report.show_run_card(card),
        "Rows lost and gained by the adapter": report.show_differences(ledgers, ("slm", "slm_ft"), rows),
        "Rows that only the hosted LLM had right, first": report.show_differences(ledgers, ("azure", "slm_ft"), rows),
    }
    machine = f"Machine: {decided['run']['device']}. Hosted LLM: the stand-in. Base: {card['base']}."
    parts = [f"<h1>{track}: the stand-in against the SLM</h1><p>{machine}</p>", verdicts.show_verdict(decided).data]
    parts += [f"<h2>{title}</h2>{_to_html(shown)}" for title, shown in tables.items()]
    style = (
        "body{font-family:sans-serif;margin:2em;max-width:75em}table{border-collapse:collapse}td,th{padding:.2em .6em}"
    )
    head = f'<!doctype html><meta charset="utf-8"><title>{track}</title><style>{style}</style>'
    write_text(RESULTS / f"report_{track}.html", "\n".join([head, *parts]) + "\n")


def _to_html(shown: Any) -> str:
    """A table as it is, a figure as an image in the page."""
    if hasattr(shown, "to_html"):
        return shown.to_html()
    image = io.BytesIO()
    shown.savefig(image, dpi=150)
    return f'<img width="750" src="data:image/png;base64,{base64.b64encode(image.getvalue()).decode()}">'


COMMANDS = {"train": train, "before": evaluate_before, "after": evaluate_after, "render": render}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](load_settings(), *sys.argv[2:])
