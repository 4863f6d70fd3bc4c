"""A log of exchanges becomes rows: each is decided as expected, and nothing is lost."""

import json
import subprocess
import sys

import pytest
from servers import completion, serving

from swaplib.data import dataset, traffic_rows
from swaplib.data.conversation import NoRowError
from swaplib.data.exchange_files import parse_exchange, read_lines
from swaplib.data.facts import read_facts
from swaplib.data.near_duplicates import count_near_duplicates
from swaplib.data.private_values import Placeholders, is_iban
from swaplib.data.traffic import make_row
from swaplib.evaluation import evaluate
from swaplib.metrics import score_row
from swaplib.models.dataset_form import is_hosted_gold
from swaplib.models.native import ask_natively
from swaplib.report import data_tables
from swaplib.report.notes import say_gold
from swaplib.rows import read_rows

SIZES = {"toolcall": "340/60/100", "structured": "600/80/100"}
DESK = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "description": "The book's title."},
        "days": {"type": "integer", "description": "For how long."},
        "branch": {"type": "string", "enum": ["north", "south"]},
    },
    "required": ["title"],
    "additionalProperties": False,
}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "lend_book", "description": "Lend.", "parameters": DESK},
    },
    {
        "type": "function",
        "function": {"name": "opening_hours", "description": "When.", "parameters": {}},
    },
]
PLACE = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE}}
CALL = ("lend_book", '{"title": "Emma", "days": 7}')
LENT = '<tool_call name="lend_book">{"title":"Emma","days":7}</tool_call>'


def ask(text="Lend me Emma for a week", **fields):
    messages = [{"role": "system", "content": "You run a desk."}, {"role": "user", "content": text}]
    return {"model": "m", "messages": messages, "tools": TOOLS} | fields


def calling(*calls, content=None):
    made = [
        {"id": f"c{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for i, (name, arguments) in enumerate(calls)
    ]
    return {"role": "assistant", "content": content, "tool_calls": made}


def answer(message, finish_reason="tool_calls", **fields):
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return {"id": "r", "choices": [choice], "usage": {"prompt_tokens": 9}} | fields


def saying(text, finish_reason="stop", **fields):
    return answer({"role": "assistant", "content": text}, finish_reason, **fields)


def streamed(*deltas, finish_reason="tool_calls"):
    chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    return [*chunks, {"choices": [{"index": 0, "delta": {}, "finish_reason": finish_reason}]}]


def pair(response, **fields):
    return {"request": ask(**fields), "response": response}


def piece(arguments, **function):
    return {"tool_calls": [{"index": 0, "function": {"arguments": arguments, **function}}]}


PARTS = [
    {
        "role": "user",
        "content": [{"type": "text", "text": "Lend me "}, {"type": "text", "text": "Emma"}],
    }
]
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
FILTERED = {"hate": {"filtered": False}, "violence": {"filtered": True}}
LOOP = [
    {"role": "user", "content": "Is Emma in, and lend it"},
    calling(("opening_hours", "{}")),
    {"role": "tool", "tool_call_id": "c0", "content": "9 to 5"},
]
OLD = {
    "role": "assistant",
    "content": None,
    "function_call": {"name": CALL[0], "arguments": CALL[1]},
}
NOT_OFFERED = "a tool is called that was not offered"
MISFIT = "arguments do not fit the schema of their tool"
NO_FORM = "a text, where neither a call nor JSON was asked for"
FILTER = "a content filter has taken the answer or a part of it"

# what is planted: its name, the line's value, and the completion or the reason
PLANTED = [
    ("one call", pair(answer(calling(CALL))), LENT),
    ("a call with a text beside", pair(answer(calling(CALL, content="Sure."))), LENT),
    (
        "a call without arguments",
        pair(answer(calling(("opening_hours", "")))),
        '<tool_call name="opening_hours">{}</tool_call>',
    ),
    ("arguments as an object", pair(answer(calling((CALL[0], json.loads(CALL[1]))))), LENT),
    ("a call that ended with stop", pair(answer(calling(CALL), "stop")), LENT),
    ("the older function_call", pair(answer(OLD, "function_call")), LENT),
    (
        "the older functions",
        pair(answer(OLD), tools=[], functions=[t["function"] for t in TOOLS]),
        LENT,
    ),
    (
        "two calls",
        pair(answer(calling(CALL, ("opening_hours", "{}")))),
        '[{"name":"lend_book","arguments":{"title":"Emma","days":7}},{"name":"opening_hours","arguments":{}}]',
    ),
    (
        "a streamed call",
        pair(
            streamed(piece("", name="lend_book"), piece('{"title": "Emma",'), piece(' "days": 7}'))
        ),
        LENT,
    ),
    (
        "a streamed call that Azure announces",
        pair(
            [{"choices": [], "prompt_filter_results": []}, *streamed(piece(CALL[1], name=CALL[0]))]
        ),
        LENT,
    ),
    ("text parts", pair(answer(calling(CALL)), messages=PARTS), LENT),
    ("a call after a tool's result", pair(answer(calling(CALL)), messages=LOOP), LENT),
    (
        "a call that is repeated after its result",
        pair(answer(calling(("opening_hours", " {} "))), messages=LOOP),
        "repeats a call that the conversation has answered already",
    ),
    (
        "JSON by a schema",
        pair(saying('{"city": "Rome"}'), tools=[], response_format=FORMAT),
        '{"city":"Rome"}',
    ),
    (
        "JSON of any shape",
        pair(saying('{"a": [1]}'), tools=[], response_format={"type": "json_object"}),
        '{"a":[1]}',
    ),
    (
        "a line of the recorder",
        {"id": "x", "exchange": pair(answer(calling(CALL))), "error": None},
        LENT,
    ),
    (
        "a line of a batch",
        {
            "custom_id": "1",
            "body": ask(),
            "response": {"status_code": 200, "body": answer(calling(CALL))},
        },
        LENT,
    ),
    (
        "a line for fine-tuning",
        {"messages": [*ask()["messages"], calling(CALL)], "tools": TOOLS},
        LENT,
    ),
    (
        "an observation of Langfuse",
        {
            "traceId": "t",
            "type": "GENERATION",
            "input": {"messages": ask()["messages"], "tools": TOOLS},
            "output": calling(CALL),
        },
        LENT,
    ),
    (
        "an observation as texts",
        {
            "traceId": "t",
            "type": "GENERATION",
            "input": json.dumps({"messages": ask()["messages"], "tools": TOOLS}),
            "output": json.dumps(calling(CALL)),
        },
        LENT,
    ),
    (
        "a span of Langfuse",
        {"traceId": "t", "type": "SPAN", "input": {}, "output": {}},
        traffic_rows.NOT_CALLS,
    ),
    (
        "an observation that failed",
        {
            "traceId": "t",
            "type": "GENERATION",
            "level": "ERROR",
            "statusMessage": "429",
            "input": ask()["messages"],
            "output": None,
        },
        "the call failed",
    ),
    (
        "cut off",
        pair(answer(calling((CALL[0], '{"title": "Em')), "length")),
        "cut off at the token limit",
    ),
    ("cut off by another server", pair(saying("Em", "model_length")), "cut off at the token limit"),
    (
        "refused",
        pair(answer({"role": "assistant", "content": None, "refusal": "I can't."}, "stop")),
        "refused by the model",
    ),
    ("filtered", pair(saying("", "content_filter")), FILTER),
    (
        "filtered, as Azure says it",
        pair(answer(calling(CALL), content_filter_results=FILTERED)),
        FILTER,
    ),
    (
        "filtered in a stream",
        pair(
            [
                *streamed(piece(CALL[1], name=CALL[0]), finish_reason=None),
                {
                    "choices": [
                        {
                            "index": 0,
                            "delta": {},
                            "finish_reason": "content_filter",
                            "content_filter_results": FILTERED,
                        }
                    ]
                },
            ]
        ),
        FILTER,
    ),
    ("an error for an answer", pair({"error": {"message": "overloaded"}}), "the call failed"),
    ("no answer", pair(None), "no answer"),
    ("no choice", pair({"choices": []}), "no answer"),
    (
        "two choices",
        pair(
            {
                "choices": [
                    {"index": i, "finish_reason": "stop", "message": {"content": "a"}}
                    for i in (0, 1)
                ]
            }
        ),
        "several answers to one request",
    ),
    (
        "an end that nobody knows",
        pair(saying("a", "paused")),
        "ended for a reason that is not known here",
    ),
    ("a text", pair(saying("We open at nine.")), NO_FORM),
    ("a tool that was not offered", pair(answer(calling(("burn_book", "{}")))), NOT_OFFERED),
    ("a call where no tool was offered", pair(answer(calling(CALL)), tools=[]), NOT_OFFERED),
    ("a wrong type", pair(answer(calling((CALL[0], '{"title": "Emma", "days": "7"}')))), MISFIT),
    (
        "a value that is none of the enum",
        pair(answer(calling((CALL[0], '{"title": "Emma", "branch": "east"}')))),
        MISFIT,
    ),
    (
        "a parameter too many",
        pair(answer(calling((CALL[0], '{"title": "Emma", "now": true}')))),
        MISFIT,
    ),
    ("a parameter too few", pair(answer(calling((CALL[0], "{}")))), MISFIT),
    ("a second call that does not fit", pair(answer(calling(CALL, (CALL[0], "{}")))), MISFIT),
    (
        "arguments cut in the middle",
        pair(answer(calling((CALL[0], '{"title": ')))),
        "arguments that are no JSON",
    ),
    (
        "arguments that are a list",
        pair(answer(calling((CALL[0], "[1]")))),
        "arguments that are no JSON object",
    ),
    (
        "an image",
        pair(answer(calling(CALL)), messages=IMAGE),
        "a message holds something that is no text",
    ),
    (
        "no user",
        pair(answer(calling(CALL)), messages=[{"role": "system", "content": "Hi"}]),
        "no message of a user",
    ),
    (
        "JSON in a fence",
        pair(saying('```json\n{"city": "Rome"}\n```'), tools=[], response_format=FORMAT),
        "an answer that is no JSON",
    ),
    (
        "JSON that does not fit",
        pair(saying('{"town": "Rome"}'), tools=[], response_format=FORMAT),
        "an answer that does not fit its schema",
    ),
    (
        "a tool without a name",
        pair(answer(calling(CALL)), tools=[{"type": "function", "function": {}}]),
        "tools that are not as the API has them",
    ),
]


def decide(value):
    """The completion of a line's row, or why there is none."""
    try:
        exchange = parse_exchange(value)
        return traffic_rows.NOT_CALLS if exchange is None else make_row(exchange).row.completion
    except NoRowError as why:
        return str(why)


@pytest.mark.parametrize(
    ("value", "expected"), [case[1:] for case in PLANTED], ids=[case[0] for case in PLANTED]
)
def test_a_planted_exchange_is_decided_as_expected(value, expected):
    assert decide(json.loads(json.dumps(value))) == expected


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (7, "expected a line of capture.record"),
        ({"prompt": "a", "completion": "b"}, "found an object with completion, prompt"),
        ({"messages": [{"role": "user", "content": "a"}]}, "the last one|last one is no assistant"),
        ({"custom_id": "1", "response": {"body": {}}}, "put the request's body beside it"),
        ({"request": {"input": "a"}, "response": {}}, "only chat completions are read"),
    ],
)
def test_a_line_that_is_no_exchange_says_what_was_expected(value, problem):
    with pytest.raises(ValueError, match=problem):
        parse_exchange(value)


def test_the_prompt_shows_every_tool_that_was_offered_and_the_conversation_before_the_request():
    made = make_row(
        parse_exchange(
            pair(
                answer(calling(CALL)),
                messages=[{"role": "system", "content": "You run a desk."}, *LOOP],
            )
        )
    )
    for text in (
        "one call of one of the tools below",
        "lend_book: Lend.",
        "opening_hours: When.",
        "system: You run a desk.",
        "user: Is Emma in, and lend it",
        "assistant calls opening_hours({})",
        "opening_hours gives: 9 to 5",
    ):
        assert text in made.row.prompt
    assert "default" not in made.row.prompt  # nobody told the hosted LLM of that rule
    alone = make_row(parse_exchange(pair(answer(calling(CALL)), messages=LOOP[:1])))
    assert alone.request == "Is Emma in, and lend it"


def test_private_values_get_one_word_in_prompt_and_gold_alike():
    text = (
        "Mail Ann.Lee@x.org, then ann.lee@x.org again; pay DE89 3704 0044 0532 0130 00, call "
        "+49 30 901820 or (555) 123-4567, key sk-abcdefghijklmnopqrstuv, order 4711 0815"
    )
    call = (
        "lend_book",
        json.dumps({"title": "ann.lee@x.org DE89370400440532013000 +49 30 901820"}),
    )
    made = make_row(parse_exchange(pair(answer(calling(call)), text=text)))
    assert '{"title":"[EMAIL_1] [IBAN_1] [PHONE_1]"}' in made.row.completion
    expected = (
        "Mail [EMAIL_1], then [EMAIL_1] again; pay [IBAN_1], call [PHONE_1] or [PHONE_2], key "
        "[SECRET_1], order 4711 0815"
    )
    assert expected in made.row.prompt
    assert made.n_private == 5


@pytest.mark.parametrize(
    "text",
    [
        "order 1234567890",
        "2026-11-26 14:33",
        "v1.2.3",
        "DE00 3704 0044 0532 0130 00",
        "a @ b",
        "3 + 4911",
    ],
)
def test_what_is_not_private_stays(text):
    assert Placeholders().replace({"a": [text, 7]}) == {"a": [text, 7]}
    assert is_iban("GB82 WEST 1234 5698 7654 32")


def write_log(path, values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def make_log(n):
    """Exchanges of n different requests, every third with two calls."""
    values = []
    for i in range(n):
        words = f"{['copper', 'velvet', 'maple'][i % 3]} {i * 7919} tale{i} of{i * 31}"
        calls = [("lend_book", json.dumps({"title": words})), ("opening_hours", "{}")][
            : 2 - (i % 3 > 0)
        ]
        values.append(pair(answer(calling(*calls)), text=f"Please lend {words}"))
    return values


def test_a_log_becomes_the_rows_of_both_tracks_and_every_line_is_accounted_for(settings, tmp_path):
    values = make_log(90)
    values += [values[1]] * 4 + [
        pair(answer(calling(CALL)), text="Twice"),
        pair(answer(calling(("opening_hours", "{}"))), text="Twice"),
    ]
    values += [pair(saying("Hello")), {"traceId": "t", "type": "SPAN", "input": 1, "output": 2}]
    path = write_log(tmp_path / "log.jsonl", values)
    with path.open("a") as file:
        file.write('{"torn": \n[]\n')
    made = dataset.build_dataset(settings, str(path), SIZES)
    manifest = made.manifest
    assert manifest["gold"] == "hosted"
    assert {t: sum(map(len, s.values())) for t, s in made.rows.items()} == {
        "toolcall": 60,
        "structured": 30,
    }
    assert manifest["exchanges"] == {"toolcall": 64, "structured": 30}
    assert manifest["left_out"] == {
        traffic_rows.CONTRADICTS: 2,
        NO_FORM: 1,
        traffic_rows.NOT_CALLS: 1,
        "not an exchange": 2,
    }
    assert [line.partition(": ")[0] for line in manifest["broken"]] == [
        "log.jsonl:99",
        "log.jsonl:100",
    ]
    assert (
        sum(manifest["exchanges"].values()) + sum(manifest["left_out"].values())
        == manifest["source_rows"]
    )
    for track, splits in made.rows.items():
        assert {split: len(rows) for split, rows in splits.items()}["test"] >= 9
        for split in splits:
            file = settings.dataset / track / f"{split}.jsonl"
            rows = read_rows(file, track)
            facts = read_facts(file, rows)
            assert all(len(fact.tools) == 2 for fact in facts)
            assert all(
                all(score_row(track, row.completion, row.completion).values()) for row in rows
            )
    counts = [
        f.count
        for s in ("train", "val", "test")
        for f in read_facts(settings.dataset / "toolcall" / f"{s}.jsonl", made.rows["toolcall"][s])
    ]
    assert sorted(counts)[-2:] == [1, 5]


def test_the_same_log_gives_the_same_rows_and_a_larger_one_no_more_than_asked_for(
    settings, tmp_path
):
    path = write_log(tmp_path / "log.jsonl", make_log(90))
    small = {"toolcall": "20/5/10", "structured": "10/2/5"}
    first = dataset.build_dataset(settings, str(path), small)
    assert dataset.build_dataset(settings, str(path), small).rows == first.rows
    assert {t: sum(map(len, s.values())) for t, s in first.rows.items()} == {
        "toolcall": 35,
        "structured": 17,
    }
    assert first.manifest["left_out"] == {"more than the sizes asked for": 38}


def test_nearly_equal_requests_of_a_log_are_counted_over_both_tracks(settings, tmp_path):
    assert count_near_duplicates([[0], [1, 2, 5], [3, 4]]) == {
        "clusters": 2,
        "rows": 5,
        "largest": 3,
    }
    assert count_near_duplicates([]) == {"clusters": 0, "rows": 0, "largest": 0}
    words = "a quiet novel about ships that nobody has read in years, for aunt"
    one, two = calling(CALL), calling(CALL, ("opening_hours", "{}"))
    similar = [(f"{words} {name}", one) for name in ("Ada", "Bea", "Cleo")]
    similar += [(f"both for {words} {name}", two) for name in ("Dora", "Eve")]
    values = make_log(90) + [pair(answer(made), text=text) for text, made in similar]
    path = write_log(tmp_path / "log.jsonl", values)
    manifest = dataset.build_dataset(settings, str(path), SIZES).manifest
    assert manifest["near_duplicates"] == {"clusters": 2, "rows": 5, "largest": 3}


def test_a_log_with_too_few_rows_says_what_became_of_its_lines(settings, tmp_path):
    path = write_log(tmp_path / "log.jsonl", [*make_log(3), *[pair(saying("Hello"))] * 4])
    with pytest.raises(ValueError, match=f"7 lines give no track 10 rows.*4 {NO_FORM}"):
        dataset.build_dataset(settings, str(path), SIZES)


def test_a_row_with_a_schema_is_asked_natively_with_it(settings, tmp_path):
    names = [
        "Rome",
        "Oslo",
        "Lima",
        "Bonn",
        "Riga",
        "Cork",
        "Nice",
        "Graz",
        "Bath",
        "Pisa",
        "Kyiv",
        "Linz",
    ]
    values = [
        pair(
            saying(json.dumps({"city": n})),
            text=f"{n} {n.lower()} {n.upper()}",
            tools=[],
            response_format=FORMAT,
        )
        for n in names
    ]
    made = dataset.build_dataset(settings, str(write_log(tmp_path / "log.jsonl", values)), SIZES)
    rows = made.rows["structured"]["train"]
    fact = read_facts(settings.dataset / "structured" / "train.jsonl", rows)[0]
    messages, form = ask_natively("structured", rows[0], fact, None)
    assert fact.schema == form.to_grammar() == PLACE
    assert messages == [{"role": "user", "content": rows[0].prompt}]
    assert list(made.rows) == ["structured"]


@pytest.mark.parametrize(
    "wrap", [lambda values: values, lambda values: {"data": values, "meta": {}}]
)
@pytest.mark.parametrize("indent", [None, 1])
def test_a_log_that_is_one_list_is_read_as_its_lines_are(tmp_path, wrap, indent):
    values = make_log(3)
    path = tmp_path / "export.json"
    path.write_text(json.dumps(wrap(values), indent=indent))
    assert [line.value for line in read_lines(path)] == values
    assert traffic_rows.is_traffic(path)


@pytest.mark.slow
def test_a_hundred_thousand_exchanges_are_read_in_the_memory_of_a_few(tmp_path):
    path = tmp_path / "log.jsonl"
    with path.open("w") as file:
        for value in make_log(100_000):
            value["padding"] = "x" * 2_000
            file.write(json.dumps(value) + "\n")
        file.write("broken\n")
    code = (
        "import json, resource, sys; from pathlib import Path\n"
        "from swaplib.data import traffic_rows\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "sizes = {t: {'train': 60, 'val': 10, 'test': 30} for t in ('toolcall', 'structured')}\n"
        "made, origin = traffic_rows.read_traffic(Path(sys.argv[1]), sizes, 1)\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(json.dumps([after - before, origin['source_rows'], origin['broken']]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    grown_kib, lines, broken = json.loads(done.stdout)
    assert lines == 100_001
    assert [line.partition(": ")[0] for line in broken] == ["log.jsonl:100001"]
    assert path.stat().st_size > 250 * 2**20
    assert grown_kib < 80 * 2**10


def test_a_report_over_a_log_says_that_its_rates_are_agreement(settings, tmp_path):
    assert not is_hosted_gold(settings)
    made = dataset.build_dataset(
        settings, str(write_log(tmp_path / "log.jsonl", make_log(90))), SIZES
    )
    assert is_hosted_gold(settings)
    assert "agreement with the hosted LLM" in say_gold({"gold": "hosted"})
    assert say_gold({}) == ""
    shown = data_tables.show_manifest(made.manifest).to_html()
    assert "90 of the log&#x27;s 90 exchanges" in shown or "90 of the log's 90 exchanges" in shown


def test_asking_the_hosted_llm_in_another_way_than_the_log_has_it_is_said(
    settings, tmp_path, capsys
):
    path = write_log(tmp_path / "log.jsonl", make_log(90))
    dataset.build_dataset(settings, str(path), SIZES)
    with serving(lambda exchange: completion("No.")) as (root, exchanges):
        known = {"azure_endpoint": f"{root}/v1", "azure_deployment": "m", "azure_api_key": "k" * 9}
        there = settings.model_copy(update=known)
        options = {"limit": 1, "probe": 0, "concurrency": 1}
        evaluate.run_models(there, "toolcall", "azure", **options)
        assert "azure-native asks by these, too" in capsys.readouterr().out
        evaluate.run_models(there, "toolcall", "azure-native", **options)
        assert "asks by these, too" not in capsys.readouterr().out
    asked = [exchange.json() for exchange in exchanges if exchange.method == "POST"]
    assert ["tools" in body for body in asked] == [False, True]
