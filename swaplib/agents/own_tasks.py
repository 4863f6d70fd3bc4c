"""Tasks of your own: a JSONL file of requests, each with one kind of gold. It asks no model.

    {"request": "Who wrote Emma?", "answer": "Jane Austen"}
    {"request": "Lend Emma to reader 7.", "calls": [{"name": "lend_book", "arguments": {…}}]}
    {"id": "due", "request": "Which loans are due?", "tools": ["list_loans"], "check": "check_due"}

`calls` are the calls expected, in order; their results, as your tools give them, are the right
answer. `answer` is the answer expected, whatever was called. `check` names a function of the tools
file, which is called with the answer and the calls. `id` is the line's number by default, `tools`
the names of those offered, by default all.
"""

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from swaplib.agents.grades import Gold
from swaplib.agents.own_splits import is_split_by_tool, split_tasks
from swaplib.agents.own_tools import OwnTools, read_own_tools
from swaplib.agents.sandbox.tool_hosts import CALL_LIMIT_S, MARGIN_S
from swaplib.agents.tasks import Task, TaskSet
from swaplib.data.tool_schemas import Tool, fits_type, to_openai
from swaplib.files import hash_file
from swaplib.metrics import parse_json
from swaplib.settings import ROOT, show_path

KINDS = ("calls", "answer", "check")
KEYS = {"id", "request", "tools", *KINDS}
SEED, AT_ONCE = 42, 4


@dataclass(frozen=True)
class OwnFiles:
    """Where your own tools and tasks are, and whether the tools may run in this process.

    `allow_unwalled` lets tools run in a process that nothing contains.
    """

    tools: str
    tasks: str
    is_trusted: bool = False
    allow_unwalled: bool = False


@dataclass(frozen=True)
class _Line:
    """A line that was read: where it is, and the task, whose gold has no results yet."""

    place: str
    task: Task


def read_own_tasks(files: OwnFiles, fold: int = 0) -> TaskSet:
    """Read your own tasks, each with its split (own_splits.py); gold calls are made for results.

    Args:
        files: Where tools and tasks are.
        fold: Which fifth is held out, 0 to 4.

    Raises:
        FileNotFoundError, ValueError: A file is missing, the tools cannot be described, or lines
            are wrong: all of them are listed as file:line with the reason.
        RuntimeError: The process for the tools does not start, or nothing would contain it.
    """
    own = read_own_tools(files.tools, files.is_trusted)
    path = ROOT / Path(files.tasks).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no tasks at {path}: expected a JSONL file, a task a line")
    lines, problems = _read_lines(path, own)
    tasks: list[Task] = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        made = pool.map(lambda line: _compute_results(line.task, files.allow_unwalled), lines)
        for line, found in zip(lines, made, strict=True):
            if isinstance(found, Task):
                tasks.append(found)
            else:
                problems.append(f"{line.place}: {found}")
    if problems:
        listed = "\n".join(f"  {problem}" for problem in sorted(problems, key=_number_of))
        raise ValueError(f"{path}: {len(problems)} wrong line(s), so nothing was asked:\n{listed}")
    if not tasks:
        raise ValueError(f"{path} holds no task: expected a JSON object on each line")
    split_of, rule = split_tasks(tasks, SEED, fold)
    facts = _describe(files, own, path, len(tasks)) | rule
    return TaskSet(tuple(tasks), split_of, facts, not is_split_by_tool(tasks))


def _describe(files: OwnFiles, own: OwnTools, path: Path, n: int) -> dict[str, Any]:
    """What a capture and a build say of where their tasks come from."""
    sha256 = hash_file(path)
    known = {
        "tools": show_path(own.file.path),
        "tools_sha256": own.file.sha256,
        "tasks": show_path(path),
        "tasks_sha256": sha256,
        "is_trusted": files.is_trusted,
    }
    head = {"source": show_path(path), "source_sha256": sha256, "source_rows": n}
    left_out = {"(your own tasks: none is left out)": 0}
    return head | {"left_out": left_out, "seed": SEED, "own": known}


def _number_of(problem: str) -> int:
    return int(problem.split(":")[1])


def _read_lines(path: Path, own: OwnTools) -> tuple[list[_Line], list[str]]:
    """The tasks of a file, and what is wrong with its other lines."""
    lines: list[_Line] = []
    problems: list[str] = []
    ids: dict[str, str] = {}
    requests: dict[tuple[str, ...], str] = {}
    for number, raw in enumerate(path.read_bytes().removesuffix(b"\n").split(b"\n"), start=1):
        place = f"{path.name}:{number}"
        try:
            task = _parse_task(_parse_record(raw), str(number), own)
            folded = " ".join(task.request.lower().split())
            key = (folded, *(tool["name"] for tool in task.offered))
            if other := ids.get(task.id):
                raise ValueError(f"its id {task.id!r} is that of {other}, too")
            if other := requests.get(key):
                raise ValueError(f"its request is that of {other}")
        except ValueError as error:
            problems.append(f"{place}: {error}")
            continue
        ids[task.id] = requests[key] = place
        lines.append(_Line(place, task))
    return lines, problems


def _parse_record(raw: bytes) -> dict[str, Any]:
    """A line as an object whose keys are known; raises ValueError."""
    try:
        record = parse_json(raw.decode("utf-8"))
        json.dumps(record, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, found {type(record).__name__}")
    if unknown := sorted(set(record) - KEYS):
        raise ValueError(f"unknown key {unknown[0]!r}: expected {', '.join(sorted(KEYS))}")
    return record


def _parse_task(record: dict[str, Any], number: str, own: OwnTools) -> Task:
    """A line's task, its gold calls not made yet; raises ValueError."""
    request, task_id = record.get("request"), record.get("id", number)
    if not isinstance(request, str) or not request.strip():
        raise ValueError("expected a request, a text that is not blank")
    if not isinstance(task_id, str | int) or isinstance(task_id, bool) or not str(task_id).strip():
        raise ValueError("expected its id to be a text or a whole number")
    kinds = [kind for kind in KINDS if kind in record]
    if len(kinds) != 1:
        found = "none" if not kinds else " and ".join(kinds)
        raise ValueError(f"expected exactly one of calls, answer and check, found {found}")
    offered = _find_offered(record.get("tools"), own)
    raw = {"id": str(task_id), "query": request, "tools": [to_openai(tool) for tool in offered]}
    gold = _parse_gold(kinds[0], record[kinds[0]], offered, own)
    return Task(str(task_id), raw, offered, gold, own)


def _find_offered(names: Any, own: OwnTools) -> tuple[Tool, ...]:
    """The tools that a task offers, in the order of the tools file; raises ValueError."""
    if names is None:
        return own.tools
    known = [tool["name"] for tool in own.tools]
    if not isinstance(names, list) or not names or any(name not in known for name in names):
        raise ValueError(f"expected tools to be names among {', '.join(known)}")
    return tuple(tool for tool in own.tools if tool["name"] in names)


def _parse_gold(kind: str, value: Any, offered: Sequence[Tool], own: OwnTools) -> Gold:
    """What is right for a task, without the results of its calls; raises ValueError."""
    if kind == "answer":
        return Gold((), (), "answer", expected=value)
    if kind == "check":
        if value not in own.checks:
            known = ", ".join(own.checks) or "no function check_…"
            raise ValueError(f"check {value!r}: {show_path(own.file.path)} has {known}")
        return Gold((), (), "check", check=value)
    if not isinstance(value, list) or not value:
        raise ValueError("expected calls to be a list of calls, one at least")
    for call in value:
        _check_call(call, {tool["name"]: tool for tool in offered}, own)
    return Gold(tuple(value), ())


def _check_call(call: Any, offered: dict[str, Tool], own: OwnTools) -> None:
    """Raise ValueError for what is no call of an offered tool."""
    if not isinstance(call, dict) or set(call) != {"name", "arguments"}:
        raise ValueError('expected each call as {"name": …, "arguments": {…}}')
    name, arguments = call["name"], call["arguments"]
    if name not in offered:
        raise ValueError(f"calls: {name!r} is not offered ({', '.join(offered)} are)")
    if not isinstance(arguments, dict):
        raise ValueError(f"calls: the arguments of {name} must be an object")
    try:
        own.file.signatures[name].bind(**arguments)
    except TypeError as error:
        raise ValueError(f"calls: {name}: {error}") from None
    parameters = offered[name]["parameters"]
    for key, value in arguments.items():
        if not fits_type(value, parameters[key]):
            kind = parameters[key]["type"]
            raise ValueError(f"calls: {name}: {key} must be {kind}, found {json.dumps(value)}")


def _compute_results(task: Task, allow_unwalled: bool) -> Task | str:
    """The task with the results of its gold calls, or why they cannot be made."""
    if task.gold.kind != "calls" or task.own is None:
        return task
    results = []
    with closing(task.own.open(allow_unwalled)) as host:
        for call in task.gold.calls:
            deadline = time.monotonic() + CALL_LIMIT_S + MARGIN_S
            given = host.ask(call["name"], call["arguments"], deadline)
            if "error" in given:
                return f"calls: {call['name']} raised {': '.join(given['error'])}"
            results.append(given["value"])
    return replace(task, gold=replace(task.gold, results=tuple(results)))
