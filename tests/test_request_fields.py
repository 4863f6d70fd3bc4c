"""Fields that change nothing are taken; what cannot be honoured is refused by name. No model."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from swaplib.serving.openai_format import ChatRequest
from swaplib.serving.tool_api import Asked, Refused, read_request

CHAT = [{"role": "user", "content": "Hi"}]
AREA = {"type": "function", "function": {"name": "area"}}
CALL = {"id": "c1", "type": "function", "index": 0, "function": {"name": "area", "arguments": "{}"}}


def read(**body) -> Asked:
    return read_request(ChatRequest.model_validate({"messages": CHAT, **body}))


def find_refused(**body) -> tuple[str, str]:
    """The field that is refused, and the reason."""
    with pytest.raises((ValidationError, Refused)) as caught:
        read(**body)
    if isinstance(caught.value, Refused):
        return caught.value.param, str(caught.value)
    first = caught.value.errors()[0]
    return ".".join(map(str, first["loc"])), first["msg"]


NEUTRAL = {
    "temperature": [0, 0.0],
    "top_p": [1, 0.5],
    "frequency_penalty": [0, 0.0],
    "presence_penalty": [0],
    "logit_bias": [{}],
    "n": [1],
    "stop": [[], ""],
    "stream": [False, True],
    "stream_options": [{"include_usage": None}, {"include_obfuscation": False}],
    "logprobs": [False],
    "top_logprobs": [0],
    "tools": [[]],
    "tool_choice": ["none", "auto"],
    "parallel_tool_calls": [True, False],
    "response_format": [{"type": "text"}],
    "seed": [7],
    "user": ["me"],
    "store": [False],
    "metadata": [{}, {"run": "7"}],
    "modalities": [["text"]],
    "reasoning_effort": ["none"],
    "functions": [[]],
    "function_call": ["none"],
    "service_tier": ["auto", "default"],
    "safety_identifier": ["x"],
    "prompt_cache_key": ["x"],
    "chat_template_kwargs": [{}, {"enable_thinking": False}, {"date_string": "26 Jul 2024"}],
    "audio": [],
    "verbosity": [],
    "web_search_options": [],
    "prediction": [],
    "max_tokens": [1],
    "max_completion_tokens": [1],
    "model": ["slm"],
}


@pytest.mark.parametrize("field", NEUTRAL)
def test_a_field_that_changes_nothing_changes_nothing(field):
    for value in [None, *NEUTRAL[field]]:
        assert read(**{field: value}) == read(), value


def test_all_of_them_at_once_and_no_field_is_left_out_of_this_test():
    assert read(**{field: (values or [None])[0] for field, values in NEUTRAL.items()}) == read()
    assert set(NEUTRAL) | {"messages"} == set(ChatRequest.model_fields)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("max_tokens", [True, "5", 5.5, 0, -1]),
        ("max_completion_tokens", [True, "5"]),
        ("temperature", [0.7, -1, "0", False, [], {}]),
        ("top_p", [-5, 0, 1.1, "1", True]),
        ("frequency_penalty", [0.1, "0", False]),
        ("presence_penalty", [-1, False]),
        ("logit_bias", [{"5": 100}, []]),
        ("n", [2, 0, "1", True]),
        ("stop", ["x", ["x"], 0, False]),
        ("stream", ["yes", 1]),
        ("logprobs", [True, 0]),
        ("top_logprobs", [3, False]),
        ("parallel_tool_calls", [1]),
        ("seed", ["7", True, 1.5]),
        ("user", [7]),
        ("metadata", ["run", []]),
        ("modalities", [["audio"], []]),
        ("reasoning_effort", ["high"]),
        ("functions", [[{"name": "f"}]]),
        ("function_call", [{"name": "f"}]),
        ("service_tier", ["flex"]),
        ("store", [True]),
        ("prediction", [{"type": "content", "content": "x"}]),
        ("chat_template_kwargs", [{"enable_thinking": True}, {"x": 1}, {"date_string": []}, "x"]),
        ("top_k", [1]),
    ],
)
def test_a_field_that_cannot_be_honoured_is_refused_by_its_name(field, values):
    for value in values:
        assert find_refused(**{field: value})[0] == field, value


def test_a_refusal_says_what_to_send():
    assert (
        find_refused(temperature=0.7)[1]
        == "answers are decoded greedily here: send 0 or leave it out"
    )
    assert find_refused(logprobs=True)[1] == (
        "log probabilities are not returned: send false or leave it out"
    )
    assert find_refused(prediction={})[1] == "predicted outputs are not supported: leave it out"
    assert (
        '"enable_thinking": false'
        in find_refused(chat_template_kwargs={"enable_thinking": True})[1]
    )


def test_an_answer_of_the_official_client_can_be_sent_back():
    dumped = {
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "name": None,
    }
    dumped |= {"reasoning_content": None}
    calling = {"role": "assistant", "content": None, "tool_calls": [CALL], **dumped}
    result = {"role": "tool", "tool_call_id": "c1", "name": "area", "content": "5"}
    messages = read(messages=[*CHAT, calling, result]).messages
    assert messages[2] == {"role": "tool", "tool_call_id": "c1", "name": "area", "content": "5"}
    assert set(messages[1]) == {"role", "content", "tool_calls"}
    assert read(messages=[{**CHAT[0], **dumped}]) == read()


@pytest.mark.parametrize(
    ("message", "field", "words"),
    [
        ({"role": "user", "content": "x", "name": "Ann"}, "name", "speakers have no names here"),
        (
            {"role": "tool", "tool_call_id": "c1", "name": "now", "content": "5"},
            "name",
            "expected 'area'",
        ),
        (
            {"role": "assistant", "content": "x", "refusal": "no"},
            "refusal",
            "only content and tool_calls",
        ),
        (
            {"role": "assistant", "content": "x", "function_call": {"name": "f"}},
            "function_call",
            "only content",
        ),
        ({"role": "assistant", "content": "x", "prefix": True}, "prefix", "not permitted"),
        (
            {"role": "assistant", "tool_calls": [{**CALL, "extra": 1}]},
            "tool_calls.0.extra",
            "not permitted",
        ),
    ],
)
def test_what_cannot_be_honoured_of_a_message_is_refused_by_its_name(message, field, words):
    calling = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    found, said = find_refused(messages=[calling, message])
    assert found == f"messages.1.{field}"
    assert words in said


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(NEUTRAL)), json_values, max_size=4))
def test_any_values_are_read_or_refused(fields):
    with suppress(ValidationError, Refused):
        read(**fields)


@given(
    st.dictionaries(
        st.sampled_from(["role", "content", "name", "tool_calls", "refusal", "audio"]), json_values
    )
)
def test_any_message_is_read_or_refused(message):
    with suppress(ValidationError, Refused):
        read(messages=[{"role": "user", "content": "x"} | message])
