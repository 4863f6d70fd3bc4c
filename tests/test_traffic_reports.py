"""From a log to its reports: which form is compared, and what its requests cost."""

import json
from dataclasses import replace

import pytest
from servers import as_json, completion, serving
from test_traffic import SIZES, answer, calling, make_log, write_log

from swaplib.data import dataset
from swaplib.data.facts import find_facts
from swaplib.evaluation import caveats, costs, decision, evaluate, foresight, side_by_side
from swaplib.models import dataset_form
from swaplib.report import figures, headlines
from swaplib.report.cost_sentences import describe_costs
from swaplib.rows import read_rows

OPTIONS = {"limit": 12, "probe": 0, "concurrency": 1}
WEIGHED = "Costs are weighed by how often each request was asked."
PRICES = {
    "azure_usd_per_million_input": 2.0,
    "azure_usd_per_million_output": 8.0,
    "slm_usd_per_hour": 3.6,
}


def answer_as_logged(exchange):
    """The log's own answer by a tool call, or in the wrapper where no tool is offered.

    The SLM lends the wrong book to every third; with an adapter only when it is asked natively.
    """
    if exchange.method == "GET":
        return as_json({"data": [{"id": name} for name in ("gpt", "slm", "slm_ft")]})
    body = exchange.json()
    _, found, title = body["messages"][-1]["content"].rpartition("Please lend ")
    if not found:
        return completion("Hello.")
    words = title.split()
    wrong = {"gpt": (), "slm": "cvm", "slm_ft": "vm" if "tools" in body else ()}[body["model"]]
    is_wrong = int(words[1]) % 2 and words[0][0] in wrong
    call = ("lend_book", json.dumps({"title": "Emma" if is_wrong else title}))
    if "tools" not in body:
        return completion(f'<tool_call name="{call[0]}">{call[1]}</tool_call>')
    usage = {"prompt_tokens": int(words[1]) % 97 + 1, "completion_tokens": len(words[0])}
    return as_json(answer(calling(call), usage=usage))


@pytest.fixture
def log_home(settings, tmp_path):
    """A home whose rows are a log's; the request number i was asked i % 4 + 1 times."""
    values = [value for i, value in enumerate(make_log(90)) for _ in range(i % 4 + 1)]
    dataset.build_dataset(settings, str(write_log(tmp_path / "log.jsonl", values)), SIZES)
    with serving(answer_as_logged) as (root, exchanges):
        known = {
            "azure_endpoint": f"{root}/v1",
            "azure_deployment": "gpt",
            "azure_api_key": "k" * 9,
        }
        known |= {"slm_base_url": f"{root}/v1"}
        yield settings.model_copy(update=known | PRICES), exchanges


def test_01_shows_a_logs_first_row_as_02_will_ask_it(log_home, checkpoint):
    settings, exchanges = log_home
    rows = {"toolcall": {"test": read_rows(settings.dataset / "toolcall/test.jsonl", "toolcall")}}
    here = settings.model_copy(update={"slm_base_url": None})
    shown = {record["part"]: record["text"] for record in foresight.preview_prompts(here, rows)}
    evaluate.run_models(settings, "toolcall", "azure-native", **OPTIONS | {"limit": 1})
    [body] = [exchange.json() for exchange in exchanges if exchange.method == "POST"][-1:]
    assert [shown[f"{m['role']} message"] for m in body["messages"]] == [
        message["content"] for message in body["messages"]
    ]
    assert json.loads(shown["tools"]) == body["tools"]
    assert json.loads(shown["tool_choice"]) == body["tool_choice"] == "required"
    assert shown["text, by its chat template"] == checkpoint.render(
        body["messages"], tools=body["tools"]
    )


def test_costs_of_a_log_are_those_of_its_requests(log_home):
    settings, _ = log_home
    runs = evaluate.run_models(settings, "toolcall", "azure-native,slm-native", **OPTIONS)
    compared = side_by_side.gather_runs(settings, "toolcall", runs)
    counts = [fact.count for fact in compared.facts]
    assert len(set(counts)) > 1
    hosted = compared.ledgers["azure-native"]
    asked = [line.generation for line in hosted for _ in range(counts[line.index])]
    tokens = [2 * a.prompt_tokens + 8 * a.completion_tokens for a in asked]
    found = caveats.summarise(settings, compared)
    assert found["costs"]["requests"] == len(asked) == sum(counts)
    priced = found["costs"]["models"]["azure-native"]
    assert priced["usd_per_1000_rows"] == pytest.approx(sum(tokens) / len(asked) / 1000)
    # What the run took, and its rates, are of its rows, each once.
    assert priced["prompt_tokens"] == sum(line.generation.prompt_tokens for line in hosted)
    assert (priced["rows"], priced["right"]) == (12, 12)
    wrong = sum(not all(line.scores.values()) for line in compared.ledgers["slm-native"])
    assert 0 < wrong < 12
    assert found["rates"]["slm-native"]["args_exact_rate"]["rate"] == (12 - wrong) / 12
    assert WEIGHED in headlines.show_runs(found).data


def test_a_log_whose_requests_were_each_asked_once_is_priced_as_any_other_rows(log_home):
    settings, _ = log_home
    runs = evaluate.run_models(settings, "toolcall", "azure-native,slm-native", **OPTIONS)
    compared = side_by_side.gather_runs(settings, "toolcall", runs)
    once = replace(compared, facts=[replace(fact, count=1) for fact in compared.facts])
    without = replace(compared, facts=None)
    priced = [caveats.summarise(settings, c)["costs"] for c in (once, without)]
    assert priced[0] == priced[1]
    assert "requests" not in priced[0]
    assert WEIGHED not in describe_costs(priced[0], "slm-native")


def test_facts_whose_count_is_no_number_of_requests_are_refused(log_home):
    settings, _ = log_home
    path = settings.dataset / "toolcall" / "test.facts.jsonl"
    path.write_text(path.read_text().replace('"count": 2', '"count": 0'))
    rows = read_rows(settings.dataset / "toolcall" / "test.jsonl", "toolcall")
    with pytest.raises(ValueError, match="whole number of at least 1"):
        find_facts(settings, "toolcall", "test", rows)


def test_a_log_is_compared_natively_from_02_to_05(log_home, capsys):
    settings, exchanges = log_home
    runs = evaluate.run_models(settings, "toolcall", "", **OPTIONS)
    assert [run.metrics["run"]["model"] for run in runs] == ["azure-native", "slm-native"]
    assert "asks by these, too" not in capsys.readouterr().out
    decided = decision.decide(settings, "toolcall")
    assert (decided["reference"], decided["model"]) == ("azure-native", "slm-native")
    assert (decided["FINE_TUNE"], decided["worse_on"]) == (1, ["args_exact_rate"])
    assert list(decided["run"]["compared"]) == ["azure-native", "slm-native"]
    assert set(decided["costs"]["pays"]) == {"slm-native"}
    box = headlines.show_verdict(decided).data
    assert "the SLM (asked natively) is worse than the hosted LLM (asked natively)" in box
    assert WEIGHED in box
    assert "azure-native − slm-native" in headlines.show_decision(decided).to_html()
    assert figures.plot_costs(costs.trace_volumes(decided["costs"])) is not None

    candidate = decision.find_candidate(settings, "toolcall")
    assert (candidate.name, candidate.models) == ("slm_ft-native", "slm_ft-native,slm_ft")
    assert (candidate.reference, candidate.base) == ("azure-native", "slm-native")
    # Nobody has asked the hosted LLM by hand, and nobody has to.
    evaluate.run_models(settings, "toolcall", candidate.models, probe=0, **candidate.options)
    bodies = [exchange.json() for exchange in exchanges if exchange.method == "POST"]
    assert all("tools" in body for body in bodies if body["model"] == "gpt")
    again = decision.decide_again(settings, "toolcall", candidate.name)
    assert (again["reference"], again["model"]) == ("azure-native", "slm_ft-native")
    assert again["FINE_TUNE"] == 1
    # Asked by hand, as it was trained, the adapter is good enough.
    assert (again["recommended"], again["verdict"]) == ("slm_ft", "swap with the adapter")
    assert list(again["rules"]) == ["slm-native", "slm_ft-native", "slm_ft"]
    assert [(pair["first"], pair["second"]) for pair in again["evidence"]["native"]] == [
        *(("slm_ft", "slm_ft-native"), ("azure-native", "slm-native")),
        ("azure-native", "slm_ft-native"),
    ]
    assert "the SLM with its adapter is not worse" in headlines.show_verdict(again).data
    headlines.show_changes(again)


def test_a_log_that_was_asked_by_hand_alone_is_compared_so_and_it_is_said(log_home, capsys):
    settings, _ = log_home
    evaluate.run_models(settings, "toolcall", "azure,slm", **OPTIONS)
    assert "azure-native asks by these, too" in capsys.readouterr().out
    decided = decision.decide(settings, "toolcall")
    assert (decided["reference"], decided["model"]) == ("azure", "slm")
    assert "Run 02_eval without models" in capsys.readouterr().out
    assert decision.find_candidate(settings, "toolcall").models == "slm_ft"
    # Once it is asked natively, too, that is what counts, and the other form is shown beside it.
    evaluate.run_models(settings, "toolcall", "", **OPTIONS)
    decided = decision.decide(settings, "toolcall")
    assert (decided["reference"], decided["model"]) == ("azure-native", "slm-native")
    assert [(pair["first"], pair["second"]) for pair in decided["evidence"]["native"]] == [
        *(("azure", "azure-native"), ("slm", "slm-native")),
        ("azure-native", "slm-native"),
    ]


def test_05_compares_a_log_by_hand_where_it_is_told_so(log_home):
    settings, _ = log_home
    evaluate.run_models(settings, "toolcall", "azure,slm,azure-native,slm-native", **OPTIONS)
    decision.decide(settings, "toolcall")
    candidate = decision.find_candidate(settings, "toolcall", native=False)
    assert (candidate.name, candidate.models, candidate.base) == ("slm_ft", "slm_ft", "slm")
    evaluate.run_models(settings, "toolcall", candidate.models, probe=0, **candidate.options)
    again = decision.decide_again(settings, "toolcall", candidate.name, native=False)
    assert (again["reference"], again["model"]) == ("azure", "slm_ft")
    assert list(again["rules"]) == ["slm", "slm_ft"]


def test_a_log_without_runs_says_which_ones_02_makes(log_home):
    settings, _ = log_home
    with pytest.raises(FileNotFoundError, match="azure-native"):
        decision.decide(settings, "toolcall")


def test_with_examples_a_log_is_asked_by_hand_and_other_rows_are_always(log_home, tmp_path):
    settings, _ = log_home
    assert dataset_form.name_usual(settings) == "azure-native,slm-native"
    assert dataset_form.name_usual(settings, shots=2) == "azure,slm"
    elsewhere = settings.model_copy(update={"swap_home": tmp_path / "elsewhere"})
    assert dataset_form.name_usual(elsewhere) == "azure,slm"
    assert dataset_form.choose_pair(elsewhere, "toolcall") == ("azure", "slm")
