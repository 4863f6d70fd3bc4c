import pytest
from hypothesis import given
from hypothesis import strategies as st

from swaplib.evaluation.repeats import count_repeats, describe_repeats
from swaplib.metrics import score_row
from swaplib.rows import Generation, LedgerLine, Row

GOLD = '<tool_call name="area">{"radius":5}</tool_call>'
ARRAY = '[{"name":"area","arguments":{"radius":5}},{"name":"volume","arguments":{}}]'


def make_run(track: str, gold: str, outputs: list[str]) -> tuple[list[Row], list[LedgerLine]]:
    rows = [Row(f"Request {i}", gold) for i in range(len(outputs))]
    answers = [Generation(output, "ok", "stop", 1, 1, 1.0) for output in outputs]
    return rows, [
        LedgerLine(i, "", a, score_row(track, gold, a.output)) for i, a in enumerate(answers)
    ]


def describe(track: str, gold: str, outputs: list[str]) -> list[str]:
    return describe_repeats(count_repeats(track, *make_run(track, gold, outputs)))


def test_a_placeholder_that_most_outputs_copy_is_named():
    outputs = ['<tool_call name="TOOL">{"radius":5}</tool_call>'] * 8 + [
        GOLD,
        '<tool_call name="x">{}</tool_call>',
    ]
    assert describe("toolcall", GOLD, outputs) == [
        "8 of 10 outputs call `TOOL` where another tool was right."
    ]


def test_shared_keys_and_a_shared_form_are_named():
    wrong_keys = '<tool_call name="area">{"PARAMETER":5}</tool_call>'
    outputs = [wrong_keys] * 4 + [f"```xml\n{GOLD}\n```"] * 5 + [GOLD]
    assert describe("toolcall", GOLD, outputs) == [
        "4 of 10 outputs give `PARAMETER` where other arguments were asked for.",
        '5 of 10 outputs are not in the form asked for and begin with "```xml".',
    ]


def test_in_a_list_of_calls_each_output_counts_once():
    outputs = ['[{"name":"TOOL","arguments":{}},{"name":"TOOL","arguments":{}}]'] * 3 + [ARRAY] * 2
    assert describe("structured", ARRAY, outputs) == [
        "3 of 5 outputs call `TOOL` where another tool was right."
    ]


def test_structured_answers_that_are_no_calls_are_compared_by_their_keys():
    outputs = ['{"city":"Rome","nights":2}'] * 3 + ['{"city":"Rome","days":2}']
    assert describe("structured", '{"city":"Rome","days":2}', outputs) == [
        "3 of 4 outputs give `city`, `nights` where other arguments were asked for."
    ]


@pytest.mark.parametrize(
    "outputs", [[GOLD] * 5, ['<tool_call name="x">{}</tool_call>'] * 2 + [GOLD] * 3]
)
def test_no_fault_and_too_few_to_be_a_pattern_say_nothing(outputs):
    assert describe("toolcall", GOLD, outputs) == []


@given(st.text(alphabet='<>tool_cal name="{}[],:/1x ', max_size=120))
def test_any_text_is_looked_at_and_never_raises(output):
    for track, gold in (("toolcall", GOLD), ("structured", ARRAY), ("structured", "7")):
        describe(track, gold, [output] * 3)
