"""A real pair on record: a hosted LLM behind `swap serve`, an SLM, both tracks, the two example tasks, and then the loop.

    python -m benchmarks.real_pair record HOME HOSTED SLM    # folders of checkpoints; a stopped one goes on
    python -m benchmarks.real_pair examples HOME HOSTED SLM  # the example tasks, and native runs beside a record
    python -m benchmarks.real_pair tune HOME SLM             # only what a fine-tune gives on the example tasks
    python -m benchmarks.real_pair keep HOME                 # copies what the pages need to benchmarks/results/recorded
    python -m benchmarks.real_pair decide SLM                # decisions and evidence anew, from what was kept; no GPU
    python -m benchmarks.full_report                         # the pages and tables, from what was kept; no GPU

Every stage is a process of its own, since Unsloth patches transformers. Evaluations run alone on the machine; trainings and
the capture run side by side, and so do the folds, each of which holds out other tools and is a home below HOME/folds.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.records import RESULTS
from swaplib.agents import agent_eval, build, capture, distill, flywheel
from swaplib.agents.agent import AgentOptions
from swaplib.agents.tasks import FOLDS, read_tasks
from swaplib.data import dataset
from swaplib.evaluation import comparison, decision, evaluate, parity
from swaplib.evaluation.stats import DEFAULT_MARGIN
from swaplib.files import write_json
from swaplib.metrics import TRACKS, Track
from swaplib.models.adapters import read_card
from swaplib.models.local import LocalSLM
from swaplib.models.local_checkpoint import Checkpoint, choose_full_precision
from swaplib.models.names import CAPTURED
from swaplib.serving.server_process import running_server
from swaplib.settings import ROOT, Settings, load_settings
from swaplib.training import finetune

RECORDED, ROWS = RESULTS / "recorded", ROOT / "slm_swap" / "02_dataset"
PORT = 8203  # the address is part of every question, so it must be the same when a record goes on
SPLITS = ("val", "test")
BEFORE = "azure,azure-native,azure-shots4,slm,slm-full,slm-native,slm-shots4"
AFTER = "slm_ft,slm_ft-full,slm_ft-native"
EXAMPLES: dict[str, Track] = {"invoices": "structured", "home": "toolcall"}
SIZES, NOISE = {"batch_size": 128, "concurrency": 64}, {"val": 0, "test": 30}
AGENTS = 48  # tasks in work at once
LEFT_OUT = shutil.ignore_patterns("trace*.jsonl", "checkpoints", "reports", ".lock-*")


def evaluate_before(settings: Settings, track: Track) -> None:
    """The hosted LLM and the SLM, each as it is, few-shot and natively, the SLM also unquantised; then the decision."""
    for split in SPLITS:
        evaluate.run_models(settings, track, BEFORE, split=split, noise_rows=NOISE[split], **SIZES)
    decision.decide(settings, track)


def build_rows(settings: Settings, example: str) -> None:
    """The rows of an example task, as 01 builds them by default."""
    sizes = {"toolcall": "340/60/100", "structured": "600/80/100"}
    dataset.build_dataset(settings, str(ROOT / "examples" / example), sizes)


def evaluate_natively(settings: Settings, track: Track) -> None:
    """Both models natively, over the rows of both splits."""
    for split in SPLITS:
        evaluate.run_models(settings, track, "azure-native,slm-native", split=split, **SIZES)


def train_track(settings: Settings, track: Track) -> None:
    """What 04 does, with the fixed settings; also where the rule says 0, so that it is known what a fine-tune would give."""
    finetune.fine_tune(settings, track, force=True)


def evaluate_after(settings: Settings, track: Track) -> None:
    """The fine-tuned SLM, parity, and the second decision."""
    for split in SPLITS:
        evaluate.run_models(settings, track, AFTER, split=split, **SIZES)
    parity.measure_parity(settings, track, "slm_ft", n_rows=16, batch_size=16)
    decision.decide_again(settings, track, "slm_ft")


def capture_tasks(settings: Settings) -> None:
    """What 06 does."""
    capture.capture_trajectories(settings, concurrency=AGENTS)


def build_captured(settings: Settings, fold: str) -> None:
    """What 07 does, for one fold."""
    build.build_captured(settings, fold=int(fold))


def distil(settings: Settings) -> None:
    """The agent's adapter of a home's build."""
    distill.distill_agent(settings)


def train_captured(settings: Settings, track: Track) -> None:
    """The track's adapter of a home's captured rows."""
    distill.fine_tune_captured(settings, track)


def close_loop(settings: Settings, track: Track) -> None:
    """The end of 08, with the adapters that the home has; and which tasks each agent has solved."""
    cards = {"agent": read_card(settings.adapter_of(distill.AGENT)) or None}
    cards["rows"] = read_card(settings.adapter_of(CAPTURED.name_adapter(track))) or None
    _, agents = flywheel.close_loop(settings, track, "sample", None, AgentOptions(), AGENTS, cards)
    solved = {
        m: dict(zip(run.capture.facts["task_ids"], run.solved, strict=True))
        for m, run in agents.items()
    }
    write_json(settings.evaluation / "solved.json", solved)


STEPS = {
    step.__name__: step
    for step in (
        build_rows,
        evaluate_before,
        train_track,
        evaluate_after,
        capture_tasks,
        build_captured,
    )
}
STEPS |= {step.__name__: step for step in (evaluate_natively, distil, train_captured, close_loop)}


def record(home: Path, hosted: Path, slm: Path) -> None:
    """All stages of both tracks and the loop, in processes of their own."""
    copy_rows(home)
    with serving(hosted, slm) as known:
        for track in TRACKS:
            run_steps(known, (home, "evaluate_before", track))
        run_steps(
            known, (home, "capture_tasks"), *((home, "train_track", track) for track in TRACKS)
        )
    for track in TRACKS:
        run_steps(known, (home, "evaluate_after", track))
    homes = [copy_capture(home, fold) for fold in range(FOLDS)]
    run_steps(known, *((of_fold, "build_captured", fold) for fold, of_fold in enumerate(homes)))
    of_rows = [(home, "train_captured", track) for track in TRACKS]
    run_steps(known, *((of_fold, "distil") for of_fold in homes), *of_rows)
    run_steps(known, *((of_fold, "close_loop", "toolcall") for of_fold in homes))
    run_steps(known, (home, "close_loop", "structured"))


def record_examples(home: Path, hosted: Path, slm: Path) -> None:
    """The example tasks; and the native runs of both tracks, beside what the record holds of them."""
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
    """What a fine-tune gives on the example tasks; of a home without their runs, those on record are taken."""
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
        known = {
            "AZURE_ENDPOINT": f"{root}/v1",
            "AZURE_DEPLOYMENT": hosted.name,
            "AZURE_API_KEY": "none-is-needed",
        }
        yield known | name_environment(slm)


def name_environment(slm: Path) -> dict[str, str]:
    """What every step is told of the SLM and of tracing."""
    return {
        "SLM_MODEL_PATH": str(slm),
        "SLM_BASE_URL": "",
        "SWAP_TRACING": "outbox",
        "SWAP_ENV_FILE": os.devnull,
    }


def copy_rows(home: Path) -> None:
    """The committed rows, as the rows of a home."""
    if not (home / "02_dataset").exists():
        shutil.copytree(
            ROWS, home / "02_dataset", ignore=shutil.ignore_patterns("source", "captured")
        )


def place_of(home: Path, example: str) -> Path:
    """The home of an example task."""
    return home / "examples" / example


def copy_capture(home: Path, fold: int) -> Path:
    """The home of a fold, with the rows and the capture; the first fold's is the home itself."""
    if fold == 0:
        return home
    target = home / "folds" / str(fold)
    run = capture.read_capture(load_settings().model_copy(update={"swap_home": home})).folder
    shutil.copytree(
        home / "02_dataset",
        target / "02_dataset",
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("captured"),
    )
    shutil.copytree(run, target / "05_eval" / "runs" / run.name, dirs_exist_ok=True)
    shutil.copy(home / "05_eval" / "capture.json", target / "05_eval")
    return target


def run_steps(known: dict[str, str], *steps: Sequence[object]) -> None:
    """Run steps (home, name, arguments) side by side, each in a process whose output goes to HOME/logs.

    Raises:
        RuntimeError: Some ended badly; the others were waited for. Names them and ends with their outputs.
    """
    running = []
    for home, *words in steps:
        log = Path(str(home)) / "logs" / f"{'-'.join(map(str, words))}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "benchmarks.real_pair", "step", *map(str, words)]
        env = os.environ | known | {"SWAP_HOME": str(home)}
        env |= {
            "UNSLOTH_COMPILE_LOCATION": str(log.with_suffix(""))
        }  # two trainings must not write the same code
        with log.open("w") as out:
            running.append(
                (
                    log,
                    subprocess.Popen(
                        command, env=env, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT
                    ),
                )
            )
        print("begun:", *words, flush=True)
    failed = [log for log, process in running if process.wait() != 0]
    if failed:
        ends = "\n".join(f"{log}:\n{log.read_text()[-2000:]}" for log in failed)
        raise RuntimeError(f"{len(failed)} of {len(steps)} steps failed:\n{ends}")


def keep(home: Path) -> None:
    """Copy what the pages need to the record: rows and weights are elsewhere, traces hold nothing that a ledger does not.

    A home and its folds replace what the record has of them; example tasks replace theirs alone.
    """
    has_loop = (home / "folds").is_dir()
    shutil.rmtree(RECORDED if has_loop else RECORDED / "examples", ignore_errors=True)
    for place in [
        Path(),
        *sorted(path.relative_to(home) for path in home.glob("*/*") if (path / "05_eval").is_dir()),
    ]:
        for part in ("05_eval", "02_dataset/captured"):
            if (home / place / part).is_dir():
                shutil.copytree(
                    home / place / part,
                    RECORDED / place / part,
                    ignore=LEFT_OUT,
                    dirs_exist_ok=True,
                )
        for card in (home / place).glob("04_ft/*/run_card.json"):
            target = RECORDED / card.relative_to(home)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(card, target)


@contextlib.contextmanager
def open_record() -> Iterator[Settings]:
    """The record as a home of its own, with the committed rows; what is written there is lost unless it is copied."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        shutil.copytree(RECORDED, home, dirs_exist_ok=True)
        shutil.copytree(
            ROWS,
            home / "02_dataset",
            ignore=shutil.ignore_patterns("source", "captured"),
            dirs_exist_ok=True,
        )
        settings = load_settings().model_copy(update={"swap_home": home, "swap_tracing": "outbox"})
        for name in EXAMPLES:
            build_rows(settings.model_copy(update={"swap_home": place_of(home, name)}), name)
        yield settings


def list_places(settings: Settings) -> list[tuple[Settings, Track]]:
    """The homes and tracks of the record: both tracks, then the example tasks."""
    found = [(settings, track) for track in TRACKS]
    for name, track in EXAMPLES.items():
        found.append(
            (settings.model_copy(update={"swap_home": place_of(settings.swap_home, name)}), track)
        )
    return found


def decide(slm: Path) -> None:
    """Every decision and all evidence of the record, by today's code, from its ledgers."""
    with open_record() as settings:
        settings = settings.model_copy(update={"slm_model_path": slm, "slm_base_url": None})
        for old in settings.swap_home.glob("**/runs/2*decision"):
            shutil.rmtree(old)
        for home, track in list_places(settings):
            decision.decide(home, track)
            is_tuned = (home.evaluation / f"{track}_slm_ft_test.json").is_file()
            decision.decide_again(home, track, "slm_ft" if is_tuned else "slm")
        for track in TRACKS:
            path = settings.evaluation / f"flywheel_{track}.json"
            loop = read_json(path) | {"margin": DEFAULT_MARGIN}
            pairs = [(pair["first"], pair["second"]) for pair in loop["track_eval"]["comparisons"]]
            seen = comparison.open_compared(
                settings, track, *(first for first, _ in pairs), pairs[0][1]
            )
            loop["track_eval"]["comparisons"] = seen.compare_all(pairs, DEFAULT_MARGIN)
            tasks = {task.id: task for task in read_tasks(settings, "sample").tasks}
            solved = read_json(settings.evaluation / "solved.json")
            bits, asked = (
                {m: list(found.values()) for m, found in solved.items()},
                [tasks[i] for i in solved["slm"]],
            )
            loop["agent_eval"]["pairs"] = agent_eval.compare_solved(bits, asked)
            write_json(path, loop)
        for home, _ in list_places(settings)[1:]:
            kept = RECORDED / home.swap_home.relative_to(settings.swap_home) / "05_eval"
            shutil.rmtree(kept)
            shutil.copytree(home.evaluation, kept, ignore=LEFT_OUT)


def read_json(path: Path) -> Any:
    """A file's content."""
    return json.loads(path.read_text(encoding="utf-8"))


def main(command: str, *words: str) -> None:
    """Run one of the commands above, or one step in the home that the environment names."""
    if command == "step":
        STEPS[words[0]](load_settings(), *words[1:])
    else:
        {
            "record": record,
            "examples": record_examples,
            "tune": tune_examples,
            "keep": keep,
            "decide": decide,
        }[command](*(Path(word).resolve() for word in words))


if __name__ == "__main__":
    main(*sys.argv[1:])
