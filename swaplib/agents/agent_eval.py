"""Evaluates the SLM as an agent: the share of test tasks solved, base and distilled, in pairs.

Prompt, tools, sandbox and grade are those of the capture. The tools of the test tasks are called in
no trajectory that was trained on, though some are offered there; tasks of your own that are split
by request share their tools. A model is served by a process of its own, so that turns are answered
in batches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from swaplib.agents.agent import AgentOptions
from swaplib.agents.capture_run import Capture, plan_tasks, run_plan
from swaplib.agents.distill import AGENT
from swaplib.agents.grades import Grade, filter_trajectories
from swaplib.agents.task_sources import find_tasks_again
from swaplib.agents.tasks import Task, TaskSet
from swaplib.evaluation import stats
from swaplib.evaluation.intervals import wilson_interval
from swaplib.models.hosted import HostedLLM
from swaplib.models.local import LocalSLM
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.serving.server_process import running_server
from swaplib.settings import Settings
from swaplib.tracing.outbox import check_tracing

AGENTS = ("slm", "slm_ft")  # the base, and with the agent's adapter


@dataclass(frozen=True)
class AgentRun:
    """One agent's run over the test tasks, and the grades in the order of the tasks."""

    capture: Capture
    grades: tuple[Grade, ...]

    @property
    def solved(self) -> list[bool]:
        """Whether each task is solved."""
        return [grade.is_kept for grade in self.grades]


def evaluate_agent(
    settings: Settings,
    model: str,
    tasks: TaskSet,
    options: AgentOptions,
    batch_size: int,
    session_id: str | None,
) -> AgentRun:
    """Let one agent work at the tasks, or resume the run that was killed.

    Args:
        settings: Has the checkpoint's path and the home of the agent's adapter.
        model: `slm`, or `slm_ft` with the agent's adapter.
        tasks: The test tasks.
        options: Limits of the agent.
        batch_size: Tasks in flight at once; their turns are answered in batches.
        session_id: The Langfuse session.

    Raises:
        FileNotFoundError, ValueError: The checkpoint or the adapter is missing or does not fit.
    """
    adapter = settings.adapter_of(AGENT) if model == "slm_ft" else None
    slm = LocalSLM(Checkpoint(settings.slm_model_path, adapter), batch_size)
    plan = plan_tasks(settings, f"agent-{model}", slm, tasks, options, None, False, batch_size)
    if plan.find_waiting():
        with running_server(slm, model) as root:
            served = HostedLLM(
                f"{root}/v1", "local", None, model, batch_size, deadline_s=1800, is_slm=True
            )
            capture = run_plan(settings, replace(plan, client=served), session_id)
    else:
        capture = run_plan(settings, plan, session_id)
    golds = {task.id: task.gold for task in tasks.tasks}
    return AgentRun(capture, tuple(filter_trajectories(capture.trajectories, golds)))


def evaluate_agents(
    settings: Settings,
    source: str = "sample",
    limit: int | None = None,
    options: AgentOptions | None = None,
    batch_size: int = 16,
    session_id: str | None = None,
    fold: int = 0,
    made_from: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, AgentRun]]:
    """Evaluate the base SLM and the distilled one as agents on the test tasks, and compare them.

    Args:
        settings: Its home holds the dataset and the agent's adapter.
        source: As for the capture.
        limit: Only the first test tasks; None for all, and SWAP_ROW_LIMIT caps it.
        options: Those of the capture by default.
        batch_size: Tasks in flight at once.
        fold: The fold of the build that the agent was distilled from.
        made_from: What that build was made from.

    Returns:
        The comparison, and the runs by model. The comparison has `models` (for each: `n_tasks`,
        `solved`, `solved_rate`, its Wilson `interval`, `steps`, the mean number of a task's steps,
        and `run_id`), and `pairs` (paired evidence on `solved_rate`; first is the base SLM; tasks
        that call the same first tool are resampled together).

    Raises:
        ValueError: No task of the test split is among the tasks.
        RuntimeError: Turns got no answer, which is no fault of the model: run this again.
    """
    check_tracing(settings)
    options = options or AgentOptions()
    found = find_tasks_again(settings, source, fold, made_from or {}, options.allow_unwalled)
    tasks = _hold_out(settings, found, limit)
    runs = {m: evaluate_agent(settings, m, tasks, options, batch_size, session_id) for m in AGENTS}
    _check_answered(runs)
    models = {model: _describe(run) for model, run in runs.items()}
    solved = {model: run.solved for model, run in runs.items()}
    return {"models": models, "pairs": compare_solved(solved, tasks.tasks)}, runs


def _hold_out(settings: Settings, tasks: TaskSet, limit: int | None) -> TaskSet:
    """The tasks of the test split."""
    held_out = [task for task in tasks.tasks if tasks.split_of[task.id] == "test"]
    if not held_out:
        raise ValueError(
            "no task is in the test split, so there is nothing to evaluate an agent on"
        )
    return replace(tasks, tasks=tuple(held_out[: settings.cap_rows(limit)]))


def compare_solved(solved: Mapping[str, Sequence[bool]], tasks: Sequence[Task]) -> dict[str, Any]:
    """The paired evidence about two agents, from which of the tasks each has solved."""
    first, second = solved.values()
    groups = [task.group for task in tasks]
    compared = stats.compare_metrics({"solved_rate": (first, second)}, stats.DEFAULT_MARGIN, groups)
    return {metric: asdict(pair) for metric, pair in compared.items()}


def _check_answered(runs: Mapping[str, AgentRun]) -> None:
    failed = {
        model: run.capture.facts["outcomes"]["error"]
        for model, run in runs.items()
        if not run.capture.facts["complete"]
    }
    if failed:
        listed = ", ".join(f"{n} of {model}" for model, n in failed.items())
        raise RuntimeError(
            f"tasks that got no answer from the model: {listed}. "
            "Run this again; it asks only those."
        )


def _describe(run: AgentRun) -> dict[str, Any]:
    n, solved = len(run.grades), sum(run.solved)
    return {
        "n_tasks": n,
        "solved": solved,
        "solved_rate": solved / n,
        "interval": wilson_interval(solved, n),
        "steps": sum(len(grade.trajectory.steps) for grade in run.grades) / n,
        "run_id": run.capture.folder.name,
    }
