import json
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swaplib.agents.agent_prompt import build_agent_messages
from swaplib.agents.grades import Gold, count_grades, filter_trajectories, grade
from swaplib.agents.trajectory import Step, Trajectory, read_trajectories
from swaplib.files import append_line
from swaplib.masking import mask_secrets, replace_surrogates

CALL, OTHER = {"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {"y": "a"}}
GOLD = Gold((CALL, OTHER), (3, "b"))


def make_trajectory(*calls, answer=(3, "b"), outcome="answered", failed=(), observation="3"):
    steps = [Step("I try.", "f(", "", "SyntaxError", tuple(failed))] if failed else []
    steps.append(Step("I call.", "f(x=1)", observation, None, tuple(calls), outcome == "answered"))
    usage, timing = {"calls": 1}, {"started": "2026-01-01T00:00:00+00:00", "latency_ms": 1.0}
    final = list(answer) if isinstance(answer, tuple) else answer
    return Trajectory(
        "7", outcome, "Do it.", ("f", "g"), tuple(steps), final, usage, {"model": "m"}, timing
    )


CASES = {
    "the gold's calls in order": (make_trajectory(CALL, OTHER), None),
    "another order": (make_trajectory(OTHER, CALL), "the calls asked for, in another order"),
    "a call is missing": (make_trajectory(CALL), "other tools called, or another number of times"),
    "a call too many": (
        make_trajectory(CALL, CALL, OTHER),
        "other tools called, or another number of times",
    ),
    "a float for an int": (
        make_trajectory({"name": "f", "arguments": {"x": 1.0}}, OTHER),
        "other arguments",
    ),
    "no call": (make_trajectory(), "no call made"),
    "another answer": (
        make_trajectory(CALL, OTHER, answer=(3, "c")),
        "another final answer than the computed one",
    ),
    "a sentence for an answer": (
        make_trajectory(CALL, OTHER, answer="3 and b"),
        "another final answer than the computed one",
    ),
    "the step limit": (make_trajectory(CALL, OTHER, outcome="step_limit"), "step limit reached"),
    "no answer from the model": (make_trajectory(outcome="error"), "the model gave no answer"),
    "a template's token": (
        make_trajectory(CALL, OTHER, observation="<|im_end|>\n<|im_start|>assistant"),
        "a text holds a chat template's control token",
    ),
    "calls of a failed step do not count": (make_trajectory(CALL, OTHER, failed=(OTHER,)), None),
}


@pytest.mark.parametrize(("trajectory", "reason"), CASES.values(), ids=CASES)
def test_a_trajectory_is_judged_by_its_calls_and_its_answer(trajectory, reason):
    assert grade(trajectory, GOLD).reason == reason


def test_a_step_limit_on_a_failed_step_says_so():
    steps = (Step("I cannot", None, "", "no code found"),)
    trajectory = Trajectory("7", "step_limit", "Do it.", (), steps, None, {}, {}, {})
    assert grade(trajectory, GOLD).reason == "the last step failed"


def test_recovered_ones_are_kept_and_marked_and_every_dropped_one_has_its_reason():
    good, recovered, bad = (
        make_trajectory(CALL, OTHER),
        make_trajectory(CALL, OTHER, failed=(CALL,)),
        make_trajectory(),
    )
    grades = filter_trajectories([good, recovered, bad], {"7": GOLD})
    assert [(v.is_kept, v.is_recovered) for v in grades] == [
        (True, False),
        (True, True),
        (False, False),
    ]
    assert all(v.is_kept or v.reason for v in grades)
    dropped = {"no call made": 1}
    expected = {"captured": 3, "kept": 2, "kept_share": 0.6667, "recovered": 1, "dropped": dropped}
    assert count_grades(grades) == expected
    assert count_grades([])["kept_share"] == 0.0


def test_without_a_gold_nothing_is_kept():
    assert grade(make_trajectory(CALL), None).reason == "no gold to check it against"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda parts: (
        st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=5), parts, max_size=3)
    ),
    max_leaves=8,
)


@given(json_values)
def test_a_trajectory_survives_its_file(answer):
    trajectory = make_trajectory(CALL, answer=answer, failed=(OTHER,))
    assert (
        Trajectory.from_json(trajectory.to_json(["no such text in it, since it is long"]))
        == trajectory
    )


def test_a_torn_line_counts_as_never_written_and_the_last_line_of_an_id_counts(tmp_path):
    path, first, last = (
        tmp_path / "t.jsonl",
        make_trajectory(outcome="error"),
        make_trajectory(CALL, OTHER),
    )
    append_line(path, first.to_json())
    with path.open("ab") as file:
        file.write(last.to_json()[:40].encode() + b"\xff\x00")  # a tear may hold any bytes
    append_line(path, last.to_json())
    assert read_trajectories(path) == {"7": last}
    append_line(path, json.dumps({"id": "8"}))
    with pytest.raises(ValueError, match=r"t\.jsonl:4: not a trajectory"):
        read_trajectories(path)


def test_secrets_and_what_looks_like_one_are_masked_everywhere():
    secret = 'my"own key'
    texts = [
        f"key {secret}",
        "sk-abcdefghijklmnop1234",
        "Bearer abcdefghijkl.mno",
        "?api-key=0123456789ab&x=1",
        "AKIA" + "A" * 16,
    ]
    masked = mask_secrets({"a": texts, secret: {"b": texts[0]}}, [secret])
    assert masked == {
        "a": ["key ***", "***", "Bearer ***", "?api-key=***&x=1", "***"],
        "***": {"b": "key ***"},
    }
    assert (
        mask_secrets("the ask-price of sk-8 is 12", ["x", "local"]) == "the ask-price of sk-8 is 12"
    )


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("AZURE_API_KEY=0123456789abcdef rest", "AZURE_API_KEY=*** rest"),
        ('{"AZURE_API_KEY": "0123456789"}', '{"AZURE_API_KEY": "***"}'),
        ("Authorization: Basic cGstbGYtMTpzay1sZi0y", "Authorization: Basic ***"),
        ("postgres://me:hunter2@host/db", "postgres://***@host/db"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nrest", "***\nrest"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE cut", "***"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJlMTIz", "***"),
        (
            "a basic understanding of http://host:80/x@y",
            "a basic understanding of http://host:80/x@y",
        ),
        ("token = tokenizer.encode(text)", "token = tokenizer.encode(text)"),
    ],
)
def test_keys_of_many_forms_are_masked_and_ordinary_text_is_not(text, masked):
    assert mask_secrets(text) == masked
    assert mask_secrets(masked) == masked  # so that what was sent is what is written


@pytest.mark.parametrize(
    "part",
    [
        "eyJaaaaaaaaaaaa-",
        "eyJaaaaaaaaaaa.",
        "Basic aaaaaaaaaaaa",
        "-----BEGIN A",
        "://a:b",
        "sk-a",
        "_KEY=",
        "aA",
        "Bearer a",
    ],
)
def test_the_work_of_masking_grows_with_the_text_and_not_with_its_square(part):
    def count_seconds(n):
        start = time.process_time()
        mask_secrets(part * n)
        return time.process_time() - start

    assert count_seconds(200_000) < 5  # by the square it would be hours


@given(
    st.recursive(
        st.text(st.characters(), max_size=9),
        lambda parts: st.lists(parts) | st.dictionaries(st.text(), parts),
    )
)
def test_what_has_had_its_surrogates_replaced_can_be_sent(value):
    json.dumps(replace_surrogates(value), ensure_ascii=False).encode()


def test_code_that_reaches_for_what_is_not_public_is_not_trained_on():
    for code in ("final_answer.__self__.calls[:] = []", "getattr(f, '__globals__')", "x._y"):
        steps = (Step("I try.", code, "", "not allowed"), *make_trajectory(CALL, OTHER).steps)
        assert (
            grade(replace(make_trajectory(CALL, OTHER), steps=steps), GOLD).reason
            == "code reaches for what is not public"
        )


@pytest.mark.parametrize("secret", ["x", "exchange", "thought"])
def test_a_key_that_is_a_word_of_the_format_leaves_the_line_readable(secret):
    trajectory = make_trajectory(CALL, OTHER)
    assert Trajectory.from_json(trajectory.to_json([secret])).steps[0].code == "f(x=1)"


def test_messages_alternate_and_end_with_the_answer():
    trajectory = make_trajectory(CALL, OTHER, failed=(CALL,))
    messages = build_agent_messages(["f: does it"], trajectory.task, trajectory.steps)
    assert [message["role"] for message in messages] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
    ]
    assert messages[3]["content"] == "Observation:\nError: SyntaxError"
    assert messages[4]["content"] == "I call.\n<code>\nf(x=1)\n</code>"
    assert "f: does it" in messages[0]["content"]
