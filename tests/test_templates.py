import json
import shutil

import pytest

from swaplib.evaluation import foresight
from swaplib.models import templates
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.prompts import build_messages
from swaplib.rows import Row
from swaplib.settings import ROOT

CHAT = [{"role": "user", "content": "Hi"}]
# as Qwen3 thinks unless told not to, and as Llama 3.2 writes today's date unless told another
THINKS_AND_DATES = (
    "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "Today: {{ date_string }}\n{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: "
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    "{% endif %}"
)


@pytest.fixture
def thinking(checkpoint, tmp_path) -> Checkpoint:
    """The packaged checkpoint with a template that thinks and writes the date."""
    copy = shutil.copytree(checkpoint.path, tmp_path / "thinking")
    (copy / "chat_template.jinja").write_text(THINKS_AND_DATES)
    return Checkpoint(copy)


def test_thinking_is_off_and_the_day_is_fixed_wherever_a_chat_is_rendered(thinking):
    assert thinking.render(CHAT) == "Today: 26 Jul 2024\nuser: Hi\nassistant: <think></think>"
    assert thinking.render(CHAT, has_generation_prompt=False) == "Today: 26 Jul 2024\nuser: Hi\n"
    row = Row("Hi", '<tool_call name="f">{}</tool_call>')
    [record] = foresight.count_tokens({"toolcall": {"test": [row]}}, thinking.path)
    text = thinking.render(build_messages("toolcall", row.prompt))
    assert record["prompt_max"] == thinking.count_tokens(text)


def test_a_template_that_asks_for_the_day_itself_gets_the_fixed_one(checkpoint, monkeypatch):
    monkeypatch.setattr(
        checkpoint.tokenizer,
        "chat_template",
        "{{ strftime_now('%Y-%m-%d') }} {{ messages[0].content }}",
    )
    assert checkpoint.render(CHAT) == "2024-07-26 Hi"


def test_identity_names_the_options_that_the_template_uses(checkpoint, thinking, monkeypatch):
    options = {"enable_thinking": False, "date_string": "26 Jul 2024", "strftime_now": "2024-07-26"}
    assert json.loads(json.dumps(thinking.identity()))["template_options"] == options
    assert checkpoint.identity()["template_options"] == {}
    monkeypatch.setattr(
        checkpoint.tokenizer,
        "chat_template",
        {"default": "{{ enable_thinking }}", "tool_use": "{{ x }}"},
    )
    assert checkpoint.identity()["template_options"] == {"enable_thinking": False}
    monkeypatch.setattr(checkpoint.tokenizer, "chat_template", None)
    assert templates.list_options(checkpoint.tokenizer) == {}


def test_no_module_renders_a_chat_with_options_of_its_own():
    modules = (ROOT / "swaplib").rglob("*.py")
    found = [module.name for module in modules if "apply_chat_template" in module.read_text()]
    assert found == ["templates.py"]


AREA = {"type": "function", "function": {"name": "area", "parameters": {"type": "object"}}}
CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "area", "arguments": {"radius": 5, "unit": "µm"}},
}
CALLED = [
    {"role": "user", "content": "Area?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
    {"role": "tool", "tool_call_id": "c1", "name": "area", "content": "78.5"},
    {"role": "tool", "tool_call_id": "c1", "name": "area", "content": "78.6"},
]


def test_calls_and_results_are_said_in_words_where_the_template_knows_none(checkpoint):
    text = '{"name": "area", "arguments": {"radius": 5, "unit": "µm"}}'
    said = [
        {"role": "user", "content": "Area?"},
        {"role": "assistant", "content": f"{text}\n{text}"},
        {"role": "user", "content": "Result of area: 78.5\nResult of area: 78.6"},
    ]
    assert checkpoint.render(CALLED) == checkpoint.render(said)
    spoken = [CALLED[0], {**CALLED[1], "content": "So:", "tool_calls": [CALL]}]
    assert checkpoint.render(spoken) == checkpoint.render(
        [CALLED[0], {"role": "assistant", "content": f"So:\n{text}"}]
    )


def test_tools_stand_before_the_last_request_not_before_a_result(checkpoint):
    asked = checkpoint.render(
        [{"role": "user", "content": f"You may call these tools:\n{SHOWN}\n\nArea?"}], False
    )
    assert checkpoint.render(CALLED, tools=[AREA]).startswith(asked)
    checkpoint.render(CALLED[1:], tools=[AREA])  # no request at all is no fault


SHOWN = json.dumps(AREA["function"])


def test_a_template_that_knows_calls_is_given_them_as_they_are(checkpoint, monkeypatch):
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content or '' }}"
        "{% for c in m.tool_calls or [] %}"
        "<{{ c.function.name }} {{ c.function.arguments | tojson }}>{% endfor %}. {% endfor %}"
    )
    monkeypatch.setattr(checkpoint.tokenizer, "chat_template", template)
    call = '<area {"radius": 5, "unit": "µm"}>'
    assert (
        checkpoint.render(CALLED)
        == f"user: Area?. assistant: {call}{call}. tool: 78.5. tool: 78.6. "
    )


OBSERVED = [*CHAT, {"role": "tool", "content": "42"}, {"role": "tool", "content": "43"}]
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}. {% endfor %}"
KNOWS_RESULTS = (
    "{% for m in messages %}{{ 'result' if m.role == 'tool' else m.role }}: {{ m.content }}. "
    "{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "role"), [(PLAIN, "tool"), (KNOWS_RESULTS, "result")], ids=["plain", "knows"]
)
def test_an_observation_that_answers_no_call_is_left_to_the_template(
    checkpoint, monkeypatch, template, role
):
    monkeypatch.setattr(checkpoint.tokenizer, "chat_template", template)
    assert checkpoint.render(OBSERVED) == f"user: Hi. {role}: 42. {role}: 43. "


def test_a_template_that_knows_results_and_no_calls_is_given_the_calls_alone_in_words(
    checkpoint, monkeypatch
):
    monkeypatch.setattr(checkpoint.tokenizer, "chat_template", KNOWS_RESULTS)
    text = '{"name": "area", "arguments": {"radius": 5, "unit": "µm"}}'
    said = f"user: Area?. assistant: {text}\n{text}. result: 78.5. result: 78.6. "
    assert checkpoint.render(CALLED) == said
