import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swaplib.agents.agent import CUT_OFF, AgentOptions, cut_turn, find_code, run_agent
from swaplib.agents.agent_prompt import NO_CODE
from swaplib.agents.sandbox import cell_process, session
from swaplib.agents.trajectory import Trajectory
from swaplib.demo.scripted_teacher import make_teacher
from swaplib.demo.teacher_turns import turn
from swaplib.rows import Generation

PIECES = (
    "<code>",
    "</code>",
    "```python",
    "```",
    "\n",
    " ",
    "#",
    "x = 1",
    "final_answer",
    "(",
    ")",
    "'",
    "I call it.",
    "\0",
)


class Parrot:
    """A model that says the given turns, the last one again and again."""

    def __init__(self, *outputs, status="ok"):
        self.outputs, self.status, self.asked = outputs, status, []

    def generate(self, conversations, max_new_tokens):
        self.asked += conversations
        output = self.outputs[min(len(self.asked), len(self.outputs)) - 1]
        yield 0, Generation(output, self.status, "stop", 5, 3, 1.0)

    def identity(self):
        return {"model": "parrot"}


def ask(parrot, **options):
    return run_agent(parrot, make_teacher(False).tasks[0], AgentOptions(**options))


@pytest.mark.parametrize(
    ("output", "code"),
    [
        ("I call it.\n<code>\nprint(1)\n</code>", "print(1)"),
        # Nothing behind the first end.
        ("<code>print(1)</code>\nObservation:\n1\n<code>print(2)</code>", "print(1)"),
        ("I call it.\n<code>\nprint(1)", "print(1)"),
        ("I write <code> and so on:\n<code>\nprint(1)\n</code>", "and so on:\n<code>\nprint(1)"),
        ("<code>\n```python\nprint(1)\n```\n</code>", "```python\nprint(1)\n```"),
        ("```python\nx = 1\n```\nthen\n```py\nprint(x)\n```", "x = 1\n\nprint(x)"),
        ("<code></code>\n```python\nprint(1)\n```", None),
        ("```python\nprint(1)\n```\n<code></code>", "print(1)"),
        ("```python\nprint(1)\n</code>", None),
        ("```\nprint(1)\n```", None),
        ("```python\nprint(1)", None),
        ("print(1)", None),  # it is closed with a tag, and no Python then
        ("print(1)  # done", "print(1)  # done</code>"),
        ("The answer is final_answer(48).", None),
        ("</code>", None),
        ("<code> </code>", None),
        ("", ""),
        ("<code>print(1</code>", "print(1"),
        (
            "<code>final_answer = 1\nfinal_answer(final_answer)</code>",
            "final_answer_variable = 1\nfinal_answer(final_answer_variable)",
        ),
        ("<code>final_answer = 1</code>", "final_answer = 1"),
        (
            "<code>a.final_answer = 1\nfinal_answer(a.final_answer)</code>",
            "a.final_answer = 1\nfinal_answer(a.final_answer)",
        ),
    ],
)
def test_code_is_found_where_models_put_it(output, code):
    assert find_code(cut_turn(output)) == code


@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join)))
def test_any_turn_has_code_or_none(output):
    found = find_code(cut_turn(output))
    assert found is None or isinstance(found, str)


@pytest.mark.parametrize(
    "output",
    ["", "I would call it.", "final_answer(48)", "</code>", "<code> </code>", "```\nprint(1)\n```"],
)
def test_a_turn_without_code_is_told_how_to_answer(output):
    parrot = Parrot(output)
    trajectory = ask(parrot)
    assert [(step.code, step.error) for step in trajectory.steps] == [(None, NO_CODE)] * 2
    assert parrot.asked[1][-1]["content"].endswith(NO_CODE)


def test_code_that_was_cut_off_is_not_run_and_prose_that_was_has_none():
    for output, error in (
        ("<code>\nfinal_answer(1)", CUT_OFF),
        (turn("I end.", "1 / 0"), "ZeroDivisionError"),
        ("I think", NO_CODE),
    ):
        trajectory = ask(Parrot(output, status="truncated"), max_steps=1)
        assert trajectory.steps[0].error.startswith(error)


def test_steps_that_do_not_fail_in_a_row_do_not_end_the_work():
    parrot = Parrot("I think.", turn("I look.", "print(1)"), "I think.", turn("I look.", "1 / 0"))
    trajectory = ask(parrot, max_steps=6)
    assert (len(trajectory.steps), trajectory.outcome, trajectory.usage) == (
        4,
        "step_limit",
        {"calls": 4, "prompt_tokens": 20, "completion_tokens": 12},
    )


def test_an_answer_ends_the_work_and_one_that_a_failure_followed_does_not():
    swallowed = ("try:", "    final_answer(1)", "except BaseException:", "    pass")
    assert len(ask(Parrot(turn("I answer.", *swallowed))).steps) == 1
    trajectory = ask(
        Parrot(turn("I answer.", *swallowed, "1 / 0"), turn("I answer.", "final_answer(2)"))
    )
    assert (len(trajectory.steps), trajectory.final_answer) == (2, 2)


def test_a_key_that_code_printed_is_not_sent_with_the_next_turn():
    key = "the-key-of-the-test"
    parrot = Parrot(
        turn("I look.", f"print('{key}', 'AZURE_API_KEY=0123456789abcdef')"),
        turn("I end.", f"final_answer('{key}')"),
    )
    trajectory = run_agent(parrot, make_teacher(False).tasks[0], secrets=(key,))
    assert key not in str(parrot.asked)
    assert "0123456789abcdef" not in str(parrot.asked)
    assert parrot.asked[1][-1]["content"] == "Observation:\n*** AZURE_API_KEY=***"
    assert trajectory.final_answer == "***"


def test_no_two_turns_of_the_agent_stand_in_a_row():
    swallowed = ("try:", "    final_answer(1)", "except BaseException:", "    pass", "1 / 0")
    parrot = Parrot(turn("I answer.", *swallowed), turn("I answer.", "final_answer(2)"))
    trajectory = ask(parrot)
    assert [message["role"] for message in parrot.asked[1]] == [
        "system",
        "user",
        "assistant",
        "user",
    ]
    assert [step.is_final for step in trajectory.steps] == [False, True]


@pytest.mark.parametrize(
    "code",
    [
        r"print('\ud83d\ude00'[::-1])",
        "x = []\nfor i in range(900): x = [x]\nfinal_answer(x)",
        "while True: pass",
        "final_answer({1: {2: 3}})",
        "().__class__.__mro__",
    ],
)
def test_whatever_a_cell_does_the_next_turn_can_be_sent_and_the_line_written(code):
    parrot = Parrot(turn("I try \ud83d.", code), turn("I end.", "final_answer(1)"))
    trajectory = ask(parrot, limits=session.Limits(cell_s=1))
    json.dumps(parrot.asked, ensure_ascii=False).encode()
    assert Trajectory.from_json(trajectory.to_json()) == trajectory
    assert trajectory.outcome == "answered"


def test_a_process_that_does_not_start_is_no_step_of_the_model(monkeypatch, tmp_path):
    (tmp_path / "child.py").write_text("raise SystemExit(1)")
    monkeypatch.setattr(cell_process, "PROGRAM", tmp_path / "child.py")
    with pytest.raises(RuntimeError, match="did not start"):
        ask(Parrot(turn("I call it.", "print(1)")))
