"""From a log to its reports: which form is compared, and what its requests cost."""

import json
from dataclasses import replace

import pytest
from servers import as_json, completion, serving
from test_traffic import SIZES, answer, calling, make_log, write_log

from swaplib.data import dataset
from swaplib.data.facts import find_facts
from swaplib.evaluation import caveats, evaluate, side_by_side
from swaplib.report import headlines
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
    """The log's own answer by a tool call; the SLM lends the wrong book to every third."""
    if exchange.method == "GET":
        return as_json({"data": [{"id": name} for name in ("gpt", "slm", "slm_ft")]})
    body = exchange.json()
    _, found, title = body["messages"][-1]["content"].rpartition("Please lend ")
    if not found:
        return completion("Hello.")
    words = title.split()
    is_wrong = body["model"] != "gpt" and int(words[1]) % 2
    call = ("lend_book", json.dumps({"title": "Emma" if is_wrong else title}))
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
    costs = found["costs"]
    assert costs["requests"] == len(asked) == sum(counts)
    priced = costs["models"]["azure-native"]
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
