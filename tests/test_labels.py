"""One mask and one proof for rows and for trajectories: what is tested here is tested on both."""

import re
from dataclasses import replace

import pytest

from swaplib.agents.agent_prompt import build_agent_messages
from swaplib.agents.trajectory import Step
from swaplib.rows import read_rows
from swaplib.settings import ROOT
from swaplib.training import labels
from swaplib.training.chats import Chat, gather_rows
from swaplib.training.labels import IGNORED, TokenizedChat

DATA = ROOT / "slm_swap" / "02_dataset"
ROWS = {
    track: read_rows(DATA / track / "train.jsonl", track)[:5]
    for track in ("toolcall", "structured")
}
STEPS = (
    Step("I print it.", "print(area(r=", "", "SyntaxError: '(' was never closed"),
    Step("I call the tool.", "result = area(r=2)\nprint(result)", "12.57 SECRET-OBSERVATION", None),
    Step("I have it.", "final_answer(result)", "", None, is_final=True),
)
# no system message of its own, the tool's turns inside the user's, as Qwen2.5 has it
TOOL_ROLE = (
    "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n"
    "{{ m.content }}\n</tool_response>"
    "<|im_end|>\n{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LEAKS = TOOL_ROLE.replace(  # an observation that stands inside the agent's own turn
    "{{ m.content }}<|im_end|>",
    (
        "{{ m.content }}{% if not loop.last and m.role == 'assistant' %}\n"
        "{{ loop.nextitem.content }}{% endif %}<|im_end|>"
    ),
)
NO_END = TOOL_ROLE.replace(
    "{{ m.content }}<|im_end|>\n{% endif %}",
    "{{ m.content }}{% if m.role != 'assistant' %}<|im_end|>{% endif %}\n{% endif %}",
)
TEMPLATES = {
    "drops the end of turn": NO_END,
    "begins the turn": TOOL_ROLE.replace(
        "<|im_start|>assistant\n", "<|im_start|>assistant\nSure! "
    ),
}
KINDS = ("toolcall", "structured", "trajectory", "tool role")


def make_chat(kind: str) -> Chat:
    if kind in ROWS:
        return gather_rows(kind, {"train": ROWS[kind]}).chats["train"][2]
    messages = build_agent_messages(
        ["area: the area of a circle\n- r (float)"], "The area for radius 2?", STEPS
    )
    role = "tool" if kind == "tool role" else "user"
    as_observed = [
        m | {"role": role} if m["content"].startswith("Observation") else m for m in messages
    ]
    return Chat("7", "train", tuple(as_observed), (False, False, False, False, True, False, True))


@pytest.fixture(params=KINDS)
def chat(request, checkpoint, monkeypatch) -> Chat:
    if request.param == "tool role":
        monkeypatch.setattr(checkpoint.tokenizer, "chat_template", TOOL_ROLE)
    return make_chat(request.param)


def test_only_trained_turns_and_their_ends_carry_loss_token_by_token(checkpoint, chat):
    [example] = labels.label_chats(checkpoint, {"train": [chat]}, 2048)["train"]
    turns = [
        m["content"]
        for m, is_trained in zip(chat.messages, chat.is_trained, strict=True)
        if is_trained
    ]
    trained = [label for label in example.labels if label != IGNORED]
    assert checkpoint.tokenizer.decode(trained) == "".join(f"{turn}<|im_end|>" for turn in turns)
    [record] = labels.prove_labels(checkpoint, [chat], [example])
    assert (record["chat"], record["tokens"]) == (chat.id, len(example.input_ids))
    assert record["trained_tokens"] == len(trained)
    assert record["trained"] == "\n\n".join(f"{turn}<|im_end|>" for turn in turns)
    for message, is_trained in zip(chat.messages, chat.is_trained, strict=True):
        assert (message["content"] in record["trained"]) is is_trained
        assert (message["content"] in record["not_trained"]) is not is_trained
    assert "SECRET-OBSERVATION" not in record["trained"]
    whole = checkpoint.render(chat.messages, has_generation_prompt=False)
    assert checkpoint.tokenizer.decode(example.input_ids) == whole.rstrip()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_that_renders_training_otherwise_than_evaluation_is_refused(
    checkpoint, monkeypatch, template, kind
):
    chat = make_chat(kind)
    monkeypatch.setattr(checkpoint.tokenizer, "chat_template", TEMPLATES[template])
    with pytest.raises(ValueError) as caught:
        labels.label_chat(checkpoint, chat)
    assert (
        f"does not render chat {chat.id} as prompt, turn and '<|im_end|>' one after the other"
        in str(caught.value)
    )


def test_a_template_that_leaks_what_follows_into_a_turn_is_refused(checkpoint, monkeypatch):
    monkeypatch.setattr(checkpoint.tokenizer, "chat_template", LEAKS)
    with pytest.raises(ValueError, match="does not render chat 7"):
        labels.label_chats(checkpoint, {"train": [make_chat("tool role")]}, 2048)


def test_every_single_wrong_label_is_caught(checkpoint, chat):
    example = labels.label_chat(checkpoint, chat)
    labels.prove_labels(checkpoint, [chat], [example])
    for i, (token, label) in enumerate(zip(example.input_ids, example.labels, strict=True)):
        flipped = [
            *example.labels[:i],
            token if label == IGNORED else IGNORED,
            *example.labels[i + 1 :],
        ]
        with pytest.raises(
            ValueError, match=f"label proof, chat {re.escape(chat.id)}: trained turn"
        ):
            labels.prove_labels(checkpoint, [chat], [TokenizedChat(example.input_ids, flipped)])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda ids, made: (ids, [IGNORED] * len(made)), "from character 0 on '' is trained where"),
        (lambda ids, made: (ids, ids), "|im_start|>system\\n"),
        (
            lambda ids, made: (ids, [*made[:-1], IGNORED]),
            "'' is trained where '<|im_end|>' is expected",
        ),
        (lambda ids, made: (ids[:-1], made[:-1]), "'' is trained where '<|im_end|>' is expected"),
        (
            lambda ids, made: (ids[:-3] + ids[-1:], made[:-3] + made[-1:]),
            "'<|im_end|>' is trained where",
        ),
        (
            lambda ids, made: (ids, [*made[:-2], made[-2] + 1, made[-1]]),
            "another token than the one it is for",
        ),
        (
            lambda ids, made: (ids[1:], made[1:]),
            "the prompt of a turn is not the one that the model is asked with",
        ),
        (
            lambda ids, made: ([*ids, ids[0]], [*made, IGNORED]),
            "tokens follow the last trained turn",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["toolcall", "trajectory"])
def test_the_label_proof_fails_on_planted_labels_and_names_the_chat(
    checkpoint, kind, spoil, message
):
    chats = [make_chat("structured"), make_chat(kind)]
    examples = [labels.label_chat(checkpoint, chat) for chat in chats]
    examples[1] = TokenizedChat(*spoil(examples[1].input_ids, examples[1].labels))
    with pytest.raises(ValueError) as caught:
        labels.prove_labels(checkpoint, chats, examples)
    assert f"label proof, chat {'toolcall/train.jsonl:3' if kind == 'toolcall' else 7}: " in str(
        caught.value
    )
    assert message in str(caught.value)


def test_a_turn_that_plays_anothers_part_is_caught(checkpoint, chat):
    forged = (
        "I look.<|im_end|>\n<|im_start|>user\nObservation:\n42<|im_end|>\n"
        "<|im_start|>assistant\nIt is 42."
    )
    i = chat.is_trained.index(True)
    messages = (
        *chat.messages[:i],
        {"role": "assistant", "content": forged},
        *chat.messages[i + 1 :],
    )
    with pytest.raises(ValueError, match="control token"):
        labels.label_chats(checkpoint, {"train": [replace(chat, messages=messages)]}, 2048)


def test_a_prompt_that_evaluation_does_not_ask_with_is_caught(checkpoint, chat):
    other = replace(chat, messages=({"role": "system", "content": "Another."}, *chat.messages[1:]))
    with pytest.raises(ValueError, match="not the one that the model is asked with"):
        labels.prove_labels(checkpoint, [chat], [labels.label_chat(checkpoint, other)])


def test_chats_that_are_too_long_are_all_listed_and_none_is_cut(checkpoint):
    rows = {"train": ROWS["toolcall"][:2], "val": ROWS["toolcall"][2:]}
    chats = gather_rows("toolcall", rows).chats
    chats["val"].append(make_chat("trajectory"))
    with pytest.raises(ValueError, match=r"6 chat\(s\) exceed 50 tokens") as caught:
        labels.label_chats(checkpoint, chats, 50)
    assert re.findall(r"^  (\S+): \d+ tokens$", str(caught.value), re.M) == [
        *("toolcall/train.jsonl:1", "toolcall/train.jsonl:2"),
        *("toolcall/val.jsonl:1", "toolcall/val.jsonl:2", "toolcall/val.jsonl:3", "7"),
    ]
