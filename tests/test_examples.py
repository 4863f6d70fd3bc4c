import json
import os
import subprocess
import sys

import pytest

from swaplib.data import dataset
from swaplib.data.tool_schemas import format_signature, parse_tool
from swaplib.evaluation import foresight
from swaplib.metrics import TRACKS, parse_gold
from swaplib.prompts import ROW_PROMPTS
from swaplib.rows import read_rows
from swaplib.settings import ROOT

EXAMPLES = ROOT / "examples"
TASKS = {"invoices": "structured", "home": "toolcall"}
SIZES = dict.fromkeys(TRACKS, "1/1/1")


@pytest.fixture(params=TASKS)
def task(request) -> str:
    return request.param


def read_task(task: str):
    return read_rows(EXAMPLES / task / "rows.jsonl", TASKS[task])


def test_the_script_makes_the_committed_rows_byte_for_byte(tmp_path):
    subprocess.run(
        [sys.executable, EXAMPLES / "make.py", tmp_path],
        env=dict(os.environ) | {"PYTHONPATH": str(ROOT)},
        check=True,
    )
    for name in TASKS:
        assert (tmp_path / name / "rows.jsonl").read_bytes() == (
            EXAMPLES / name / "rows.jsonl"
        ).read_bytes()


def test_an_example_passes_01_with_enough_test_rows_and_no_warning_that_matters(task, settings):
    made = dataset.build_dataset(settings, str(EXAMPLES / task), SIZES)
    track = TASKS[task]
    assert made.manifest["rows"] == {track: {"train": 108, "val": 18, "test": 54}}
    assert set(made.manifest["answerability"]) == {track}
    warnings = foresight.list_warnings(settings, made)
    assert [w["warning"].split(" (")[0] for w in warnings] == ["golds that are not canonical JSON"]


def test_no_two_prompts_of_an_example_are_equal(task):
    rows = read_task(task)
    assert len({" ".join(row.prompt.lower().split()) for row in rows}) == len(rows) == 180


def test_what_an_invoice_says_stands_in_it():
    lacking = dict.fromkeys(("invoice_number", "date", "currency"), 0)
    for row in read_task("invoices"):
        text, gold = row.prompt.partition("Invoice:\n")[2], json.loads(row.completion)
        assert gold["vendor"] in text
        assert gold["invoice_number"] is None or gold["invoice_number"] in text
        digits = "".join(
            character for character in text if character.isdigit() or character == "\n"
        )
        assert f"{round(gold['total'] * 100)}" in digits
        assert gold["total"] % 1  # 1250 and 1250.0 are not the same JSON
        signs = {"EUR": ("EUR", "€"), "GBP": ("GBP", "£"), "USD": ("USD", "US$"), "CHF": ("CHF",)}
        assert [
            code for code, written in signs.items() if any(sign in text for sign in written)
        ] == [code for code in (gold["currency"],) if code]
        lacking = {key: n + (gold[key] is None) for key, n in lacking.items()}
    assert all(n >= 5 for n in lacking.values())


def test_every_home_prompt_offers_all_tools_in_the_projects_own_words():
    tools = [
        parse_tool(tool) for tool in json.loads((EXAMPLES / "home" / "tools.json").read_text())
    ]
    start, _, rest = (
        ROW_PROMPTS["toolcall"].format(signatures="", request="").partition("the tool below")
    )
    signatures = "\n\n".join(format_signature(tool) for tool in tools)
    called = set()
    for row in read_task("home"):
        assert row.prompt.startswith(
            f"{start}one of the tools below{rest.partition('Leave out')[0]}"
        )
        assert signatures in row.prompt
        called.add(parse_gold("toolcall", row.completion).name)
    assert called == {tool["name"] for tool in tools}
    assert len(tools) == 6


def test_no_home_gold_states_a_default():
    tools = {
        t["name"]: t["parameters"]
        for t in map(parse_tool, json.loads((EXAMPLES / "home/tools.json").read_text()))
    }
    for row in read_task("home"):
        call = parse_gold("toolcall", row.completion)
        for name, value in call.arguments.items():
            assert (
                "default" not in tools[call.name][name]
                or tools[call.name][name]["default"] != value
            )
