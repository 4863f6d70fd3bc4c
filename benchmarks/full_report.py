"""The recorded runs as pages: what 03, 05, 07 and 08 show, by the functions that show it there.

    python -m benchmarks.full_report

Reads benchmarks/results/recorded/ (made by benchmarks/real_pair.py) and writes report_<track>.html
and report_loop.html beside it, real_pair.md (the tables that README quotes), and pictures where a
Chromium is installed, README's among them. No GPU is needed.
"""

import base64
import io
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.pair_tables import describe_pair, list_folds, read_all, write_tables
from benchmarks.recorded_pair import list_places, open_record, read_json
from benchmarks.records import RESULTS
from swaplib.agents import build_files, distill
from swaplib.evaluation import comparison, repeats
from swaplib.files import write_text
from swaplib.metrics import TRACKS, Track
from swaplib.models.adapters import read_card
from swaplib.models.names import CAPTURED
from swaplib.report import agent_tables, figures, headlines, tables, training_tables
from swaplib.settings import ROOT, Settings

STYLE = (
    "body{font-family:sans-serif;margin:2em;max-width:95em}"
    "table{border-collapse:collapse}td,th{padding:.2em .6em}"
)
CHROMIUM_OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run")
CHROMIUM_OPTIONS += ("--disable-background-networking", "--hide-scrollbars")
HEIGHTS = {"toolcall": 6900, "structured": 6600, "loop": 3000, "invoices": 5600, "home": 5600}


def render_track(home: Settings, track: Track, name: str) -> None:
    """A track's page, or an example task's."""
    decided = read_json(home.evaluation / f"{track}_post_decision.json")
    parity = home.evaluation / f"{track}_parity.json"
    # An example task that was not fine-tuned has no parity check.
    checks = read_json(parity) if parity.is_file() else None
    seen = comparison.open_compared(home, track, *decided["evidence"]["rates"])
    diagnoses, val = seen.diagnose(), read_all(home, track, "val", seen.metrics)
    shared = repeats.describe_all(track, seen.rows, seen.ledgers)
    missed = tables.show_differences(seen.ledgers, ("azure", decided["model"]), seen.rows)
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
        "What many outputs share": tables.show_records(shared),
        "Why rows failed": figures.plot_reasons(diagnoses),
        "Which keys were wrong": tables.show_fields(diagnoses),
        "Rates over answered and over given rows": tables.show_answered(track, diagnoses),
        "Rows that nobody got": headlines.show_ceiling(decided),
        "What it took": headlines.show_costs(decided),
        "On val": tables.show_metrics(track, val),
        "Rows that only the hosted LLM had right, first": missed,
    }
    if checks:
        parts["Is it one model?"] = tables.show_parity(checks)
        parts["The training"] = training_tables.show_run_card(read_card(home.adapter_of(track)))
        lost = tables.show_differences(seen.ledgers, ("slm", "slm_ft"), seen.rows)
        parts["Rows lost and gained by the adapter"] = lost
    about = describe_pair(home, track, seen.metrics["slm"]["run"])
    write_page(name, f"{name}: a real pair", about, headlines.show_verdict(decided, checks), parts)


def render_loop(home: Settings) -> None:
    """The loop's page: what was captured and kept, and what the agent and the tracks gained."""
    loops = {track: read_json(home.evaluation / f"flywheel_{track}.json") for track in TRACKS}
    manifest = read_json(build_files.folder_of(home) / "manifest.json")
    first = loops["toolcall"]
    parts = {
        "The filter": agent_tables.show_filter(manifest["filter"]),
        "Why trajectories were dropped": agent_tables.plot_filter(manifest["filter"]),
        "What was built": agent_tables.show_build(manifest),
        "The agents": agent_tables.show_agents(first),
        "Over all folds": tables.show_records(list_folds()),
    }
    for track, loop in loops.items():
        parts[f"Paired evidence: {track}"] = agent_tables.show_loop_pairs(loop)
    adapters = {"The agent's training": distill.AGENT}
    for track in TRACKS:
        adapters[f"The training on captured {track} rows"] = CAPTURED.name_adapter(track)
    for heading, adapter in adapters.items():
        parts[heading] = training_tables.show_run_card(read_card(home.adapter_of(adapter)))
    about = describe_pair(home, "toolcall", first["run"])
    title = "The loop: an agent learns from its teacher"
    write_page("loop", title, about, agent_tables.show_loop(first), parts)


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
            command = [browser, *CHROMIUM_OPTIONS, f"--user-data-dir={profile}"]
            command += [f"--window-size={width},{height}", f"--screenshot={picture}"]
            command.append(page.as_uri())
            subprocess.run(command, check=True, capture_output=True, timeout=120)


def to_html(shown: Any) -> str:
    """A table as its HTML, a figure as an image in the page."""
    if hasattr(shown, "to_html"):
        return shown.to_html()
    image = io.BytesIO()
    shown.savefig(image, dpi=150)
    content = base64.b64encode(image.getvalue()).decode()
    return f'<img width="750" src="data:image/png;base64,{content}">'


def main() -> None:
    """Write every page and the tables."""
    with open_record() as home:
        for place, track in list_places(home):
            render_track(place, track, track if place is home else place.swap_home.name)
        render_loop(home)
        write_tables(home)
    verdict = ROOT / "docs" / "images" / "verdict.png"
    photograph(RESULTS / "report_toolcall.html", verdict, 1180, 842)


if __name__ == "__main__":
    main()
