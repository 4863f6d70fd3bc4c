"""The record of a real pair in benchmarks/results/recorded: saved, opened, and decided again."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.homes import DATASET, open_home
from benchmarks.real_pair_steps import build_rows
from benchmarks.records import RESULTS
from swaplib.agents import agent_eval
from swaplib.agents.tasks import read_tasks
from swaplib.evaluation import comparison, decision
from swaplib.evaluation.stats import DEFAULT_MARGIN
from swaplib.files import write_json
from swaplib.metrics import TRACKS, Track
from swaplib.settings import Settings

RECORDED = RESULTS / "recorded"
EXAMPLES: dict[str, Track] = {"invoices": "structured", "home": "toolcall"}
OF_ROWS = shutil.ignore_patterns("source", "captured")
LEFT_OUT = shutil.ignore_patterns("trace*.jsonl", "checkpoints", "reports", ".lock-*")


def place_of(home: Path, example: str) -> Path:
    """The home of an example task."""
    return home / "examples" / example


def keep(home: Path) -> None:
    """Copy what the pages need to the record: not rows, weights, or traces, which repeat ledgers.

    A home and its folds replace what the record has of them; example tasks replace theirs alone.
    """
    has_loop = (home / "folds").is_dir()
    shutil.rmtree(RECORDED if has_loop else RECORDED / "examples", ignore_errors=True)
    below = sorted(path for path in home.glob("*/*") if (path / "05_eval").is_dir())
    for place in [home, *below]:
        for part in ("05_eval", "02_dataset/captured"):
            if (place / part).is_dir():
                target = RECORDED / (place / part).relative_to(home)
                shutil.copytree(place / part, target, ignore=LEFT_OUT, dirs_exist_ok=True)
        for card in place.glob("04_ft/*/run_card.json"):
            target = RECORDED / card.relative_to(home)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(card, target)


@contextlib.contextmanager
def open_record() -> Iterator[Settings]:
    """The record in a temporary home, with the committed rows; what is written there is lost."""
    with open_home() as settings:
        shutil.copytree(RECORDED, settings.swap_home, dirs_exist_ok=True)
        shutil.copytree(DATASET, settings.dataset, ignore=OF_ROWS, dirs_exist_ok=True)
        for name in EXAMPLES:
            place = place_of(settings.swap_home, name)
            build_rows(settings.model_copy(update={"swap_home": place}), name)
        yield settings


def list_places(settings: Settings) -> list[tuple[Settings, Track]]:
    """The homes and tracks of the record: both tracks, then the example tasks."""
    found = [(settings, track) for track in TRACKS]
    for name, track in EXAMPLES.items():
        place = settings.model_copy(update={"swap_home": place_of(settings.swap_home, name)})
        found.append((place, track))
    return found


def decide(slm: Path) -> None:
    """Every decision and all evidence of the record again, by today's code, from its ledgers."""
    with open_record() as settings:
        settings = settings.model_copy(update={"slm_model_path": slm, "slm_base_url": None})
        for old in settings.swap_home.glob("**/runs/2*decision"):
            shutil.rmtree(old)
        for home, track in list_places(settings):
            decision.decide(home, track)
            is_tuned = (home.evaluation / f"{track}_slm_ft_test.json").is_file()
            decision.decide_again(home, track, "slm_ft" if is_tuned else "slm")
        for track in TRACKS:
            compare_loop(settings, track)
        for home, _ in list_places(settings)[1:]:
            kept = RECORDED / home.swap_home.relative_to(settings.swap_home) / "05_eval"
            shutil.rmtree(kept)
            shutil.copytree(home.evaluation, kept, ignore=LEFT_OUT)


def compare_loop(settings: Settings, track: Track) -> None:
    """The paired evidence of a loop's record again: of its track, and of its agents."""
    path = settings.evaluation / f"flywheel_{track}.json"
    loop = read_json(path) | {"margin": DEFAULT_MARGIN}
    pairs = [(pair["first"], pair["second"]) for pair in loop["track_eval"]["comparisons"]]
    models = [*(first for first, _ in pairs), pairs[0][1]]
    seen = comparison.open_compared(settings, track, *models)
    loop["track_eval"]["comparisons"] = seen.compare_all(pairs, DEFAULT_MARGIN)
    tasks = {task.id: task for task in read_tasks(settings, "sample").tasks}
    solved = read_json(settings.evaluation / "solved.json")
    bits = {model: list(of_model.values()) for model, of_model in solved.items()}
    evaluated = [tasks[i] for i in solved["slm"]]
    loop["agent_eval"]["pairs"] = agent_eval.compare_solved(bits, evaluated)
    write_json(path, loop)


def read_json(path: Path) -> Any:
    """A file's content."""
    return json.loads(path.read_text(encoding="utf-8"))
