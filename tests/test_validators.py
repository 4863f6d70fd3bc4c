import json

import pytest

from swaplib.data.facts import RowFacts
from swaplib.files import hash_text
from swaplib.metrics import parse_output
from swaplib.routing.policy import Policy
from swaplib.routing.validators import VALIDATORS, Known, Refusal, find_refusal
from swaplib.rows import Generation

PAY = {
    "type": "function",
    "function": {
        "name": "pay",
        "description": "Send money.",
        "parameters": {
            "type": "object",
            "properties": {
                "account_id": {"type": "string"},
                "email": {"type": "string", "format": "email"},
                "receipt": {"type": "string", "description": "URL of the receipt"},
                "weight": {"type": "number", "description": "Weight in kg"},
                "speed": {"type": "string", "enum": ["slow", "fast"]},
                "count": {"type": "integer", "default": 1},
                "note": {"type": "string"},
                "month": {"type": "integer", "description": "Month of the year, 1 to 12 months"},
            },
            "required": ["account_id"],
        },
    },
}
REQUEST = "Pay account A-17, mail ann@example.org, receipt shop.test/9, 70 kg, in October."
TOOLS = Known("toolcall", REQUEST, (PAY,))
SCHEMA = {
    "type": "object",
    "properties": {"total": {"type": "number"}, "kind": {"enum": ["a", "b"]}},
    "required": ["total"],
    "additionalProperties": False,
}


def said(output: str, status: str = "ok", mean: float | None = -0.1) -> Generation:
    return Generation(output, status, "stop", 10, 5, 1.0, None, mean, -0.5)


def call(arguments: str, name: str = "pay") -> str:
    return f'<tool_call name="{name}">{arguments}</tool_call>'


def refuse(known: Known, output: str, status: str = "ok") -> Refusal | None:
    return find_refusal(known, said(output, status), parse_output(known.track, output))


GOOD = [
    '{"account_id": "A-17"}',
    '{"account_id": "a-17", "email": "ann@example.org", "weight": 70, "speed": "fast"}',
    '{"account_id": "A-17", "receipt": "https://shop.test/9/", "month": 10}',
    '{"account_id": "A-17", "count": 1, "note": "whatever it likes to say"}',
]


@pytest.mark.parametrize("arguments", GOOD)
def test_an_answer_that_keeps_to_what_is_known_passes(arguments):
    assert refuse(TOOLS, call(arguments)) is None


REFUSED = {
    "end": ((call(GOOD[0]), "truncated"), ("", "empty"), ("", "filtered"), ("", "error")),
    "form": (
        ("I would pay.", "ok"),
        (f"Sure: {call(GOOD[0])}", "ok"),
        (call(GOOD[0]) + call(GOOD[0]), "ok"),
        (call('{"account_id": NaN}'), "ok"),
    ),
    "tool": ((call(GOOD[0], "rob"), "ok"),),
    "arguments": (
        (call("{}"), "ok"),
        (call('{"account_id": "A-17", "to": "Ann"}'), "ok"),
    ),
    "types": (
        (call('{"account_id": 17}'), "ok"),
        (call('{"account_id": "A-17", "speed": "warp"}'), "ok"),
        (call('{"account_id": "A-17", "count": "2"}'), "ok"),
        (call('{"account_id": "A-17", "weight": true}'), "ok"),
    ),
    "values": (
        (call('{"account_id": "A-18"}'), "ok"),
        (call('{"account_id": "A-17", "email": "bob@example.org"}'), "ok"),
        (call('{"account_id": "A-17", "receipt": "https://shop.test/10"}'), "ok"),
        (call('{"account_id": "A-17", "weight": 71}'), "ok"),
        (call('{"account_id": "A-17", "note": "12 kg"}'), "ok"),
    ),
}


@pytest.mark.parametrize(
    ("validator", "output", "status"),
    [(name, *case) for name, cases in REFUSED.items() for case in cases],
)
def test_each_validator_refuses_what_it_looks_at_and_says_why(validator, output, status):
    refusal = refuse(TOOLS, output, status)
    assert refusal is not None
    assert refusal.validator == validator
    assert refusal.reason and len(refusal.reason) < 300


def name(kind: str, key: str, value, request: str, about: str = "") -> Refusal | None:
    parameters = {"type": "object", "properties": {key: {"type": kind, "description": about}}}
    tool = {"type": "function", "function": {"name": "pay", "parameters": parameters}}
    return refuse(Known("toolcall", request, (tool,)), call(json.dumps({key: value})))


@pytest.mark.parametrize(
    ("kind", "key", "value", "request_"),
    [
        ("string", "user_id", "A17", "账户A17请付款"),
        ("string", "user_id", "A17", "ユーザーA17の注文"),
        ("string", "user_id", "A17", "user A17's, please (A17)"),
        ("string", "user_id", "é1", "the id e\u03011"),
        ("integer", "user_id", 17, "order #17."),
        ("integer", "user_id", 7, "order 007"),
        ("integer", "user_id", 12345, "user 12,345"),
        ("string", "email", "Ann@Example.org", "mailto:ann@example.org."),
        ("string", "url", "https://shop.test/9/", "see <https://shop.test/9>, or url=x"),
        ("string", "ids", "a1,b2", "users a1 and b2"),
        ("number", "weight", 1000, "weigh 1e3 kg"),
        ("number", "weight", 0.75, ".75 kg"),
        ("number", "weight", 70, "重70公斤"),
        ("number", "weight", -5, "\u22125 kg"),
        ("number", "weight", -5, "minus 5 kg"),
    ],
)
def test_a_value_is_named_in_any_script_and_notation(kind, key, value, request_):
    assert name(kind, key, value, request_, "in kg") is None


@pytest.mark.parametrize(
    ("kind", "key", "value", "request_"),
    [
        ("string", "user_id", "17", "user A-17"),
        ("integer", "user_id", 17, "user A-17"),
        ("string", "user_id", "5B", "5 users"),
        ("string", "uuid", "550e8400", "550e8400-e29b-41d4-a716-446655440000"),
        ("string", "user_id", " , ", "a, b"),
        ("string", "email", "ann@example.org", "mary.ann@example.org"),
        ("string", "note", "ann@example.org", "x+ann@example.org"),
        ("string", "email", "ann@example.org", "ann@example.org.uk"),
        ("string", "url", "https://shop.test", "https://shop.test.evil.org"),
        ("string", "url", "https://shop.test/9", "https://shop.test/9/cancel"),
        ("string", "url", "https://shop.test/9", "https://shop.test/9?all=1"),
        ("string", "note", "ftp://evil.org/x", "a note"),
        ("number", "weight", 1, "weigh 1e3 kg"),
    ],
)
def test_a_part_of_a_longer_value_does_not_name_one(kind, key, value, request_):
    assert name(kind, key, value, request_, "in kg").validator == "values"


def test_every_validator_has_a_refusal_above():
    assert list(REFUSED) == list(VALIDATORS)


def test_a_wrong_answer_that_looks_right_passes():
    # the gold would pay nothing: no validator knows it
    planted = call('{"account_id": "A-17", "speed": "slow", "note": "no"}')
    assert refuse(TOOLS, planted) is None


@pytest.mark.parametrize(
    ("output", "validator"),
    [
        ('{"total": 5}', None),
        ('{"total": 5, "kind": "b"}', None),
        ('{"total": "5"}', "types"),
        ('{"kind": "a"}', "types"),
        ('{"total": 5, "more": 1}', "types"),
        ('{"total": 5, "kind": "c"}', "types"),
        ("[1]", "types"),
        ('```json\n{"total": 5}\n```', "form"),
    ],
)
def test_an_answer_has_to_fit_its_schema(output, validator):
    refusal = refuse(Known("structured", "A bill of 5", (), SCHEMA), output)
    assert (refusal and refusal.validator) == validator


@pytest.mark.parametrize(
    ("output", "validator"),
    [
        ('[{"name": "pay", "arguments": {"account_id": "A-17"}}]', None),
        ("[]", "tool"),
        ('{"total": 5}', "tool"),
        ('[{"name": "pay", "arguments": {"account_id": "A-17"}}, 5]', "tool"),
        ('[{"name": "pay", "arguments": {}}]', "arguments"),
        ('[{"name": "pay", "arguments": {"account_id": "A-99"}}]', "values"),
    ],
)
def test_structured_answers_of_tools_are_calls(output, validator):
    refusal = refuse(Known("structured", REQUEST, (PAY,)), output)
    assert (refusal and refusal.validator) == validator


def test_what_is_not_known_is_not_checked():
    known = Known.from_facts("toolcall", None, None)
    assert not known.has_facts
    assert refuse(known, call('{"anything": 1}', "rob")) is None
    assert refuse(known, "no call").validator == "form"


def test_facts_of_a_row_say_what_is_known():
    fact = RowFacts(hash_text("p"), REQUEST, [PAY], "pay", [])
    known = Known.from_facts("toolcall", fact, SCHEMA)
    assert (known.request, known.tools, known.schema) == (REQUEST, (PAY,), SCHEMA)


def test_a_tool_without_parameters_takes_none_and_an_open_one_takes_any():
    bare = {"type": "function", "function": {"name": "now"}}
    free = {
        "type": "function",
        "function": {"name": "log", "parameters": {"type": "object", "additionalProperties": True}},
    }
    known = Known("toolcall", "What time is it?", (bare, free))
    assert refuse(known, call("{}", "now")) is None
    assert refuse(known, call('{"zone": "CET"}', "now")).validator == "arguments"
    assert refuse(known, call('{"zone": "CET"}', "log")) is None


def test_references_within_a_tool_are_followed():
    tool = {
        "type": "function",
        "function": {
            "name": "go",
            "parameters": {
                "type": "object",
                "properties": {"to": {"$ref": "#/$defs/place"}},
                "$defs": {"place": {"enum": ["home", "work"]}},
            },
        },
    }
    known = Known("toolcall", "Go home.", (tool,))
    assert refuse(known, call('{"to": "home"}', "go")) is None
    assert refuse(known, call('{"to": "moon"}', "go")).validator == "types"


def test_deep_nesting_is_a_refusal_and_no_crash():
    deep = "[" * 900 + "]" * 900
    known = Known(
        "structured",
        "x",
        (),
        {"$ref": "#/$defs/l", "$defs": {"l": {"items": {"$ref": "#/$defs/l"}}}},
    )
    refusal = refuse(known, deep)
    assert refusal is None or refusal.validator in VALIDATORS


@pytest.mark.parametrize(
    ("policy", "validator"),
    [
        (Policy(False, "mean_logprob", -0.2), None),
        (Policy(False, "mean_logprob", -0.05), "confidence"),
        (Policy(False, "min_logprob", -0.6), None),
        (Policy(False, "min_logprob", -0.4), "confidence"),
        (Policy(True, "min_logprob", -0.6), "values"),
        (Policy(False), None),
    ],
)
def test_a_policy_is_validators_then_confidence(policy, validator):
    output = call('{"account_id": "A-18"}')
    refusal = policy.find_refusal(TOOLS, said(output), parse_output("toolcall", output))
    assert (refusal and refusal.validator) == validator


def test_a_model_that_does_not_say_how_sure_it_is_is_not_trusted():
    output = call(GOOD[0])
    policy = Policy(True, "mean_logprob", -1.0)
    refusal = policy.find_refusal(TOOLS, said(output, mean=None), parse_output("toolcall", output))
    assert refusal.validator == "confidence"
    assert "does not say how sure" in refusal.reason
