"""Traces trajectories: a span for each, in the trace of the run that made it."""

from dataclasses import asdict
from datetime import datetime

from langfuse import LangfuseAgent

from swaplib.agents.trajectory import Trajectory
from swaplib.evaluation.costs import Prices
from swaplib.files import hash_text
from swaplib.tracing import run_trace
from swaplib.tracing.langfuse_client import describe_spent


def trace_trajectory(
    trace: run_trace.RunTrace, trajectory: Trajectory, prices: Prices | None
) -> None:
    """Add a trajectory to a run's trace, unless it is there already; without prices, no cost."""
    usage = trajectory.usage
    latency_ms = trajectory.timing["latency_ms"]
    started = datetime.fromisoformat(trajectory.timing["started"]).timestamp()
    steps = [asdict(step) for step in trajectory.steps]
    tokens = {"input": usage["prompt_tokens"], "output": usage["completion_tokens"]}
    cost = prices.split_price(tokens["input"], tokens["output"]) if prices else None
    trace.add_span(
        hash_text(trajectory.to_json()),
        f"trajectory {trajectory.id}",
        {
            "input": trajectory.task,
            "output": {"steps": steps, "final_answer": trajectory.final_answer},
            "metadata": {
                "id": trajectory.id,
                "outcome": trajectory.outcome,
                "usage": usage,
                "model": trajectory.model,
            },
        },
        latency_ms,
        is_error=trajectory.outcome == "error",
        kind=LangfuseAgent,
        ended_at=started + latency_ms / 1000,
        spent=describe_spent(trajectory.model["model"], tokens, cost),
    )
