"""The recorded runs as pages and tables: what 03, 05, 07 and 08 show, by the functions that show it there. No GPU is needed.

    python -m benchmarks.full_report

Reads benchmarks/results/recorded/ (made by benchmarks/real_pair.py) and writes report_<track>.html and report_loop.html
beside it, real_pair.md (the tables that README quotes), and pictures where a Chromium is installed, README's among them.
"""

import base64
import io
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.real_pair import AFTER, BEFORE, RECORDED, list_places, open_record, read_json
from benchmarks.records import RESULTS, format_table
from swaplib import runs
from swaplib.agents import build, distill
from swaplib.evaluation import comparison, repeats, stats
from swaplib.evaluation.intervals import wilson_interval
from swaplib.files import write_text
from swaplib.metrics import TRACKS, Track, core_metrics
from swaplib.models.adapters import read_card
from swaplib.models.names import CAPTURED
from swaplib.report import agent_tables, figures, headlines, sentences, tables, training_tables
from swaplib.report.styles import format_rate
from swaplib.settings import ROOT, Settings

STYLE = "body{font-family:sans-serif;margin:2em;max-width:95em}table{border-collapse:collapse}td,th{padding:.2em .6em}"
HEIGHTS = {"toolcall": 6900, "structured": 6600, "loop": 3000, "invoices": 5600, "home": 5600}


def read_all(
    home: Settings, track: Track, split: str, models: Iterable[str]
) -> list[dict[str, Any]]:
    """The metrics files of models on a split."""
    return [runs.read_metrics(home, track, model, split) for model in models]


def render_track(home: Settings, track: Track, name: str) -> None:
    """A track's page, or an example task's."""
    decided = read_json(home.evaluation / f"{track}_post_decision.json")
    parity = home.evaluation / f"{track}_parity.json"
    checks = (
        read_json(parity) if parity.is_file() else None
    )  # an example task that was not fine-tuned has none
    seen = comparison.open_compared(home, track, *decided["evidence"]["rates"])
    diagnoses, val = seen.diagnose(), read_all(home, track, "val", seen.metrics)
    parts = {
        "The rule": headlines.show_decision(decided),
        "Metrics": figures.plot_metrics(track, list(seen.metrics.values())),
        "How sure are we?": headlines.show_evidence(decided),
        "Examples in the prompt": headlines.show_few_shot(decided),
        "What 4-bit took": headlines.show_full(decided),
        "What form costs": headlines.show_native(decided),
        "Form against skill": figures.plot_form(decided["caveats"]["form"]),
        "What the adapter changed": headlines.show_changes(decided),
        "Format or skill?": tables.show_diagnosis(diagnoses),
        "What many outputs share": tables.show_records(
            repeats.describe_all(track, seen.rows, seen.ledgers)
        ),
        "Why rows failed": figures.plot_reasons(diagnoses),
        "Which keys were wrong": tables.show_fields(diagnoses),
        "Rates over answered and over given rows": tables.show_answered(track, diagnoses),
        "Rows that nobody got": headlines.show_ceiling(decided),
        "What it took": headlines.show_costs(decided),
        "On val": tables.show_metrics(track, val),
        "Rows that only the hosted LLM had right, first": tables.show_differences(
            seen.ledgers, ("azure", decided["model"]), seen.rows
        ),
    }
    if checks:
        parts["Is it one model?"] = tables.show_parity(checks)
        parts["The training"] = training_tables.show_run_card(read_card(home.adapter_of(track)))
        lost = tables.show_differences(seen.ledgers, ("slm", "slm_ft"), seen.rows)
        parts["Rows lost and gained by the adapter"] = lost
    about = describe_pair(home, track, seen.metrics["slm"]["run"])
    write_page(name, f"{name}: a real pair", about, headlines.show_verdict(decided, checks), parts)


def describe_pair(home: Settings, track: Track, run: dict[str, Any]) -> str:
    """Which models, where and when."""
    found = {model: runs.read_metrics(home, track, model)["run"] for model in ("azure", "slm")}
    hosted, slm = found["azure"]["identity"]["model"], found["slm"]["identity"]["model"]
    when, machine = run["ended"][:10], f"Machine: {run['device']}; commit {run['git_commit']}"
    return f"Hosted LLM: {hosted}, bfloat16, behind swap serve. SLM: {slm}. {machine}; {when}."


def render_loop(home: Settings) -> None:
    """The loop's page: what was captured and kept, and what the agent and the tracks gained."""
    loops = {track: read_json(home.evaluation / f"flywheel_{track}.json") for track in TRACKS}
    manifest = read_json(build.folder_of(home) / "manifest.json")
    first = loops["toolcall"]
    parts = {
        "The filter": agent_tables.show_filter(manifest["filter"]),
        "Why trajectories were dropped": agent_tables.plot_filter(manifest["filter"]),
        "What was built": agent_tables.show_build(manifest),
        "The agents": agent_tables.show_agents(first),
        "Over all folds": tables.show_records(list_folds(home)),
        **{
            f"Paired evidence: {track}": agent_tables.show_loop_pairs(loop)
            for track, loop in loops.items()
        },
        "The agent's training": training_tables.show_run_card(
            read_card(home.adapter_of(distill.AGENT))
        ),
    }
    parts |= {
        f"The training on captured {track} rows": training_tables.show_run_card(
            read_card(home.adapter_of(CAPTURED.name_adapter(track)))
        )
        for track in TRACKS
    }
    about = describe_pair(home, "toolcall", first["run"])
    write_page(
        "loop",
        "The loop: an agent learns from its teacher",
        about,
        agent_tables.show_loop(first),
        parts,
    )


def read_folds(home: Settings) -> dict[str, dict[str, dict[str, bool]]]:
    """By fold, by agent: which of the tasks that call the fold's held-out tools were solved, by task id."""
    places = {"0": RECORDED} | {path.name: path for path in sorted(RECORDED.glob("folds/*"))}
    return {fold: read_json(path / "05_eval" / "solved.json") for fold, path in places.items()}


def pool_folds(home: Settings) -> dict[str, Any]:
    """All folds as one: each task once, answered by an agent that was taught to call none of its tools.

    Returns:
        `n_tasks`, `solved` by agent, and `pair`, the paired evidence: first is the SLM as it is, second the distilled one.
    """
    solved: dict[str, dict[str, bool]] = {"slm": {}, "slm_ft": {}}
    for of_fold in read_folds(home).values():
        for model, tasks in of_fold.items():
            solved[model] = (
                tasks | solved[model]
            )  # 01's own test tools are held out in every fold: the first one counts
    ids = list(solved["slm"])
    sides = {"solved_rate": tuple([of_model[i] for i in ids] for of_model in solved.values())}
    pair = asdict(stats.compare_metrics(sides, 0.05)["solved_rate"])
    return {
        "n_tasks": len(ids),
        "solved": {m: sum(of_model.values()) for m, of_model in solved.items()},
        "pair": pair,
    }


def list_folds(home: Settings) -> list[dict[str, Any]]:
    """A record for each fold, and one for all of them."""
    records = []
    for fold, of_fold in read_folds(home).items():
        counts = {m: (sum(tasks.values()), len(tasks)) for m, tasks in of_fold.items()}
        records.append(
            {"fold": fold, "tasks": counts["slm"][1]}
            | {m: format_count(*n) for m, n in counts.items()}
        )
    pooled = pool_folds(home)
    n, pair = pooled["n_tasks"], pooled["pair"]
    total = {"fold": "all, each task once", "tasks": n}
    total |= {m: format_count(count, n) for m, count in pooled["solved"].items()}
    return [
        *records,
        total
        | {
            "gained": pair["second_only"],
            "lost": pair["first_only"],
            "p": f"{pair['p_value']:.2g}",
        },
    ]


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
        lines += [
            f"- **{label.rstrip('?')}{'?' if label.endswith('?') else '.'}** {text}"
            for label, text in sentences.describe_decision(decided)
        ]
        lines += [
            "",
            describe_pair(place, track, runs.read_metrics(place, track, "slm")["run"]),
            "",
        ]
    lines += [
        *format_table(
            ["fold", "tasks", "before", "after"], [list_cells(r) for r in list_folds(home)]
        ),
        "",
    ]
    loops = [read_json(home.evaluation / f"flywheel_{track}.json") for track in TRACKS[::-1]]
    lines += [f"- {sentence}" for loop in loops for sentence in agent_tables.describe_loop(loop)]
    write_text(RESULTS / "real_pair.md", "\n".join(lines) + "\n")


def format_rates(home: Settings, track: Track, split: str) -> list[str]:
    """The rates of all models on a split; of the test split also the rows whose right answer stands inside other text."""
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
        cells = [
            [
                *row,
                f"{forms[row[0]]['strict']} + {forms[row[0]]['found'] - forms[row[0]]['strict']}",
            ]
            for row in cells
        ]
    return format_table(heads, cells)


def list_cells(record: dict[str, Any]) -> list[str]:
    """A fold's record as cells; what was gained and lost stands behind the last."""
    change = (
        f" ({record['gained']} gained, {record['lost']} lost, McNemar p {record['p']})"
        if "p" in record
        else ""
    )
    return [record["fold"], str(record["tasks"]), record["slm"], record["slm_ft"] + change]


def write_page(name: str, title: str, about: str, box: Any, parts: dict[str, Any]) -> None:
    """One page: the box, then each part under its title; and a picture of it."""
    body = [f"<h1>{title}</h1><p>{about}</p>", box.data]
    body += [f"<h2>{heading}</h2>{to_html(shown)}" for heading, shown in parts.items()]
    head = f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    page = RESULTS / f"report_{name}.html"
    write_text(page, "\n".join([head, *body]) + "\n")
    photograph(page, page.with_suffix(".png"), 1500, HEIGHTS[name])


def photograph(page: Path, picture: Path, width: int, height: int) -> None:
    """A picture of the upper left of a page, in pixels, where a Chromium is installed."""
    if browser := shutil.which("chromium"):
        with tempfile.TemporaryDirectory() as profile:
            options = [
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
                "--disable-background-networking",
            ]
            options += [
                f"--user-data-dir={profile}",
                f"--window-size={width},{height}",
                "--hide-scrollbars",
            ]
            command = [browser, *options, f"--screenshot={picture}", page.as_uri()]
            subprocess.run(command, check=True, capture_output=True, timeout=120)


def to_html(shown: Any) -> str:
    """A table as it is, a figure as an image in the page."""
    if hasattr(shown, "to_html"):
        return shown.to_html()
    image = io.BytesIO()
    shown.savefig(image, dpi=150)
    return f'<img width="750" src="data:image/png;base64,{base64.b64encode(image.getvalue()).decode()}">'


def main() -> None:
    """Write every page and the tables."""
    with open_record() as home:
        for place, track in list_places(home):
            render_track(place, track, track if place is home else place.swap_home.name)
        render_loop(home)
        write_tables(home)
    photograph(
        RESULTS / "report_toolcall.html", ROOT / "docs" / "images" / "verdict.png", 1180, 842
    )


if __name__ == "__main__":
    main()
