import json
import shutil
import subprocess
import sys

import pytest

from swaplib.agents import distill, flywheel
from swaplib.demo.scripted_teacher import make_teacher, teaching
from swaplib.files import hash_file, write_json, write_text
from swaplib.notebooks import running
from swaplib.settings import ROOT
from swaplib.tracing import outbox

pytestmark = pytest.mark.slow


def test_the_whole_loop_with_a_scripted_teacher(settings, env_of_tests, tmp_path):
    shutil.copytree(
        ROOT / "slm_swap" / "02_dataset", settings.dataset, ignore=shutil.ignore_patterns("source")
    )
    small = {
        "limit": "34",
        "row_limit": "2",
        "test_limit": "1",
        "max_steps": "2",
        "max_new_tokens": "24",
    }
    command = [sys.executable, "-m", "swaplib.cli", "flywheel", "--track", "toolcall"]
    command += [word for name, value in small.items() for word in ("-p", name, value)]
    with teaching(make_teacher(with_mistakes=True)) as address:
        env = env_of_tests | {"SWAP_HOME": str(settings.swap_home), "AZURE_ENDPOINT": address}
        env |= {"AZURE_DEPLOYMENT": "scripted", "SWAP_ROW_LIMIT": "", "MPLBACKEND": "agg"}
        done = subprocess.run(
            command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=900
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    loop = json.loads((settings.evaluation / "flywheel_toolcall.json").read_text())
    assert loop["filter"]["captured"] == 34
    assert 0 < loop["filter"]["kept"] < 34
    assert loop["trained"]["agent"]["rows"] == {"agent": {"train": 2, "val": 1}}
    assert loop["trained"]["rows"]["rows"] == {"toolcall": {"train": 2, "val": 1}}
    assert set(loop["track_eval"]["rates"]) == {"slm", "slm_ft-captured"}
    assert (
        loop["agent_eval"]["models"]["slm"]["n_tasks"]
        == loop["agent_eval"]["models"]["slm_ft"]["n_tasks"]
        == 1
    )
    records = [
        path
        for path in settings.runs.glob("*/*.json")
        if path.stem in ("capture", "agent-slm", "agent-slm_ft")
    ]
    asked = [json.loads(path.read_text())["options"] for path in records]
    assert [(o["max_steps"], o["max_new_tokens"]) for o in asked] == [(2, 24)] * 3
    # The agent is judged by the rules it was captured under.
    assert asked[0] == asked[1] == asked[2]
    assert (settings.adapter_of("agent") / "adapter_model.safetensors").is_file()
    html = (settings.reports / "08_distill_toolcall.html").read_text()
    assert "Captured 34 trajectories" in html
    sessions = {
        attribute["value"]["stringValue"]
        for kind in (
            "capture",
            "build",
            "train",
            "agent-slm",
            "agent-slm_ft",
            "slm-test",
            "captured-test",
            "flywheel",
        )
        for path in settings.runs.glob(f"*-{kind}*/trace.jsonl")
        for line in outbox.read_outbox(path)
        for span in outbox.list_spans(line)
        for attribute in span["attributes"]
        if attribute["key"] == "session.id"
    }
    assert sessions == {loop["run"]["session_id"]}  # one session over all stages
    check_that_a_served_baseline_stays(settings)


def check_that_a_served_baseline_stays(settings):
    """With SLM_BASE_URL the base's last run was asked there; 08 compares with it and keeps it."""
    path = settings.evaluation / "toolcall_slm_test.json"
    write_json(path, json.loads(path.read_text()) | {"note": "asked at SLM_BASE_URL"})
    # Nobody listens there.
    served = settings.model_copy(update={"slm_base_url": "http://127.0.0.1:9/v1"})
    question = {"limit": 1, "max_new_tokens": 24, "batch_size": 1}
    found = flywheel.evaluate_captured(served, "toolcall", question, "a-session")
    assert set(found["rates"]) == {"slm", "slm_ft-captured"}
    assert json.loads(path.read_text())["note"] == "asked at SLM_BASE_URL"


def test_a_build_beside_another_dataset_or_with_changed_files_is_refused(toolcall_home):
    folder, manifest = toolcall_home.dataset / "captured", toolcall_home.dataset / "manifest.json"
    write_json(manifest, {"seed": 42})
    write_text(folder / "chats.jsonl", "")
    made = {
        "made_from": {"dataset_manifest_sha256": hash_file(manifest)},
        "sha256": {},
        "run": {"session_id": "s"},
    }
    write_json(
        folder / "manifest.json",
        made | {"sha256": {"chats.jsonl": hash_file(folder / "chats.jsonl")}},
    )
    assert distill.read_kept(toolcall_home).chats == {"train": [], "val": []}
    write_text(folder / "chats.jsonl", "changed")
    with pytest.raises(ValueError, match=r"does not hold what was built: chats\.jsonl"):
        distill.read_kept(toolcall_home)
    write_json(manifest, {"seed": 43})
    with pytest.raises(ValueError, match="beside another dataset"):
        distill.read_kept(toolcall_home)


def test_a_parameter_that_no_notebook_knows_stops_before_anything_runs(settings):
    with pytest.raises(ValueError, match="unknown parameter 'limti'"):
        running.run_flywheel(settings, "toolcall", [("limti", "3")], 60)
    with pytest.raises(ValueError, match="expected"):
        running.run_flywheel(settings, "toolcall", [("max_steps", "many")], 60)
    assert not settings.reports.exists()


def test_nothing_kept_distils_nothing_and_says_so(toolcall_home, capsys):
    rows = toolcall_home.dataset / "manifest.json"
    write_json(rows, {})
    manifest = {
        "made_from": {"dataset_manifest_sha256": hash_file(rows)},
        "sha256": {},
        "run": {"session_id": "s"},
    }
    write_json(toolcall_home.dataset / "captured" / "manifest.json", manifest)
    cards = {"agent": distill.distill_agent(toolcall_home)}
    cards["rows"] = distill.fine_tune_captured(toolcall_home, "toolcall")
    assert cards == {"agent": None, "rows": None}
    assert "nothing to distil" in capsys.readouterr().out


def test_a_build_that_is_missing_names_the_notebook(settings):
    with pytest.raises(FileNotFoundError, match="07_build"):
        distill.distill_agent(settings)
