"""Captures how the hosted LLM solves tasks as an agent: one line of trajectories.jsonl for each.

For agents that you have already, `record` writes what their own `openai` client asks and gets to
the same kind of file.
"""

from pathlib import Path
from typing import Any

from swaplib.agents.agent import AgentOptions
from swaplib.agents.capture_run import Capture, plan_tasks, read_ended, run_plan
from swaplib.agents.own_tasks import OwnFiles
from swaplib.agents.recorder import Recorder
from swaplib.agents.task_sources import find_tasks
from swaplib.files import read_json, write_json
from swaplib.models.hosted import HostedLLM
from swaplib.settings import Settings, check_sizes
from swaplib.tracing.outbox import check_tracing


def capture_trajectories(
    settings: Settings,
    source: str = "sample",
    limit: int | None = None,
    max_steps: int = 4,
    max_new_tokens: int = 256,
    concurrency: int = 4,
    fresh: bool = False,
    allow_unwalled: bool = False,
    own: OwnFiles | None = None,
) -> Capture:
    """Let the hosted LLM work at the tasks as an agent, or resume the capture that was killed.

    Args:
        settings: AZURE_* say which LLM is asked.
        source: The raw rows that 01's dataset was made from, if `own` is None.
        limit: Only the first tasks; None for all, and SWAP_ROW_LIMIT caps it.
        max_steps: Turns of the agent at most; `max_new_tokens` limits each.
        fresh: Start a new capture where one with the same question exists.
        allow_unwalled: Run the LLM's code even where this machine's kernel cannot contain it.
        own: Your own tools and tasks.

    Returns:
        The capture. Tasks that got no answer (`facts["complete"]` is False) are asked next time.

    Raises:
        FileNotFoundError, ValueError, ConnectionError: Something is missing or wrong.
        CallFailed, RuntimeError: The LLM refuses every call; nothing would contain its code.
    """
    check_tracing(settings)
    options = AgentOptions(
        max_steps=max_steps, max_new_tokens=max_new_tokens, allow_unwalled=allow_unwalled
    )
    _check_sizes(limit, options, concurrency)
    client = HostedLLM.from_settings(settings)
    tasks, limit = find_tasks(settings, source, own=own), settings.cap_rows(limit)
    plan = plan_tasks(settings, "capture", client, tasks, options, limit, fresh, concurrency)
    captured = run_plan(settings, plan)
    write_json(settings.evaluation / "capture.json", captured.facts)
    return captured


def _check_sizes(limit: int | None, options: AgentOptions, concurrency: int) -> None:
    check_sizes(
        " (limit=None is all tasks)",
        limit=limit,
        max_steps=options.max_steps,
        max_new_tokens=options.max_new_tokens,
        concurrency=concurrency,
    )


def read_capture(settings: Settings) -> Capture:
    """Read the last capture that has ended.

    Raises:
        FileNotFoundError: There is none; names the notebook that makes it.
    """
    path = settings.evaluation / "capture.json"
    if not path.is_file():
        raise FileNotFoundError(f"no capture at {path}. Run notebooks/06_capture.ipynb first.")
    facts = read_json(path, "Run 06_capture again.")
    return read_ended(settings.runs / facts["run"]["run_id"], facts)


def record(client: Any, path: str | Path) -> Any:
    """Record what your own `openai` client asks and gets, a line for each chat completion.

    Calls of `chat.completions.create` are recorded. The caller gets what the client made,
    unchanged, sync or async, streamed or not; keys are masked in the file. When recording fails the
    call does not: a warning says how many so far. Copies of the client (`with_options`) and its
    other methods (`parse`, `responses`) are not recorded. 01 makes rows of such a file
    (data/traffic_rows.py), 07 chats (logged_chats.py).

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
