"""What a request's own schemas may do to the server that checks answers against them: nothing."""

import json
import time

import pytest
from servers import as_json, serving

from swaplib.metrics import parse_output
from swaplib.routing.schema_fit import LIMIT_S, find_misfit
from swaplib.routing.validators import Known, find_refusal
from swaplib.rows import Generation

DOUBLED = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)}
DOUBLED["d40"] = {"type": "integer"}


def refuse(parameters: dict, arguments: str) -> str | None:
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    output = f'<tool_call name="f">{arguments}</tool_call>'
    generation = Generation(output, "ok", "stop", 10, 5, 1.0)
    answer = parse_output("toolcall", output)
    refusal = find_refusal(Known("toolcall", "x", (tool,)), generation, answer)
    return refusal and f"{refusal.validator}: {refusal.reason}"


def of_a(schema, **more) -> dict:
    return {"type": "object", "properties": {"a": schema}, **more}


def test_nothing_that_a_schema_refers_to_is_fetched():
    with serving(lambda exchange: as_json({"type": "string"})) as (root, exchanges):
        for schema in (
            of_a({"$ref": f"{root}/s.json"}),
            of_a({"$ref": "s.json"}, **{"$id": f"{root}/t.json"}),
            of_a({"$ref": "file:///etc/passwd"}),
        ):
            reason = refuse(schema, '{"a": 1}')
            assert reason.startswith("types: f: its schema refers to what is not in it (")
    assert exchanges == []


@pytest.mark.parametrize(
    ("schema", "arguments", "words"),
    [
        (of_a({"$ref": "#/$defs/none"}), '{"a": 1}', "refers to what is not in it"),
        (of_a({"$ref": "#/properties/a"}), '{"a": 1}', "nested too deeply"),
        (of_a({"multipleOf": 0.1}), f'{{"a": {"9" * 400}}}', "cannot be checked (OverflowError)"),
        (of_a({"pattern": "^x"}), '{"a": "x\\ud800"}', "cannot be checked (UnicodeEncodeError)"),
        (of_a({"pattern": "^(?=x)x"}), '{"a": "x"}', "a pattern that cannot be checked: ^(?=x)x"),
        (of_a({"pattern": "("}), '{"a": "x"}', "a pattern that cannot be checked: ("),
        (of_a({"$ref": "#/$defs/d0"}, **{"$defs": DOUBLED}), '{"a": 1}', "takes too long"),
        (
            of_a({"patternProperties": {"x": {}}}, unevaluatedProperties=False),
            '{"a": 1}',
            "both unevaluatedProperties and patternProperties",
        ),
    ],
    ids=["lost", "circle", "overflow", "surrogate", "look", "broken", "doubled", "unevaluated"],
)
def test_what_cannot_be_checked_is_refused_in_words(schema, arguments, words):
    assert words in refuse(schema, arguments)


@pytest.mark.parametrize(
    "pattern",
    ["^(a|a)*$", "^(a+)+$", "(?:(?:(?:a{1000}){1000}){1000}){1000}", "^(a|b)*a(a|b){20}$"],
)
def test_no_pattern_takes_long(pattern):
    text = "a" * 2000 + "!"
    start = time.perf_counter()
    assert find_misfit({"pattern": pattern}, text) is not None
    closed = {"patternProperties": {pattern: {}}, "additionalProperties": False}
    assert find_misfit(closed, {text: 1}) is not None
    assert time.perf_counter() - start < 5


def test_thousands_of_patterns_do_not_take_long_together():
    schema = {"patternProperties": {f"^a{i}$": {} for i in range(20_000)}}
    start = time.thread_time()
    assert find_misfit(schema, {f"b{i}": 1 for i in range(50)}) == (
        "its schema takes too long to check"
    )
    assert time.thread_time() - start < 4 * LIMIT_S


def test_errors_that_quote_a_huge_schema_take_neither_time_nor_room():
    huge = {"items": {"anyOf": [{"$ref": "#/$defs/e"}] * 1000}}
    schema = {**huge, "$defs": {"e": {"enum": list(range(50_000))}}}
    start = time.thread_time()
    assert find_misfit(schema, ["x"] * 200) == "its schema takes too long to check"
    assert time.thread_time() - start < 4 * LIMIT_S
    assert len(find_misfit({"enum": list(range(50_000))}, "x")) < 150


@pytest.mark.parametrize(
    ("schema", "value", "fits"),
    [
        ({"pattern": "b"}, "abc", True),
        ({"pattern": "^b"}, "abc", False),
        ({"pattern": r"^\d{3}-[A-Z]{2}$"}, "123-AB", True),
        ({"pattern": '^ä\n"😀$'}, 'ä\n"😀', True),
        ({"pattern": "^b"}, 5, True),
        ({"patternProperties": {"^n_": {"type": "integer"}}}, {"n_a": 1, "b": "x"}, True),
        ({"patternProperties": {"^n_": {"type": "integer"}}}, {"n_a": "1"}, False),
        (
            {
                "properties": {"b": {}},
                "patternProperties": {"^n": {}},
                "additionalProperties": False,
            },
            {"b": 1, "n": 2},
            True,
        ),
        ({"properties": {"b": {}}, "additionalProperties": False}, {"b": 1, "c": 2}, False),
        ({"additionalProperties": {"type": "integer"}}, {"c": "x"}, False),
        (
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "items": [{"type": "integer"}, {"type": "string"}],
            },
            [1, "x"],
            True,
        ),
    ],
)
def test_honest_schemas_are_checked_as_ever(schema, value, fits):
    assert (find_misfit(schema, value) is None) == fits


@pytest.mark.parametrize(
    "parameters",
    [
        {"$ref": "#/$defs/all", "$defs": {"all": of_a({"type": "integer"})}},
        {"type": "object", "allOf": [of_a({"type": "integer"})]},
        {"type": "object", "patternProperties": {"^a$": {"type": "integer"}}},
    ],
)
def test_parameters_may_be_declared_elsewhere_than_under_properties(parameters):
    assert refuse(parameters, '{"a": 1}') is None
    assert refuse(parameters, '{"a": "x"}').startswith("types: ")


def test_a_default_that_is_stated_counts_as_an_argument():
    schema = of_a({"type": "integer", "default": 1}, minProperties=1)
    assert refuse(schema, '{"a": 1}') is None


def test_schemas_of_many_requests_are_not_kept():
    import tracemalloc

    def check(i: int) -> None:
        schema = json.loads(json.dumps({"enum": [i, *(f"{i} {j}" for j in range(20_000))]}))
        assert find_misfit(schema, i) is None

    check(0)
    tracemalloc.start()
    for i in range(1, 20):
        check(i)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1_000_000
