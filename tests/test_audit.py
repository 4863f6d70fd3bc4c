import pytest
from raw_rows import toolcall_row

from swaplib.data.audit import called_tools, check_leaks, count_repeats
from swaplib.rows import Row


def test_a_tool_in_two_splits_is_a_leak_and_of_own_rows_a_count():
    rows = {"toolcall": {"train": [toolcall_row("One", "a")], "test": [toolcall_row("Two", "a")]}}
    with pytest.raises(
        ValueError, match=r"toolcall/train.jsonl:1 and toolcall/test.jsonl:1 both call the tool 'a'"
    ):
        check_leaks(rows)
    assert check_leaks(rows, may_share_tools=True) == 1


def test_a_prompt_in_two_splits_is_a_leak_whatever_tools_may_do():
    rows = {
        "toolcall": {
            "train": [toolcall_row("One  two", "a")],
            "test": [toolcall_row("one two", "b")],
        }
    }
    with pytest.raises(
        ValueError, match=r"toolcall/train.jsonl:1 and toolcall/test.jsonl:1 have the same prompt"
    ):
        check_leaks(rows, may_share_tools=True)


def test_a_tool_of_a_structured_train_row_leaks_into_a_toolcall_test_row():
    structured = [Row("s", '[{"name":"a","arguments":{}}]')]
    with pytest.raises(ValueError, match="call the tool 'a'"):
        check_leaks(
            {"structured": {"train": structured}, "toolcall": {"test": [toolcall_row("t", "a")]}}
        )


def test_rows_that_share_nothing_between_splits_are_no_leak():
    rows = {
        "toolcall": {
            "train": [toolcall_row("One", "a"), toolcall_row("Two", "a")],
            "test": [toolcall_row("3", "b")],
        }
    }
    assert check_leaks(rows) == 0


def test_a_list_of_named_things_is_no_list_of_calls():
    assert called_tools("structured", '[{"name":"Alice","age":3},{"name":"f","arguments":{}}]') == [
        "f"
    ]
    assert called_tools(
        "toolcall", '<tool_call name="g">{"name":"f","arguments":{}}</tool_call>'
    ) == ["g"]


def test_repeats_are_counted_by_split_and_key_order_makes_no_other_gold():
    same = [
        toolcall_row("p", "a", '{"x":1,"y":2}'),
        toolcall_row("p", "a", '{"y":2,"x":1}'),
        toolcall_row("q", "a"),
    ]
    assert count_repeats({"toolcall": {"train": same, "test": same[:1]}}) == {
        "toolcall": {"train": 1, "test": 0}
    }


def test_white_space_and_case_make_no_other_prompt():
    rows = [toolcall_row("The  Area", "a"), toolcall_row("the area", "a")]
    assert count_repeats({"toolcall": {"train": rows}}) == {"toolcall": {"train": 1}}


@pytest.mark.parametrize(
    "other",
    [toolcall_row("p", "b"), toolcall_row("p", "a", '{"x":1}'), toolcall_row(" P", "a", '{"x":1}')],
)
def test_one_prompt_with_two_golds_names_both_lines(other):
    rows = {"toolcall": {"val": [toolcall_row("q", "a"), toolcall_row("p", "a"), other]}}
    with pytest.raises(
        ValueError,
        match=r"toolcall/val.jsonl:2 and toolcall/val.jsonl:3 have the same prompt and diff",
    ):
        count_repeats(rows)
