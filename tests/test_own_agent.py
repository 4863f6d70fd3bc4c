import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import make_rows
from swaplib.agents import build, build_files, capture, distill, flywheel
from swaplib.agents.own_tasks import OwnFiles, read_own_tasks
from swaplib.data import dataset
from swaplib.demo.scripted_teacher import Teacher, make_own_teacher, teaching
from swaplib.files import hash_file
from swaplib.metrics import TRACKS
from swaplib.report import agent_tables, own_agent
from swaplib.rows import SPLITS, read_rows, write_rows
from swaplib.settings import ROOT

EXAMPLE = ROOT / "examples" / "agent"
FILES = OwnFiles(str(EXAMPLE / "tools.py"), str(EXAMPLE / "tasks.jsonl"))


def test_the_example_has_all_kinds_of_gold_and_each_split_has_tasks():
    found = read_own_tasks(FILES)
    assert len(found.tasks) == 12
    assert {task.gold.kind for task in found.tasks} == {"calls", "answer", "check"}
    assert set(found.split_of.values()) == {"train", "val", "test"}
    assert {tool["name"] for tool in found.tasks[0].offered} == {
        "find_parts",
        "quote_repair",
        "book_slot",
    }
    solutions = json.loads((EXAMPLE / "solutions.json").read_text())
    assert set(solutions) == {task.id for task in found.tasks if task.is_free}


@pytest.mark.slow
def test_own_tools_and_tasks_go_from_a_capture_to_a_distilled_agents_report(
    settings, env_of_tests, tmp_path
):
    parameters = {
        "tools": FILES.tools,
        "tasks": FILES.tasks,
        "row_limit": 2,
        "test_limit": 1,
        "max_steps": 2,
        "max_new_tokens": 24,
    }
    command = [sys.executable, "-m", "swaplib.cli", "flywheel", "--track", "toolcall"]
    command += [word for name, value in parameters.items() for word in ("-p", name, str(value))]
    teacher = make_own_teacher(FILES, EXAMPLE / "solutions.json")
    teacher.mistakes["brakes-and-slot"] = "gives up"
    with teaching(teacher) as address:
        env = env_of_tests | {"SWAP_HOME": str(settings.swap_home), "AZURE_ENDPOINT": address}
        env |= {"AZURE_DEPLOYMENT": "scripted", "SWAP_ROW_LIMIT": "", "MPLBACKEND": "agg"}
        done = subprocess.run(
            command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=900
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    check_capture(settings)
    check_build(settings)
    check_loop(settings)


def check_capture(settings):
    facts = json.loads((settings.evaluation / "capture.json").read_text())
    assert (facts["n_tasks"], facts["solved"]) == (12, 11)
    assert facts["tools_contained"]["is_walled"]
    assert facts["own"]["checks"]["moved-on"] == "check_moved_on"
    report = (settings.reports / "06_capture.html").read_text()
    assert (
        "12 tasks of your own, judged 5 by their calls, 4 by their answer, 3 by a check" in report
    )


def check_build(settings):
    folder = settings.dataset / "captured"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["filter"]["dropped"] == {"no call made": 1}
    assert manifest["rows"] == {
        "structured": {"train": 1, "val": 0, "test": 1},
        "toolcall": {"train": 3, "val": 1, "test": 2},
    }
    assert manifest["rows_left_out"] == {"a call holds a value that the request does not name": 3}
    assert manifest["split_rule"].startswith("by request")
    assert manifest["made_from"]["own"]["tools_sha256"] == hash_file(EXAMPLE / "tools.py")
    chats = [json.loads(line) for line in (folder / "chats.jsonl").read_text().splitlines()]
    assert len(chats) == 11
    free = next(chat for chat in chats if chat["id"] == "moved-on")["messages"]
    assert "Call them as the task needs" in free[0]["content"]
    assert "Observation:\nthursday 11:00, Sam Reuter" in free[3]["content"]


def check_loop(settings):
    loop = json.loads((settings.evaluation / "flywheel_toolcall.json").read_text())
    assert loop["trained"]["agent"]["rows"] == {"agent": {"train": 2, "val": 1}}
    assert loop["trained"]["rows"]["rows"] == {"toolcall": {"train": 2, "val": 1}}
    assert loop["agent_eval"]["models"]["slm_ft"]["n_tasks"] == 1
    assert loop["track_eval"] is None
    assert "Run 01_data with source=" in loop["track_not_asked"]
    assert (settings.adapter_of("agent") / "adapter_model.safetensors").is_file()
    report = (settings.reports / "08_distill_toolcall.html").read_text()
    assert "tasks whose requests it was not taught" in report
    assert "was asked no test rows" in report


class Counting(Teacher):
    """Counts what it is asked."""

    n_asked = 0

    def say(self, messages):
        self.n_asked += 1
        return super().say(messages)


@pytest.fixture
def captured(settings, tmp_path):
    """The example in a folder of its own, captured from a counting teacher."""
    folder = shutil.copytree(EXAMPLE, tmp_path / "example")
    files = OwnFiles(str(folder / "tools.py"), str(folder / "tasks.jsonl"))
    solutions = json.loads((EXAMPLE / "solutions.json").read_text())
    teacher = Counting(list(read_own_tasks(files).tasks), solutions=solutions)
    with teaching(teacher) as address:
        known = {"azure_endpoint": address, "azure_deployment": "scripted"}
        settings = settings.model_copy(update=known)
        yield settings, files, teacher, capture.capture_trajectories(settings, own=files)


@pytest.mark.slow
def test_changed_golds_are_judged_without_asking_and_a_changed_tool_asks_again(captured):
    settings, files, teacher, first = captured
    assert first.facts["solved"] == 12
    n_asked = teacher.n_asked
    tasks = Path(files.tasks)
    tasks.write_text(tasks.read_text().replace('"answer": 22}', '"answer": 23}'))
    with pytest.raises(ValueError, match=r"tasks\.jsonl is not what it was"):
        build.build_captured(settings)
    second = capture.capture_trajectories(settings, own=files)
    assert (second.folder, second.facts["solved"], teacher.n_asked) == (first.folder, 11, n_asked)
    built = build.build_captured(settings)
    assert built.manifest["filter"]["dropped"] == {"another final answer than the expected one": 1}
    again = build.build_captured(settings)
    assert again.manifest["sha256"] == built.manifest["sha256"]
    tools = Path(files.tools)
    tools.write_text(tools.read_text().replace('"in_stock": 22', '"in_stock": 23'))
    third = capture.capture_trajectories(settings, own=files)
    assert third.folder != first.folder
    assert teacher.n_asked == 2 * n_asked


@pytest.mark.slow
def test_trusted_tools_are_captured_and_built_the_same_and_a_red_line_says_so(captured):
    settings, files, _, isolated = captured
    trusted = replace(files, is_trusted=True)
    done = capture.capture_trajectories(settings, own=trusted)
    assert done.folder != isolated.folder
    assert done.facts["tools_contained"] is None
    assert [t.steps for t in done.trajectories] == [t.steps for t in isolated.trajectories]
    built = build.build_captured(settings)
    assert built.manifest["made_from"]["own"]["is_trusted"]
    assert built.manifest["filter"]["kept"] == 12
    assert "color:#b00020" in own_agent.show_trust(trusted).data
    assert own_agent.show_trust(files) is None
    assert own_agent.show_trust(None) is None
    shown = agent_tables.show_capture(done.facts).data
    assert "trusted" in shown.iloc[0]["your tools were contained by"]


@pytest.mark.slow
def test_01s_rows_are_asked_only_where_they_are_the_captured_ones(captured, monkeypatch):
    settings, _, _, _ = captured
    built = build.build_captured(settings)
    manifest = distill.read_manifest(settings)
    assert "Run 01_data with source=" in flywheel.explain_other_rows(settings, "toolcall", manifest)
    for split in SPLITS:
        write_rows(settings.dataset / "toolcall" / f"{split}.jsonl", make_rows(6))
    assert flywheel.explain_other_rows(settings, "toolcall", manifest)
    shutil.rmtree(settings.dataset / "toolcall")
    folder = build_files.folder_of(settings)
    shutil.rmtree(folder / "structured")  # it has no val row
    dataset.build_dataset(settings, str(folder), dict.fromkeys(TRACKS, "1/1/1"))
    assert (
        read_rows(settings.dataset / "toolcall" / "test.jsonl", "toolcall")
        == (built.rows["toolcall"]["test"])
    )
    assert flywheel.explain_other_rows(settings, "toolcall", manifest) is None
    assert "no captured structured row" in flywheel.explain_other_rows(
        settings, "structured", manifest | {"sha256": {}}
    )


@pytest.mark.slow
def test_without_a_captured_val_row_nothing_is_fine_tuned(captured, capsys):
    settings, _, _, _ = captured
    build.build_captured(settings)
    assert distill.fine_tune_captured(settings, "structured") is None
    assert "no captured structured row of the val split" in capsys.readouterr().out


def test_a_rule_of_splits_and_what_was_left_out_are_said():
    made_from = {"own": {}}
    manifest = {
        "made_from": made_from,
        "split_rule": "by request",
        "units": 12,
        "largest_unit": 1,
        "tools_in_several_splits": 2,
        "rows_left_out": {"no answer, or more than three": 3},
    }
    said = own_agent.describe_split(manifest)
    assert "Split by request. 12 unit(s), the largest of 1; 2 tool(s) are called" in said
    assert "Kept, but no row: 3: no answer, or more than three." in said
    assert own_agent.describe_split({"made_from": {}}).startswith("Split by tool, by 01's map")
    assert own_agent.name_held_out({}) == "tasks with tools that it was not taught to call"
    assert "requests" in own_agent.name_held_out({"split_rule": "by request, since …"})
