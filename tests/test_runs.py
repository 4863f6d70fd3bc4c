"""Files of runs that were changed by hand, cut off, or made while the rows or the clock changed."""

import json
import shutil

import pytest
from runs import right, run_azure
from servers import serving

from swaplib import runs
from swaplib.evaluation import evaluate, side_by_side
from swaplib.report import tables
from swaplib.rows import Row, read_rows, write_rows


@pytest.fixture
def run(toolcall_home):
    with serving(right) as (root, _):
        yield (
            run_azure(toolcall_home, root),
            lambda **options: run_azure(toolcall_home, root, **options),
        )


def edit_line(path, number: int, **changes) -> None:
    lines = path.read_text().splitlines()
    lines[number - 1] = json.dumps(json.loads(lines[number - 1]) | changes)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"index": "2"}, "index: expected int, found str"),
        ({"output": None}, "output: expected str, found NoneType"),
        ({"latency_ms": "fast"}, "latency_ms: expected float, found str"),
        ({"completion_tokens": 1.5}, "completion_tokens: expected int, found float"),
        ({"scores": None}, "scores: expected dict, found NoneType"),
        ({"scores": {"valid_call": 1}}, "scores: expected true or false for valid_call"),
        ({"status": "fine"}, "status: expected one of ok, empty"),
        ({"note": "mine"}, "note"),
    ],
)
def test_a_ledger_that_was_edited_names_file_line_and_field(run, changes, reason):
    first, run_again = run
    edit_line(first.folder / "ledger.jsonl", 3, **changes)
    with pytest.raises(ValueError, match=rf"ledger\.jsonl:3: not a ledger line .*{reason}"):
        run_again()


def test_a_line_that_answers_another_prompt_is_refused(run, toolcall_home):
    first, run_again = run
    ledger = first.folder / "ledger.jsonl"
    index = json.loads(ledger.read_text().splitlines()[0])["index"]
    edit_line(ledger, 1, prompt_sha256="0" * 64)
    for read in (run_again, lambda: side_by_side.gather_runs(toolcall_home, "toolcall", [first])):
        with pytest.raises(
            ValueError, match=rf"ledger\.jsonl: the line of row {index} answers another prompt"
        ):
            read()


def test_rows_that_change_while_they_are_asked_stand_beside_no_output(toolcall_home):
    path = toolcall_home.dataset / "toolcall" / "test.jsonl"
    rows = read_rows(path, "toolcall")

    def answer(exchange):
        write_rows(path, [Row(row.prompt, rows[0].completion) for row in rows])  # other golds
        return right(exchange)

    with serving(answer) as (root, exchanges):
        run = run_azure(toolcall_home, root)
        with pytest.raises(
            ValueError, match="the rows of toolcall have changed since they were asked"
        ):
            side_by_side.gather_runs(toolcall_home, "toolcall", [run])
        write_rows(path, rows)
        seen = side_by_side.gather_runs(toolcall_home, "toolcall", [run])
        assert (seen.rows, len(exchanges)) == (rows, 6)
    assert all(all(line.scores.values()) for line in seen.ledgers["azure"])


def test_runs_that_were_asked_other_rows_do_not_stand_side_by_side(toolcall_home):
    path = toolcall_home.dataset / "toolcall" / "test.jsonl"
    write_rows(
        path.with_name("train.jsonl"), [Row("An example.", '<tool_call name="a">{}</tool_call>')]
    )
    with serving(right) as (root, _):
        settings = toolcall_home.model_copy(
            update={"azure_endpoint": f"{root}/openai/deployments/gpt"}
        )
        before = evaluate.run_model(settings, "toolcall", "azure-shots1")
        write_rows(
            path,
            [
                Row(row.prompt, row.completion.replace("x", "y"))
                for row in read_rows(path, "toolcall")
            ],
        )
        after = evaluate.run_model(settings, "toolcall", "azure")
    with pytest.raises(
        ValueError, match="azure, azure-shots1 were asked other rows than each other"
    ):
        side_by_side.gather_runs(settings, "toolcall", [after, before])


@pytest.mark.parametrize("name", ["metrics.json", "toolcall_azure_test.json"])
def test_a_metrics_file_that_is_cut_off_names_itself_and_is_made_anew(run, toolcall_home, name):
    first, run_again = run
    path = first.folder / name if name == "metrics.json" else toolcall_home.evaluation / name
    text = path.read_text()
    path.write_text(text[: len(text) // 2])

    def read():
        return (
            run_again()
            if name == "metrics.json"
            else runs.read_metrics(toolcall_home, "toolcall", "azure")
        )

    with pytest.raises(
        ValueError, match=rf"{name}:\d+: not JSON.*Delete it and run notebooks/02_eval"
    ):
        read()
    path.unlink()
    run_again()
    assert read()


def test_a_metrics_file_that_lacks_something_says_what(run, toolcall_home):
    path = run[0].folder / "metrics.json"
    path.write_text(json.dumps({"n_rows": "6", "run": {"track": "toolcall"}}))
    with pytest.raises(
        ValueError,
        match=r"metrics\.json: no metrics of a run .*n_rows.*valid_call_rate.*run\.split",
    ):
        runs.read_run(toolcall_home, path.parent.name)


def test_one_broken_run_is_named_in_the_list_and_does_not_hide_the_others(run, toolcall_home):
    _, run_again = run
    second, third = run_again(fresh=True), run_again(fresh=True)
    (second.folder / "metrics.json").write_text('{"n_rows":')
    (third.folder / "metrics.json").unlink()
    edit_line(third.folder / "ledger.jsonl", 2, index="two")
    html = tables.list_runs(toolcall_home, "toolcall").to_html()
    assert "complete" in html
    assert f"{second.folder.name}/metrics.json:1: not JSON" in html
    assert f"{third.folder.name}/ledger.jsonl:2: not a ledger line" in html


def test_a_fresh_run_is_the_one_that_is_read_though_the_clock_was_set_back(run, toolcall_home):
    first, run_again = run
    later = "29990101T000000000Z" + first.folder.name[19:]  # when the clock was wrong
    shutil.move(first.folder, first.folder.with_name(later))
    fresh = run_again(fresh=True)
    assert fresh.folder.name > later
    assert run_again().folder == fresh.folder
