"""The tables and sentences of a recorded pair: real_pair.md, and the folds of the loop."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from benchmarks.real_pair_steps import AFTER, BEFORE
from benchmarks.recorded_pair import RECORDED, list_places, read_json
from benchmarks.records import RESULTS, Record, format_table
from swaplib import runs
from swaplib.evaluation import stats
from swaplib.evaluation.intervals import wilson_interval
from swaplib.files import write_text
from swaplib.metrics import TRACKS, Track, core_metrics
from swaplib.report import agent_tables, sentences
from swaplib.report.styles import format_rate
from swaplib.settings import Settings

Solved = dict[str, dict[str, bool]]


def read_all(home: Settings, track: Track, split: str, models: Iterable[str]) -> list[Any]:
    """The metrics files of models on a split."""
    return [runs.read_metrics(home, track, model, split) for model in models]


def describe_pair(home: Settings, track: Track, run: dict[str, Any]) -> str:
    """Which models, where and when."""
    found = {model: runs.read_metrics(home, track, model)["run"] for model in ("azure", "slm")}
    hosted, slm = found["azure"]["identity"]["model"], found["slm"]["identity"]["model"]
    when, machine = run["ended"][:10], f"Machine: {run['device']}; commit {run['git_commit']}"
    return f"Hosted LLM: {hosted}, bfloat16, behind swap serve. SLM: {slm}. {machine}; {when}."


def read_folds() -> dict[str, Solved]:
    """By fold, agent and task: which tasks that call the fold's held-out tools were solved."""
    places = {"0": RECORDED} | {path.name: path for path in sorted(RECORDED.glob("folds/*"))}
    return {fold: read_json(path / "05_eval" / "solved.json") for fold, path in places.items()}


def pool_folds() -> dict[str, Any]:
    """All folds as one: each task once, answered by an agent that was taught none of its tools.

    Returns:
        `n_tasks`, `solved` by agent, and `pair`, the paired evidence: first is the base SLM, second
        the distilled one.
    """
    solved: Solved = {"slm": {}, "slm_ft": {}}
    for of_fold in read_folds().values():
        for model, tasks in of_fold.items():
            # 01's own test tools are held out in every fold: the first one counts.
            solved[model] = tasks | solved[model]
    ids = list(solved["slm"])
    sides = {"solved_rate": tuple([of_model[i] for i in ids] for of_model in solved.values())}
    pair = asdict(stats.compare_metrics(sides, 0.05)["solved_rate"])
    counts = {model: sum(of_model.values()) for model, of_model in solved.items()}
    return {"n_tasks": len(ids), "solved": counts, "pair": pair}


def list_folds() -> list[Record]:
    """A record for each fold, and one for all of them."""
    records = []
    for fold, of_fold in read_folds().items():
        counts = {m: (sum(tasks.values()), len(tasks)) for m, tasks in of_fold.items()}
        record = {"fold": fold, "tasks": counts["slm"][1]}
        records.append(record | {model: format_count(*n) for model, n in counts.items()})
    pooled = pool_folds()
    n, pair = pooled["n_tasks"], pooled["pair"]
    total = {"fold": "all, each task once", "tasks": n}
    total |= {m: format_count(count, n) for m, count in pooled["solved"].items()}
    total |= {"gained": pair["second_only"], "lost": pair["first_only"]}
    return [*records, total | {"p": f"{pair['p_value']:.2g}"}]


def format_count(count: int, n: int) -> str:
    """A count as a rate with its interval."""
    return format_rate(count / n, wilson_interval(count, n))


def write_tables(home: Settings) -> None:
    """real_pair.md: rates on test and val, and the loop, as Markdown."""
    lines = []
    for place, track in list_places(home):
        decided = read_json(place.evaluation / f"{track}_post_decision.json")
        lines += [f"## {track if place is home else f'{place.swap_home.name} ({track})'}", ""]
        for split in ("test", "val"):
            lines += [*format_rates(place, track, split), ""]
        lines += [f"**{sentences.make_head(decided)}**", ""]
        for label, text in sentences.describe_decision(decided):
            lines.append(f"- **{label if label.endswith('?') else f'{label}.'}** {text}")
        run = runs.read_metrics(place, track, "slm")["run"]
        lines += ["", describe_pair(place, track, run), ""]
    heads = ["fold", "tasks", "before", "after"]
    lines += [*format_table(heads, [list_cells(record) for record in list_folds()]), ""]
    loops = [read_json(home.evaluation / f"flywheel_{track}.json") for track in TRACKS[::-1]]
    lines += [f"- {sentence}" for loop in loops for sentence in agent_tables.describe_loop(loop)]
    write_text(RESULTS / "real_pair.md", "\n".join(lines) + "\n")


def format_rates(home: Settings, track: Track, split: str) -> list[str]:
    """The rates of all models on a split; on test also how many are right inside other text."""
    names = [*BEFORE.split(","), *AFTER.split(",")]
    names = [name for name in names if (home.evaluation / f"{track}_{name}_{split}.json").is_file()]
    found = read_all(home, track, split, names)
    heads = [f"{track}, {found[0]['n_rows']} {split} rows", *core_metrics(track)]
    cells = [
        [m["run"]["model"], *(format_rate(m[n], m["intervals"][n]) for n in core_metrics(track))]
        for m in found
    ]
    if split == "test":
        forms = read_json(home.evaluation / f"{track}_post_decision.json")["caveats"]["form"]
        heads += ["right, and right inside"]
        for row in cells:
            form = forms[row[0]]
            row.append(f"{form['strict']} + {form['found'] - form['strict']}")
    return format_table(heads, cells)


def list_cells(record: dict[str, Any]) -> list[str]:
    """A fold's record as cells; gains and losses follow the last."""
    change = ""
    if "p" in record:
        change = f" ({record['gained']} gained, {record['lost']} lost, McNemar p {record['p']})"
    return [record["fold"], str(record["tasks"]), record["slm"], record["slm_ft"] + change]
