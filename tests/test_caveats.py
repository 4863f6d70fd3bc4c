import json

import pytest
from servers import completion, serving
from test_decision import copy_run, two_runs  # noqa: F401 - a fixture
from test_evaluate import right, run_azure

from swaplib.data.facts import read_facts
from swaplib.evaluation import caveats, comparison, decision, evaluate
from swaplib.evaluation.side_by_side import gather_runs
from swaplib.files import hash_text, write_text
from swaplib.metrics import TRACKS
from swaplib.report import headlines, sentences
from swaplib.rows import read_ledger, read_rows
from swaplib.settings import ROOT


def fence(exchange):
    """Every right answer, inside a code fence."""
    answer = json.loads(right(exchange)[2])
    return completion(f"```\n{answer['choices'][0]['message']['content']}\n```")


@pytest.fixture
def fenced_runs(toolcall_home):
    """Both models know the answers and put them into code fences; the SLM knows two fewer."""
    with serving(fence) as (root, _):
        run_azure(toolcall_home, root)
    return toolcall_home


def test_two_fenced_models_are_not_called_equal(fenced_runs):
    copy_run(fenced_runs, "azure", "slm")
    decided = decision.decide(fenced_runs, "toolcall")
    assert (decided["FINE_TUNE"], decided["caveats"]["obstacle"]) == (0, "form")
    assert decided["caveats"]["form"]["azure"] | {"word": None} == {
        **{
            "n_rows": 6,
            "strict": 0,
            "found": 6,
            "n_fenced": 6,
            "word": None,
            "n_word": 0,
            "hides": True,
        }
    }
    assert "Not comparable (FINE_TUNE=0)" in headlines.show_verdict(decided).data
    again = decision.decide_again(fenced_runs, "toolcall", "slm")
    assert again["verdict"] == "not comparable"
    assert (
        "6 of 6 answers of both models are inside a code fence"
        in headlines.show_verdict(again).data
    )


def test_two_models_without_a_right_row_are_not_called_equal(toolcall_home):
    with serving(lambda _: completion("prose")) as (root, _):
        run_azure(toolcall_home, root)
    copy_run(toolcall_home, "azure", "slm")
    decided = decision.decide(toolcall_home, "toolcall")
    assert (decided["FINE_TUNE"], decided["caveats"]["obstacle"]) == (0, "useless")


def test_one_useful_model_is_enough_to_compare(two_runs):  # noqa: F811
    assert decision.decide(two_runs, "toolcall")["caveats"]["obstacle"] is None


def test_02_has_a_headline_for_one_model_for_two_and_for_fences(fenced_runs):
    with serving(right) as (root, _):
        run = run_azure(fenced_runs, root, fresh=True)
    seen = caveats.summarise(fenced_runs, gather_runs(fenced_runs, "toolcall", [run]))
    assert sentences.make_runs_head(seen) == "The hosted LLM 1.00 (args_exact_rate)"
    copy_run(fenced_runs, "azure", "slm")
    both = caveats.summarise(
        fenced_runs, comparison.open_compared(fenced_runs, "toolcall", "azure", "slm")
    )
    assert sentences.make_runs_head(both) == "The hosted LLM 1.00, the SLM 1.00 (args_exact_rate)"
    assert "not enough rows, +0.00" in dict(sentences.describe_runs(both))["How sure?"]
    with serving(fence) as (root, _):
        run_azure(fenced_runs, root, fresh=True)
    copy_run(fenced_runs, "azure", "slm")
    both = caveats.summarise(
        fenced_runs, comparison.open_compared(fenced_runs, "toolcall", "azure", "slm")
    )
    assert sentences.make_runs_head(both) == "Not comparable"
    assert "code fence" in headlines.show_runs(both).data


def test_what_a_second_asking_changes_is_counted_and_said(toolcall_home):
    asked = []

    def waver(exchange):
        """Right the first time; the second time prose for row 2."""
        content = exchange.json()["messages"][-1]["content"]
        asked.append(content)
        return (
            completion("prose")
            if content == "Request 2?" and asked.count(content) > 1
            else right(exchange)
        )

    with serving(waver) as (root, _):
        settings = toolcall_home.model_copy(
            update={"azure_endpoint": f"{root}/openai/deployments/gpt"}
        )
        for _ in range(2):  # a rerun reads both runs, and asks nothing
            runs = evaluate.run_models(settings, "toolcall", "azure", noise_rows=4, concurrency=2)
    assert [run.metrics["args_exact_rate"] for run in runs] == [1.0]
    assert len(asked) == 6 + 4
    copy_run(toolcall_home, "azure", "slm")
    decided = decision.decide(toolcall_home, "toolcall")
    moved = dict.fromkeys(("valid_call_rate", "name_match_rate", "args_exact_rate"), 1)
    assert decided["caveats"]["noise"] == {"n_rows": 4, "equal": 3, "moved": moved}
    notes = [text for label, text in sentences.describe_decision(decided) if label == "Note"]
    assert any(
        note.startswith("Asked twice, the hosted LLM gave 3 of 4 outputs again") for note in notes
    )


def test_a_second_asking_of_another_endpoint_is_no_noise(two_runs):  # noqa: F811
    with serving(right) as (root, _):
        run_azure(two_runs, root, limit=4, is_repeat=True)
    assert decision.decide(two_runs, "toolcall")["caveats"]["noise"] is None


def test_the_hand_read_rows_are_shipped_test_rows_and_no_recorded_model_got_an_impossible_one():
    recorded = ROOT / "benchmarks" / "results" / "recorded" / "05_eval"
    for track in TRACKS:
        path = ROOT / "slm_swap" / "02_dataset" / track / "test.jsonl"
        rows = read_rows(path, track)
        facts, known = read_facts(path, rows), caveats.read_unanswerable(track)
        prompts = [hash_text(row.prompt) for row in rows]
        assert {fact.prompt_sha256 for fact in facts} >= set(known)
        assert all(prompts[record["row"]] == prompt for prompt, record in known.items())
        assert {record["kind"] for record in known.values()} == {"impossible", "guess"}
        assert all(record["reason"].strip() for record in known.values())
        impossible = {prompt for prompt, record in known.items() if record["kind"] == "impossible"}
        name = "args_exact" if track == "toolcall" else "exact_match"
        for metrics in sorted(recorded.glob(f"{track}_*_test.json")):
            run = json.loads(metrics.read_text())["run"]["run_id"]
            ledger = read_ledger(recorded / "runs" / run / "ledger.jsonl").values()
            assert not impossible & {line.prompt_sha256 for line in ledger if line.scores[name]}


def test_the_ceiling_counts_only_read_rows_that_nobody_got(two_runs, monkeypatch, tmp_path):  # noqa: F811
    rows = read_rows(two_runs.dataset / "toolcall" / "test.jsonl", "toolcall")
    read = [(0, "impossible"), (1, "impossible"), (3, "guess")]
    lines = [
        {
            "track": "toolcall",
            "row": i,
            "prompt_sha256": hash_text(rows[i].prompt),
            "kind": kind,
            "reason": "r",
        }
        for i, kind in read
    ]
    listed = tmp_path / "read.jsonl"
    write_text(listed, "".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(caveats.read_unanswerable, "__defaults__", (listed,))
    compared = comparison.open_compared(two_runs, "toolcall", "slm")  # it got all but 1 and 3
    found = caveats.find_ceiling(compared)
    assert found == {
        "n_rows": 6,
        "nobody": [1, 3],
        "impossible": {"1": "r"},
        "guess": {"3": "r"},
        "rate": 5 / 6,
    }
    both = caveats.find_ceiling(comparison.open_compared(two_runs, "toolcall", "azure", "slm"))
    assert (both["nobody"], both["rate"]) == ([], 1)


def test_a_hosted_llm_that_is_not_greedy_is_compared_and_said_to_be_such(toolcall_home):
    settings = toolcall_home.model_copy(update={"azure_reasoning": True})
    with serving(right) as (root, exchanges):
        run = run_azure(settings, root)
        copy_run(settings, "azure", "slm")
        path = settings.evaluation / "toolcall_slm_test.json"
        copied = json.loads(path.read_text())
        copied["run"]["temperature"] = 0
        write_text(path, json.dumps(copied))
        notes = dict(sentences.describe_decision(decision.decide(settings, "toolcall")))["Note"]
        assert "The hosted LLM was asked without a temperature and is not greedy." in notes
        assert "-p noise_rows 20" in notes
        plain = run_azure(toolcall_home, root)
    assert "temperature" not in exchanges[0].json()
    assert run.metrics["run"]["temperature"] is None
    assert plain.folder != run.folder  # another question
