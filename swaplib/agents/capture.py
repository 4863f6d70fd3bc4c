"""Captures how the hosted LLM solves tasks as an agent: one line of trajectories.jsonl for each request.

A capture is a run: its folder's name ends in a hash of the question, every line is synced to disk as it comes, and the same
call goes on where a killed one stopped. For agents that people have already, `record` writes what their own `openai` client
asks and gets to the same kind of file.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from langfuse import LangfuseAgent
from tqdm import tqdm

from swaplib.agents.agent import AgentOptions, run_agent
from swaplib.agents.agent_prompt import build_agent_messages
from swaplib.agents.recorder import Recorder
from swaplib.agents.sandbox.session import find_walls
from swaplib.agents.tasks import Task, TaskSet, read_tasks
from swaplib.agents.trajectory import Trajectory, grade, read_trajectories
from swaplib.evaluation.costs import Prices
from swaplib.files import append_line, hash_text, read_json, write_json
from swaplib.metrics import canonical_json
from swaplib.models.hosted import HostedLLM
from swaplib.runs import find_run, lock_run, new_folder, open_run
from swaplib.settings import Settings, check_sizes, show_path
from swaplib.tracing import run_trace
from swaplib.tracing.langfuse_client import describe_spent
from swaplib.tracing.outbox import check_tracing

if TYPE_CHECKING:
    from swaplib.models.local import LocalSLM


@dataclass(frozen=True)
class Capture:
    """A capture that has ended: its folder, the content of capture.json, and the trajectories in the order of the tasks."""

    folder: Path
    facts: dict[str, Any]
    trajectories: tuple[Trajectory, ...]


@dataclass(frozen=True)
class Plan:
    """What is to be asked of whom: `kind` is `capture` for the hosted LLM, `agent` where an agent is evaluated."""

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

    def count_solved(self, found: dict[str, Trajectory]) -> dict[str, Any]:
        """`solved` and `solved_rate`: tasks whose trajectory makes the gold's calls and gives the computed answer."""
        solved = sum(grade(found[task.id], task.gold).is_kept for task in self.tasks)
        return {"solved": solved, "solved_rate": solved / len(self.tasks) if self.tasks else 0.0}

    def find_waiting(self) -> list[Task]:
        """Tasks that have no trajectory, or one that ended in error."""
        found = read_trajectories(self.file)
        return [
            task for task in self.tasks if task.id not in found or found[task.id].outcome == "error"
        ]


def capture_trajectories(
    settings: Settings,
    source: str = "sample",
    limit: int | None = None,
    max_steps: int = 4,
    max_new_tokens: int = 256,
    concurrency: int = 4,
    fresh: bool = False,
    allow_unwalled: bool = False,
) -> Capture:
    """Let the hosted LLM work at the tasks as an agent, or go on with the capture that was killed.

    Args:
        settings: Says where everything lies, and which LLM is asked (AZURE_*).
        source: The raw rows that 01's dataset was made from.
        limit: Only the first tasks; None for all, and SWAP_ROW_LIMIT caps it.
        max_steps: Turns of the agent at most.
        max_new_tokens: The limit of each turn.
        concurrency: Tasks in work at once.
        fresh: Start a new capture even when one with the same question exists.
        allow_unwalled: Run the LLM's code even where this machine's kernel has nothing to contain it.

    Returns:
        The capture. `facts["complete"]` is False when the LLM gave no answer to some; the same call asks those again.

    Raises:
        FileNotFoundError, ValueError, ConnectionError: Something needed is missing or wrong; nothing was asked or written.
        CallFailed: The hosted LLM refuses every call.
        RuntimeError: Nothing would contain the LLM's code, and that was not allowed; nothing was asked.
    """
    check_tracing(settings)
    sizes = {
        "limit": limit,
        "max_steps": max_steps,
        "max_new_tokens": max_new_tokens,
        "concurrency": concurrency,
    }
    check_sizes(" (limit=None is all tasks)", **sizes)
    client = HostedLLM.from_settings(settings)
    options = AgentOptions(
        max_steps=max_steps, max_new_tokens=max_new_tokens, allow_unwalled=allow_unwalled
    )
    tasks, limit = read_tasks(settings, source), settings.cap_rows(limit)
    captured = run_plan(
        settings, plan_tasks(settings, "capture", client, tasks, options, limit, fresh, concurrency)
    )
    write_json(settings.evaluation / "capture.json", captured.facts)
    return captured


def plan_tasks(
    settings: Settings,
    kind: str,
    client: "HostedLLM | LocalSLM",
    found: TaskSet,
    options: AgentOptions,
    limit: int | None,
    fresh: bool,
    concurrency: int,
) -> Plan:
    """Find or name the run, check the endpoint, and print what is to come."""
    tasks = found.tasks[:limit]
    messages = [build_agent_messages(task.signatures, task.request) for task in tasks]
    facts = {
        "n_tasks": len(tasks),
        "task_ids": [task.id for task in tasks],
        "n_tools": len({name for task in tasks for name in task.example.called}),
        "tasks_sha256": hash_text(
            canonical_json([[task.id, m] for task, m in zip(tasks, messages, strict=True)])
        ),
        "identity": client.identity(),
        "options": asdict(options),
        "temperature": None if "is_reasoning" in client.identity() else 0,
    }
    key = hash_text(canonical_json(facts))[:12]
    folder = find_run(settings, key, new_folder(settings, kind, key), fresh)
    secrets = (
        settings.azure_api_key,
        settings.slm_api_key,
        settings.langfuse_public_key,
        settings.langfuse_secret_key,
    )
    facts |= {"key": key, "tasks": found.facts}
    plan = Plan(
        kind,
        client,
        tasks,
        options,
        facts,
        folder,
        tuple(s for s in secrets if s),
        concurrency,
        fresh,
    )
    waiting = plan.find_waiting()
    if waiting:
        client.check()
    calls = f"at most {len(waiting) * options.max_steps} calls"
    print(
        f"{len(tasks)} tasks, {len(tasks) - len(waiting)} captured before, {len(waiting)} to come ({calls})"
    )
    print(f"run {show_path(folder)}")
    return plan


def _count_prompt_tokens(settings: Settings, tasks: Sequence[Task]) -> dict[str, Any] | None:
    """Median and maximum length of the first prompts, with the local checkpoint's tokenizer; None where there is none."""
    from swaplib.models.local_checkpoint import Checkpoint, measure_chats

    slm = Checkpoint(settings.slm_model_path)
    try:
        slm.check()
    except (FileNotFoundError, ValueError):
        return None
    lengths = measure_chats(
        slm, [build_agent_messages(task.signatures, task.request) for task in tasks]
    )
    return (
        {"tokenizer": slm.path.name, "median": int(median(lengths)), "max": max(lengths)}
        if lengths
        else None
    )


def run_plan(settings: Settings, plan: Plan, session_id: str | None = None) -> Capture:
    """Do what is waiting, unless nothing is; read what is there.

    Args:
        settings: Says whether traces go to a server.
        plan: As plan_tasks makes it.
        session_id: The Langfuse session of the trace; a capture begins its own.
    """
    with lock_run(settings, plan.facts["key"], plan.folder, plan.is_fresh) as folder:
        plan = replace(plan, folder=folder)
        if plan.find_waiting() or not plan.facts_file.is_file():
            _run_and_write(settings, plan, session_id or plan.folder.name)
    return _read(plan.folder, read_json(plan.facts_file, "Delete it and run this again."))


def _run_and_write(settings: Settings, plan: Plan, session_id: str) -> None:
    """Do what is waiting, write the facts, deliver the trace. While tasks are in work, there is no file of facts."""
    prices = (
        Prices.from_settings(settings) if plan.kind == "capture" else None
    )  # an SLM is not paid by the token
    plan.facts_file.unlink(missing_ok=True)
    lengths = _count_prompt_tokens(settings, plan.tasks)  # before a call is paid
    contained = find_walls(plan.options.allow_unwalled)
    inputs = {
        "tasks": plan.facts["n_tasks"],
        "identity": plan.facts["identity"],
        "options": plan.facts["options"],
    }
    with open_run(settings, plan.folder, plan.kind, inputs, [plan.kind], session_id) as run:
        for trajectory in read_trajectories(plan.file).values():  # those whose span a kill has lost
            _trace_trajectory(run.trace, trajectory, prices)
        waiting = plan.find_waiting()
        bar = tqdm(
            _run_agents(plan, waiting), plan.kind, len(waiting), file=sys.stdout, unit="task"
        )
        for trajectory in bar:
            line = trajectory.to_json(plan.secrets)
            append_line(plan.file, line)
            _trace_trajectory(run.trace, Trajectory.from_json(line), prices)
        found = read_trajectories(plan.file)
        facts = (
            plan.facts
            | summarise([found[task.id] for task in plan.tasks])
            | plan.count_solved(found)
        )
        facts |= {"first_prompt_tokens": lengths, "contained": contained}
        output = {"outcomes": facts["outcomes"], "folder": show_path(plan.folder)}
        run.trace.finish(output, {"solved_rate": facts["solved_rate"]})
        run.record(plan.facts_file.name, facts)


def _run_agents(plan: Plan, waiting: Sequence[Task]) -> Iterator[Trajectory]:
    """Trajectories as they come. When one is refused, or the consumer stops, no further task is begun."""
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


def _trace_trajectory(
    trace: run_trace.RunTrace, trajectory: Trajectory, prices: Prices | None
) -> None:
    steps = [asdict(step) for step in trajectory.steps]
    usage, latency_ms = trajectory.usage, trajectory.timing["latency_ms"]
    metadata = {
        "id": trajectory.id,
        "outcome": trajectory.outcome,
        "usage": usage,
        "model": trajectory.model,
    }
    values = {
        "input": trajectory.task,
        "output": {"steps": steps, "final_answer": trajectory.final_answer},
    }
    tokens = {"input": usage["prompt_tokens"], "output": usage["completion_tokens"]}
    cost = prices and prices.split_price(*tokens.values())
    trace.add_span(
        hash_text(trajectory.to_json()),
        f"trajectory {trajectory.id}",
        values | {"metadata": metadata},
        latency_ms,
        is_error=trajectory.outcome == "error",
        kind=LangfuseAgent,
        ended_at=datetime.fromisoformat(trajectory.timing["started"]).timestamp()
        + latency_ms / 1000,
        spent=describe_spent(trajectory.model["model"], tokens, cost),
    )


def summarise(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """`complete`, counts of outcomes, steps, failed steps and usage of some trajectories."""
    outcomes = Counter(trajectory.outcome for trajectory in trajectories)
    usage = Counter[str]()
    for trajectory in trajectories:
        usage.update(trajectory.usage)
    steps = [step for trajectory in trajectories for step in trajectory.steps]
    return {
        "complete": outcomes["error"] == 0,
        "outcomes": dict(outcomes),
        "steps": len(steps),
        "failed_steps": sum(step.error is not None for step in steps),
        "usage": dict(usage),
    }


def _read(folder: Path, facts: dict[str, Any]) -> Capture:
    found = read_trajectories(folder / "trajectories.jsonl")
    return Capture(folder, facts, tuple(found[i] for i in facts["task_ids"] if i in found))


def record(client: Any, path: str | Path) -> Any:
    """Record what a person's own `openai` client asks and gets, one line for each call of `chat.completions.create`.

    The caller gets what the client made, unchanged, sync or async, streamed or not; keys are masked in the file. When
    recording fails the call does not: a warning says how many so far. Copies of the client (`with_options`) and its other
    methods (`parse`, `responses`) are not recorded. Lines have no gold: the filter counts them and keeps none.

    Args:
        client: An `OpenAI`, `AsyncOpenAI`, `AzureOpenAI` or `AsyncAzureOpenAI`.
        path: A JSONL file of trajectories; lines are appended and synced to disk.

    Returns:
        The same client.
    """
    secrets = (client.api_key,) if client.api_key else ()
    recorder = Recorder(Path(path), str(client.base_url), secrets)
    client.chat.completions.create = recorder.wrap(client.chat.completions.create)
    return client


def read_capture(settings: Settings) -> Capture:
    """Read the last capture that has ended.

    Raises:
        FileNotFoundError: There is none; names the notebook that makes it.
    """
    path = settings.evaluation / "capture.json"
    if not path.is_file():
        raise FileNotFoundError(f"no capture at {path}. Run notebooks/06_capture.ipynb first.")
    facts = read_json(path, "Run 06_capture again.")
    return _read(settings.runs / facts["run"]["run_id"], facts)
