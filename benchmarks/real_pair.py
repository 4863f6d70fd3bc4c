"""A real pair on record: a hosted LLM behind `swap serve`, and an SLM; both tracks, and the loop.

    python -m benchmarks.real_pair record HOME HOSTED SLM    # both tracks, then the loop
    python -m benchmarks.real_pair examples HOME HOSTED SLM  # the example tasks, and native runs
    python -m benchmarks.real_pair tune HOME SLM    # only the fine-tunes of the example tasks
    python -m benchmarks.real_pair keep HOME        # copies to benchmarks/results/recorded
    python -m benchmarks.real_pair decide SLM       # decisions again, from what was saved; no GPU
    python -m benchmarks.full_report                # pages and tables of what was saved; no GPU

HOSTED and SLM are folders of checkpoints; a stopped record resumes. Every stage is a function of
real_pair_steps.py in a process of its own, since Unsloth patches transformers. Evaluations run
alone on the machine; trainings and the capture run side by side, and so do the folds, each of which
holds out other tools and is a home below HOME/folds.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.homes import DATASET, use_home
from benchmarks.real_pair_steps import AGENTS, STEPS
from benchmarks.recorded_pair import EXAMPLES, OF_ROWS, RECORDED, decide, keep, place_of
from swaplib.agents import capture
from swaplib.agents.tasks import FOLDS
from swaplib.metrics import TRACKS
from swaplib.models.local import LocalSLM
from swaplib.models.local_checkpoint import Checkpoint, choose_full_precision
from swaplib.serving.server_process import running_server
from swaplib.settings import ROOT, load_settings

PORT = 8203  # the address is part of every question, so it must be the same when a record resumes


def record(home: Path, hosted: Path, slm: Path) -> None:
    """All stages of both tracks and the loop, in processes of their own."""
    copy_rows(home)
    with serving(hosted, slm) as known:
        for track in TRACKS:
            run_steps(known, (home, "evaluate_before", track))
        trainings = [(home, "train_track", track) for track in TRACKS]
        run_steps(known, (home, "capture_tasks"), *trainings)
    for track in TRACKS:
        run_steps(known, (home, "evaluate_after", track))
    homes = [copy_capture(home, fold) for fold in range(FOLDS)]
    run_steps(known, *((of_fold, "build_captured", fold) for fold, of_fold in enumerate(homes)))
    of_rows = [(home, "train_captured", track) for track in TRACKS]
    run_steps(known, *((of_fold, "distil") for of_fold in homes), *of_rows)
    run_steps(known, *((of_fold, "close_loop", "toolcall") for of_fold in homes))
    run_steps(known, (home, "close_loop", "structured"))


def record_examples(home: Path, hosted: Path, slm: Path) -> None:
    """The example tasks; and the native runs of both tracks, in addition to a record."""
    copy_rows(home)
    places = [(place_of(home, name), track) for name, track in EXAMPLES.items()]
    with serving(hosted, slm) as known:
        run_steps(known, *((place_of(home, name), "build_rows", name) for name in EXAMPLES))
        for place, track in places:
            run_steps(known, (place, "evaluate_before", track))
        for track in TRACKS:
            run_steps(known, (home, "evaluate_natively", track))
    tune_examples(home, slm)


def tune_examples(home: Path, slm: Path) -> None:
    """What a fine-tune gives on the example tasks; their runs on record are copied if missing."""
    known = name_environment(slm)
    places = [(place_of(home, name), track) for name, track in EXAMPLES.items()]
    for (place, _), name in zip(places, EXAMPLES, strict=True):
        if not place.exists():
            shutil.copytree(place_of(RECORDED, name), place, ignore=shutil.ignore_patterns("04_ft"))
            run_steps(known, (place, "build_rows", name))
    run_steps(known, *((place, "train_track", track) for place, track in places))
    for place, track in places:
        run_steps(known, (place, "evaluate_after", track))


@contextlib.contextmanager
def serving(hosted: Path, slm: Path) -> Iterator[dict[str, str]]:
    """The hosted LLM behind `swap serve`; yields the environment of the steps."""
    served = LocalSLM(Checkpoint(hosted, None, choose_full_precision()), AGENTS)
    with running_server(served, hosted.name, PORT) as root:
        known = {"AZURE_ENDPOINT": f"{root}/v1", "AZURE_DEPLOYMENT": hosted.name}
        yield known | {"AZURE_API_KEY": "none-is-needed"} | name_environment(slm)


def name_environment(slm: Path) -> dict[str, str]:
    """What every step is told of the SLM and of tracing."""
    known = {"SLM_MODEL_PATH": str(slm), "SLM_BASE_URL": "", "SWAP_TRACING": "outbox"}
    return known | {"SWAP_ENV_FILE": os.devnull}


def copy_rows(home: Path) -> None:
    """The committed rows, as the rows of a home."""
    if not (home / "02_dataset").exists():
        shutil.copytree(DATASET, home / "02_dataset", ignore=OF_ROWS)


def copy_capture(home: Path, fold: int) -> Path:
    """The home of a fold, with the rows and the capture; the first fold's is the home itself."""
    if fold == 0:
        return home
    target = home / "folds" / str(fold)
    run = capture.read_capture(use_home(home)).folder
    rows = target / "02_dataset"
    shutil.copytree(home / "02_dataset", rows, ignore=OF_ROWS, dirs_exist_ok=True)
    shutil.copytree(run, target / "05_eval" / "runs" / run.name, dirs_exist_ok=True)
    shutil.copy(home / "05_eval" / "capture.json", target / "05_eval")
    return target


def run_steps(known: dict[str, str], *steps: Sequence[object]) -> None:
    """Run steps (home, name, arguments) side by side, in processes that write to HOME/logs.

    Raises:
        RuntimeError: Some failed, once all have ended; their last output is in the message.
    """
    running = []
    for home, *words in steps:
        log = Path(str(home)) / "logs" / f"{'-'.join(map(str, words))}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "benchmarks.real_pair", "step", *map(str, words)]
        env = os.environ | known | {"SWAP_HOME": str(home)}
        # Two trainings must not write the same code.
        env |= {"UNSLOTH_COMPILE_LOCATION": str(log.with_suffix(""))}
        with log.open("w") as out:
            process = subprocess.Popen(
                command, env=env, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT
            )
        running.append((log, process))
        print("begun:", *words, flush=True)
    failed = [log for log, process in running if process.wait() != 0]
    if failed:
        ends = "\n".join(f"{log}:\n{log.read_text()[-2000:]}" for log in failed)
        raise RuntimeError(f"{len(failed)} of {len(steps)} steps failed:\n{ends}")


COMMANDS = {
    "record": record,
    "examples": record_examples,
    "tune": tune_examples,
    "keep": keep,
    "decide": decide,
}


def main(command: str, *words: str) -> None:
    """Run one of the commands above, or one step in the home that the environment names."""
    if command == "step":
        STEPS[words[0]](load_settings(), *words[1:])
    else:
        COMMANDS[command](*(Path(word).resolve() for word in words))


if __name__ == "__main__":
    main(*sys.argv[1:])
