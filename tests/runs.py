"""Runs of the hosted model against a loopback server, in this process and in their own."""

import subprocess
import sys
import time

from servers import completion

from swaplib.evaluation import evaluate
from swaplib.metrics import core_metrics


def right(exchange):
    """Answers `Request i?` with row i's gold."""
    index = exchange.json()["messages"][-1]["content"].removeprefix("Request ").rstrip("?")
    return completion(f'<tool_call name="tool_{index}">{{"x": {index}}}</tool_call>')


def wrong_for(indices, answer):
    wanted = {f"Request {i}?" for i in indices}
    return lambda e: answer if e.json()["messages"][-1]["content"] in wanted else right(e)


def run_azure(settings, root: str, **parameters) -> evaluate.Run:
    endpoint = f"{root}/openai/deployments/gpt"
    return evaluate.run_model(
        settings.model_copy(update={"azure_endpoint": endpoint}),
        "toolcall",
        "azure",
        **{"concurrency": 2} | parameters,
    )


def start_process(settings, root: str, env: dict, parameters: str = "") -> subprocess.Popen:
    """Run azure on the toolcall rows in a process of its own."""
    env = env | {
        "AZURE_ENDPOINT": f"{root}/openai/deployments/gpt",
        "SWAP_HOME": str(settings.swap_home),
        "SWAP_ROW_LIMIT": "",
    }
    code = (
        "from swaplib import settings\nfrom swaplib.evaluation import evaluate\n"
        f"evaluate.run_model(settings.load_settings(), 'toolcall', 'azure', {parameters})"
    )
    command = [sys.executable, "-c", code]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def start_run(
    settings, root: str, env: dict, exchanges: list, parameters: str = ""
) -> subprocess.Popen:
    """As start_process; returns once its first call has arrived."""
    process = start_process(settings, root, env, parameters)
    while not exchanges:
        assert process.poll() is None
        time.sleep(0.01)
    return process


def make_metrics(track: str, run: dict, **content) -> dict:
    """A metrics file that says nothing of a run but what a test is about."""
    names = ("track", "model", "split", "ended", "rows_sha256", "dataset_sha256")
    told = dict.fromkeys(names, "") | {"track": track, "identity": {}} | run
    empty = {"n_rows": 2, "complete": True, "n_by_status": {}, "intervals": {}, "extra": {}}
    return empty | dict.fromkeys(core_metrics(track), 0.0) | content | {"run": told}
