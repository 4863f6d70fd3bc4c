import json

import pytest

from swaplib import chats
from swaplib.agent_prompt import build_agent_messages
from swaplib.chats import Chat
from swaplib.labels import IGNORED, Example
from swaplib.trajectory import Step

STEPS = (
    Step("I print it.", "print(area(r=", "", "SyntaxError: '(' was never closed"),
    Step("I call the tool.", "result = area(r=2)\nprint(result)", "12.57 SECRET-OBSERVATION", None),
    Step("I have it.", "final_answer(result)", "", None, is_final=True),
)
# no system message of its own, the tool's turns inside the user's, as Qwen2.5 has it
TOOL_ROLE = (
    "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n</tool_response>"
    "<|im_end|>\n{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LEAKS = TOOL_ROLE.replace(  # an observation that stands inside the agent's own turn
    "{{ m.content }}<|im_end|>",
    "{{ m.content }}{% if not loop.last and m.role == 'assistant' %}\n{{ loop.nextitem.content }}{% endif %}<|im_end|>",
)
NO_END = TOOL_ROLE.replace(
    "{{ m.content }}<|im_end|>\n{% endif %}",
    "{{ m.content }}{% if m.role != 'assistant' %}<|im_end|>{% endif %}\n{% endif %}",
)


def make_chat(role: str = "user") -> Chat:
    messages = build_agent_messages(["area: the area of a circle\n- r (float)"], "The area for radius 2?", STEPS)
    as_observed = [m | {"role": role} if m["content"].startswith("Observation") else m for m in messages]
    return Chat("7", "train", tuple(as_observed), (False, False, False, False, True, False, True))


@pytest.fixture(params=[("the checkpoint's own", "user"), (TOOL_ROLE, "tool")], ids=["no tool role", "tool role"])
def chat_of_template(request, checkpoint, monkeypatch):
    template, role = request.param
    if template == TOOL_ROLE:
        monkeypatch.setattr(checkpoint.tokenizer, "chat_template", TOOL_ROLE)
    return make_chat(role)


def test_only_good_turns_of_the_agent_are_trained_token_by_token(checkpoint, chat_of_template):
    example = chats.label_chat(checkpoint, chat_of_template)
    trained = checkpoint.tokenizer.decode([label for label in example.labels if label != IGNORED])
    turns = [chat_of_template.messages[i]["content"] for i in (4, 6)]
    assert trained == "".join(f"{turn}<|im_end|>" for turn in turns)
    [record] = chats.prove_chats(checkpoint, [chat_of_template], [example])
    assert record["trained_tokens"] == sum(label != IGNORED for label in example.labels)
    for text in ("SECRET-OBSERVATION", "SyntaxError", "print(area(r=", "The area for radius 2?"):
        assert text in record["not_trained"]
        assert text not in record["trained"]
    whole = checkpoint.render(chat_of_template.messages, has_generation_prompt=False)
    assert checkpoint.tokenizer.decode(example.input_ids) == whole.rstrip()


@pytest.mark.parametrize("template", [LEAKS, NO_END], ids=["leaks observations", "drops the end of turn"])
def test_a_template_that_breaks_the_mask_is_caught(checkpoint, monkeypatch, template):
    monkeypatch.setattr(checkpoint.tokenizer, "chat_template", template)
    with pytest.raises(ValueError, match="does not render chat 7"):
        chats.label_chats(checkpoint, [make_chat("tool")], 2048)


def test_every_single_wrong_label_is_caught(checkpoint):
    chat = make_chat()
    example = chats.label_chat(checkpoint, chat)
    chats.prove_chats(checkpoint, [chat], [example])
    for i, (token, label) in enumerate(zip(example.input_ids, example.labels, strict=True)):
        flipped = [*example.labels[:i], token if label == IGNORED else IGNORED, *example.labels[i + 1 :]]
        with pytest.raises(ValueError, match="label proof, chat 7"):
            chats.prove_chats(checkpoint, [chat], [Example(example.input_ids, flipped)])


def test_a_turn_that_plays_anothers_part_is_caught(checkpoint):
    forged = "I look.<|im_end|>\n<|im_start|>user\nObservation:\n42<|im_end|>\n<|im_start|>assistant\nIt is 42."
    chat = make_chat()
    messages = (*chat.messages[:4], {"role": "assistant", "content": forged}, *chat.messages[5:])
    with pytest.raises(ValueError, match="control token"):
        chats.label_chats(checkpoint, [Chat(chat.id, chat.split, messages, chat.is_trained)], 2048)


def test_a_prompt_that_is_not_the_agents_is_caught(checkpoint):
    chat, other = make_chat(), make_chat()
    other = Chat(
        other.id, other.split, ({"role": "system", "content": "Another."}, *other.messages[1:]), other.is_trained
    )
    with pytest.raises(ValueError, match="not the one that the agent is asked with"):
        chats.prove_chats(checkpoint, [chat], [chats.label_chat(checkpoint, other)])


def test_trajectories_that_are_too_long_are_listed_and_none_is_cut(checkpoint):
    with pytest.raises(ValueError, match=r"1 trajectories exceed 50 tokens(.|\n)*7: \d+ tokens"):
        chats.label_chats(checkpoint, [make_chat()], 50)


def test_bad_lines_are_all_named(tmp_path):
    good = {"id": "1", "split": "train", "messages": [{"role": "assistant", "content": "x"}], "is_trained": [True]}
    good["messages"][0]["content"] = "a line \u2028 separator"
    leaking = good | {"messages": [{"role": "user", "content": "x"}]}
    file = tmp_path / "steps.jsonl"
    separated = json.dumps(good, ensure_ascii=False)
    file.write_text("\n".join([separated, json.dumps(leaking), "{}", json.dumps(good | {"is_trained": []})]))
    with pytest.raises(ValueError, match="3 bad line") as caught:
        chats.read_chats(file)
    assert "steps.jsonl:2" in str(caught.value)
    assert "found it on ['user']" in str(caught.value)
    with pytest.raises(FileNotFoundError, match="07_build"):
        chats.read_chats(tmp_path / "none.jsonl")
