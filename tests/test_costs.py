from dataclasses import replace

import pytest
from test_names import ALL_NAMES

from swaplib.evaluation import costs, usage
from swaplib.evaluation.costs import Prices
from swaplib.report import figures, headlines
from swaplib.report.cost_sentences import describe_costs
from swaplib.rows import Generation, LedgerLine

PRICES = Prices(2.0, 8.0, 3.6)
NO_PRICES = Prices(None, None, None)


def line(
    index: int, latency_ms: float, ended_at: float | None, tokens=(100, 50), status="ok"
) -> LedgerLine:
    return LedgerLine(
        index,
        "",
        Generation("x", status, "stop", *tokens, latency_ms),
        {"valid_call": True},
        ended_at,
    )


def metrics(ledger, right=5) -> dict:
    return {"n_rows": len(ledger), "extra": usage.measure_ledger(ledger) | {"right": right}}


def test_a_ledger_as_worked_by_hand():
    # two calls that overlap by half a second, a pause, one call: 1.5 s + 2 s at work
    ledger = [line(0, 1000, 101.0), line(1, 1000, 101.5), line(2, 2000, 203.0)]
    measured = usage.measure_ledger(ledger)
    assert (measured["prompt_tokens"], measured["completion_tokens"]) == (300, 150)
    assert (measured["p50_latency_ms"], measured["p95_latency_ms"]) == (1000, 1900)
    assert measured["busy_seconds"] == 3.5
    assert measured["rows_per_second"] == pytest.approx(3 / 3.5)


def test_rows_of_a_batch_share_its_time():
    ledger = [line(i, 4000, 50.0 + i / 1000) for i in range(8)]
    assert usage.find_busy_seconds(ledger) == pytest.approx(4.007)


def test_what_a_ledger_does_not_tell_is_not_made_up():
    measured = usage.measure_ledger([line(0, 1000, None), line(1, 1000, 7.0, tokens=(None, None))])
    assert [measured[name] for name in ("prompt_tokens", "busy_seconds", "rows_per_second")] == [
        None,
        None,
        None,
    ]
    # Refused before it was read: no usage, no cost.
    refused = line(1, 10, 7.0, tokens=(None, None), status="filtered")
    refused = replace(
        refused, generation=replace(refused.generation, output="", finish_reason="content_filter")
    )
    assert usage.measure_ledger([line(0, 1000, 6.0), refused])["prompt_tokens"] == 100
    # Read and answered, but nobody told the usage.
    cut_off = line(1, 10, 7.0, tokens=(None, None), status="truncated")
    assert usage.measure_ledger([line(0, 1000, 6.0), cut_off])["prompt_tokens"] is None


TOO_LONG = Generation("", "truncated", "context_length_exceeded", 9000, 0, 0.0)
UNREAD = {
    "too long for the local model": TOO_LONG,
    "too long for the hosted one": replace(
        TOO_LONG, prompt_tokens=None, completion_tokens=None, latency_ms=30.0
    ),
    "filtered before it was read": Generation("", "filtered", "content_filter", None, None, 30.0),
    "no answer": Generation("", "error", None, None, None, 180_000.0, "no answer within 180 s"),
}


def four_of_ten(unread: Generation) -> list[LedgerLine]:
    """Four answers of a second each, one after the other, and six rows that were never read."""
    answered = [line(i, 1000, 11.0 + i) for i in range(4)]
    return answered + [
        LedgerLine(i, "", unread, {"valid_call": False}, 10.0 + i) for i in range(4, 10)
    ]


@pytest.mark.parametrize("unread", UNREAD.values(), ids=UNREAD)
def test_rows_that_were_never_read_make_no_model_faster_or_cheaper(unread):
    measured = usage.measure_ledger(four_of_ten(unread))
    # 0 ms, were they counted.
    assert (measured["p50_latency_ms"], measured["p95_latency_ms"]) == (1000, 1000)
    assert (measured["busy_seconds"], measured["rows_per_second"]) == (4, 1)  # 2.5 rows a second
    assert [measured[name] for name in ("rows_read", "prompt_tokens", "completion_tokens")] == [
        4,
        400,
        200,
    ]
    run = metrics(four_of_ten(unread), right=4)
    priced = costs.price_runs({"azure": run, "slm": run}, PRICES)["models"]
    assert priced["slm"]["usd_per_1000_rows"] == pytest.approx(1.0)  # 0.40 $
    assert priced["slm"]["usd_per_right_row"] == pytest.approx(0.001)
    assert priced["azure"]["usd_per_1000_rows"] == pytest.approx(0.6)  # 0.24 $
    assert priced["azure"]["usd_per_right_row"] == pytest.approx(0.0006)


def test_a_filter_that_stopped_the_answer_stopped_a_row_that_was_read():
    stopped = Generation("", "filtered", "content_filter", 100, 50, 1000.0)
    ledger = [line(0, 1000, 11.0), LedgerLine(1, "", stopped, {"valid_call": False}, 12.0)]
    measured = usage.measure_ledger(ledger)
    assert (measured["rows_read"], measured["prompt_tokens"], measured["rows_per_second"]) == (
        2,
        200,
        1,
    )


@pytest.mark.parametrize("unread", UNREAD.values(), ids=UNREAD)
def test_a_run_of_which_no_row_was_read_has_no_speed_and_no_price_and_is_shown_all_the_same(unread):
    ledger = [LedgerLine(i, "", unread, {"valid_call": False}, 10.0 + i) for i in range(3)]
    measured = usage.measure_ledger(ledger)
    assert [measured.pop(name) for name in ("rows_read", "prompt_tokens", "completion_tokens")] == [
        0,
        0,
        0,
    ]
    assert set(measured.values()) == {None}
    read, none = metrics([line(i, 1000, 10.0 + i) for i in range(3)]), metrics(ledger, right=0)
    for models in (
        {"azure": read, "slm": none},
        {"azure": none, "slm": read},
        {"azure": none, "slm": none},
    ):
        decision = {"model": "slm", "costs": costs.price_runs(models, PRICES)}
        assert decision["costs"]["pays"] == {}
        assert "rows read" in headlines.show_costs(decision).to_html()
        describe_costs(decision["costs"], "slm")
        assert figures.plot_costs(costs.trace_volumes(decision["costs"])) is None


def test_rows_that_were_never_read_are_said_beside_what_the_others_took():
    read = metrics([line(i, 1000, 10.0 + i) for i in range(10)])
    decision = {
        "model": "slm",
        "costs": costs.price_runs({"azure": read, "slm": metrics(four_of_ten(TOO_LONG))}, PRICES),
    }
    assert "Rows that were never read are left out: 6 of 10 of slm." in describe_costs(
        decision["costs"], "slm"
    )
    assert "rows read" in headlines.show_costs(decision).to_html()
    for found in decision["costs"]["models"].values():  # an older decision does not say
        del found["rows_read"]
    assert "never read" not in describe_costs(decision["costs"], "slm")
    assert "rows read" not in headlines.show_costs(decision).to_html()


def test_a_metrics_file_of_old_is_priced_over_all_of_its_rows():
    old = metrics([line(i, 1000, 11.0 + i) for i in range(10)])
    del old["extra"]["rows_read"]
    priced = costs.price_runs({"azure": old, "slm": old}, PRICES)
    assert priced["models"]["azure"]["usd_per_1000_rows"] == pytest.approx(0.6)
    assert priced["models"]["slm"]["usd_per_right_row"] == pytest.approx(0.002)
    assert "rows read" not in headlines.show_costs({"model": "slm", "costs": priced}).to_html()


def test_dollars_as_worked_by_hand():
    # 100 x 2 + 50 x 8 = 600 millionths a row.
    hosted = metrics([line(i, 1000, 10.0 + i) for i in range(10)])
    # 1 row/s at 0.001 $ a second.
    local = metrics([line(i, 1000, 10.0 + i) for i in range(10)], right=0)
    priced = costs.price_runs({"azure": hosted, "slm": local}, PRICES)
    assert priced["models"]["azure"]["usd_per_1000_rows"] == pytest.approx(0.6)
    # Five of ten were right.
    assert priced["models"]["azure"]["usd_per_right_row"] == pytest.approx(0.0012)
    assert priced["models"]["slm"]["usd_per_1000_rows"] == pytest.approx(1.0)
    assert priced["models"]["slm"]["usd_per_right_row"] is None
    # 86.40 $ a day buy 144,000 hosted rows; one machine answers 86,400: it never pays
    assert priced["pays"]["slm"] == {
        "usd_per_day": pytest.approx(86.4),
        "capacity_rows_per_day": pytest.approx(86_400),
        "from_rows_per_day": None,
        "from_rows_per_day_by_right": None,
    }


def test_the_volume_from_which_a_machine_pays():
    hosted, local = (
        metrics([line(i, ms, 10.0 + i * ms / 1000) for i in range(10)]) for ms in (1000, 100)
    )
    priced = costs.price_runs({"azure": hosted, "slm": local}, PRICES)
    assert priced["pays"]["slm"]["from_rows_per_day"] == pytest.approx(144_000)
    volumes = costs.trace_volumes(priced)
    cheaper = [
        rows
        for rows, a, b in zip(
            volumes["rows_per_day"],
            volumes["usd_per_day"]["azure"],
            volumes["usd_per_day"]["slm"],
            strict=True,
        )
        if b < a
    ]
    assert 144_000 < min(cheaper) < 160_000
    [axes] = figures.plot_costs(volumes).axes
    assert [text.get_text() for text in axes.texts] == ["144,000"]
    # right half as often, it pays from twice as many rows on, if right answers are what is counted
    local["extra"]["right"] //= 2
    hosted["extra"]["right"] = 2 * local["extra"]["right"]
    pay = costs.price_runs({"azure": hosted, "slm": local}, PRICES)["pays"]["slm"]
    assert pay["from_rows_per_day_by_right"] == pytest.approx(288_000)


def test_without_prices_there_is_no_dollar_and_no_figure():
    ledger = [line(0, 1000, 10.0)]
    priced = costs.price_runs({"azure": metrics(ledger), "slm": metrics(ledger)}, NO_PRICES)
    assert {found["usd_per_1000_rows"] for found in priced["models"].values()} == {None}
    assert priced["pays"] == {}
    assert figures.plot_costs(costs.trace_volumes(priced)) is None
    decision = {"model": "slm", "costs": priced}
    assert "USD" not in headlines.show_costs(decision).to_html()
    assert describe_costs(decision["costs"], "slm").startswith("No price is set")


def test_costs_read_as_a_sentence_and_a_table():
    hosted, local = (
        metrics([line(i, ms, 10.0 + i * ms / 1000) for i in range(10)]) for ms in (1000, 100)
    )
    decision = {"model": "slm", "costs": costs.price_runs({"azure": hosted, "slm": local}, PRICES)}
    assert describe_costs(decision["costs"], "slm") == (
        "For 1,000 rows, with the machine always busy: azure USD 0.600, slm USD 0.100. "
        "A machine of its own pays from 144,000 rows a day on, "
        "counting only right answers from 144,000."
    )
    assert "144,000" in headlines.show_costs(decision).to_html()


def test_the_sentence_on_costs_is_about_the_model_asked_for_whatever_else_was_run():
    hosted, local = (
        metrics([line(i, ms, 10.0 + i * ms / 1000) for i in range(10)]) for ms in (1000, 100)
    )
    runs = {"azure": hosted, "slm": local, "slm-full": hosted, "azure-native": hosted}
    priced = costs.price_runs(runs, PRICES)
    assert "pays from 144,000 rows a day on" in describe_costs(priced, "slm")
    assert "own never pays" in describe_costs(priced, "slm-full")
    assert "of its own" not in describe_costs(priced, None)


def test_a_machine_that_costs_nothing_pays_from_the_first_row_on():
    ledger = metrics([line(i, 100, 10.0 + i / 10) for i in range(10)])
    decision = {
        "model": "slm",
        "costs": costs.price_runs({"azure": ledger, "slm": ledger}, Prices(2.0, 8.0, 0.0)),
    }
    assert "pays from 0 rows a day on" in describe_costs(decision["costs"], "slm")
    assert "azure" in costs.trace_volumes(decision["costs"])["usd_per_day"]


def test_every_model_of_a_comparison_is_in_the_cost_figure_in_a_style_of_its_own():
    ledger = metrics([line(i, 100, 10.0 + i / 10) for i in range(10)])
    models = ("azure", "slm", "slm-shots2", "slm-shots4", "slm-shots8", "slm_ft")
    priced = costs.price_runs(dict.fromkeys(models, ledger), PRICES)
    figure = figures.plot_costs(costs.trace_volumes(priced))
    assert len(figure.legends[0].get_texts()) == len(models)
    # Colours.
    assert (
        len({figures._style_of(model)[0] for model in models if model != "slm-shots8"})
        == len(models) - 1
    )


def test_every_name_that_a_model_can_have_has_a_style_of_its_own():
    assert len(set(map(figures._style_of, ALL_NAMES))) == len(ALL_NAMES) == 126
    usual = ("azure", "slm", "slm-full", "slm-native", "slm-shots4", "slm_ft", "slm_ft-captured")
    # Lines have a colour and no hatch.
    of_log = ("azure-native", "slm-native", "slm_ft-native", "azure", "slm", "slm_ft")
    for together in (usual, of_log):
        assert len({figures._style_of(name)[0] for name in together}) == len(together)


def test_one_token_price_alone_is_refused(settings):
    with pytest.raises(ValueError, match="AZURE_USD_PER_MILLION_OUTPUT"):
        Prices.from_settings(settings.model_copy(update={"azure_usd_per_million_input": 1.0}))


def test_a_log_weighed_by_how_often_its_requests_were_asked_as_worked_by_hand():
    # Two calls share a second, then one has two for itself: 0.5 s, 0.5 s + 1 s, 2 s.
    ledger = [
        line(0, 1000, 101.0, (100, 10)),
        line(1, 2000, 102.0, (200, 20)),
        line(2, 2000, 110.0, (300, 30)),
        LedgerLine(3, "", TOO_LONG, {"valid_call": False}, 110.0),
    ]
    ledger[0] = replace(ledger[0], scores={"valid_call": False})
    taken = usage.weigh_ledger(ledger, [1, 3, 6, 5])
    assert taken["n_rows"] == 15
    extra = taken["extra"]
    assert (extra["rows_read"], extra["right"]) == (10, 9)
    assert (extra["prompt_tokens"], extra["completion_tokens"]) == (2500, 250)
    assert extra["rows_per_second"] == pytest.approx(10 / (0.5 + 3 * 1.5 + 6 * 2))
    runs = dict.fromkeys(("azure", "slm"), metrics(ledger, right=2))
    priced = costs.price_runs(runs, PRICES, dict.fromkeys(runs, taken))
    hosted, local = priced["models"].values()
    # (2500 x 2 + 250 x 8) millionths for ten requests, nine of them right; 17 s at 0.001 $.
    assert hosted["usd_per_1000_rows"] == pytest.approx(0.7)
    assert hosted["usd_per_right_row"] == pytest.approx(0.007 / 9)
    assert local["usd_per_1000_rows"] == pytest.approx(1.7)
    assert (hosted["rows"], hosted["right"], hosted["prompt_tokens"]) == (4, 2, 600)
    assert priced["pays"]["slm"]["capacity_rows_per_day"] == pytest.approx(86_400 * 10 / 17)
    table = headlines.show_costs({"costs": priced}).to_html()
    assert "USD for 1,000 requests" in table
    assert "the 15 requests that the log has" in table
    assert "never pays: it answers" in (said := describe_costs(priced, "slm"))
    assert "requests a day at most" in said
    assert said.endswith("Costs are weighed by how often each request was asked.")


@pytest.mark.parametrize("unread", UNREAD.values(), ids=UNREAD)
def test_each_row_asked_once_weighs_what_it_took(unread):
    rows = four_of_ten(unread)
    ledger = [*rows[:4], line(4, 2500, 16.0), *rows[5:]]
    taken = usage.weigh_ledger(ledger, [1] * 10)
    right = sum(all(entry.scores.values()) for entry in ledger)
    measured = metrics(ledger, right)
    assert taken["extra"].pop("rows_per_second") == pytest.approx(
        measured["extra"].pop("rows_per_second")
    )
    assert taken == measured


def test_a_log_whose_ledger_does_not_say_when_answers_came_has_no_speed():
    taken = usage.weigh_ledger([line(0, 1000, None)], [7])
    assert taken["extra"]["rows_per_second"] is None
    assert taken["extra"]["prompt_tokens"] == 700
