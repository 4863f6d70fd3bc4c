"""Which instruction models understand: candidates for both tracks and the agent, on val rows; test is not looked at.

    python -m benchmarks.prompts rows NAME=FOLDER:PRECISION …     # every candidate, each model, with and without 4 examples
    python -m benchmarks.prompts agent NAME=FOLDER:PRECISION      # every candidate for the agent, at all tasks
    python -m benchmarks.prompts page                             # docs/prompts.md, from results/prompts.json

PRECISION is 4bit, bfloat16 or float32. `rows` and `agent` replace the records of their part and of the models named.
"""

import json
import os
import sys
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from swaplib import agent_prompt, capture, xlam
from swaplib.agent import AgentOptions
from swaplib.files import write_json, write_text
from swaplib.hosted import HostedLLM
from swaplib.local import LocalSLM
from swaplib.metrics import TRACKS, Track, core_metrics, rates_of, score_rows
from swaplib.prompts import ROW_PROMPTS, build_messages, pick_shots
from swaplib.provenance import describe_machine
from swaplib.rows import Row
from swaplib.server_process import running_server
from swaplib.settings import ROOT, Settings, load_settings
from swaplib.tasks import read_tasks
from swaplib.trajectory import count_verdicts, filter_trajectories

RESULTS = Path(os.environ.get("OUT", Path(__file__).parent / "results"))
PAGE = ROOT / "docs" / "prompts.md"
SHOTS, MAX_NEW_TOKENS, BATCH_SIZE = (0, 4), 256, 64

_ASKS: dict[Track, str] = {
    "toolcall": "Answer the request with one call of the tool below. Reply with exactly one wrapper around one JSON object",
    "structured": (
        "Answer the request with calls of the tools below. Reply with exactly one JSON array, its calls in the order asked"
    ),
}
_DEFAULTS = "Leave out a parameter with a default unless the request sets it."
_REST = "\n\n{signatures}\n\nRequest: {request}"
_TEA = '{{"name":"pour_tea","arguments":{{"cups":2,"sweetener":"honey"}}}}'
_TEA_AGAIN = '{{"name":"pour_tea","arguments":{{"cups":1}}}}'
_BELL = '{{"name":"ring_bell","arguments":{{"times_rung":3}}}}'
_CALLS: dict[Track, str] = {
    "toolcall": '<tool_call name="pour_tea">{{"cups":2,"sweetener":"honey"}}</tool_call>',
    "structured": f"[{_TEA},{_BELL}]",
}
_TWICE: dict[Track, str] = {"structured": f"[{_TEA},{_TEA_AGAIN},{_BELL}]"}
_ENDS: dict[Track, str] = {
    "toolcall": 'Start with <tool_call name=" and end with </tool_call>.',
    "structured": "Start with [ and end with ].",
}
_SHORT_ENDS = _ENDS | {"toolcall": "Start with <tool_call and end with </tool_call>."}
# how the finished call is introduced, behind what is asked for
_EXAMPLE: dict[Track, str] = {
    "toolcall": ". For example, a call of another tool:",
    "structured": ". For example, two calls of other tools:",
}
_LIKE: dict[Track, str] = {
    "toolcall": ", written like this call of another tool:",
    "structured": ", written like these calls of other tools:",
}
_THREE: dict[Track, str] = {"structured": ". For example, three calls of other tools:"}
_EACH: dict[Track, str] = {
    "structured": (
        "; one object for each thing that is asked, even where one tool does several, as in these calls of other tools:"
    )
}
_PARTS: dict[Track, str] = {
    "toolcall": "; the wrapper names the tool and the object holds its arguments, as in this call of another tool:",
    "structured": "; each object names a tool and holds its arguments, as in these calls of other tools:",
}
_VALUES = "Copy texts and numbers as the request has them; write numbers as numbers and texts as texts."


def _make(
    heads: dict[Track, str], calls: dict[Track, str] = _CALLS, ends: dict[Track, str] | None = None, more: str = ""
) -> dict[Track, str]:
    """One candidate: what is asked, how the finished calls are introduced, the calls, where to begin and end, more."""
    last = {track: " ".join(filter(None, ((ends or {}).get(track), more, _DEFAULTS))) for track in calls}
    return {track: f"{_ASKS[track]}{heads[track]}\n{calls[track]}\n{last[track]}{_REST}" for track in calls}


# what the project uses is one of them
CANDIDATES: dict[str, dict[Track, str]] = {
    "a form to fill in": _make(
        {"toolcall": ":", "structured": ":"},
        {
            "toolcall": '<tool_call name="TOOL">{{"PARAMETER": VALUE}}</tool_call>',
            "structured": '[{{"name": TOOL, "arguments": {{"PARAMETER": VALUE}}}}]',
        },
    ),
    "finished calls": _make(_EXAMPLE),
    "finished calls, where to begin and end in short": _make(_EXAMPLE, ends=_SHORT_ENDS),
    "finished calls, where to begin and end": _make(_EXAMPLE, ends=_ENDS),
    "like finished calls": _make(_LIKE),
    "like finished calls, where to begin and end": _make(_LIKE, ends=_ENDS),
    "like finished calls, where to begin and end, how to write values": _make(_LIKE, ends=_ENDS, more=_VALUES),
    "parts named, finished calls": _make(_PARTS),
    "parts named, finished calls, where to begin and end": _make(_PARTS, ends=_ENDS),
    "parts named, finished calls, where to begin and end, how to write values": _make(_PARTS, ends=_ENDS, more=_VALUES),
    "finished calls, one tool twice, where to begin and end": _make(_THREE, _TWICE, _ENDS),
    "finished calls, one tool twice, where to begin and end, how to write values": _make(
        _THREE, _TWICE, _ENDS, _VALUES
    ),
    "like finished calls, one tool twice, where to begin and end": _make(_LIKE, _TWICE, _ENDS),
    "parts named, finished calls, one tool twice, where to begin and end": _make(_PARTS, _TWICE, _ENDS),
    "parts named, finished calls, one tool twice, where to begin and end, how to write values": _make(
        _PARTS, _TWICE, _ENDS, _VALUES
    ),
    "one for each thing asked, finished calls, one tool twice, where to begin and end": _make(_EACH, _TWICE, _ENDS),
    "one for each thing asked, finished calls, one tool twice, where to begin and end, how to write values": _make(
        _EACH, _TWICE, _ENDS, _VALUES
    ),
}
del CANDIDATES["finished calls, where to begin and end in short"]["structured"]  # it has one form

_AGENT_RULES = (
    "\n\nMake each call that the task asks for once, in the order asked. Leave out a parameter with a default unless the "
    "task sets it. "
)
_AGENT_END = "The answer is the result of the call, or for several calls the list of their results in the order asked."
_AGENT_TOOLS = "These functions are defined already; call them with keyword arguments:\n\n{signatures}"
_AGENT_TASK = (
    "Solve the task with Python. In every turn write one short thought, then one code block between <code> and </code>. You "
    "then see what the code printed, or its error. Give the answer with final_answer, in a code block too. "
)
_ONE_CALL = (
    "Task: How many loaves fit into an oven with 12 shelves?\nI call the tool and look at its result.\n<code>\n"
    "result = count_loaves(shelves=12)\nprint(result)\n</code>\nObservation:\n48\nThe result is the answer.\n<code>\n"
    "final_answer({one})\n</code>"
)
_TWO_CALLS = (
    "Task: How long does a pot of 3 litres take to boil, and how many cups does it fill?\nI call both tools in the order "
    "asked and look at their results.\n<code>\nminutes = boil_pot(pot_litres=3)\ncups = fill_cups(pot_litres=3)\n"
    "print(minutes, cups)\n</code>\nObservation:\n7.5 12\nThe answer is the list of both results.\n<code>\n"
    "final_answer({two})\n</code>"
)


def _join_agent_prompt(examples: str) -> str:
    return f"{_AGENT_TASK}{examples}\n\n{_AGENT_TOOLS}{_AGENT_RULES}{_AGENT_END}"


AGENT_CANDIDATES = {
    "a form to fill in": (
        "Solve the task with Python. In every turn write one short thought, then one code block, like this:\n"
        "I call the tool and look at its result.\n<code>\nresult = TOOL(PARAMETER=VALUE)\nprint(result)\n</code>\n"
        f"You then see what the code printed, or its error. {_AGENT_TOOLS}{_AGENT_RULES}"
        "End with final_answer(value): the result of the call, or for several calls the list of their results in the order "
        "asked."
    ),
    "one example with one call": _join_agent_prompt(
        "An example, with another tool than yours:\n\n" + _ONE_CALL.format(one="result")
    ),
    "two examples, answers written out": _join_agent_prompt(
        "Two examples, with other tools than yours:\n\n"
        + _ONE_CALL.format(one="48")
        + "\n\n"
        + _TWO_CALLS.format(two="[7.5, 12]")
    ),
    "two examples, answers by name": _join_agent_prompt(
        "Two examples, with other tools than yours:\n\n"
        + _ONE_CALL.format(one="result")
        + "\n\n"
        + _TWO_CALLS.format(two="[minutes, cups]")
    ),
}


def read_examples(settings: Settings) -> xlam.Splits:
    """The examples of the shipped rows, by track and split."""
    manifest = json.loads((settings.dataset / "manifest.json").read_text())
    raw, _ = xlam.read_source("sample", settings.sample)
    return xlam.split_by_tool(xlam.make_examples(raw)[0], manifest["sizes_asked"], manifest["seed"])


def measure_rows(settings: Settings, name: str, slm: LocalSLM) -> list[dict[str, Any]]:
    """Every candidate of both tracks on the val rows of the committed dataset, with and without examples."""
    splits, records = read_examples(settings), []
    for track, candidate, shots in product(TRACKS, CANDIDATES, SHOTS):
        if (template := CANDIDATES[candidate].get(track)) is None:
            continue
        rows = {
            split: [
                Row(xlam.format_prompt(example, template), example.row.completion) for example in splits[track][split]
            ]
            for split in ("train", "val")
        }
        examples = pick_shots(rows["train"], shots)
        chats = [build_messages(track, row.prompt, examples) for row in rows["val"]]
        answers = dict(slm.generate(chats, MAX_NEW_TOKENS))
        outputs = [answers[i].output for i in range(len(chats))]
        scores = score_rows(track, [row.completion for row in rows["val"]], outputs)
        rates = {metric: round(rate, 4) for metric, rate in rates_of(scores).items()}
        record = {"part": "rows", "track": track, "candidate": candidate, "model": name, "precision": slm.precision}
        record |= {"shots": shots, "n_rows": len(chats), **rates}
        record |= {"by_status": dict(Counter(answer.status for answer in answers.values()))}
        records.append(record)
        print(json.dumps(record), flush=True)
    return records


def measure_agent(settings: Settings, name: str, slm: LocalSLM) -> list[dict[str, Any]]:
    """Every candidate for the agent at all tasks, with the filter of 07."""
    found, records = read_tasks(settings, "sample"), []
    golds = {task.id: task.gold for task in found.tasks}
    with running_server(slm, name) as root:
        client = HostedLLM(f"{root}/v1", "local", None, name, BATCH_SIZE, deadline_s=1800, is_slm=True)
        for candidate, text in AGENT_CANDIDATES.items():
            agent_prompt.AGENT_PROMPT = text  # what is measured here; everywhere else there is one
            plan = capture.plan_tasks(settings, "agent", client, found, AgentOptions(), None, False, BATCH_SIZE)
            done = capture.run_plan(settings, replace(plan, client=client))
            verdicts = filter_trajectories(done.trajectories, golds)
            calls = Counter(len(golds[v.trajectory.id].calls) > 1 for v in verdicts if v.is_kept)
            record = {"part": "agent", "candidate": candidate, "model": name, "precision": slm.precision}
            record |= {"n_tasks": len(verdicts), "answered": done.facts["outcomes"].get("answered", 0)}
            record |= {"kept": calls.total(), "kept_of_one_call": calls[False], "kept_of_several_calls": calls[True]}
            records.append(record | {"dropped": count_verdicts(verdicts)["dropped"]})
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
        if rates := [r[metric] for r in found if r["candidate"] == candidate for metric in core_metrics(track)]:
            means[candidate] = sum(rates) / len(rates)
    return dict(sorted(means.items(), key=lambda item: -item[1]))


def write_page(records: list[dict[str, Any]]) -> None:
    """Put the tables between the marks of docs/prompts.md."""
    head, mark, rest = PAGE.read_text().partition("<!-- tables: python -m benchmarks.prompts page -->\n")
    _, end, tail = rest.partition("<!-- end of tables -->\n")
    tables = [_format_rows(records, track) for track in TRACKS] + [_format_agent(records)]
    write_text(PAGE, head + mark + "\n" + "\n".join(tables) + "\n" + end + tail)


def _format_rows(records: list[dict[str, Any]], track: Track) -> str:
    found = [record for record in records if record["part"] == "rows" and record["track"] == track]
    columns = list(dict.fromkeys((r["model"], r["precision"], r["shots"]) for r in found))
    heads = ["instruction", *(f"{m}, {p}{f', {n} examples' if n else ''}" for m, p, n in columns), "mean"]
    lines = []
    for candidate, mean in choose(records, track).items():
        cells = {(r["model"], r["precision"], r["shots"]): r for r in found if r["candidate"] == candidate}
        shown = [" / ".join(f"{cells[c][metric]:.2f}" for metric in core_metrics(track)) for c in columns]
        is_chosen = CANDIDATES[candidate][track] == ROW_PROMPTS[track]
        lines.append([f"**{candidate}**" if is_chosen else candidate, *shown, f"{mean:.3f}"])
    metrics = " / ".join(core_metrics(track))
    return f"### {track}: {metrics} on {found[0]['n_rows']} val rows\n\n" + _format_table(heads, lines, found[0])


def _format_agent(records: list[dict[str, Any]]) -> str:
    found = [record for record in records if record["part"] == "agent"]
    heads = ["instruction", "model", "tasks", "answered", "kept", "of one call", "of several calls", "most dropped"]
    lines = []
    for r in found:
        is_chosen = AGENT_CANDIDATES[r["candidate"]] == agent_prompt.AGENT_PROMPT
        reasons = "; ".join(f"{n} {reason}" for reason, n in list(r["dropped"].items())[:2])
        share = f"{r['kept']} ({r['kept'] / r['n_tasks']:.0%})"
        name = f"**{r['candidate']}**" if is_chosen else r["candidate"]
        cells = [name, f"{r['model']}, {r['precision']}", r["n_tasks"], r["answered"], share]
        lines.append([*map(str, cells), str(r["kept_of_one_call"]), str(r["kept_of_several_calls"]), reasons])
    return "### The agent, at all tasks\n\n" + _format_table(heads, lines, found[0])


def _format_table(heads: list[str], lines: list[list[str]], record: dict[str, Any]) -> str:
    rows = [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *lines)]
    return "\n".join([*rows, "", f"On {record['machine']}, commit {record['git_commit']}.", ""])


def read_model(text: str) -> tuple[str, LocalSLM]:
    """The model of `NAME=FOLDER:PRECISION`."""
    name, _, rest = text.partition("=")
    folder, _, precision = rest.rpartition(":")
    return name, LocalSLM(ROOT / folder, precision=precision, batch_size=BATCH_SIZE)


def main(command: str, *models: str) -> None:
    """Run one of the commands above."""
    if command == "page":
        return write_page(json.loads((RESULTS / "prompts.json").read_text()))
    settings, measure = load_settings(), {"rows": measure_rows, "agent": measure_agent}[command]
    for model in models:
        write_records(measure(settings, *read_model(model)))


if __name__ == "__main__":
    main(*sys.argv[1:])
