from swaplib.report import figures, tables
from swaplib.rows import Generation, LedgerLine, Row

METRICS = {
    "valid_call_rate": 1.0,
    "name_match_rate": 0.5,
    "args_exact_rate": 0.0,
    "intervals": {
        "valid_call_rate": [0.34, 1.0],
        "name_match_rate": [0.09, 0.91],
        "args_exact_rate": [0.0, 0.66],
    },
    "n_rows": 2,
    "n_by_status": {"ok": 1, "empty": 0, "truncated": 0, "filtered": 1, "error": 0},
    "extra": {"completion_tokens": 7},
    "run": {"model": "slm"},
}


class SmallRun:
    """What the tables read of a run."""

    metrics = METRICS
    ledger = (
        LedgerLine(0, "", Generation("fine", "ok", "stop", 1, 1, 1.0), {"valid_call": True}),
        LedgerLine(
            1, "", Generation("", "filtered", "content_filter", 1, 1, 1.0), {"valid_call": False}
        ),
        LedgerLine(
            2,
            "",
            Generation("<script>alert(1)</script>\n</div>", "ok", "stop", 1, 1, 1.0),
            {"valid_call": False},
        ),
    )


def test_failures_come_first_and_outputs_are_shown_as_text():
    rows = [Row(f"prompt {i} <b>bold</b>", "gold") for i in range(3)]
    html = tables.show_failures(SmallRun, rows).to_html()
    assert html.index("prompt 1") < html.index("prompt 2") < html.index("prompt 0")
    assert "<script>" not in html
    assert "<b>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\n&lt;/div&gt;" in html
    assert "(nothing: content_filter)" in html


def test_metrics_show_intervals_and_only_statuses_that_occurred():
    html = tables.show_metrics("toolcall", [METRICS]).to_html()
    assert "0.50 [0.09, 0.91]" in html
    assert "filtered" in html
    assert "truncated" not in html


def test_the_figure_has_a_bar_for_each_metric_and_model_with_its_interval():
    azure = METRICS | {"run": {"model": "azure"}, "valid_call_rate": 0.75}
    figure = figures.plot_metrics("toolcall", [azure, METRICS])
    [axes] = figure.axes
    assert sorted(round(bar.get_height(), 2) for bar in axes.patches) == [0, 0, 0.5, 0.5, 0.75, 1]
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {
        "azure (hosted)",
        "slm (local)",
    }


def test_rows_that_differ_come_first():
    right, wrong = ({"valid_call": bit} for bit in (True, False))
    generation = Generation("text", "ok", "stop", 1, 1, 1.0)
    azure = [
        LedgerLine(i, "", generation, scores)
        for i, scores in enumerate([right, wrong, right, wrong])
    ]
    slm = [
        LedgerLine(i, "", generation, scores)
        for i, scores in enumerate([right, right, wrong, wrong])
    ]
    html = tables.show_differences(
        {"azure": azure, "slm": slm},
        ("azure", "slm"),
        [Row(f"prompt {i}", "gold") for i in range(4)],
    ).to_html()
    places = [html.index(f"prompt {i}") for i in (2, 1, 3, 0)]
    assert places == sorted(places)


def test_the_loss_curve_has_every_step_and_every_validation():
    card = {"rows": {"toolcall": {}}, "rows_trained": 3, "steps": 3}
    card["losses"] = [{"step": i, "loss": 1.0 / i} for i in (1, 2, 3)]
    card["validation"] = [{"step": 3, "loss": 0.5}]
    train, validation = figures.plot_losses(card).axes[0].lines
    assert list(train.get_xdata()) == [1, 2, 3]
    assert list(validation.get_ydata()) == [0.5]


def test_differing_outputs_are_shown_as_text():
    c = {"compared": "a against b", "rows": 2, "equal": 1, "share": 0.5}
    html = tables.show_unequal(
        {"comparisons": [c | {"differing": [{"row": 1, "first": "<b>", "second": "x"}]}]}
    ).to_html()
    assert "&lt;b&gt;" in html
    assert "1 of 1 differing" in html


def test_reasons_that_occurred_are_counted_and_drawn_for_each_model():
    reasons = {"empty": 0, "no wrapper": 2, "wrong argument": 1}
    azure = {"n_rows": 4, "right": 1, "reasons": reasons, "found_rate": 0.5, "lenient_rate": 0.75}
    slm = azure | {"right": 4, "reasons": dict.fromkeys(reasons, 0)}
    html = tables.show_diagnosis({"azure": azure, "slm": slm}).to_html()
    assert "no wrapper" in html
    assert "empty" not in html
    assert "0.75" in html
    [axes] = figures.plot_reasons({"azure": azure, "slm": slm}).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "right",
        "no wrapper",
        "wrong argument",
    ]
    assert sorted(bar.get_width() for bar in axes.patches) == [0, 0, 1, 1, 2, 4]
