import json
import os
import signal
import subprocess
import sys
import time

import pytest
from langfuse import Langfuse
from runs import right, run_azure, start_run, wrong_for
from servers import completion, refusal, serving

from swaplib.evaluation import asking, error_analysis, evaluate
from swaplib.models.local import LocalSLM
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.models.replies import CallFailed
from swaplib.prompts import build_messages
from swaplib.report import tables
from swaplib.rows import Row, read_ledger, read_rows, write_rows
from swaplib.settings import ROOT
from swaplib.tracing import outbox

pytestmark = pytest.mark.slow


def test_a_run_leaves_metrics_a_ledger_and_one_trace(toolcall_home):
    with serving(wrong_for([2], completion("prose"))) as (root, exchanges):
        run = run_azure(toolcall_home, root)
    assert len(exchanges) == 6
    metrics = json.loads((toolcall_home.evaluation / "toolcall_azure_test.json").read_text())
    assert metrics == json.loads((run.folder / "metrics.json").read_text()) == run.metrics
    assert (metrics["valid_call_rate"], metrics["n_rows"], metrics["complete"]) == (5 / 6, 6, True)
    # Wilson, by hand.
    assert metrics["intervals"]["valid_call_rate"] == pytest.approx([0.4365, 0.9699], abs=1e-4)
    assert metrics["extra"]["completion_tokens"] == 42
    assert metrics["run"]["run_id"] == run.folder.name
    assert [line.index for line in run.ledger] == list(range(6))
    assert [line.scores["valid_call"] for line in run.ledger] == [
        True,
        True,
        False,
        True,
        True,
        True,
    ]
    assert run.ledger[2].generation.output == "prose"
    # The root, a generation for each row, a score for each metric.
    assert metrics["run"]["trace"]["made"] == 1 + 6 + 3
    assert metrics["run"]["trace"]["trace_id"] == Langfuse.create_trace_id(seed=run.folder.name)


def test_no_key_is_in_any_file_of_a_run(toolcall_home):
    settings = toolcall_home.model_copy(update={"azure_api_key": "canary-key"})
    with serving(right) as (root, exchanges):
        run_azure(settings, root)
    assert exchanges[0].headers["api-key"] == "canary-key"
    files = [path for path in toolcall_home.evaluation.rglob("*") if path.is_file()]
    assert {path.name for path in files if path.name[0] != "."} == {
        "toolcall_azure_test.json",
        "metrics.json",
        "ledger.jsonl",
        "trace.jsonl",
    }
    assert not any("canary-key" in path.read_text() for path in files)


def test_a_complete_run_is_read_and_not_asked_again_unless_fresh(toolcall_home):
    with serving(right) as (root, exchanges):
        first = run_azure(toolcall_home, root)
        again = run_azure(toolcall_home, root)
        assert (again.folder, again.metrics, len(exchanges)) == (first.folder, first.metrics, 6)
        fresh = run_azure(toolcall_home, root, fresh=True)
        assert fresh.folder != first.folder
        assert len(exchanges) == 12


def test_another_question_is_another_run(toolcall_home):
    with serving(right) as (root, _):
        folders = [
            run_azure(toolcall_home, root, **p).folder.name
            for p in ({}, {"limit": 3}, {"max_new_tokens": 9}, {"split": "val"})
        ]
    assert len(set(folders)) == 4


def test_rows_that_ended_in_error_make_the_run_incomplete_and_only_they_are_asked_again(
    toolcall_home,
):
    answers = [wrong_for([1, 4], refusal(400, code="odd")), right]
    with serving(lambda exchange: answers[0](exchange)) as (root, exchanges):
        run = run_azure(toolcall_home, root)
        assert run.metrics["complete"] is False
        assert run.metrics["n_by_status"]["error"] == 2
        assert run.metrics["valid_call_rate"] == 4 / 6
        before = (run.folder / "ledger.jsonl").read_text()
        del answers[0]
        again = run_azure(toolcall_home, root)
    assert again.folder == run.folder
    assert len(exchanges) == 6 + 2
    assert again.metrics["complete"] is True
    assert again.metrics["valid_call_rate"] == 1.0
    assert (run.folder / "ledger.jsonl").read_text().startswith(before)


def test_another_server_is_another_run(toolcall_home):
    runs = []
    for _ in range(2):
        with serving(right) as (root, _):
            runs.append(run_azure(toolcall_home, root))
    assert runs[0].folder != runs[1].folder


def test_filtered_truncated_and_empty_rows_stay_in_the_denominator(toolcall_home):
    answers = {
        0: refusal(400, code="content_filter"),
        1: completion("<tool", "length"),
        2: completion(""),
    }

    def answer(exchange):
        index = int(exchange.json()["messages"][-1]["content"].removeprefix("Request ").rstrip("?"))
        return answers.get(index) or right(exchange)

    with serving(answer) as (root, _):
        metrics = run_azure(toolcall_home, root).metrics
    assert metrics["n_by_status"] == {
        "ok": 3,
        "empty": 1,
        "truncated": 1,
        "filtered": 1,
        "error": 0,
    }
    assert metrics["complete"] is True
    assert metrics["valid_call_rate"] == 3 / 6


def test_the_row_limit_of_the_environment_caps_a_run_and_is_written_down(toolcall_home):
    settings = toolcall_home.model_copy(update={"swap_row_limit": 2})
    with serving(right) as (root, exchanges):
        metrics = run_azure(settings, root, limit=4).metrics
    assert (metrics["n_rows"], len(exchanges), metrics["run"]["parameters"]["swap_row_limit"]) == (
        2,
        2,
        2,
    )


def test_what_is_missing_stops_before_anything_is_asked_or_written(toolcall_home):
    with serving(right) as (root, exchanges):
        endpoint = f"{root}/openai/deployments/gpt"
    attempts = [
        ({"azure_api_key": None}, "azure", ValueError, "AZURE_API_KEY"),
        ({"swap_tracing": "langfuse"}, "azure", ValueError, "LANGFUSE_PUBLIC_KEY"),
        ({"azure_endpoint": endpoint}, "azure", ConnectionError, "AZURE_ENDPOINT"),
        (
            {"slm_model_path": toolcall_home.swap_home / "none"},
            "slm",
            FileNotFoundError,
            "swap download",
        ),
        ({}, "gpt", ValueError, "azure, slm, slm_ft"),
    ]
    for change, model, error, message in attempts:
        with pytest.raises(error, match=message):
            evaluate.run_model(toolcall_home.model_copy(update=change), "toolcall", model)
    assert not exchanges
    assert not toolcall_home.evaluation.exists()


def test_a_refused_key_stops_the_run_and_leaves_no_metrics(toolcall_home):
    with serving(lambda _: refusal(401)) as (root, _), pytest.raises(CallFailed, match="401"):
        run_azure(toolcall_home, root)
    assert not list(toolcall_home.evaluation.rglob("*.json"))


@pytest.mark.parametrize(
    "parameters",
    [{"limit": 0}, {"batch_size": -1}, {"concurrency": 0}, {"max_new_tokens": 0}, {"split": "dev"}],
)
def test_parameters_that_do_not_fit_say_what_does(toolcall_home, parameters):
    [value] = parameters.values()
    with pytest.raises(ValueError, match=f"{value}.*expected"):
        evaluate.run_model(toolcall_home, "toolcall", "azure", **parameters)


def test_all_models_are_checked_before_any_is_asked(toolcall_home):
    with serving(right) as (root, exchanges):
        settings = toolcall_home.model_copy(
            update={"azure_endpoint": f"{root}/openai/deployments/gpt"}
        )
        with pytest.raises(ValueError, match="unknown model 'smll'"):
            evaluate.run_models(settings, "toolcall", "azure,smll")
        with pytest.raises(FileNotFoundError, match="swap download"):
            nowhere = settings.model_copy(
                update={"slm_model_path": toolcall_home.swap_home / "none"}
            )
            evaluate.run_models(nowhere, "toolcall", "azure,slm")
    assert not exchanges


def test_a_run_that_lost_its_metrics_file_gets_it_back_without_a_call(toolcall_home):
    with serving(right) as (root, exchanges):
        first = run_azure(toolcall_home, root)
        (first.folder / "metrics.json").unlink()
    again = run_azure(toolcall_home, root)  # the server is gone: nothing is asked
    assert again.metrics["valid_call_rate"] == 1.0
    assert len(exchanges) == 6


def test_metrics_do_not_outlive_the_ledger_they_were_made_from(toolcall_home, monkeypatch):
    answers = [wrong_for([1], refusal(400, code="odd")), right]
    with serving(lambda exchange: answers[0](exchange)) as (root, _):
        run = run_azure(toolcall_home, root)
        assert run.metrics["complete"] is False
        del answers[0]
        # Dies after the last answer, before the metrics.
        monkeypatch.setattr(asking, "summarise_ledger", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_azure(toolcall_home, root)
        monkeypatch.undo()
        assert not (run.folder / "metrics.json").exists()
        assert run_azure(toolcall_home, root).metrics["complete"] is True


def test_a_kill_before_the_first_answer_leaves_a_question_that_can_be_asked(
    toolcall_home, env_of_tests
):
    with serving(lambda e: time.sleep(0.5) or right(e)) as (root, exchanges):
        first = start_run(toolcall_home, root, env_of_tests, exchanges)
        first.kill()
        first.wait()
        assert not list(toolcall_home.runs.glob("*/ledger.jsonl"))
        assert run_azure(toolcall_home, root, concurrency=8).metrics["complete"] is True


def test_a_model_named_twice_is_refused(toolcall_home):
    with pytest.raises(ValueError, match="names a model twice"):
        evaluate.run_models(toolcall_home, "toolcall", "azure, azure")


def test_a_failure_at_our_side_stops_the_calls(toolcall_home):
    settings = toolcall_home.model_copy(update={"swap_home": toolcall_home.swap_home})

    def answer(exchange):
        for folder in settings.runs.glob("*-toolcall-*"):
            folder.joinpath("ledger.jsonl").unlink(missing_ok=True)
            # The ledger cannot be written any more.
            folder.joinpath("ledger.jsonl").mkdir(exist_ok=True)
        time.sleep(0.1)
        return right(exchange)

    with serving(answer) as (root, exchanges):
        with pytest.raises(OSError) as caught:
            run_azure(settings, root, concurrency=1)
        asked = len(exchanges)
        time.sleep(0.5)
        assert len(exchanges) == asked < 6
    assert caught.value is not None  # held, as a notebook holds it


def test_a_second_process_on_the_same_rows_is_refused(toolcall_home, env_of_tests):
    with serving(lambda e: time.sleep(0.3) or right(e)) as (root, exchanges):
        first = start_run(toolcall_home, root, env_of_tests, exchanges, "concurrency=1")
        with pytest.raises(RuntimeError, match="another process is at this run"):
            run_azure(toolcall_home, root)
        assert first.wait() == 0
    assert len(exchanges) == 6


def test_the_local_model_is_scored_like_the_hosted_one(toolcall_home, slm):
    run = evaluate.run_model(toolcall_home, "toolcall", "slm", limit=2, max_new_tokens=4)
    assert run.metrics["complete"] is True
    assert run.metrics["run"]["identity"] == slm.identity()
    assert {line.generation.status for line in run.ledger} <= {"ok", "truncated", "empty"}


def test_the_same_checkpoint_is_asked_without_its_quantisation(toolcall_home, slm):
    run = evaluate.run_model(toolcall_home, "toolcall", "slm-full", limit=2, max_new_tokens=4)
    identity, packed = run.metrics["run"]["identity"], slm.identity()
    assert (identity["quantisation"], identity["arithmetic"]) == (None, "float32")
    assert identity["checkpoint_sha256"] == packed["checkpoint_sha256"]
    rows = read_rows(toolcall_home.dataset / "toolcall" / "test.jsonl", "toolcall")[:2]
    exact = LocalSLM(Checkpoint(slm.checkpoint.path, precision="float32"))
    answers = dict(exact.generate([build_messages("toolcall", row.prompt) for row in rows], 4))
    assert [line.generation.output for line in run.ledger] == [answers[i].output for i in range(2)]


def kill_tree(pid: int) -> None:
    import psutil

    process = psutil.Process(pid)
    for victim in [process, *process.children(recursive=True)]:
        victim.send_signal(signal.SIGKILL)
    process.wait()


def test_a_killed_notebook_goes_on_and_asks_no_finished_row_twice(toolcall_home, env_of_tests):
    def slow(exchange):
        time.sleep(0.4)
        return right(exchange)

    with serving(slow) as (root, exchanges):
        env = env_of_tests | {
            "AZURE_ENDPOINT": f"{root}/openai/deployments/gpt",
            "SWAP_HOME": str(toolcall_home.swap_home),
            "SWAP_ROW_LIMIT": "6",
        }
        command = [
            sys.executable,
            "-m",
            "swaplib.cli",
            "run",
            str(ROOT / "notebooks" / "02_eval.ipynb"),
        ]
        command += ["-p", "models", "azure", "-p", "concurrency", "1"]
        first = subprocess.Popen(
            command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while (
            not (ledgers := list(toolcall_home.runs.glob("*/ledger.jsonl")))
            or len(read_ledger(ledgers[0])) < 3
        ):
            assert first.poll() is None
            time.sleep(0.02)
        kill_tree(first.pid)
        [ledger] = ledgers
        before, finished = ledger.read_text(), set(read_ledger(ledger))
        assert 3 <= len(finished) < 6
        asked_before = len(exchanges)
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    asked_again = [
        int(e.json()["messages"][-1]["content"].removeprefix("Request ").rstrip("?"))
        for e in exchanges
    ]
    assert not finished & set(asked_again[asked_before:])
    assert len(exchanges) <= 6 + 1  # at most the one call in flight was lost
    assert ledger.read_text().startswith(before)
    metrics = json.loads((toolcall_home.evaluation / "toolcall_azure_test.json").read_text())
    assert (metrics["complete"], metrics["valid_call_rate"]) == (True, 1.0)
    spans = {
        s["spanId"]: s
        for line in outbox.read_outbox(ledger.parent / "trace.jsonl")
        for s in outbox.list_spans(line)
    }
    assert sorted(span["name"] for span in spans.values()) == [
        "eval toolcall azure test",
        *(f"row {i}" for i in range(6)),
    ]
    assert os.path.exists(toolcall_home.reports / "02_eval_toolcall-azure.html")


def test_rates_are_over_all_rows_and_those_over_answered_rows_stand_beside_them(settings):
    rows = [
        Row(f"Request {i}?", f'<tool_call name="tool_{i}">{{"x": {i}}}</tool_call>')
        for i in range(50)
    ]
    write_rows(settings.dataset / "toolcall" / "test.jsonl", rows)
    spoilt = {f"Request {i}?": completion("", "content_filter") for i in range(3)}
    spoilt |= {f"Request {i}?": completion("prose", "length") for i in (3, 4)}
    spoilt |= {"Request 5?": completion("")}
    spoilt |= {f"Request {i}?": completion("no call") for i in range(6, 17)}  # answered, and wrong
    with serving(lambda e: spoilt.get(e.json()["messages"][-1]["content"]) or right(e)) as (
        root,
        _,
    ):
        run = run_azure(settings, root)
    assert run.metrics["n_by_status"] == {
        "ok": 44,
        "empty": 1,
        "truncated": 2,
        "filtered": 3,
        "error": 0,
    }
    assert run.metrics["valid_call_rate"] == 33 / 50
    found = {"azure": error_analysis.diagnose("toolcall", rows, run.ledger)}
    names = ("valid_call_rate", "name_match_rate", "args_exact_rate")
    assert found["azure"]["all_rows"] == {"n_rows": 50} | dict.fromkeys(names, 33 / 50)
    assert found["azure"]["answered"] == {"n_rows": 44} | dict.fromkeys(names, 33 / 44)
    html = tables.show_answered("toolcall", found).to_html()
    assert "0.660" in html
    assert "0.750" in html


def write_train_rows(settings):
    """Six train rows that are not asked in the test split."""
    rows = [
        Row(f"Example {i}?", f'<tool_call name="tool_{i}">{{"x":{i}}}</tool_call>')
        for i in range(6)
    ]
    write_rows(settings.dataset / "toolcall" / "train.jsonl", rows)


def test_few_shot_prompts_hold_the_same_train_examples_for_every_row_and_model(toolcall_home):
    write_train_rows(toolcall_home)
    with serving(right) as (root, exchanges):
        plain = run_azure(toolcall_home, root)
        run = run_azure(toolcall_home, root, shots=2)
        run_azure(toolcall_home, root, shots=1)
    assert run.metrics["run"]["model"] == "azure-shots2"
    assert (toolcall_home.evaluation / "toolcall_azure-shots2_test.json").is_file()
    assert (
        json.loads((toolcall_home.evaluation / "toolcall_azure_test.json").read_text())
        == plain.metrics
    )
    asked = [exchange.json()["messages"] for exchange in exchanges]
    examples = {json.dumps(messages[1:-1]) for messages in asked[6:12]}
    assert [len(messages) for messages in (asked[0], asked[6], asked[12])] == [2, 6, 4]
    [shared] = map(json.loads, examples)
    assert [message["role"] for message in shared] == ["user", "assistant"] * 2
    train = {
        row.prompt: row.completion
        for row in read_rows(toolcall_home.dataset / "toolcall/train.jsonl", "toolcall")
    }
    assert all(
        train[a["content"]] == b["content"] for a, b in zip(shared[::2], shared[1::2], strict=True)
    )
    assert asked[12][1:-1] == shared[:2]  # the fewer are among the more


def test_examples_may_stand_in_the_models_name_and_it_is_the_same_run(toolcall_home):
    write_train_rows(toolcall_home)
    with serving(right) as (root, exchanges):
        run = run_azure(toolcall_home, root, shots=2)
        settings = toolcall_home.model_copy(
            update={"azure_endpoint": f"{root}/openai/deployments/gpt"}
        )
        plain, named = evaluate.run_models(settings, "toolcall", "azure, azure-shots2")
        both = evaluate.run_model(settings, "toolcall", "azure-shots2", shots=2)
    assert run.folder == named.folder == both.folder != plain.folder
    assert [r.metrics["run"]["model"] for r in (plain, named)] == ["azure", "azure-shots2"]
    assert len(exchanges) == 6 + 6


@pytest.mark.parametrize(
    ("models", "shots", "message"),
    [
        ("azure-shots2", 3, "shots=3 and the model 'azure-shots2' ask for different examples"),
        ("azure,azure-shots2", 2, "names a model twice"),
        ("azure-shots9", 0, "a prompt takes 0 to 8 examples, not 9"),
        (
            "azure,azure-native-shots2",
            0,
            "azure-native-shots2: examples are turns .* Leave -native or -shotsN out",
        ),
    ],
)
def test_a_name_that_cannot_be_asked_for_says_what_can_be_before_anything_is_asked(
    toolcall_home, models, shots, message
):
    write_train_rows(toolcall_home)
    with serving(right) as (root, exchanges):
        settings = toolcall_home.model_copy(
            update={"azure_endpoint": f"{root}/openai/deployments/gpt"}
        )
        with pytest.raises(ValueError, match=message):
            evaluate.run_models(settings, "toolcall", models, shots=shots)
    assert not exchanges


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"shots": 9}, "0 to 8"),
        ({"shots": 7}, "found 6"),
        ({"shots": 1, "split": "train"}, "evaluate test or val"),
    ],
)
def test_examples_that_cannot_be_given_are_refused(toolcall_home, parameters, match):
    with serving(right) as (root, exchanges), pytest.raises(ValueError, match=match):
        run_azure(toolcall_home, root, **parameters)
    assert not exchanges


def test_the_price_of_the_calls_to_come_is_printed_before_they_are_made(toolcall_home, capsys):
    priced = toolcall_home.model_copy(
        update={"azure_usd_per_million_input": 100.0, "azure_usd_per_million_output": 50.0}
    )
    with serving(right) as (root, _):
        run_azure(priced, root, max_new_tokens=100)
        first = capsys.readouterr().out
        run_azure(priced, root, max_new_tokens=100)
    # Six calls: some 630 characters at 4 a token are 160 tokens, and 6 x 100 answer tokens at 50 $
    # a million are 0.03 $.
    assert "up to $0.04" in first
    assert "$" not in capsys.readouterr().out  # no calls are left, so nothing is to pay


def test_an_example_that_is_an_asked_row_is_refused(toolcall_home):
    with (
        serving(right) as (root, exchanges),
        pytest.raises(ValueError, match="evaluated rows themselves"),
    ):
        run_azure(toolcall_home, root, shots=2)
    assert not exchanges


def test_the_trace_tells_what_each_row_of_the_hosted_llm_cost(toolcall_home):
    prices = {"azure_usd_per_million_input": 2.0, "azure_usd_per_million_output": 8.0}
    with serving(right) as (root, _):
        run = run_azure(toolcall_home.model_copy(update=prices), root)
    spans = [
        span
        for line in outbox.read_outbox(run.folder / "trace.jsonl")
        for span in outbox.list_spans(line)
    ]
    costs = [
        json.loads(attribute["value"]["stringValue"])
        for span in spans
        for attribute in span["attributes"]
        if attribute["key"] == "langfuse.observation.cost_details"
    ]
    assert costs == [pytest.approx({"input": 11 * 2e-6, "output": 7 * 8e-6})] * 6
