"""What real endpoints said, word for word, and what it means; and that no body can raise."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import as_json, serving

from swaplib.models import completions, endpoints
from swaplib.models.endpoints import MEANINGS, Refusal, find_meaning, quote, read_refusal
from swaplib.models.hosted import HostedLLM
from swaplib.models.replies import CallFailed
from swaplib.settings import ROOT

# the body of each line of the table, as the line's source shows it
SEEN = [
    json.loads(line)
    for line in (Path(__file__).parent / "golden" / "endpoints.jsonl").read_text().splitlines()
]
BODIES = {seen["name"]: (seen["status"], seen["body"]) for seen in SEEN}


def ask(root: str, n: int = 1, prompt: str = "What is the area of a circle?", **options) -> dict:
    llm = HostedLLM(f"{root}/v1", "key-of-the-test", None, "gpt", **options)
    return dict(
        llm.generate([[{"role": "user", "content": f"{prompt} {i}"}] for i in range(n)], 32)
    )


@pytest.mark.parametrize("line", MEANINGS, ids=lambda line: line.name)
def test_each_line_of_the_table_fits_what_its_endpoint_said(line):
    status, body = BODIES[line.name]
    refusal = read_refusal(status, body)
    assert line.fits(refusal)
    assert find_meaning(refusal).means == line.means
    assert (
        line.source.startswith("https://")
        or line.source.count("/") == 3
        or (ROOT / line.source).is_file()
    )


def test_each_line_has_a_body_and_none_has_a_line_no_more():
    assert list(BODIES) == [line.name for line in MEANINGS]


@pytest.mark.parametrize("line", MEANINGS, ids=lambda line: line.name)
def test_what_an_endpoint_said_ends_a_row_or_the_run_in_one_call(line):
    status, body = BODIES[line.name]
    with serving(lambda _: as_json(body, status)) as (root, exchanges):
        if expected := {
            "too long": "truncated",
            "cut off": "truncated",
            "filtered": "filtered",
        }.get(line.means):
            [generation] = ask(root).values()
            assert (generation.status, generation.output, generation.error) == (expected, "", None)
        else:
            with pytest.raises(CallFailed) as caught:
                ask(root)
            word = {
                "quota": "used up",
                "unknown model": "AZURE_DEPLOYMENT",
                "limit too high": "max_new_tokens",
            }
            assert word.get(line.means, "AZURE_REASONING") in str(caught.value)
    assert len(exchanges) == 1


def complete(text: str | None, finish_reason: object = "stop", **more):
    return {
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": finish_reason,
                **more,
            }
        ]
    }


@pytest.mark.parametrize(
    ("reason", "status"),
    [(reason, end) for reason, (end, _) in endpoints.ENDS.items()]
    + [("MAX_TOKENS", "truncated"), ("end_turn", "ok")],
)
def test_how_an_answer_ended_decides_what_it_is(reason, status):
    with serving(lambda _: as_json(complete("half", reason))) as (root, _):
        [generation] = ask(root).values()
    assert generation.status == status
    assert generation.output == ("" if status == "error" else "half")


@pytest.mark.parametrize(
    "body",
    [
        complete('{"events": [{"title": "partial', "error"),
        complete("", "error"),
        complete(None, "error"),
        complete("half", None, error={"code": 502, "message": "Upstream error"}),
        complete("I am sorry", "stop", error={"code": 502, "message": "Upstream error"}),
        complete("half") | {"error": {"message": "Provider returned error", "code": 429}},
        {"error": {"message": "Provider returned error", "code": 502}},
        {"error": "Internal error"},
        {"choices": None, "error": {"message": "Upstream", "code": "server_error"}},
        {"object": "error", "message": "out of memory", "type": "InternalServerError", "code": 500},
        {
            "id": None,
            "choices": None,
            "created": 1768361801,
            "model": None,
            "object": None,
            "usage": None,
        },
    ],
)
def test_an_error_inside_a_200_is_no_answer_of_the_model(body):
    with serving(lambda _: as_json(body)) as (root, _):
        [generation] = ask(root).values()
    assert (generation.status, generation.output) == ("error", "")


def test_a_refusal_inside_a_200_means_what_it_means_elsewhere():
    with serving(lambda _: as_json(BODIES["llama.cpp"][1])) as (root, _):
        assert ask(root)[0].status == "truncated"
    with (
        serving(lambda _: as_json(BODIES["vLLM, model"][1])) as (root, _),
        pytest.raises(CallFailed, match="answered 404"),
    ):
        ask(root)


def test_an_unknown_refusal_keeps_its_status_and_a_few_masked_words():
    said = (
        "Field \x1b[31mfoo\x1b[0m is\nwrong for key-of-the-test and "
        "sk-abcdefghijklmnopqrstuvwxyz123456 " + "x" * 500
    )
    with serving(lambda _: as_json({"error": {"message": said, "code": "bad_field"}}, 400)) as (
        root,
        _,
    ):
        [generation] = ask(root).values()
    assert generation.error.startswith(
        "BadRequestError 400 (bad_field): Field [31mfoo [0m is wrong for *** and ***"
    )
    assert generation.error.isprintable()
    assert len(generation.error) < 220


@pytest.mark.parametrize(
    "said",
    ["cannot parse: What is the area of a circle? 0", "input: the area of a circle is no field"],
)
def test_words_that_repeat_the_prompt_are_not_kept(said):
    with serving(lambda _: as_json({"error": {"message": said}}, 400)) as (root, _):
        [generation] = ask(root).values()
    assert generation.error == "BadRequestError 400 (no code)"


def test_a_refusal_of_every_row_stops_the_run_after_five():
    body = {
        "error": {"message": "the parameter `messages` has no field `role`", "code": "bad_messages"}
    }
    with (
        serving(lambda _: as_json(body, 400)) as (root, exchanges),
        pytest.raises(CallFailed) as caught,
    ):
        ask(root, n=50, concurrency=2)
    assert "the first 5 calls" in str(caught.value)
    assert "has no field `role`" in str(caught.value)
    assert len(exchanges) <= 7


def test_turns_of_an_agent_count_as_one_run():
    with serving(lambda _: as_json({"error": {"message": "no"}}, 400)) as (root, exchanges):
        llm = HostedLLM(f"{root}/v1", "key-of-the-test", None, "gpt")
        turn = [[{"role": "user", "content": "What is it?"}]]
        assert [dict(llm.generate(turn, 8))[0].status for _ in range(4)] == ["error"] * 4
        with pytest.raises(CallFailed, match="the first 5 calls"):
            list(llm.generate(turn, 8))
    assert len(exchanges) == 5


def test_a_few_refused_rows_among_answered_ones_stop_nothing():
    def answer(exchange):
        n = int(exchange.json()["messages"][-1]["content"].split()[-1])
        return (
            as_json(complete("yes")) if n % 7 == 0 else as_json({"error": {"message": "odd"}}, 400)
        )

    with serving(answer) as (root, _):
        answers = ask(root, n=20, concurrency=1)
    assert [answers[i].status for i in range(20)] == [
        "ok" if i % 7 == 0 else "error" for i in range(20)
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = (
    "error",
    "choices",
    "usage",
    "object",
    "message",
    "code",
    "type",
    "param",
    "detail",
    "status_code",
    "data",
    "id",
)
INNER = (
    "message",
    "finish_reason",
    "error",
    "content",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "prompt_tokens",
)


def shaped(*keys: str, inner=JSON):
    return st.dictionaries(st.sampled_from(keys), inner, max_size=5)


BODY = JSON | shaped(
    *KEYS,
    inner=JSON
    | st.lists(shaped(*INNER, *KEYS, inner=JSON | shaped(*INNER) | st.lists(shaped(*INNER)))),
)


@given(BODY, st.sampled_from([200, 400, 404, 422, 429, 500]))
def test_no_body_of_any_shape_raises(body, status):
    refusal = read_refusal(status, body)
    find_meaning(refusal)
    assert quote(refusal, ["a-secret-key"], ["a prompt"]).isprintable()
    completions.read_completion(body)
    completions.list_models(body)


@given(st.text())
def test_what_is_shown_is_one_printable_line(text):
    assert endpoints.make_printable(text).isprintable()
    assert len(endpoints.make_printable(text)) <= 100


def test_counts_that_no_endpoint_has_are_none():
    for count in (True, -1, 1.5, "7", 10**30, None):
        found = completions.read_completion(
            complete("x") | {"usage": {"prompt_tokens": count, "completion_tokens": 3}}
        )
        assert (found.prompt_tokens, found.completion_tokens) == (None, 3)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000,
        b'{"choices":' * 50_000,
        b'{"error":' * 50_000,
        json.dumps(complete(None)).encode()[:-9],
    ],
)
@pytest.mark.parametrize("status", [200, 400])
def test_deep_and_broken_bodies_end_a_row_and_not_the_run(content, status):
    with serving(lambda _: (status, {}, content)) as (root, _):
        [generation] = ask(root).values()
    assert generation.status == "error"


def test_arguments_too_deep_to_write_are_empty():
    deep: dict = {}
    for _ in range(100_000):
        deep = {"a": deep}
    assert endpoints.to_text(deep) == ""
    while deep:  # taken apart link by link, as Python itself would do it recursively
        deep = deep["a"]


def test_the_first_line_that_fits_counts():
    assert (
        find_meaning(
            Refusal(
                400, message="max_tokens is too large: 9. This model's maximum context length is 8"
            )
        ).means
        == "too long"
    )
    assert find_meaning(Refusal(400, message="something else")) is None
