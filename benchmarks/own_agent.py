"""An agent of your own on record: examples/agent from its tasks to a trained agent's evaluation.

    python -m benchmarks.own_agent record HOME HOSTED SLM

HOSTED and SLM are folders of checkpoints. It serves HOSTED and does what 06, 07 and 08 do with the
example's tools and tasks, each step in a process of its own, since Unsloth patches transformers.
Writes own_agent.json and own_agent.md.
"""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.real_pair import name_environment, serving
from benchmarks.recorded_pair import read_json
from benchmarks.records import Record, write_table
from swaplib.agents import build, capture, distill, flywheel, task_sources
from swaplib.agents.agent import AgentOptions
from swaplib.models.adapters import read_card
from swaplib.models.names import CAPTURED
from swaplib.settings import ROOT, Settings, load_settings

TRACK = "toolcall"
AGENTS = 12  # tasks in flight: all of the example's


def capture_tasks(settings: Settings) -> None:
    """What 06 does with the example's files."""
    own = task_sources.choose_files("examples/agent/tools.py", "examples/agent/tasks.jsonl")
    capture.capture_trajectories(settings, own=own, concurrency=AGENTS)


def build_captured(settings: Settings) -> None:
    """What 07 does."""
    build.build_captured(settings)


def train(settings: Settings) -> None:
    """Both trainings of 08."""
    distill.distill_agent(settings)
    distill.fine_tune_captured(settings, TRACK)


def close_loop(settings: Settings) -> None:
    """The end of 08: the agent before and after."""
    cards = {
        "agent": read_card(settings.adapter_of(distill.AGENT)) or None,
        "rows": read_card(settings.adapter_of(CAPTURED.name_adapter(TRACK))) or None,
    }
    flywheel.close_loop(settings, TRACK, "sample", None, AgentOptions(), AGENTS, cards)


OF_TEACHER: tuple[Callable[[Settings], None], ...] = (capture_tasks, build_captured)
OF_STUDENT: tuple[Callable[[Settings], None], ...] = (train, close_loop)
STEPS = {step.__name__: step for step in (*OF_TEACHER, *OF_STUDENT)}


def record(home: Path, hosted: Path, slm: Path) -> None:
    """All steps, then the table."""
    with serving(hosted, slm) as known:
        for step in OF_TEACHER:
            _run(step.__name__, home, known)
    for step in OF_STUDENT:
        _run(step.__name__, home, name_environment(slm))
    note = f"examples/agent: {hosted.name} teaches {slm.name}."
    write_table("own_agent", summarise(home / "05_eval"), note)


def _run(step: str, home: Path, known: dict[str, str]) -> None:
    env = os.environ | known | {"SWAP_HOME": str(home)}
    command = [sys.executable, "-m", "benchmarks.own_agent", step]
    subprocess.run(command, env=env, cwd=ROOT, check=True)


def summarise(evaluation: Path) -> list[Record]:
    """One record a stage: what was captured, kept, trained and solved."""
    loop = read_json(evaluation / f"flywheel_{TRACK}.json")
    captured = read_json(evaluation / "capture.json")
    records: list[Record] = [
        {"what": "tasks captured", "result": Counter(captured["outcomes"])},
        {"what": "trajectories by the filter", "result": loop["filter"]},
        {"what": "rows", "result": {split: n for split, n in loop["rows"][TRACK].items() if n}},
        {"what": "chats", "result": loop["chats"]},
    ]
    for name, trained in loop["trained"].items():
        records.append(
            {"what": f"training of {name}, steps", "result": trained and trained["steps"]}
        )
    agents: dict[str, Any] = (loop["agent_eval"] or {}).get("models", {})
    for model, found in agents.items():
        solved = f"{found['solved']} of {found['n_tasks']} in {found['steps']:.1f} steps"
        records.append({"what": f"{model} as an agent, test tasks solved", "result": solved})
    return records


def main(arguments: list[str]) -> None:
    """Run what the command line names; a step runs in the home that the environment names."""
    match arguments:
        case [step] if step in STEPS:
            STEPS[step](load_settings())
        case ["record", home, hosted, slm]:
            record(*(Path(word).resolve() for word in (home, hosted, slm)))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
