"""Runs an agent over tasks, one line of trajectories.jsonl each: for a capture and an evaluation.

The run's folder name ends in a hash of the question, every line is synced to disk as soon as its
trajectory ends, and the same call resumes a run that was killed.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from swaplib.agents.agent import AgentOptions, run_agent
from swaplib.agents.grades import grade
from swaplib.agents.own_tools import describe_own, find_tool_walls
from swaplib.agents.sandbox.session import find_walls
from swaplib.agents.tasks import Task, TaskSet
from swaplib.agents.trajectory import Trajectory, count_outcomes, read_trajectories
from swaplib.agents.trajectory_spans import trace_trajectory
from swaplib.evaluation.costs import Prices
from swaplib.files import append_line, hash_text, read_json
from swaplib.metrics import canonical_json
from swaplib.runs import find_run, lock_run, new_folder, open_run
from swaplib.settings import Settings, show_path

if TYPE_CHECKING:
    from swaplib.models.hosted import HostedLLM
    from swaplib.models.local import LocalSLM


@dataclass(frozen=True)
class Capture:
    """A run that has ended.

    `facts` is the content of capture.json, or of agent-<model>.json; the trajectories are in the
    order of the tasks.
    """

    folder: Path
    facts: dict[str, Any]
    trajectories: tuple[Trajectory, ...]


@dataclass(frozen=True)
class CaptureRun:
    """A run as it is planned: which model works at which tasks.

    `kind` is `capture` for the hosted LLM, `agent-<model>` where an agent is evaluated.
    """

    kind: str
    client: "HostedLLM | LocalSLM"
    tasks: tuple[Task, ...]
    options: AgentOptions
    facts: dict[str, Any]
    folder: Path
    secrets: tuple[str, ...]
    concurrency: int
    is_fresh: bool

    @property
    def file(self) -> Path:
        """The trajectories."""
        return self.folder / "trajectories.jsonl"

    @property
    def facts_file(self) -> Path:
        """What is known of the whole run once it has ended."""
        return self.folder / f"{self.kind}.json"

    def is_described(self) -> bool:
        """Whether the facts are there, and of the golds as they are now."""
        if not self.facts_file.is_file():
            return False
        known = read_json(self.facts_file, "Delete it and run this again.")
        return bool(known.get("tasks") == self.facts["tasks"])

    def count_solved(self, trajectories: Mapping[str, Trajectory]) -> dict[str, Any]:
        """`solved` and `solved_rate`: tasks whose trajectory the filter would keep."""
        solved = sum(grade(trajectories[task.id], task.gold).is_kept for task in self.tasks)
        return {"solved": solved, "solved_rate": solved / len(self.tasks) if self.tasks else 0.0}

    def find_waiting(self) -> list[Task]:
        """Tasks that have no trajectory, or one that ended in error."""
        ended = {
            name
            for name, trajectory in read_trajectories(self.file).items()
            if trajectory.outcome != "error"
        }
        return [task for task in self.tasks if task.id not in ended]


def plan_tasks(
    settings: Settings,
    kind: str,
    client: "HostedLLM | LocalSLM",
    task_set: TaskSet,
    options: AgentOptions,
    limit: int | None,
    fresh: bool,
    concurrency: int,
) -> CaptureRun:
    """Find or name the run, check the endpoint, and print how many calls are left."""
    tasks = task_set.tasks[:limit]
    question = _describe_question(client, tasks, options)
    key = hash_text(canonical_json(question))[:12]
    plan = CaptureRun(
        kind=kind,
        client=client,
        tasks=tasks,
        options=options,
        facts=question | {"key": key, "tasks": task_set.facts},
        folder=find_run(settings, key, new_folder(settings, kind, key), fresh),
        secrets=settings.list_secrets(),
        concurrency=concurrency,
        is_fresh=fresh,
    )
    n_waiting = len(plan.find_waiting())
    if n_waiting:
        client.check()
    print(
        f"{len(tasks)} tasks, {len(tasks) - n_waiting} captured before, {n_waiting} left "
        f"(at most {n_waiting * options.max_steps} calls)"
    )
    print(f"run {show_path(plan.folder)}")
    return plan


def _describe_question(
    client: "HostedLLM | LocalSLM", tasks: Sequence[Task], options: AgentOptions
) -> dict[str, Any]:
    """What makes two runs the same run; its hash is the run's key."""
    identity = client.identity()
    texts = [[task.id, task.build_messages()] for task in tasks]
    return {
        "n_tasks": len(tasks),
        "task_ids": [task.id for task in tasks],
        "n_tools": len({name for task in tasks for name in task.called}),
        "tasks_sha256": hash_text(canonical_json(texts)),
        "identity": identity,
        "options": asdict(options),
        "temperature": None if "is_reasoning" in identity else 0,
        **describe_own(tasks),
    }


def run_plan(settings: Settings, plan: CaptureRun, session_id: str | None = None) -> Capture:
    """Run the tasks that are left, if any, and read the whole run.

    Args:
        settings: Says whether traces go to a server.
        plan: As plan_tasks makes it.
        session_id: The Langfuse session of the trace; a capture begins its own.
    """
    with lock_run(settings, plan.facts["key"], plan.folder, plan.is_fresh) as folder:
        plan = replace(plan, folder=folder)
        if plan.find_waiting() or not plan.is_described():
            _run_and_write(settings, plan, session_id or plan.folder.name)
    return read_ended(plan.folder, read_json(plan.facts_file, "Delete it and run this again."))


def read_ended(folder: Path, facts: dict[str, Any]) -> Capture:
    """The run in a folder, whose facts have been read."""
    trajectories = read_trajectories(folder / "trajectories.jsonl")
    in_order = (trajectories[name] for name in facts["task_ids"] if name in trajectories)
    return Capture(folder, facts, tuple(in_order))


def _run_and_write(settings: Settings, plan: CaptureRun, session_id: str) -> None:
    """Run the tasks that are left, write the facts, deliver the trace.

    While tasks are in flight, there is no file of facts.
    """
    # A local SLM is not paid by the token.
    prices = Prices.from_settings(settings) if plan.kind == "capture" else None
    plan.facts_file.unlink(missing_ok=True)
    lengths = _count_prompt_tokens(settings, plan.tasks)  # before a call is paid
    allow_unwalled = plan.options.allow_unwalled
    contained = {"contained": find_walls(allow_unwalled)}
    contained |= find_tool_walls(plan.tasks, allow_unwalled)
    inputs = {
        "tasks": plan.facts["n_tasks"],
        "identity": plan.facts["identity"],
        "options": plan.facts["options"],
    }
    with open_run(settings, plan.folder, plan.kind, inputs, [plan.kind], session_id) as run:
        for trajectory in read_trajectories(plan.file).values():  # a kill may have lost their spans
            trace_trajectory(run.trace, trajectory, prices)
        waiting = plan.find_waiting()
        trajectories = _run_agents(plan, waiting)
        for trajectory in tqdm(trajectories, plan.kind, len(waiting), file=sys.stdout, unit="task"):
            line = trajectory.to_json(plan.secrets)
            append_line(plan.file, line)
            trace_trajectory(run.trace, Trajectory.from_json(line), prices)
        by_id = read_trajectories(plan.file)
        facts = (
            plan.facts
            | count_outcomes([by_id[task.id] for task in plan.tasks])
            | plan.count_solved(by_id)
            | {"first_prompt_tokens": lengths, **contained}
        )
        output = {"outcomes": facts["outcomes"], "folder": show_path(plan.folder)}
        run.trace.finish(output, {"solved_rate": facts["solved_rate"]})
        run.record(plan.facts_file.name, facts)


def _count_prompt_tokens(settings: Settings, tasks: Sequence[Task]) -> dict[str, Any] | None:
    """Median and maximum of the first prompts' tokens, by the checkpoint; None without one."""
    from swaplib.models.local_checkpoint import Checkpoint, measure_chats

    slm = Checkpoint(settings.slm_model_path)
    try:
        slm.check()
    except (FileNotFoundError, ValueError):
        return None
    lengths = measure_chats(slm, [task.build_messages() for task in tasks])
    if not lengths:
        return None
    return {"tokenizer": slm.path.name, "median": int(median(lengths)), "max": max(lengths)}


def _run_agents(plan: CaptureRun, waiting: Sequence[Task]) -> Iterator[Trajectory]:
    """Trajectories as they end. No task is started after a refusal or when the consumer stops."""
    with ThreadPoolExecutor(plan.concurrency) as pool:
        try:
            futures = [
                pool.submit(run_agent, plan.client, task, plan.options, plan.secrets)
                for task in waiting
            ]
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
