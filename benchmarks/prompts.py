"""Which instruction models understand: candidates for both tracks and the agent, on val rows; test is not looked at.

    python -m benchmarks.prompts rows NAME=FOLDER:PRECISION …     # every candidate, each model, with and without 4 examples
    python -m benchmarks.prompts agent NAME=FOLDER:PRECISION      # every candidate for the agent, at all tasks
    python -m benchmarks.prompts page                             # docs/prompts.md, from results/prompts.json

PRECISION is 4bit, bfloat16 or float32. `rows` and `agent` replace the records of their part and of the models named.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from benchmarks.prompt_candidates import AGENT_CANDIDATES, CANDIDATES
from benchmarks.records import RESULTS, format_table
from swaplib.agents.agent import AgentOptions
from swaplib.agents.agent_prompt import AGENT_PROMPT
from swaplib.agents.capture_run import plan_tasks, run_plan
from swaplib.agents.grades import count_grades, filter_trajectories
from swaplib.agents.tasks import read_tasks
from swaplib.data import tool_split, xlam
from swaplib.files import write_json, write_text
from swaplib.metrics import TRACKS, Track, core_metrics, rates_of, score_rows
from swaplib.models.hosted import HostedLLM
from swaplib.models.local import LocalSLM
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.prompts import ROW_PROMPTS, Message, build_messages, pick_shots
from swaplib.provenance import describe_machine
from swaplib.rows import Generation, Row
from swaplib.serving.server_process import running_server
from swaplib.settings import ROOT, Settings, load_settings

PAGE = ROOT / "docs" / "prompts.md"
SHOTS, MAX_NEW_TOKENS, BATCH_SIZE = (0, 4), 256, 64


def read_examples(settings: Settings) -> tool_split.Splits:
    """The examples of the shipped rows, by track and split."""
    manifest = json.loads((settings.dataset / "manifest.json").read_text())
    raw, _ = xlam.read_source("sample", settings.sample)
    return tool_split.split_by_tool(
        xlam.make_examples(raw)[0], manifest["sizes_asked"], manifest["seed"]
    )


def measure_rows(settings: Settings, name: str, slm: LocalSLM) -> list[dict[str, Any]]:
    """Every candidate of both tracks on the val rows of the committed dataset, with and without examples."""
    splits, records = read_examples(settings), []
    for track, candidate, shots in product(TRACKS, CANDIDATES, SHOTS):
        if (template := CANDIDATES[candidate].get(track)) is None:
            continue
        rows = {
            split: [
                Row(xlam.format_prompt(example, template), example.row.completion)
                for example in splits[track][split]
            ]
            for split in ("train", "val")
        }
        examples = pick_shots(rows["train"], shots)
        chats = [build_messages(track, row.prompt, examples) for row in rows["val"]]
        answers = dict(slm.generate(chats, MAX_NEW_TOKENS))
        outputs = [answers[i].output for i in range(len(chats))]
        scores = score_rows(track, [row.completion for row in rows["val"]], outputs)
        rates = {metric: round(rate, 4) for metric, rate in rates_of(scores).items()}
        record = {
            "part": "rows",
            "track": track,
            "candidate": candidate,
            "model": name,
            "precision": slm.checkpoint.precision,
        }
        record |= {"shots": shots, "n_rows": len(chats), **rates}
        record |= {"by_status": dict(Counter(answer.status for answer in answers.values()))}
        records.append(record)
        print(json.dumps(record), flush=True)
    return records


@dataclass(frozen=True)
class InstructedClient:
    """A client whose agent gets a candidate as its instruction, in place of the workbook's own."""

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
        """As the client's, over the same conversations with the candidate as their system message."""
        head, _, tail = AGENT_PROMPT.partition("{signatures}")
        instructed = []
        for system, *others in conversations:
            signatures = system["content"].removeprefix(head).removesuffix(tail)
            instructed.append(
                [system | {"content": self.instruction.format(signatures=signatures)}, *others]
            )
        return self.client.generate(instructed, max_new_tokens)


def measure_agent(settings: Settings, name: str, slm: LocalSLM) -> list[dict[str, Any]]:
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
            verdicts = filter_trajectories(done.trajectories, golds)
            calls = Counter(len(golds[v.trajectory.id].calls) > 1 for v in verdicts if v.is_kept)
            record = {
                "part": "agent",
                "candidate": candidate,
                "model": name,
                "precision": slm.checkpoint.precision,
            }
            record |= {
                "n_tasks": len(verdicts),
                "answered": done.facts["outcomes"].get("answered", 0),
            }
            record |= {
                "kept": calls.total(),
                "kept_of_one_call": calls[False],
                "kept_of_several_calls": calls[True],
            }
            records.append(record | {"dropped": count_grades(verdicts)["dropped"]})
            print(json.dumps(records[-1]), flush=True)
    return records


def write_records(records: list[dict[str, Any]]) -> None:
    """Put records in the place of those of the same part and models."""
    path, machine = RESULTS / "prompts.json", describe_machine()
    about = {"machine": machine["device"], "git_commit": machine["git_commit"]}
    replaced = {(record["part"], record["model"]) for record in records}
    known = json.loads(path.read_text()) if path.is_file() else []
    kept = [record for record in known if (record["part"], record["model"]) not in replaced]
    write_json(path, kept + [record | about for record in records])


def choose(records: list[dict[str, Any]], track: Track) -> dict[str, float]:
    """Candidates of a track with the mean of its core metrics over models and numbers of examples, the best first."""
    found = [record for record in records if record["part"] == "rows" and record["track"] == track]
    means = {}
    for candidate in CANDIDATES:
        if rates := [
            r[metric]
            for r in found
            if r["candidate"] == candidate
            for metric in core_metrics(track)
        ]:
            means[candidate] = sum(rates) / len(rates)
    return dict(sorted(means.items(), key=lambda item: -item[1]))


def write_page(records: list[dict[str, Any]]) -> None:
    """Put the tables between the marks of docs/prompts.md."""
    head, mark, rest = PAGE.read_text().partition(
        "<!-- tables: python -m benchmarks.prompts page -->\n"
    )
    _, end, tail = rest.partition("<!-- end of tables -->\n")
    tables = [_format_rows(records, track) for track in TRACKS] + [_format_agent(records)]
    write_text(PAGE, head + mark + "\n" + "\n".join(tables) + "\n" + end + tail)


def _format_rows(records: list[dict[str, Any]], track: Track) -> str:
    found = [record for record in records if record["part"] == "rows" and record["track"] == track]
    columns = list(dict.fromkeys((r["model"], r["precision"], r["shots"]) for r in found))
    heads = [
        "instruction",
        *(f"{m}, {p}{f', {n} examples' if n else ''}" for m, p, n in columns),
        "mean",
    ]
    lines = []
    for candidate, mean in choose(records, track).items():
        cells = {
            (r["model"], r["precision"], r["shots"]): r
            for r in found
            if r["candidate"] == candidate
        }
        shown = [
            " / ".join(f"{cells[c][metric]:.2f}" for metric in core_metrics(track)) for c in columns
        ]
        is_chosen = CANDIDATES[candidate][track] == ROW_PROMPTS[track]
        lines.append([f"**{candidate}**" if is_chosen else candidate, *shown, f"{mean:.3f}"])
    metrics = " / ".join(core_metrics(track))
    return f"### {track}: {metrics} on {found[0]['n_rows']} val rows\n\n" + _format_table(
        heads, lines, found[0]
    )


def _format_agent(records: list[dict[str, Any]]) -> str:
    found = [record for record in records if record["part"] == "agent"]
    heads = [
        "instruction",
        "model",
        "tasks",
        "answered",
        "kept",
        "of one call",
        "of several calls",
        "most dropped",
    ]
    lines = []
    for r in found:
        is_chosen = AGENT_CANDIDATES[r["candidate"]] == AGENT_PROMPT
        reasons = "; ".join(f"{n} {reason}" for reason, n in list(r["dropped"].items())[:2])
        share = f"{r['kept']} ({r['kept'] / r['n_tasks']:.0%})"
        name = f"**{r['candidate']}**" if is_chosen else r["candidate"]
        cells = [name, f"{r['model']}, {r['precision']}", r["n_tasks"], r["answered"], share]
        lines.append(
            [*map(str, cells), str(r["kept_of_one_call"]), str(r["kept_of_several_calls"]), reasons]
        )
    return "### The agent, at all tasks\n\n" + _format_table(heads, lines, found[0])


def _format_table(heads: list[str], lines: list[list[str]], record: dict[str, Any]) -> str:
    rows = format_table(heads, lines)
    return "\n".join([*rows, "", f"On {record['machine']}, commit {record['git_commit']}.", ""])


def read_model(text: str) -> tuple[str, LocalSLM]:
    """The model of `NAME=FOLDER:PRECISION`."""
    name, _, rest = text.partition("=")
    folder, _, precision = rest.rpartition(":")
    return name, LocalSLM(Checkpoint(ROOT / folder, precision=precision), BATCH_SIZE)


def main(command: str, *models: str) -> None:
    """Run one of the commands above."""
    if command == "page":
        return write_page(json.loads((RESULTS / "prompts.json").read_text()))
    settings, measure = load_settings(), {"rows": measure_rows, "agent": measure_agent}[command]
    for model in models:
        write_records(measure(settings, *read_model(model)))


if __name__ == "__main__":
    main(*sys.argv[1:])
