"""A look before the bill: what the first rows show, when it stops a run, what is never lost."""

import pytest
from servers import completion, serving
from test_caveats import fence
from test_evaluate import right, run_azure

from conftest import make_rows
from swaplib.evaluation.probe import FormFailed
from swaplib.rows import read_ledger, write_rows

PRICES = {"azure_usd_per_million_input": 2.0, "azure_usd_per_million_output": 8.0}


@pytest.fixture
def home(toolcall_home):
    """Twenty test rows."""
    write_rows(toolcall_home.dataset / "toolcall" / "test.jsonl", make_rows(20))
    return toolcall_home.model_copy(update=PRICES)


def read_rows_asked(settings) -> list[int]:
    return [i for path in settings.runs.glob("2*/ledger.jsonl") for i in read_ledger(path)]


def test_a_form_that_hides_what_the_hosted_llm_knows_stops_before_the_rest_is_paid(home, capsys):
    with serving(fence) as (root, exchanges):
        with pytest.raises(
            FormFailed, match="none of the first 8 answers is right as asked, and 8 hold"
        ) as failure:
            run_azure(home, root, probe=8)
        assert len(exchanges) == 8
        for way in (
            "12 calls were not made",
            "8 answers are inside a code fence",
            "azure-shots4",
            "azure-native",
            "-p probe 0",
        ):
            assert way in str(failure.value)
        with pytest.raises(FormFailed):  # an unchanged rerun stops again without a call
            run_azure(home, root, probe=8)
        assert len(exchanges) == 8
        assert sorted(read_rows_asked(home)) == list(range(8))
        run = run_azure(home, root, probe=0)  # resumes the same run, and asks only the others
        assert len(exchanges) == 20
    assert run.metrics["complete"]
    assert len(list(home.runs.glob("2*/ledger.jsonl"))) == 1
    said = capsys.readouterr().out
    # 8 x 11 prompt and 8 x 7 answer tokens, at 2 and 8 dollars a million
    assert (
        "first 8 rows of toolcall azure: 0 right as asked, 8 right inside; "
        "most often: prose around (8)." in said
    )
    assert "88 prompt and 56 answer tokens so far, USD 0.0006." in said


def test_answers_that_are_right_are_looked_at_and_the_rest_is_asked(home, capsys):
    with serving(right) as (root, exchanges):
        run = run_azure(home, root, probe=8)
        run_azure(home, root, probe=8)
    assert len(exchanges) == 20
    assert run.metrics["extra"]["right"] == 20
    assert (
        capsys.readouterr().out.count(
            "first 8 rows of toolcall azure: 8 right as asked, 0 right inside."
        )
        == 1
    )


@pytest.mark.parametrize(("n_inside", "stops"), [(5, False), (6, True)])
def test_it_stops_from_six_right_answers_inside_on(home, n_inside, stops):
    def answer(exchange):
        index = int(exchange.json()["messages"][-1]["content"].removeprefix("Request ").rstrip("?"))
        return fence(exchange) if index < n_inside else completion("no idea")

    with serving(answer) as (root, exchanges):
        if stops:
            with pytest.raises(FormFailed):
                run_azure(home, root, probe=8)
        else:
            run_azure(home, root, probe=8)
    assert len(exchanges) == (8 if stops else 20)


def test_one_answer_that_is_right_as_asked_is_enough_to_go_on(home):
    with serving(
        lambda e: right(e) if "Request 3?" in e.json()["messages"][-1]["content"] else fence(e)
    ) as (root, exchanges):
        run_azure(home, root, probe=8)
    assert len(exchanges) == 20


def test_a_run_of_no_more_rows_than_the_look_takes_is_not_stopped(home):
    with serving(fence) as (root, _):
        assert run_azure(home, root, probe=8, limit=8).metrics["complete"]
