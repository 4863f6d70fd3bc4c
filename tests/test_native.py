import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import Answer, as_json, completion, serving

from swaplib.data.facts import make_facts, read_facts
from swaplib.data.tool_schemas import parse_tool, to_openai
from swaplib.evaluation import evaluate
from swaplib.metrics import TRACKS, parse_output, score_row
from swaplib.models import native
from swaplib.models.native import NativeForm
from swaplib.models.replies import CallFailed
from swaplib.rows import Row, read_rows
from swaplib.settings import ROOT
from swaplib.tracing.outbox import list_spans, read_outbox

AREA = to_openai(
    parse_tool(
        {
            "name": "area",
            "description": "",
            "parameters": {"radius": {"type": "int", "description": ""}},
        }
    )
)
CALLING, LISTING = NativeForm((AREA,)), NativeForm((), {"type": "object"}, is_wrapped=True)
TOOLCALL = '<tool_call name="area">{"radius":5}</tool_call>'


def calling(
    *calls: tuple[str, object], content: str | None = None, finish_reason: str = "tool_calls"
) -> Answer:
    """A chat completion that calls tools, arguments as they are given."""
    answer = json.loads(completion(content, finish_reason)[2])
    answer["choices"][0]["message"]["tool_calls"] = [
        {"id": f"c{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for i, (name, arguments) in enumerate(calls)
    ]
    return as_json(answer)


def error(status: int, **body) -> Answer:
    return as_json({"error": {"type": "invalid_request_error", **body}}, status)


def ask(
    settings, root: str, track: str = "toolcall", model: str = "azure-native", **parameters
) -> evaluate.Run:
    settings = settings.model_copy(update={"azure_endpoint": f"{root}/openai/deployments/gpt"})
    return evaluate.run_model(settings, track, model, limit=3, **parameters)


def answer_right(track: str):
    """An endpoint that answers each shipped row with its gold, natively."""
    path = ROOT / "slm_swap" / "02_dataset" / track / "test.jsonl"
    rows = read_rows(path, track)
    golds = {
        fact.request: row.completion for fact, row in zip(read_facts(path, rows), rows, strict=True)
    }

    def answer(exchange):
        asked = exchange.json()["messages"][-1]["content"]
        gold = next(completion for request, completion in golds.items() if asked.endswith(request))
        if track == "structured":
            return completion(json.dumps({"calls": json.loads(gold)}))
        call = parse_output("toolcall", gold)
        return calling((call.name, json.dumps(call.arguments)))

    return answer


@pytest.mark.parametrize("track", TRACKS)
def test_a_right_answer_scores_natively_as_it_would_by_hand(shipped_home, track):
    with serving(answer_right(track)) as (root, exchanges):
        run = ask(shipped_home, root, track)
    assert run.metrics["extra"]["right"] == 3
    assert run.metrics["run"]["model"] == "azure-native"
    body = exchanges[0].json()
    assert "tool_call name=" not in json.dumps(body)
    assert ("tools" in body) == (track == "toolcall")
    [span] = [
        s
        for line in read_outbox(run.folder / "trace.jsonl")
        for s in list_spans(line)
        if s["name"] == "row 0"
    ]
    shown = next(
        a["value"]["stringValue"]
        for a in span["attributes"]
        if a["key"].endswith("observation.input")
    )
    assert set(json.loads(shown)) >= {"messages"}
    assert ("tools" in json.loads(shown)) == (track == "toolcall")


def test_the_messages_hold_the_request_the_values_and_no_form(shipped_home):
    path = shipped_home.dataset / "structured" / "test.jsonl"
    rows = read_rows(path, "structured")
    fact = read_facts(path, rows)[2]
    messages, form = native.ask_natively("structured", rows[2], fact, None)
    text = json.dumps(messages)
    assert fact.request in messages[1]["content"]
    assert "shows_id: Fetch metadata" in messages[1]["content"]
    assert "Leave out a parameter with a default" in messages[0]["content"]
    assert "pour_tea" not in text
    assert "JSON array" not in text
    schema = form.to_request()["response_format"]["json_schema"]["schema"]
    names = [
        call["properties"]["name"]["const"]
        for call in schema["properties"]["calls"]["items"]["anyOf"]
    ]
    assert names == ["shows_id", "check_movie_status", "get_feed_video_list_by_region"]


@pytest.mark.parametrize(
    ("answer", "output", "scores"),
    [
        (calling(("x", "{}")), '<tool_call name="x">{}</tool_call>', (True, False, False)),
        (
            calling(("x", "{}"), ("x", "{}")),
            '<tool_call name="x">{}</tool_call>' * 2,
            (False, False, False),
        ),
        (calling(("x", "{a: 1}")), '<tool_call name="x">{a: 1}</tool_call>', (False, False, False)),
        (calling(("x", "")), '<tool_call name="x"></tool_call>', (False, False, False)),
        (
            calling(("x", '{"a":1,"a":2}')),
            '<tool_call name="x">{"a":1,"a":2}</tool_call>',
            (False, False, False),
        ),
        (
            calling(("x", {"a": 1})),
            '<tool_call name="x">{"a": 1}</tool_call>',
            (True, False, False),
        ),
        (completion("I would call x."), "I would call x.", (False, False, False)),
        (
            completion('{"name": "x", "arguments": {}}'),
            '{"name": "x", "arguments": {}}',
            (False, False, False),
        ),
        (
            calling(("x", '{"a'), finish_reason="length"),
            '<tool_call name="x">{"a</tool_call>',
            (False, False, False),
        ),
    ],
    ids=[
        "one",
        "two",
        "no JSON",
        "no arguments",
        "a key twice",
        "an object",
        "text",
        "JSON as text",
        "cut off",
    ],
)
def test_what_comes_back_is_written_as_it_is_and_scored(shipped_home, answer, output, scores):
    with serving(lambda _: answer) as (root, _):
        run = ask(shipped_home, root)
    line = run.ledger[0]
    assert line.generation.output == output
    assert tuple(line.scores.values()) == scores
    assert line.generation.status == ("truncated" if output.endswith('{"a</tool_call>') else "ok")


@pytest.mark.parametrize(
    ("status", "body", "named"),
    [
        (400, {"message": "no", "param": "tools"}, "tools"),
        (
            400,
            {"message": "`tool_choice` is not supported by this model", "param": None},
            "tool_choice",
        ),
        (422, {"message": "extra fields not permitted: tools"}, "tools"),
    ],
)
def test_an_endpoint_that_refuses_the_field_ends_the_run_and_names_it(
    shipped_home, status, body, named
):
    with (
        serving(lambda _: error(status, **body)) as (root, _),
        pytest.raises(CallFailed, match=f"refuses `{named}`.*-native"),
    ):
        ask(shipped_home, root)


def test_an_endpoint_that_refuses_schemas_ends_the_run_and_names_the_field(shipped_home):
    refusal = error(
        400, message="response_format of type json_schema is not supported", param="response_format"
    )
    with (
        serving(lambda _: refusal) as (root, _),
        pytest.raises(CallFailed, match="refuses `response_format`"),
    ):
        ask(shipped_home, root, "structured")


def test_rows_without_tools_cannot_offer_any(toolcall_home):
    with (
        serving(lambda _: completion("x")) as (root, _),
        pytest.raises(ValueError, match=r"without tools\.json"),
    ):
        ask(toolcall_home, root)


def test_examples_and_native_form_do_not_go_together(shipped_home):
    with (
        serving(lambda _: completion("x")) as (root, _),
        pytest.raises(ValueError, match="-native or -shotsN"),
    ):
        ask(shipped_home, root, model="azure-native-shots2")


def test_a_native_run_is_another_question_over_the_same_rows(shipped_home):
    with serving(answer_right("toolcall")) as (root, exchanges):
        of_native = ask(shipped_home, root).metrics["run"]
        asked = len(exchanges)
        ask(shipped_home, root)  # read, not asked again
        assert len(exchanges) == asked
    with serving(lambda _: completion(TOOLCALL)) as (root, _):
        plain = ask(shipped_home, root, model="azure").metrics["run"]
    same = ("rows_sha256", "messages_sha256", "dataset_sha256", "max_new_tokens")
    assert [of_native[key] for key in same] == [plain[key] for key in same]
    assert "native_sha256" in of_native
    assert "native_sha256" not in plain


# --- how own rows are asked


def test_own_rows_are_asked_by_their_request_where_it_can_be_told_and_else_as_they_are():
    tool = parse_tool(AREA)
    made = Row(
        "Do it so and so.\n\narea: …\n\nRequest: Area of a circle?\nWith radius 5.", TOOLCALL
    )
    free = Row("Area of a circle with radius 5?", TOOLCALL)
    for row, expected in ((made, "Area of a circle?\nWith radius 5."), (free, free.prompt)):
        messages, form = native.ask_natively(
            "toolcall", row, make_facts("toolcall", row, row.prompt, [tool], {}), None
        )
        assert messages[-1]["content"] == expected
        assert form.tools == (AREA,)
    assert len(messages) == 1  # nothing is added to a prompt that is not understood


@pytest.mark.parametrize(
    ("schema", "sent"),
    [
        (None, {"type": "json_object"}),
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, False),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "integer"}},
                "required": ["a"],
                "additionalProperties": False,
            },
            True,
        ),
    ],
)
def test_own_structured_rows_are_asked_by_their_schema(schema, sent):
    row = Row("Give JSON with a.", '{"a":1}')
    _, form = native.ask_natively("structured", row, None, schema)
    found = form.to_request()["response_format"]
    if schema is None:
        assert found == sent
    else:
        assert found["json_schema"] == {"name": "answer", "schema": schema, "strict": sent}
    assert not form.is_wrapped


def test_a_schema_of_an_array_is_wrapped_with_its_definitions_above():
    schema = {
        "type": "array",
        "items": {"$ref": "#/$defs/day"},
        "$defs": {"day": {"type": "integer"}},
    }
    root, is_wrapped = native.wrap_schema(schema)
    assert is_wrapped
    assert root["$defs"] == schema["$defs"]
    assert root["properties"] == {"calls": {"type": "array", "items": {"$ref": "#/$defs/day"}}}


# --- native output never scores better than what the model said


@pytest.mark.parametrize(
    ("said", "output"),
    [
        ('{"calls": [1, 2.0, "é"]}', '[1,2.0,"é"]'),
        ('{"calls": [{"b": 1, "a": 2}]}', '[{"b":1,"a":2}]'),  # order is kept
        ('{"calls": [1], "calls": [2]}', '{"calls": [1], "calls": [2]}'),  # which one did it mean?
        ('{"calls": [{"a":1,"a":2}]}', '{"calls": [{"a":1,"a":2}]}'),
        ('{"calls": [1], "note": "x"}', '{"calls": [1], "note": "x"}'),
        ('{"calls": [NaN]}', '{"calls": [NaN]}'),
        ('```json\n{"calls": [1]}\n```', '```json\n{"calls": [1]}\n```'),
        ("[1]", "[1]"),
        (
            '{"calls": ["\\ud83d\\ude00", 12345678901234567890, 1e2]}',
            '["😀",12345678901234567890,100.0]',
        ),
    ],
)
def test_an_array_is_unwrapped_only_from_what_is_strict_json(said, output):
    assert LISTING.read_message(said, []) == output
    assert LISTING.read_output(said) == output


def test_a_name_that_closes_the_wrapper_makes_no_call():
    name = 'area">{"radius":5}</tool_call>'
    written = CALLING.read_message("", [(name, "{}")])
    assert not any(score_row("toolcall", TOOLCALL, written).values())


JSON_TEXTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
).map(json.dumps)


@given(
    st.lists(
        st.tuples(st.sampled_from(["area", "x", '">', "a b"]), JSON_TEXTS | st.text()), max_size=3
    ),
    st.text(),
)
def test_only_one_call_with_an_object_of_arguments_is_a_call(calls, content):
    written = CALLING.read_message(content, calls)
    valid = score_row("toolcall", TOOLCALL, written)["valid_call"]
    if calls:
        arguments = parse_output("structured", calls[0][1])
        is_one = len(calls) == 1 and arguments is not None and isinstance(arguments.value, dict)
        assert not valid or is_one
        if is_one and calls[0][0] in ("area", "x") and "tool_call" not in calls[0][1]:
            assert valid
    else:
        assert written == content


@given(JSON_TEXTS)
def test_unwrapping_changes_no_value(text):
    inner = parse_output("structured", text)
    if inner is not None:
        found = parse_output("structured", LISTING.read_message(f'{{"calls": {text}}}', []))
        assert found == inner


@pytest.mark.parametrize(
    ("output", "call"),
    [
        ('{"name": "area", "arguments": {"radius": 5}}', TOOLCALL),
        ('<tool_call>\n{"name": "area", "arguments": {"radius": 5}}\n</tool_call>', TOOLCALL),
        ('Sure: {"name": "area", "arguments": {}}', None),
        ('[{"name": "area", "arguments": {}}]', None),
        ('{"name": "area", "arguments": "{}"}', None),
        ('{"name": 5, "arguments": {}}', None),
        ("5", None),
    ],
)
def test_calls_are_read_from_a_models_own_forms(output, call):
    assert native.read_call(output) == (call and parse_output("toolcall", call))


def test_a_text_around_the_tags_or_tags_within_the_call_make_no_call():
    assert native.read_call('x <tool_call>{"name": "area", "arguments": {}}</tool_call>') is None
    assert native.read_call('{"name": "area", "arguments": <tool_call>{}</tool_call>}') is None


def test_references_of_a_tools_parameters_begin_at_their_own_root():
    parameters = {
        "type": "object",
        "properties": {"r": {"$ref": "#/$defs/r"}},
        "$defs": {"r": {"type": "integer"}},
    }
    tools = [
        {"type": "function", "function": {"name": name, "parameters": parameters}} for name in "ab"
    ]
    schema = native.call_schema(tools)
    jsonschema.validate({"name": "b", "arguments": {"r": 1}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "b", "arguments": {"r": "x"}}, schema)
    assert "$id" not in json.dumps(native.call_schema([AREA]))
