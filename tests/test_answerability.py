import pytest
from hypothesis import given
from hypothesis import strategies as st

from swaplib.data.answerability import find_origin, is_named

NAMED = [
    (5, "radius 5"),
    (5.0, "radius 5"),
    (0.5, "a rate of 0.5"),
    (1500, "1,500 items"),
    (1000, "$1000."),
    (3, "the 3rd smallest"),
    (2, "2kg of flour"),
    (-5, "down to -5 degrees"),
    (20, "10-20"),
    ([1, 2], "2 and 1"),
    ([-5, -3], "[-5,-3]"),
    ([1, 2, 345], "[1,2,345]"),
    ({"a": "Rome"}, "in rome"),
    ("New  York", "in new york?"),
    ("US", "in the US."),
    ("C++", "in C++, please"),
]
NOT_NAMED = [
    (5, "radius 50"),
    (5, "radius 2.5"),
    (2, "radius 2.5"),
    (-5, "10-5"),
    (0.02, "2%"),
    (2, "v2"),
    (100, "7,100 items"),
    ([1, 3], "2 and 1"),
    (True, "true"),
    (None, "null"),
    ("", "anything"),
    ("en", "when open?"),
    ("1", "in 2011"),
    ("1", "version 1.5"),
    ("US", "famous"),
]


@pytest.mark.parametrize(("value", "request_text"), NAMED)
def test_a_value_that_stands_in_the_request_as_a_word_of_its_own_is_named(value, request_text):
    assert is_named(value, request_text)


@pytest.mark.parametrize(("value", "request_text"), NOT_NAMED)
def test_a_value_that_is_only_a_part_of_other_words_is_not_named(value, request_text):
    assert not is_named(value, request_text)


def test_a_default_is_looked_at_first():
    assert find_origin("1h", {"default": "1h"}, "every 1h") == "default"
    assert find_origin(10, {"default": "10"}, "ten") == "default"  # xLAM writes numbers as texts
    assert find_origin("1h", {"default": "1d"}, "every 1h") == "request"
    assert find_origin("BTC", {}, "Bitcoin") == "neither"


@given(
    st.integers(-(10**6), 10**6),
    st.sampled_from(["take {} of them", "({})", "x={}", "{}", "from {}, then on"]),
)
def test_a_number_between_other_words_is_named(number, text):
    assert is_named(number, text.format(number))
    assert is_named(str(number), text.format(number))
