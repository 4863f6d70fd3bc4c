"""Tasks for the agent: raw xLAM rows whose calls the built-in tools can all execute.

A task holds the computed results of its calls. It is a row of one of the two tracks as 01 makes it,
so every trajectory that is kept can become a row. Tasks of your own are read by own_tasks.py.
"""

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from swaplib.agents import tools
from swaplib.agents.agent_prompt import build_agent_messages
from swaplib.agents.grades import Gold
from swaplib.agents.own_tools import OwnTools
from swaplib.agents.trajectory import Step
from swaplib.data import tool_split, xlam
from swaplib.data.tool_schemas import Tool, format_signature
from swaplib.files import read_json
from swaplib.prompts import Message
from swaplib.settings import Settings, show_path

FOLDS = 5


@dataclass(frozen=True, slots=True)
class Task:
    """One request.

    `raw` is the row as the data has it. `offered` are the tools that the agent may call: those of
    the row, without the ones that cannot be executed. `own` is the file of tools of a task of your
    own, whose `raw` has no answers.
    """

    id: str
    raw: dict[str, Any]
    offered: tuple[Tool, ...]
    gold: Gold
    own: OwnTools | None = None

    @property
    def request(self) -> str:
        """The user's request."""
        return self.raw["query"]

    @property
    def called(self) -> list[str]:
        """The tools that the gold calls, in order; none where it does not state its calls."""
        return [call["name"] for call in self.gold.calls]

    @property
    def group(self) -> str:
        """What similar tasks share: the first tool called; a task without calls is alone."""
        return self.called[0] if self.called else self.id

    @property
    def is_free(self) -> bool:
        """Whether the calls are the agent's to choose."""
        return self.gold.kind != "calls"

    def build_messages(self, steps: Sequence[Step] = ()) -> list[Message]:
        """The messages of an agent's next turn, as agent_prompt.build_agent_messages makes them."""
        return build_agent_messages(self.signatures, self.request, steps, self.is_free)

    @property
    def signatures(self) -> list[str]:
        """The offered tools as a prompt shows them."""
        return [format_signature(definition) for definition in self.offered]


@dataclass(frozen=True)
class TaskSet:
    """Tasks, and the split of each by its id.

    `facts` say where they come from: source, sha256, rows left out by reason, seed.
    `may_share_tools` says that a tool may be called in several splits.
    """

    tasks: tuple[Task, ...]
    split_of: dict[str, str]
    facts: dict[str, Any]
    may_share_tools: bool = False


def list_tasks(raw: list[dict[str, Any]]) -> tuple[list[Task], Counter[str]]:
    """Find the tasks among raw rows.

    Returns:
        The tasks in the order of the rows, and how many rows were left out, by reason.
    """
    tasks: list[Task] = []
    left_out: Counter[str] = Counter()
    prompts: set[str] = set()
    for row in raw:
        task, prompt = _make_task(row)
        if prompt in prompts:
            task = "same prompt as an earlier row"
        if isinstance(task, str):
            left_out[task] += 1
            continue
        prompts.add(prompt)
        tasks.append(task)
    return tasks, left_out


def _make_task(row: dict[str, Any]) -> tuple[Task | str, str]:
    """A raw row's task and its prompt as a row; or why it is none, and no prompt."""
    examples, left_out = xlam.make_examples([row])
    if left_out:
        return next(iter(left_out)), ""
    example = next(example for of_track in examples.values() for example in of_track)
    task = xlam.find_flaw(example) or _compute_gold(row, example)
    return task, example.row.prompt if isinstance(task, Task) else ""


def _compute_gold(row: dict[str, Any], example: xlam.SourceRow) -> Task | str:
    """The task of a row without a flaw, or why its calls cannot be executed."""
    offered = tuple(definition for definition in example.tools if tools.find_tool(definition))
    names = [definition["name"] for definition in offered]
    if not set(example.called) <= set(names):
        return "a called tool is not among the real ones"
    if len(set(names)) < len(names):
        return "two offered tools have one name"
    try:
        results = [tools.TOOLS[call["name"]](**call["arguments"]) for call in example.calls]
        plain = tuple(json.loads(json.dumps(results, allow_nan=False)))
    except Exception:  # a tool may raise anything for arguments that are not what it asks for
        return "the gold calls do not run"
    return Task(str(row["id"]), row, offered, Gold(example.calls, plain))


def hold_out(
    split_of: dict[str, str], tasks: list[Task], seed: int, fold: int = 0
) -> dict[str, str]:
    """01's map from tool to split, with tools of the tasks held out from its train side.

    Nearly all tools that can be executed are on 01's train side. A seeded fifth of those becomes
    test, the tenth after it val; over the folds 0 to 4 each of them is test once. 01's own val and
    test tools stay where they are, so no tool that is trained on here is called in any of its test
    rows.
    """
    trained = sorted({name for task in tasks for name in task.called if split_of[name] == "train"})
    random.Random(seed).shuffle(trained)  # noqa: S311 - a seeded order, no secret
    start, end = (len(trained) * k // FOLDS for k in (fold, fold + 1))
    after = (trained[end:] + trained[:start])[: len(trained) // 10]
    return split_of | dict.fromkeys(trained[start:end], "test") | dict.fromkeys(after, "val")


def read_tasks(settings: Settings, source: str = "sample", fold: int = 0) -> TaskSet:
    """Read the tasks of the rows that 01's dataset was made from, each with its split.

    Args:
        settings: Its home holds the dataset's manifest.
        source: As for 01: `sample`, `hub`, or a file of raw rows.
        fold: Which fifth of the tools is held out, 0 to 4.

    Raises:
        FileNotFoundError: There is no manifest yet.
        ValueError: There is no such fold, or the dataset was made from other rows, so its map from
            tool to split says nothing of these.
    """
    if not 0 <= fold < FOLDS:
        raise ValueError(f"fold={fold}: expected 0 to {FOLDS - 1}")
    path = settings.dataset / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(f"no manifest at {path}. Run notebooks/01_data.ipynb first.")
    manifest = read_json(path, "Run 01_data again.")
    raw, origin = xlam.read_source(source, settings.sample)
    if manifest.get("source_sha256") != origin["source_sha256"]:
        raise ValueError(
            f"{show_path(path)} describes rows made from {manifest.get('source')}, not from "
            f"{origin['source']}. Use one source here and in 01_data, or another SWAP_HOME."
        )
    runnable, left_out = list_tasks(raw)
    examples = xlam.make_examples(raw)[0]
    split_of = tool_split.map_tools(examples, manifest["sizes_asked"], manifest["seed"])
    split_of = hold_out(split_of, runnable, manifest["seed"], fold)
    splits = {task.id: {split_of[name] for name in task.called} for task in runnable}
    tasks = [task for task in runnable if len(splits[task.id]) == 1]
    left_out["its tools stand in different splits"] += len(runnable) - len(tasks)
    facts = origin | {"source_rows": len(raw), "left_out": dict(left_out), "seed": manifest["seed"]}
    return TaskSet(tuple(tasks), {task.id: next(iter(splits[task.id])) for task in tasks}, facts)
