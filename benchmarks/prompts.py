"""Which instruction models understand: candidates for both tracks and the agent, on val rows.

    python -m benchmarks.prompts rows NAME=FOLDER:PRECISION …  # all, with 0 and 4 examples
    python -m benchmarks.prompts agent NAME=FOLDER:PRECISION   # all of the agent's, at all tasks
    python -m benchmarks.prompts page                          # docs/prompts.md, from prompts.json

Test rows are not looked at. PRECISION is 4bit, bfloat16 or float32. `rows` and `agent` replace the
records of their part and of the models named in benchmarks/results/prompts.json.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from benchmarks.prompt_candidates import AGENT_CANDIDATES, CANDIDATES
from benchmarks.prompt_tables import write_page
from benchmarks.records import RESULTS, Record, replace_records
from swaplib.agents.agent import AgentOptions
from swaplib.agents.agent_prompt import AGENT_PROMPT
from swaplib.agents.capture_run import plan_tasks, run_plan
from swaplib.agents.grades import count_grades, filter_trajectories
from swaplib.agents.tasks import read_tasks
from swaplib.data import tool_split, xlam
from swaplib.metrics import TRACKS, rates_of, score_rows
from swaplib.models.hosted import HostedLLM
from swaplib.models.local import LocalSLM
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.prompts import Message, build_messages, pick_shots
from swaplib.rows import Generation, Row
from swaplib.serving.server_process import running_server
from swaplib.settings import ROOT, Settings, load_settings

SHOTS, MAX_NEW_TOKENS, BATCH_SIZE = (0, 4), 256, 64


def read_examples(settings: Settings) -> tool_split.Splits:
    """The examples of the shipped rows, by track and split."""
    manifest = json.loads((settings.dataset / "manifest.json").read_text())
    raw, _ = xlam.read_source("sample", settings.sample)
    sources = xlam.make_examples(raw)[0]
    return tool_split.split_by_tool(sources, manifest["sizes_asked"], manifest["seed"])


def measure_rows(settings: Settings, name: str, slm: LocalSLM) -> list[Record]:
    """Every candidate of both tracks on the committed val rows, with and without examples."""
    splits, records = read_examples(settings), []
    for track, candidate, shots in product(TRACKS, CANDIDATES, SHOTS):
        if (template := CANDIDATES[candidate].get(track)) is None:
            continue
        train, val = (write_rows(splits[track][split], template) for split in ("train", "val"))
        examples = pick_shots(train, shots)
        chats = [build_messages(track, row.prompt, examples) for row in val]
        answers = dict(slm.generate(chats, MAX_NEW_TOKENS))
        outputs = [answers[i].output for i in range(len(chats))]
        scores = score_rows(track, [row.completion for row in val], outputs)
        rates = {metric: round(rate, 4) for metric, rate in rates_of(scores).items()}
        record = {"part": "rows", "track": track, "candidate": candidate, "model": name}
        record |= {"precision": slm.checkpoint.precision}
        record |= {"shots": shots, "n_rows": len(chats), **rates}
        record |= {"by_status": dict(Counter(answer.status for answer in answers.values()))}
        records.append(record)
        print(json.dumps(record), flush=True)
    return records


def write_rows(sources: Sequence[xlam.SourceRow], template: str) -> list[Row]:
    """Rows as 01 makes them, with a candidate as their instruction."""
    return [Row(xlam.format_prompt(source, template), source.row.completion) for source in sources]


@dataclass(frozen=True)
class InstructedClient:
    """A client whose agent gets a candidate as its instruction, in place of the package's own."""

    client: HostedLLM
    instruction: str

    def check(self) -> None:
        """As the client's."""
        self.client.check()

    def identity(self) -> dict[str, Any]:
        """The client's, and the instruction."""
        return self.client.identity() | {"instruction": self.instruction}

    def generate(
        self, conversations: Sequence[Sequence[Message]], max_new_tokens: int
    ) -> Iterator[tuple[int, Generation]]:
        """As the client's, with the candidate as every conversation's system message."""
        head, _, tail = AGENT_PROMPT.partition("{signatures}")
        instructed = []
        for system, *others in conversations:
            signatures = system["content"].removeprefix(head).removesuffix(tail)
            instruction = self.instruction.format(signatures=signatures)
            instructed.append([system | {"content": instruction}, *others])
        return self.client.generate(instructed, max_new_tokens)


def measure_agent(settings: Settings, name: str, slm: LocalSLM) -> list[Record]:
    """Every candidate for the agent at all tasks, with the filter of 07."""
    found, records = read_tasks(settings, "sample"), []
    golds = {task.id: task.gold for task in found.tasks}
    with running_server(slm, name) as root:
        client = HostedLLM(
            f"{root}/v1", "local", None, name, BATCH_SIZE, deadline_s=1800, is_slm=True
        )
        for candidate, text in AGENT_CANDIDATES.items():
            instructed = InstructedClient(client, text)
            plan = plan_tasks(
                settings, "agent", instructed, found, AgentOptions(), None, False, BATCH_SIZE
            )
            done = run_plan(settings, plan)
            grades = filter_trajectories(done.trajectories, golds)
            calls = Counter(len(golds[g.trajectory.id].calls) > 1 for g in grades if g.is_kept)
            record = {"part": "agent", "candidate": candidate, "model": name}
            record |= {"precision": slm.checkpoint.precision, "n_tasks": len(grades)}
            record |= {"answered": done.facts["outcomes"].get("answered", 0)}
            record |= {"kept": calls.total()}
            record |= {"kept_of_one_call": calls[False], "kept_of_several_calls": calls[True]}
            records.append(record | {"dropped": count_grades(grades)["dropped"]})
            print(json.dumps(records[-1]), flush=True)
    return records


def read_model(text: str) -> tuple[str, LocalSLM]:
    """The model of `NAME=FOLDER:PRECISION`."""
    name, _, rest = text.partition("=")
    folder, _, precision = rest.rpartition(":")
    return name, LocalSLM(Checkpoint(ROOT / folder, precision=precision), BATCH_SIZE)


def main(command: str, *models: str) -> None:
    """Run one of the commands above."""
    path = RESULTS / "prompts.json"
    if command == "page":
        return write_page(json.loads(path.read_text()))
    measure = {"rows": measure_rows, "agent": measure_agent}[command]
    for model in models:
        records = measure(load_settings(), *read_model(model))
        replace_records(path, records, ["part", "model"])
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
