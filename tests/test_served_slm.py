"""An SLM served elsewhere (SLM_BASE_URL): asked by the hosted client, under its name there."""

import pytest
from runs import make_metrics
from servers import as_json, serving

from swaplib.doctor import check_checkpoint_loads
from swaplib.evaluation import decision, evaluate, parity
from swaplib.files import write_json
from swaplib.models.names import ModelName
from swaplib.models.replies import CallFailed
from swaplib.rows import read_rows, write_rows
from swaplib.serving.server_process import running_server
from swaplib.settings import ROOT

pytestmark = pytest.mark.slow

ROWS = read_rows(ROOT / "slm_swap" / "02_dataset" / "toolcall" / "test.jsonl", "toolcall")[:2]


@pytest.fixture(scope="module")
def address(slm):
    with running_server(slm, "slm") as root:
        yield f"{root}/v1"


@pytest.fixture
def served(settings, address):
    """Settings with two rows whose SLM is a `swap serve` in another process."""
    write_rows(settings.dataset / "toolcall" / "test.jsonl", ROWS)
    return settings.model_copy(update={"slm_base_url": address})


def test_a_served_slm_gives_the_outputs_of_the_one_in_process(served, settings):
    options = {"max_new_tokens": 8, "concurrency": 1, "batch_size": 1}
    there = evaluate.run_model(served, "toolcall", "slm", **options)
    here = evaluate.run_model(settings.model_copy(), "toolcall", "slm", **options)
    assert [line.generation.output for line in there.ledger] == [
        line.generation.output for line in here.ledger
    ]
    # Another identity: what weights a server has, nobody can see.
    assert there.folder != here.folder
    assert there.metrics["run"]["identity"]["endpoint"] == served.slm_base_url.partition("//")[2]
    assert there.metrics["run"]["model_path"] is None


@pytest.mark.parametrize("track", ["toolcall", "structured"])
def test_a_served_slm_that_is_asked_natively_gives_the_outputs_of_the_one_in_process(
    shipped_home, address, track
):
    options = {"max_new_tokens": 64, "concurrency": 1, "batch_size": 1, "limit": 2}
    served = shipped_home.model_copy(update={"slm_base_url": address})
    there = evaluate.run_model(served, track, "slm-native", **options)
    here = evaluate.run_model(shipped_home, track, "slm-native", **options)
    assert [line.generation.output for line in there.ledger] == [
        line.generation.output for line in here.ledger
    ]
    assert [line.generation.status for line in there.ledger] == [
        line.generation.status for line in here.ledger
    ]
    assert [line.scores for line in there.ledger] == [line.scores for line in here.ledger]


def test_a_model_that_is_not_served_there_is_refused_before_a_row_is_asked(served):
    with pytest.raises(ValueError, match=r"serves slm, not slm_ft\. Serve it under that name"):
        evaluate.run_model(served, "toolcall", "slm_ft")
    assert not served.runs.exists()


def test_a_server_is_asked_for_the_model_without_its_examples(served):
    client = evaluate.make_model(served, "toolcall", ModelName.parse("slm-shots2"), 1, 1)
    client.check()
    assert client.deployment == "slm"


def test_parity_of_a_served_slm_compares_calls_at_once_with_one_at_a_time(served):
    [record] = parity.measure_parity(served, "toolcall", "slm", max_new_tokens=4)["comparisons"]
    assert record["compared"] == "served: 2 calls at once against one at a time"
    assert record["rows"] == 2


def test_with_a_served_slm_the_bit_says_whether_an_adapter_is_to_be_asked(served, monkeypatch):
    monkeypatch.setattr(decision, "read_compared", lambda *_: {"azure": AZURE, "slm": AZURE})
    write_json(served.evaluation / "toolcall_slm_test.json", make_metrics("toolcall", AZURE["run"]))
    for bit, candidate in ((1, "slm_ft"), (0, "slm")):
        compared = {"azure": "one", "slm": "one"}
        write_json(
            served.evaluation / "toolcall_decision.json",
            {"FINE_TUNE": bit, "model": "slm", "delta": 0, "run": {"compared": compared}},
        )
        assert decision.find_candidate(served, "toolcall").name == candidate


AZURE = {
    "run": {
        "run_id": "one",
        "identity": {},
        "n_rows": 2,
        "max_new_tokens": 8,
        "parameters": {"batch_size": 2},
    }
}


def test_the_doctor_asks_the_served_slm(served):
    assert "slm at http://127.0.0.1" in check_checkpoint_loads(served)


@pytest.mark.parametrize(
    ("base_url", "message"),
    [
        ("http://127.0.0.1:9/v1", "Check SLM_BASE_URL and SLM_API_KEY"),
        ("http://host/chat", "SLM_BASE_URL: expected"),
    ],
)
def test_a_wrong_address_names_the_variable(settings, base_url, message):
    write_rows(settings.dataset / "toolcall" / "test.jsonl", ROWS)
    with pytest.raises((ConnectionError, ValueError), match=message):
        evaluate.run_model(
            settings.model_copy(update={"slm_base_url": base_url}), "toolcall", "slm"
        )


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (
            as_json({"error": {}}, 401),
            PermissionError,
            "answered 401. Check SLM_BASE_URL and SLM_API_KEY",
        ),
        (as_json({"hello": 1}), ConnectionError, "is no OpenAI-compatible server"),
        ((200, {}, b"<html>"), ConnectionError, "is no OpenAI-compatible server"),
    ],
)
def test_a_server_that_does_not_list_its_models_is_refused(settings, answer, error, message):
    write_rows(settings.dataset / "toolcall" / "test.jsonl", ROWS)
    with serving(lambda _: answer) as (root, exchanges), pytest.raises(error, match=message):
        evaluate.run_model(
            settings.model_copy(update={"slm_base_url": f"{root}/v1"}), "toolcall", "slm"
        )
    assert [exchange.path for exchange in exchanges] == ["/v1/models"]


def test_a_key_that_is_refused_later_stops_the_run(settings):
    write_rows(settings.dataset / "toolcall" / "test.jsonl", ROWS)

    def answer(exchange):
        is_list = exchange.path.endswith("/models")
        return (
            as_json({"data": [{"id": "slm"}]})
            if is_list
            else as_json({"error": {"message": "no"}}, 401)
        )

    with (
        serving(answer) as (root, _),
        pytest.raises(CallFailed, match="Check SLM_BASE_URL and SLM_API_KEY"),
    ):
        evaluate.run_model(
            settings.model_copy(update={"slm_base_url": f"{root}/v1"}), "toolcall", "slm"
        )
