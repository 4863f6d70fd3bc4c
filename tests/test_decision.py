import json

import pytest
from servers import completion, serving
from test_evaluate import right, run_azure, wrong_for

from swaplib.evaluation import comparison, decision, rule
from swaplib.files import write_json
from swaplib.models.checkpoints import hash_checkpoint
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.rows import Row, hash_rows, read_rows, write_rows
from swaplib.tracing import outbox


def metrics(n: int, valid: int, name: int, args: int) -> dict:
    return {
        "n_rows": n,
        "valid_call_rate": valid / n,
        "name_match_rate": name / n,
        "args_exact_rate": args / n,
    }


@pytest.mark.parametrize(
    ("azure", "slm", "delta", "bit", "worse_on"),
    [
        ((9, 9, 7), (9, 9, 7), 0.0, 0, []),
        ((9, 9, 7), (9, 9, 6), 0.0, 1, ["args_exact_rate"]),
        ((9, 9, 7), (10, 10, 10), 0.0, 0, []),
        ((9, 9, 7), (10, 8, 10), 0.0, 1, ["name_match_rate"]),
        ((9, 9, 7), (9, 9, 6), 0.1, 0, []),  # a gap of exactly delta is not worse
        ((3, 3, 3), (0, 0, 0), 0.3, 0, []),  # 0.3 - 0.0 is 0.3, also in binary
        ((10, 8, 3), (7, 5, 0), 0.3, 0, []),
        ((10, 8, 3), (7, 5, 0), 0.29, 1, ["valid_call_rate", "name_match_rate", "args_exact_rate"]),
    ],
)
def test_the_rule_as_worked_by_hand(azure, slm, delta, bit, worse_on):
    found = rule.apply_rule("toolcall", metrics(10, *azure), metrics(10, *slm), delta)
    assert (found["FINE_TUNE"], found["worse_on"]) == (bit, worse_on)


def test_gaps_are_azure_less_slm():
    found = rule.apply_rule("toolcall", metrics(10, 9, 9, 7), metrics(10, 10, 9, 2), 0.0)
    assert found["gaps"] == {
        "valid_call_rate": -0.1,
        "name_match_rate": 0.0,
        "args_exact_rate": 0.5,
    }


@pytest.mark.parametrize("delta", [-0.01, 1.5])
def test_a_delta_that_is_no_rate_is_refused(delta):
    with pytest.raises(ValueError, match="from 0 to 1"):
        rule.apply_rule("toolcall", metrics(10, 1, 1, 1), metrics(10, 1, 1, 1), delta)


def test_a_gap_that_is_copied_as_delta_is_not_worse():
    gap = rule.apply_rule("toolcall", metrics(87, 81, 87, 31), metrics(87, 70, 80, 24), 0.0)[
        "gaps"
    ]["valid_call_rate"]
    assert (
        rule.apply_rule("toolcall", metrics(87, 81, 87, 31), metrics(87, 70, 80, 24), gap)[
            "FINE_TUNE"
        ]
        == 0
    )
    third = rule.apply_rule("toolcall", metrics(3, 1, 1, 1), metrics(3, 0, 0, 0), 0.0)["gaps"][
        "args_exact_rate"
    ]
    assert (
        rule.apply_rule("toolcall", metrics(3, 1, 1, 1), metrics(3, 0, 0, 0), third)["worse_on"]
        == []
    )


@pytest.mark.parametrize(
    ("delta", "margin", "found"),
    [(0, None, 0.05), (0, 0.3, 0.3), (0.15, None, 0.15), (0.1, 0.1, 0.1)],
)
def test_the_margin_is_delta_where_there_is_one(delta, margin, found):
    assert rule.find_margin(delta, margin) == found


@pytest.mark.parametrize(
    ("delta", "margin", "said"),
    [(0.15, 0.05, "two questions"), (0, 1.5, "from 0 to 1"), (0, -1, "from 0")],
)
def test_a_margin_that_asks_another_question_is_refused_before_anything_is_written(
    two_runs, delta, margin, said
):
    with pytest.raises(ValueError, match=said):
        decision.decide(two_runs, "toolcall", delta, margin)
    assert not (two_runs.evaluation / "toolcall_decision.json").exists()


def test_decisions_with_other_deltas_on_the_same_runs_are_remembered(two_runs):
    assert decision.decide(two_runs, "toolcall")["earlier"] == []
    decision.decide(two_runs, "toolcall", 0.2)
    assert decision.decide(two_runs, "toolcall", 0.4)["earlier"] == [0.0, 0.2]


def test_a_ledger_that_lost_a_line_is_not_paired_with_another(two_runs):
    run = json.loads((two_runs.evaluation / "toolcall_slm_test.json").read_text())["run"]["run_id"]
    ledger = two_runs.runs / run / "ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join(line for line in lines if json.loads(line)["index"] != 2))
    with pytest.raises(
        ValueError, match=r"expected the rows 0 to 5, each once; .*: 2\. Run notebooks/02_eval"
    ):
        decision.decide(two_runs, "toolcall")


def test_a_ledger_that_says_something_else_than_the_metrics_is_noticed(two_runs):
    change(two_runs, "slm", args_exact_rate=0.5)
    with pytest.raises(
        ValueError, match=r"gives args_exact_rate=0\.6667, and .*metrics\.json says 0\.5000"
    ):
        decision.decide(two_runs, "toolcall")


@pytest.fixture
def two_runs(toolcall_home):
    """Metrics files of a hosted run that is all right and an `slm` run that misses rows 1 and 3."""
    with serving(right) as (root, _):
        run_azure(toolcall_home, root)
    azure_file = toolcall_home.evaluation / "toolcall_azure_test.json"
    azure = azure_file.read_text()
    with serving(wrong_for([1, 3], completion('<tool_call name="tool_1">{"x":9}</tool_call>'))) as (
        root,
        _,
    ):
        run_azure(toolcall_home, root)
    slm = json.loads(azure_file.read_text())
    slm["run"] |= {"model": "slm", "identity": Checkpoint(toolcall_home.slm_model_path).identity()}
    write_json(toolcall_home.evaluation / "toolcall_slm_test.json", slm)
    azure_file.write_text(azure)
    return toolcall_home


def test_a_decision_writes_the_bit_the_gaps_and_what_was_compared(two_runs, capsys):
    decided = decision.decide(two_runs, "toolcall")
    assert decided == json.loads((two_runs.evaluation / "toolcall_decision.json").read_text())
    assert decided["FINE_TUNE"] == 1
    assert list(decision.open_decided(two_runs, decided).metrics) == ["azure", "slm"]
    assert decided["worse_on"] == ["name_match_rate", "args_exact_rate"]
    assert decided["gaps"] == {
        "valid_call_rate": 0.0,
        "name_match_rate": pytest.approx(1 / 6),
        "args_exact_rate": 2 / 6,
    }
    found = decided["evidence"]["pairs"]["args_exact_rate"]
    assert [found[name] for name in ("both", "first_only", "second_only", "neither")] == [
        4,
        2,
        0,
        0,
    ]
    assert (found["p_value"], found["verdict"]) == (0.5, "not enough rows")
    assert "FINE_TUNE=1" in capsys.readouterr().out
    folder = two_runs.runs / decided["run"]["run_id"]
    spans = [
        span
        for line in outbox.read_outbox(folder / "trace.jsonl")
        for span in outbox.list_spans(line)
    ]
    assert sorted(span["name"] for span in spans) == ["decision", "decision toolcall"]


def change(settings, model: str, **changes) -> None:
    path = settings.evaluation / f"toolcall_{model}_test.json"
    content = json.loads(path.read_text())
    content["run"] |= {key: value for key, value in changes.items() if key in content["run"]}
    content |= {key: value for key, value in changes.items() if key not in content["run"]}
    write_json(path, content)


@pytest.mark.parametrize(
    "key", ["dataset_sha256", "messages_sha256", "rows_sha256", "max_new_tokens"]
)
def test_runs_that_answered_another_question_are_refused_with_what_differs(two_runs, key):
    change(two_runs, "slm", **{key: "other"})
    with pytest.raises(ValueError, match=rf"{key}: .* against other"):
        decision.decide(two_runs, "toolcall")
    assert not (two_runs.evaluation / "toolcall_decision.json").exists()


def test_rows_that_changed_since_the_runs_are_noticed(two_runs):
    with (two_runs.dataset / "toolcall" / "test.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(ValueError, match="other rows than those in"):
        decision.decide(two_runs, "toolcall")


def test_an_unknown_track_names_the_known_ones(settings):
    with pytest.raises(ValueError, match="structured, toolcall"):
        decision.decide(settings, "tool")


def test_an_incomplete_run_is_refused(two_runs):
    change(two_runs, "azure", complete=False, n_by_status={"error": 2})
    with pytest.raises(
        ValueError, match=r"not complete: 2 of 6 rows ended in error. Run 02_eval again"
    ):
        decision.decide(two_runs, "toolcall")


def test_a_missing_run_names_the_notebook(settings):
    with pytest.raises(FileNotFoundError, match="02_eval"):
        decision.decide(settings, "structured")


def copy_run(settings, source: str, target: str) -> None:
    """Give one model's run to another model, as its metrics file."""
    content = json.loads((settings.evaluation / f"toolcall_{source}_test.json").read_text())
    content["run"] |= {"model": target, "identity": Checkpoint(settings.slm_model_path).identity()}
    write_json(settings.evaluation / f"toolcall_{target}_test.json", content)


def write_card(settings) -> None:
    """The run card of an adapter that fits."""
    rows = read_rows(settings.dataset / "toolcall" / "train.jsonl", "toolcall")
    card = {
        "checkpoint": hash_checkpoint(settings.slm_model_path),
        "rows": {"toolcall": {"train": len(rows)}},
    }
    card |= {"rows_sha256": {"toolcall": {"train": hash_rows(rows)}}}
    write_json(settings.adapter_of("toolcall") / "run_card.json", card)


@pytest.mark.parametrize(
    ("adapted", "verdict", "gained"), [("azure", "swap with the adapter", 2), ("slm", "stay", 0)]
)
def test_the_rule_is_applied_to_the_adapted_model_on_the_same_rows(
    two_runs, capsys, adapted, verdict, gained
):
    decision.decide(two_runs, "toolcall")
    write_card(two_runs)
    candidate = decision.find_candidate(two_runs, "toolcall")
    assert candidate.name == "slm_ft"
    assert (candidate.options["limit"], candidate.options["max_new_tokens"]) == (6, 256)
    copy_run(two_runs, adapted, "slm_ft")
    decided = decision.decide_again(two_runs, "toolcall", candidate.name)
    assert decided == json.loads((two_runs.evaluation / "toolcall_post_decision.json").read_text())
    assert decided["verdict"] == verdict
    assert set(decided["evidence"]["rates"]) == {"azure", "slm", "slm_ft"}
    assert decided["evidence"]["changes"]["args_exact_rate"]["second_only"] == gained
    assert f"verdict: {verdict}" in capsys.readouterr().out


def test_a_slm_that_is_good_enough_needs_no_adapter(two_runs):
    copy_run(two_runs, "azure", "slm")
    decision.decide(two_runs, "toolcall")
    candidate = decision.find_candidate(two_runs, "toolcall")
    assert candidate.name == "slm"
    assert decision.decide_again(two_runs, "toolcall", candidate.name)["verdict"] == "swap"


def test_an_old_adapter_of_other_rows_is_not_judged(two_runs, capsys):
    decision.decide(two_runs, "toolcall")
    write_card(two_runs)
    write_rows(
        two_runs.dataset / "toolcall" / "train.jsonl",
        [Row("Another?", '<tool_call name="t">{}</tool_call>')],
    )
    with pytest.raises(
        FileNotFoundError, match=r"was trained on other rows than .*Run notebooks/04_finetune"
    ):
        decision.find_candidate(two_runs, "toolcall")
    copy_run(two_runs, "azure", "slm")
    decision.decide(two_runs, "toolcall")
    assert decision.find_candidate(two_runs, "toolcall").name == "slm"
    assert "trained on other rows" in capsys.readouterr().out


def test_local_models_of_two_bases_are_not_compared(two_runs):
    copy_run(two_runs, "azure", "slm_ft")
    comparison.read_compared(two_runs, "toolcall", "azure", "slm", "slm_ft")
    path = two_runs.evaluation / "toolcall_slm_ft_test.json"
    path.write_text(path.read_text().replace('"arithmetic": "', '"arithmetic": "b'))
    with pytest.raises(ValueError, match="not of one base"):
        comparison.read_compared(two_runs, "toolcall", "azure", "slm", "slm_ft")


def test_a_post_evaluation_names_what_is_missing_or_old(two_runs):
    with pytest.raises(FileNotFoundError, match="03_decision"):
        decision.find_candidate(two_runs, "toolcall")
    decision.decide(two_runs, "toolcall")
    with pytest.raises(FileNotFoundError, match=r"FINE_TUNE=1 .* no adapter .*04_finetune"):
        decision.find_candidate(two_runs, "toolcall")
    copy_run(two_runs, "azure", "slm")
    with pytest.raises(ValueError, match=r"other runs than the last ones\. Run 03_decision again"):
        decision.find_candidate(two_runs, "toolcall")
