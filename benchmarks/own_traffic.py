"""Own traffic on record: tool loops against a real model become rows, training data, a report.

    python -m benchmarks.own_traffic ask HOME TASKS    # the loops, recorded to HOME/log.jsonl
    python -m benchmarks.own_traffic record HOME HOSTED SLM TASKS

The tasks are those of the capture: xLAM's requests, with tools that are executed here. A plain loop
over the `openai` client solves half of them, pydantic-ai, an agent library, the other half; neither
knows that it is recorded. `record` serves HOSTED, asks, and does what 01, 02, 04, 05, 07 and 08 do.
pydantic-ai is no dependency: `pip install pydantic-ai-slim[openai]` in an environment of your own.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI, OpenAI

from benchmarks.real_pair import serving
from benchmarks.records import write_table
from swaplib.agents import build, capture, distill, tools
from swaplib.agents.tasks import Task, list_tasks
from swaplib.data import dataset, xlam
from swaplib.data.tool_schemas import to_openai
from swaplib.evaluation import evaluate
from swaplib.metrics import TRACKS, Track, core_metrics
from swaplib.settings import ROOT, Settings, load_settings
from swaplib.training import finetune

SIZES: dict[Track, str] = {"toolcall": "340/60/100", "structured": "600/80/100"}
MOST_TURNS, AT_ONCE = 6, 16
SYSTEM = "Use the tools to answer the request. When you know the answer, give it in one sentence."


def run_tool(name: str, arguments: dict[str, Any]) -> str:
    """What a tool gives, or the error that it raises, as an application tells its model."""
    try:
        return json.dumps(tools.TOOLS[name](**arguments))
    except Exception as error:  # a model may pass anything
        return f"{type(error).__name__}: {error}"


def solve_plainly(client: OpenAI, model: str, task: Task) -> None:
    """A tool loop as people write it."""
    messages: list[Any] = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": task.request},
    ]
    offered = [to_openai(tool) for tool in task.offered]
    for _ in range(MOST_TURNS):
        done = client.chat.completions.create(
            model=model, messages=messages, tools=offered, temperature=0, max_tokens=256
        )
        message = done.choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            return
        for call in message.tool_calls:
            arguments = json.loads(call.function.arguments)
            result = run_tool(call.function.name, arguments)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


async def solve_by_library(client: AsyncOpenAI, model: str, tasks: Sequence[Task]) -> None:
    """The same by pydantic-ai, whose agents are made of functions with schemas."""
    from pydantic_ai import Agent, Tool
    from pydantic_ai.exceptions import AgentRunError
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    asked = OpenAIChatModel(model, provider=OpenAIProvider(openai_client=client))
    places = asyncio.Semaphore(AT_ONCE)

    def offer(definition: dict[str, Any]) -> Tool:
        function = to_openai(definition)["function"]
        return Tool.from_schema(
            _make_caller(function["name"]),
            name=function["name"],
            description=function["description"],
            json_schema=function["parameters"],
        )

    async def solve(task: Task) -> None:
        agent = Agent(asked, system_prompt=SYSTEM, tools=[offer(tool) for tool in task.offered])
        async with places:
            try:
                await agent.run(task.request, model_settings={"temperature": 0, "max_tokens": 256})
            except AgentRunError as error:  # it gives up on a model that does not get there
                print(task.id, type(error).__name__)

    await asyncio.gather(*map(solve, tasks))


def _make_caller(name: str) -> Callable[..., str]:
    def call(**arguments: Any) -> str:
        return run_tool(name, arguments)

    return call


def ask(settings: Settings, n_tasks: int) -> None:
    """Both agents, each over half of the tasks, recorded to one log."""
    raw, _ = xlam.read_source("sample", settings.sample)
    tasks, log = list_tasks(raw)[0][:n_tasks], settings.swap_home / "log.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    where = {"base_url": settings.azure_endpoint, "api_key": settings.azure_api_key}
    model = str(settings.azure_deployment)
    plain = capture.record(OpenAI(**where), log)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(solve_plainly, plain, model, task) for task in tasks[::2]]
        for future in futures:
            if error := future.exception():
                print(type(error).__name__, str(error)[:200])
    asyncio.run(solve_by_library(capture.record(AsyncOpenAI(**where), log), model, tasks[1::2]))
    print(sum(1 for _ in log.open()), "exchanges")


def build_rows(settings: Settings) -> None:
    """What 01 and 07 make of the log."""
    log = str(settings.swap_home / "log.jsonl")
    dataset.build_dataset(settings, log, SIZES)
    build.build_captured(settings, log)


def evaluate_before(settings: Settings) -> None:
    """The hosted LLM as it was asked, some rows twice, and the SLM in both forms."""
    for track in _list_tracks(settings):
        models = "azure-native,slm,slm-native"
        evaluate.run_models(settings, track, models, noise_rows=20, concurrency=32, batch_size=64)


def train(settings: Settings) -> None:
    """A toolcall adapter of the log's rows, and the agent's of its tool loops."""
    finetune.fine_tune(settings, "toolcall", force=True)
    distill.distill_agent(settings)


def evaluate_after(settings: Settings) -> None:
    """The fine-tuned SLM, in both forms."""
    evaluate.run_models(settings, "toolcall", "slm_ft,slm_ft-native", batch_size=64)


def _list_tracks(settings: Settings) -> list[Track]:
    return [track for track in TRACKS if (settings.dataset / track).is_dir()]


def record(home: Path, hosted: Path, slm: Path, n_tasks: int) -> None:
    """All steps, each in a process of its own, since Unsloth patches transformers."""
    with serving(hosted, slm) as known:
        for words in (("ask", str(n_tasks)), *((step,) for step in STEPS)):
            command = [sys.executable, "-m", "benchmarks.own_traffic", words[0], str(home)]
            env = os.environ | known | {"SWAP_HOME": str(home)}
            subprocess.run([*command, *words[1:]], env=env, cwd=ROOT, check=True)
    settings = load_settings().model_copy(update={"swap_home": home})
    write_table("own_traffic", summarise(settings), f"{n_tasks} tasks, {hosted.name}, {slm.name}.")


def summarise(settings: Settings) -> list[dict[str, Any]]:
    """One record for each model and track, and what the log gave."""
    manifest = json.loads((settings.dataset / "manifest.json").read_text())
    kept = json.loads((settings.dataset / "captured" / "manifest.json").read_text())["filter"]
    records: list[dict[str, Any]] = [
        {
            "what": f"log of {manifest['source_rows']} exchanges",
            "n": sum(manifest["exchanges"].values()),
            "result": manifest["left_out"] | {"chats": kept["kept"]},
        }
    ]
    for path in sorted(settings.evaluation.glob("*_test.json")):
        metrics = json.loads((path).read_text())
        names = core_metrics(metrics["run"]["track"])
        records.append(
            {
                "what": path.stem.removesuffix("_test"),
                "n": metrics["n_rows"],
                "result": {name: round(metrics[name], 3) for name in names},
            }
        )
    for card in sorted(settings.swap_home.glob("04_ft/*/run_card.json")):
        found = json.loads((card).read_text())
        records.append({"what": card.parent.name, "n": found["steps"], "result": found["final"]})
    return records


STEPS: dict[str, Callable[[Settings], None]] = {
    step.__name__: step for step in (build_rows, evaluate_before, train, evaluate_after)
}


def main(arguments: list[str]) -> None:
    """Run what the command line names."""
    match arguments:
        case ["ask", home, n_tasks]:
            ask(load_settings().model_copy(update={"swap_home": Path(home)}), int(n_tasks))
        case [step, home] if step in STEPS:
            STEPS[step](load_settings().model_copy(update={"swap_home": Path(home)}))
        case ["record", home, hosted, slm, n_tasks]:
            record(Path(home).resolve(), Path(hosted), Path(slm), int(n_tasks))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
