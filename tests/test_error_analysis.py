import pytest
from hypothesis import given
from hypothesis import strategies as st

from swaplib.data.facts import make_facts
from swaplib.data.tool_schemas import parse_tool
from swaplib.evaluation import answers, error_analysis
from swaplib.evaluation.leniency import same_value
from swaplib.metrics import TRACKS, JsonDocument, ToolCall, score_row
from swaplib.rows import Generation, LedgerLine, Row

GOLD = '<tool_call name="area">{"radius":5,"unit":"cm"}</tool_call>'
RIGHT = ToolCall("area", {"radius": 5, "unit": "cm"})


def make_line(track: str, gold: str, output: str, status: str = "ok", index: int = 0) -> LedgerLine:
    return LedgerLine(
        index, "", Generation(output, status, "stop", 1, 1, 1.0), score_row(track, gold, output)
    )


@pytest.mark.parametrize(
    ("output", "status", "reason", "answer"),
    [
        (GOLD, "ok", None, RIGHT),
        (f"Sure! {GOLD}", "ok", "prose around", RIGHT),
        (f"```\n{GOLD}\n```", "ok", "prose around", RIGHT),
        (GOLD + GOLD, "ok", "several wrappers", RIGHT),
        ("area(radius=5)", "ok", "no wrapper", None),
        (
            '<tool_call>{"name": "area", "arguments": {"unit":"cm","radius":5}}</tool_call>',
            "ok",
            "no wrapper",
            RIGHT,
        ),
        ('[{"name": "area", "arguments": {"radius":5,"unit":"cm"}}]', "ok", "no wrapper", RIGHT),
        ('<tool_call name="area">radius=5</tool_call>', "ok", "not JSON", None),
        ('<tool_call name="area">[5]</tool_call>', "ok", "not JSON", None),
        ('<tool_call name="volume">{"radius":5,"unit":"cm"}</tool_call>', "ok", "wrong name", None),
        ('<tool_call name="area">{"radius":5}</tool_call>', "ok", "missing argument", None),
        (
            '<tool_call name="area">{"radius":5,"unit":"cm","x":1}</tool_call>',
            "ok",
            "extra argument",
            None,
        ),
        (
            '<tool_call name="area">{"radius":6,"unit":"cm"}</tool_call>',
            "ok",
            "wrong argument",
            None,
        ),
        ('<tool_call name="area">{"ra', "truncated", "truncated", None),
        ("", "empty", "empty", None),
        ("", "filtered", "filtered", None),
        ("", "error", "error", None),
    ],
)
def test_each_reason_of_a_wrong_call(output, status, reason, answer):
    assert (
        error_analysis.name_reason("toolcall", GOLD, make_line("toolcall", GOLD, output, status))
        == reason
    )
    assert reason is None or reason in error_analysis.REASONS["toolcall"]
    if answer is not None:
        assert answers.find_answer("toolcall", output) == answer


@pytest.mark.parametrize(
    ("output", "reason", "answer"),
    [
        ('[{"a":1}]', None, [{"a": 1}]),
        ('```json\n[{"a":1}]\n```', "prose around", [{"a": 1}]),
        ('Here you are: [{"a": 1}]. Enjoy.', "prose around", [{"a": 1}]),
        ('[{"a":2}]', "wrong answer", [{"a": 2}]),
        ("no idea", "not JSON", None),
    ],
)
def test_each_reason_of_a_wrong_document(output, reason, answer):
    assert (
        error_analysis.name_reason(
            "structured", '[{"a":1}]', make_line("structured", '[{"a":1}]', output)
        )
        == reason
    )
    assert answers.find_answer("structured", output) == (
        None if answer is None else JsonDocument(answer)
    )


@pytest.mark.parametrize(
    ("gold", "found", "is_same"),
    [
        ("New York, NY", "new york NY", True),
        ("2024-01-31", "2024/01/31", True),
        ("a", "b", False),
        (5.0, 5, True),
        (5, 5.0, False),
        (1, True, False),
        (True, True, True),
        ([1, "A b"], [1, "ab"], True),
        ([1, 2], [2, 1], False),
        ({"k": "X-y"}, {"k": "xY"}, True),
        ({"k": 1}, {"k": 1, "l": 2}, False),
        (None, None, True),
        ("5", 5, False),
    ],
)
def test_values_with_the_leaderboards_leniency(gold, found, is_same):
    assert same_value(gold, found) is is_same


def test_a_run_as_worked_by_hand():
    outputs = [
        GOLD,
        f"Sure: {GOLD}",
        '<tool_call name="area">{"radius":5,"unit":"CM"}</tool_call>',
        '<tool_call name="area">{"radius":5}</tool_call>',
        "prose",
    ]
    rows = [Row(f"Request {i}", GOLD) for i in range(5)]
    found = error_analysis.diagnose(
        "toolcall", rows, [make_line("toolcall", GOLD, o, index=i) for i, o in enumerate(outputs)]
    )
    assert (found["n_rows"], found["right"]) == (5, 1)
    assert {reason: n for reason, n in found["reasons"].items() if n} == {
        "prose around": 1,
        "wrong argument": 1,
        "missing argument": 1,
        "no wrapper": 1,
    }
    assert found["found_rate"] == 2 / 5
    assert found["lenient_rate"] == 3 / 5
    # given 2 + 2 + 2 + 1 = 7 arguments, right 2 + 2 + 1 + 1 = 6, wanted 10
    assert found["args_precision"] == 6 / 7
    assert found["args_recall"] == 6 / 10
    assert found["args_f1"] == pytest.approx(12 / 17)


@given(st.text(alphabet='<>tool_cal name="{}[],:/1x ', max_size=200))
def test_any_text_has_a_reason_and_never_raises(output):
    for track, gold in (("toolcall", GOLD), ("structured", "[1]")):
        line = make_line(track, gold, output, "ok" if output.strip() else "empty")
        reason = error_analysis.name_reason(track, gold, line)
        assert (reason is None) == all(line.scores.values())
        assert reason is None or reason in error_analysis.REASONS[track]


def test_a_single_quote_stands_for_a_double_one_leniently():
    assert same_value('say "hi"', "Say 'hi'")
    assert not same_value('say "hi"', "say hi")
    gold = '<tool_call name="run">{"code":"print(\\"a\\")"}</tool_call>'
    lines = [
        make_line("toolcall", gold, '<tool_call name="run">{"code":"print(\'a\')"}</tool_call>')
    ]
    found = error_analysis.diagnose("toolcall", [Row("Request", gold)], lines)
    assert (found["right"], found["found_rate"], found["lenient_rate"]) == (0, 0, 1)


@pytest.mark.parametrize(
    ("kind", "is_right"),
    [("float", True), ("float, optional", True), ("int", False), (None, False)],
)
@pytest.mark.parametrize("track", TRACKS)
def test_a_float_for_a_whole_gold_is_right_leniently_only_where_the_facts_declare_a_float(
    track, kind, is_right
):
    def write(value: str) -> str:
        if track == "toolcall":
            return f'<tool_call name="pay">{{"amount":{value}}}</tool_call>'
        return f'[{{"name":"pay","arguments":{{"amount":{value}}}}}]'

    row = Row("Pay 1500.", write("1500"))
    tool = parse_tool({"name": "pay", "parameters": {"amount": {"type": kind or "int"}}})
    facts = None if kind is None else [make_facts(track, row, "Pay 1500.", [tool], {})]
    for output, expected in {
        "1500.0": is_right,
        "1500": True,
        "1500.5": False,
        '"1500.0"': False,
    }.items():
        ledger = [make_line(track, row.completion, write(output))]
        found = error_analysis.diagnose(track, [row], ledger, facts)
        assert found["lenient_rate"] == expected, output
        assert found["right"] == (output == "1500")


def test_facts_of_another_parameter_or_tool_make_no_float():
    row = Row("Pay.", '<tool_call name="pay">{"amount":1500}</tool_call>')
    tools = [
        parse_tool(
            {"name": name, "parameters": {"amount": {"type": kind}, "rate": {"type": "float"}}}
        )
        for name, kind in {"pay": "int", "other": "float"}.items()
    ]
    facts = [make_facts("toolcall", row, "Pay.", tools, {})]
    output = '<tool_call name="pay">{"amount":1500.0}</tool_call>'
    found = error_analysis.diagnose(
        "toolcall", [row], [make_line("toolcall", row.completion, output)], facts
    )
    assert found["lenient_rate"] == 0


def test_the_right_answer_counts_as_found_behind_others():
    outputs = [
        '<tool_call name="volume">{}</tool_call> or rather ' + GOLD,
        f"<think>{GOLD.replace('5', '6')}</think>{GOLD}",
    ]
    rows = [Row(f"Request {i}", GOLD) for i in range(2)]
    lines = [make_line("toolcall", GOLD, o, index=i) for i, o in enumerate(outputs)]
    assert error_analysis.diagnose("toolcall", rows, lines)["found_rate"] == 1
    line = make_line("structured", '[{"a":"x"}]', 'Sure [1]: [{"a":"x"}]')
    assert (
        error_analysis.diagnose("structured", [Row("r", '[{"a":"x"}]')], [line])["found_rate"] == 1
    )


def test_what_stands_inside_of_another_answer_is_not_found():
    line = make_line("structured", '{"a":1}', 'Here: [{"a":1}]')
    assert error_analysis.diagnose("structured", [Row("r", '{"a":1}')], [line])["found_rate"] == 0


@pytest.mark.parametrize(
    ("gold", "output"), [("[3]", '[{"value":3}]'), ('{"value":3}', "3"), ("[[1]]", "[1]")]
)
def test_leniency_does_not_take_an_object_for_a_value(gold, output):
    line = make_line("structured", gold, output)
    assert error_analysis.diagnose("structured", [Row("r", gold)], [line])["lenient_rate"] == 0


@pytest.mark.parametrize(
    ("gold", "found", "schema", "is_same"),
    [
        (1, 1.0, {"type": "number"}, True),
        (1, 1.0, {"type": "integer"}, False),
        (1, 1.0, {"anyOf": [{"type": "integer"}, {"type": "number"}]}, True),
        (1, 1.0, {"type": ["number", "null"]}, True),
        ([1, 2], [1.0, 2.0], {"type": "array", "items": {"type": "number"}}, True),
        (
            [1, 2],
            [1.0, 2.0],
            {"type": "array", "prefixItems": [{"type": "number"}, {"type": "integer"}]},
            False,
        ),
        ([1], [1.0], {"type": "array"}, False),
        (True, 1, {"type": "number"}, False),
    ],
)
def test_a_float_stands_for_an_int_where_the_tool_declares_a_float(gold, found, schema, is_same):
    assert same_value(gold, found, schema) is is_same


def test_keys_are_counted_one_by_one_and_calls_by_their_place():
    gold = '[{"name":"a","arguments":{"x":1,"y":2}},{"name":"b","arguments":{"x":3}}]'
    swapped = '[{"name":"b","arguments":{"x":3}},{"name":"a","arguments":{"x":1,"y":2}}]'
    half = '[{"name":"a","arguments":{"x":1,"y":9}}]'
    outputs = [gold, swapped, half, "prose"]
    ledger = [make_line("structured", gold, output, index=i) for i, output in enumerate(outputs)]
    found = error_analysis.diagnose("structured", [Row(f"{i}", gold) for i in range(4)], ledger)[
        "fields"
    ]
    assert {record.pop("field"): record for record in found} == {
        "name": {"wanted": 8, "right": 3, "missing": 3},  # wrong twice where the calls are swapped
        "x": {"wanted": 8, "right": 3, "missing": 5},
        "y": {"wanted": 4, "right": 1, "missing": 2},
    }


def test_keys_of_answers_that_are_no_calls_are_counted_too():
    gold = '{"city":"Rome","days":2}'
    ledger = [
        make_line("structured", gold, output, index=i)
        for i, output in enumerate([gold, '{"city":"Rome"}'])
    ]
    found = error_analysis.diagnose("structured", [Row(f"{i}", gold) for i in range(2)], ledger)[
        "fields"
    ]
    assert found == [
        {"field": "days", "wanted": 2, "right": 1, "missing": 1},
        {"field": "city", "wanted": 2, "right": 2, "missing": 0},
    ]


def test_rates_over_given_rows_leave_out_rows_whose_values_nothing_gives():
    tool = parse_tool(
        {
            "name": "area",
            "description": "",
            "parameters": {"radius": {"type": "int", "description": ""}},
        }
    )
    rows = [
        Row(f"radius {i}", f'<tool_call name="area">{{"radius":{radius}}}</tool_call>')
        for i, radius in enumerate((0, 7))
    ]
    facts = [make_facts("toolcall", row, f"radius {i}", [tool], {}) for i, row in enumerate(rows)]
    ledger = [
        make_line("toolcall", rows[i].completion, rows[0].completion, index=i) for i in range(2)
    ]
    found = error_analysis.diagnose("toolcall", rows, ledger, facts)
    assert (found["given"]["n_rows"], found["given"]["args_exact_rate"]) == (1, 1.0)
    assert found["all_rows"]["args_exact_rate"] == 0.5
    assert error_analysis.diagnose("toolcall", rows, ledger)["given"] is None
