import pytest
from test_error_analysis import make_line

from swaplib.evaluation import form
from swaplib.rows import Row

CALL = '<tool_call name="area">{"radius":5}</tool_call>'
ROWS = [Row(f"Area of circle {i}?", CALL) for i in range(50)]


def see(outputs: list[str], track: str = "toolcall", rows: list[Row] = ROWS) -> form.Form:
    ledger = [
        make_line(track, rows[i].completion, output, index=i) for i, output in enumerate(outputs)
    ]
    return form.see_form(track, rows, ledger)


def test_a_code_fence_around_every_answer_hides_all_skill():
    seen = see([f"```json\n{CALL}\n```"] * 20)
    assert (seen.strict, seen.found, seen.n_fenced, seen.hides) == (0, 20, 20, True)


def test_a_call_in_another_form_is_found():
    as_json = '{"name": "area", "arguments": {"radius": 5}}'
    seen = see([f"<tool_call>\n{as_json}\n</tool_call>"] * 10 + [f"[{as_json}]"] * 10)
    assert (seen.strict, seen.found, seen.hides) == (0, 20, True)


def test_structured_answers_behind_words_are_found():
    rows = [Row(f"Reply with JSON {i}", '{"days":2}') for i in range(10)]
    seen = see(['Sure: {"days": 2}'] * 10, "structured", rows)
    assert (seen.strict, seen.found, seen.hides) == (0, 10, True)


@pytest.mark.parametrize(
    ("n_hidden", "n_right", "hides"),
    # Five rows, and a fifth of all.
    [(4, 4, False), (5, 5, True), (5, 20, True), (5, 21, False), (0, 25, False)],
)
def test_from_five_rows_and_a_fifth_on_form_hides_skill(n_hidden, n_right, hides):
    assert see([f"Here: {CALL}"] * n_hidden + [CALL] * n_right).hides == hides


def test_one_wrong_word_in_a_fifth_of_the_rows_is_the_prompts_fault():
    wrong = '<tool_call name="TOOL">{"radius":5}</tool_call>'
    seen = see([wrong] * 10 + [CALL] * 40)
    assert (seen.word, seen.n_word, seen.hides) == ("TOOL", 10, True)
    assert not see([wrong] * 9 + [CALL] * 41).hides


def test_a_model_that_lacks_the_skill_hides_nothing():
    seen = see(['```\n<tool_call name="area">{"radius":6}</tool_call>\n```'] * 20)
    assert (seen.strict, seen.found, seen.n_fenced, seen.hides) == (0, 0, 20, False)


def test_another_of_the_tasks_own_tools_is_a_want_of_skill_and_no_wrong_word():
    rows = [Row(f"Area of circle {i}?", CALL) for i in range(49)] + [
        Row("Volume?", '<tool_call name="volume">{"radius":5}</tool_call>')
    ]
    other = '<tool_call name="volume">{"radius":5}</tool_call>'
    seen = see([other] * 30 + [CALL] * 19 + [other], rows=rows)
    assert (seen.word, seen.n_word, seen.hides) == (None, 0, False)
