import json

import pytest
from servers import completion, serving
from test_decision import two_runs  # noqa: F401 - a fixture
from test_evaluate import right, run_azure, wrong_for

from swaplib.evaluation import comparison, decision
from swaplib.files import write_json
from swaplib.prompts import pick_shots
from swaplib.report import headlines, tables
from swaplib.rows import hash_rows, read_rows
from swaplib.settings import ROOT


def add_few_shot(settings, shots: int, **changes) -> None:
    """A few-shot run of the SLM that is as good as the hosted one."""
    azure, slm = (
        json.loads((settings.evaluation / f"toolcall_{m}_test.json").read_text())
        for m in ("azure", "slm")
    )
    train = read_rows(settings.dataset / "toolcall" / "train.jsonl", "toolcall")
    run = azure["run"] | {"model": f"slm-shots{shots}", "identity": slm["run"]["identity"]}
    run |= {"shots_sha256": hash_rows(pick_shots(train, shots))} | changes
    for split in ("test", "val"):
        write_json(
            settings.evaluation / f"toolcall_slm-shots{shots}_{split}.json", azure | {"run": run}
        )


def test_two_runs_of_one_model_are_compared_by_their_ids(toolcall_home):
    with serving(right) as (root, _):
        first = run_azure(toolcall_home, root)
    with serving(wrong_for([1, 3], completion("prose"))) as (root, _):
        second = run_azure(toolcall_home, root)
    compared = comparison.compare_runs(toolcall_home, f"{first.folder.name}, {second.folder.name}")
    found = compared["pairs"]["valid_call_rate"]
    assert [found[name] for name in ("both", "first_only", "second_only", "neither")] == [
        4,
        2,
        0,
        0,
    ]
    assert second.folder.name in headlines.show_comparison(compared).to_html()
    html = tables.list_runs(toolcall_home, "toolcall").to_html()
    assert html.index(second.folder.name) < html.index(first.folder.name)
    assert "complete" in html


def test_nothing_asked_compares_nothing(settings):
    assert comparison.compare_runs(settings, "") is None
    assert "<td" not in headlines.show_comparison(None).to_html()


def test_runs_that_are_not_there_or_not_two_say_what_is_expected(settings):
    with pytest.raises(ValueError, match="two run ids"):
        comparison.compare_runs(settings, "one")
    with pytest.raises(FileNotFoundError, match="02_eval lists the runs"):
        comparison.compare_runs(settings, "one,two")


def test_a_run_that_has_not_ended_is_listed_with_its_answered_rows(toolcall_home):
    with serving(right) as (root, _):
        run = run_azure(toolcall_home, root)
    (run.folder / "metrics.json").unlink()
    assert "not ended, 6 rows answered" in tables.list_runs(toolcall_home, "toolcall").to_html()


def test_examples_that_are_enough_are_recommended_when_the_slm_alone_is_not(two_runs):  # noqa: F811
    decision.decide(two_runs, "toolcall")
    add_few_shot(two_runs, 5)
    add_few_shot(two_runs, 2)
    decided = decision.decide_again(two_runs, "toolcall", "slm")
    assert decided["verdict"] == "swap with 2 examples in the prompt"
    assert decided["recommended"] == "slm-shots2"
    assert (
        "but the SLM with 2 examples is not worse than the hosted LLM"
        in headlines.show_verdict(decided).data
    )
    assert [(c["first"], c["second"]) for c in decided["evidence"]["few_shot"]] == [
        *(("azure", "slm-shots2"), ("slm", "slm-shots2"), ("slm-shots2", "slm")),
        *(("azure", "slm-shots5"), ("slm", "slm-shots5"), ("slm-shots5", "slm")),
    ]
    html = headlines.show_few_shot(decided).to_html()
    assert "slm-shots5" in html
    assert "slm-shots2" in headlines.show_decision(decided).to_html()


def read_val(settings, shots: int) -> tuple:
    path = settings.evaluation / f"toolcall_slm-shots{shots}_val.json"
    return path, json.loads(path.read_text())


def test_val_chooses_the_number_of_examples_and_test_does_not(two_runs, capsys):  # noqa: F811
    decision.decide(two_runs, "toolcall")
    for shots in (2, 5):
        add_few_shot(two_runs, shots)
    path, content = read_val(two_runs, 2)
    content["extra"]["right"] -= 1
    write_json(path, content)
    assert decision.decide_again(two_runs, "toolcall", "slm")["recommended"] == "slm-shots5"
    read_val(two_runs, 5)[0].unlink()
    assert decision.decide_again(two_runs, "toolcall", "slm")["recommended"] == "slm-shots2"
    assert "-p models slm-shots5 -p split val" in capsys.readouterr().out
    content["run"]["shots_sha256"] = "others"
    write_json(path, content)
    decided = decision.decide_again(two_runs, "toolcall", "slm")
    assert (decided["verdict"], decided["chosen"]) == ("stay", None)
    assert "its run on val has other examples" in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes", [{"n_rows": 7}, {"identity": {"model": "another"}}, {"shots_sha256": "old"}]
)
def test_a_few_shot_run_of_another_question_or_base_is_left_out_and_said(two_runs, capsys, changes):  # noqa: F811
    decision.decide(two_runs, "toolcall")
    add_few_shot(two_runs, 2, **changes)
    decided = decision.decide_again(two_runs, "toolcall", "slm")
    assert decided["evidence"]["few_shot"] == []
    assert "slm-shots2 is left out" in capsys.readouterr().out
    assert "-p shots 4" in headlines.show_few_shot(decided).to_html()


def copy_run(settings, name: str, model: str, **identity) -> None:
    """A run of `name` under the name of another model, with changes to its identity."""
    content = json.loads((settings.evaluation / f"toolcall_{name}_test.json").read_text())
    content["run"] |= {"model": model, "identity": content["run"]["identity"] | identity}
    write_json(settings.evaluation / f"toolcall_{model}_test.json", content)


UNQUANTISED = {"quantisation": None, "is_dequantised": None}


def test_what_4_bit_took_stands_beside_the_rule_and_changes_nothing(two_runs):  # noqa: F811
    before = decision.decide(two_runs, "toolcall")
    assert "-p models slm-full" in headlines.show_full(before).to_html()
    right_one = json.loads((two_runs.evaluation / "toolcall_azure_test.json").read_text())
    copy_run(two_runs, "slm", "slm-full", **UNQUANTISED)
    slm_full = json.loads((two_runs.evaluation / "toolcall_slm-full_test.json").read_text())
    right_one["run"] |= {"model": "slm-full", "identity": slm_full["run"]["identity"]}
    write_json(two_runs.evaluation / "toolcall_slm-full_test.json", right_one)
    decided = decision.decide(two_runs, "toolcall")
    assert decided["FINE_TUNE"] == before["FINE_TUNE"] == 1
    assert decided["gaps"] == before["gaps"]
    assert [(c["first"], c["second"]) for c in decided["evidence"]["full"]] == [
        ("slm-full", "slm"),
        ("azure", "slm-full"),
    ]
    lost = decided["evidence"]["full"][0]["pairs"]["args_exact_rate"]
    assert (lost["first_only"], lost["second_only"]) == (2, 0)
    box = headlines.show_verdict(decided).data
    assert "What it took: slm against slm-full: " in box
    assert "args_exact_rate 1.00 to 0.67" in box
    again = decision.decide_again(two_runs, "toolcall", "slm")
    assert again["verdict"] == "stay"  # slm-full would pass, and is not asked
    assert list(again["rules"]) == ["slm"]
    assert again["evidence"]["full"] == decided["evidence"]["full"]


@pytest.mark.parametrize(
    ("change", "said"),
    [({"arithmetic": "bfloat16"}, "not of one base"), ({"adapter_sha256": "a"}, "another adapter")],
)
def test_an_unquantised_run_of_another_base_or_adapter_is_left_out_and_said(
    two_runs,  # noqa: F811
    capsys,
    change,
    said,
):
    copy_run(two_runs, "slm", "slm-full", **UNQUANTISED, **change)
    assert decision.decide(two_runs, "toolcall")["evidence"]["full"] == []
    printed = capsys.readouterr().out
    assert "slm-full is left out" in printed
    assert said in printed


def test_two_unquantised_runs_must_be_held_alike_too():
    metrics = {model: read_recorded("slm") for model in ("slm", "slm-full", "slm_ft-full")}
    for model, content in metrics.items():
        content["run"] |= {"model": model}
    for model in ("slm-full", "slm_ft-full"):
        metrics[model]["run"]["identity"] |= UNQUANTISED
    comparison._check_base(metrics)
    metrics["slm-full"]["run"]["identity"]["quantisation"] = "int8"
    with pytest.raises(ValueError, match="not of one base"):
        comparison._check_base(metrics)


def test_the_hosted_llm_with_examples_is_shown_and_never_ruled_on(two_runs):  # noqa: F811
    decision.decide(two_runs, "toolcall")
    train = read_rows(two_runs.dataset / "toolcall" / "train.jsonl", "toolcall")
    copy_run(two_runs, "azure", "azure-shots2")
    path = two_runs.evaluation / "toolcall_azure-shots2_test.json"
    content = json.loads(path.read_text())
    content["run"] |= {"shots": 2, "shots_sha256": hash_rows(pick_shots(train, 2))}
    write_json(path, content)
    decided = decision.decide_again(two_runs, "toolcall", "slm")
    compared = [(c["first"], c["second"]) for c in decided["evidence"]["few_shot"]]
    assert compared == [("azure", "azure-shots2"), ("azure-shots2", "slm")]
    assert list(decided["rules"]) == ["slm"]
    assert decided["verdict"] == "stay"
    assert "azure-shots2" in headlines.show_few_shot(decided).to_html()
    assert "azure-shots2" in decided["costs"]["models"]
    assert "azure-shots2" not in decided["costs"]["pays"]


def add_natives(settings, *names: str) -> None:
    """Native runs as good as the hosted one's."""
    for name in names:
        content = json.loads((settings.evaluation / "toolcall_azure_test.json").read_text())
        base = json.loads(
            (settings.evaluation / f"toolcall_{name.partition('-')[0]}_test.json").read_text()
        )
        content["run"] |= {"model": name, "identity": base["run"]["identity"], "native_sha256": "n"}
        write_json(settings.evaluation / f"toolcall_{name}_test.json", content)


def test_native_runs_are_shown_and_recommended_only_where_asked(two_runs):  # noqa: F811
    assert (
        "-p models azure-native,slm-native"
        in headlines.show_native(decision.decide(two_runs, "toolcall")).to_html()
    )
    with pytest.raises(ValueError, match="-p models azure-native,slm-native"):
        decision.decide_again(two_runs, "toolcall", "slm", native=True)
    add_natives(two_runs, "azure-native", "slm-native")
    decided = decision.decide(two_runs, "toolcall")
    shown = [(c["first"], c["second"]) for c in decided["evidence"]["native"]]
    assert shown == [
        ("azure", "azure-native"),
        ("slm", "slm-native"),
        ("azure-native", "slm-native"),
    ]
    plain = decision.decide_again(two_runs, "toolcall", "slm")
    assert (plain["verdict"], plain["reference"], list(plain["rules"])) == (
        "stay",
        "azure",
        ["slm"],
    )
    asked = decision.decide_again(two_runs, "toolcall", "slm", native=True)
    assert (asked["verdict"], asked["recommended"], asked["reference"]) == (
        *("swap, asked natively", "slm-native", "azure-native"),
    )
    box = headlines.show_verdict(asked).data
    assert "the SLM (asked natively) is not worse than the hosted LLM (asked natively)" in box
    assert "azure-native − slm" in headlines.show_decision(asked).to_html()


def test_a_native_run_of_other_rows_is_left_out_and_said(two_runs, capsys):  # noqa: F811
    add_natives(two_runs, "azure-native")
    path = two_runs.evaluation / "toolcall_azure-native_test.json"
    content = json.loads(path.read_text())
    content["run"]["rows_sha256"] = "others"
    write_json(path, content)
    assert decision.decide(two_runs, "toolcall")["evidence"]["native"] == []
    assert "azure-native is left out" in capsys.readouterr().out


def read_recorded(model: str) -> dict:
    path = (
        ROOT
        / "benchmarks"
        / "results"
        / "recorded_smollm2"
        / "05_eval"
        / f"toolcall_{model}_test.json"
    )
    return json.loads(path.read_text())


def test_runs_of_old_that_do_not_say_how_their_weights_were_held_may_be_compared():
    comparison._check_base({model: read_recorded(model) for model in ("azure", "slm", "slm_ft")})


def test_an_adapter_may_be_merged_or_not_but_the_weights_must_be_held_alike():
    metrics = {model: read_recorded(model) for model in ("slm", "slm_ft")}
    for content, is_merged in zip(metrics.values(), (None, True), strict=True):
        content["run"]["identity"] |= {"is_dequantised": True, "is_merged": is_merged}
    comparison._check_base(metrics)
    metrics["slm_ft"]["run"]["identity"] |= {"is_dequantised": False, "is_merged": False}
    with pytest.raises(ValueError, match="not of one base"):
        comparison._check_base(metrics)
