import json

import pytest

from swaplib.prompts import build_messages
from swaplib.rows import Row, hash_rows
from swaplib.training import chats
from swaplib.training.chats import Chat


def test_a_row_is_a_chat_with_one_trained_turn():
    rows = [
        Row("A?", '<tool_call name="a">{}</tool_call>'),
        Row("B?", '<tool_call name="b">{}</tool_call>'),
    ]
    made = chats.gather_rows("toolcall", {"train": rows, "val": rows[:1]}, "all of them")
    assert [chat.id for chat in made.chats["train"]] == [
        "toolcall/train.jsonl:1",
        "toolcall/train.jsonl:2",
    ]
    completion = {"role": "assistant", "content": rows[1].completion}
    assert made.chats["train"][1].messages == (*build_messages("toolcall", "B?"), completion)
    assert made.chats["val"][0].is_trained == (False, False, True)
    assert made.sha256 == {"train": hash_rows(rows), "val": hash_rows(rows[:1])}
    assert made.cut == "all of them"


def test_the_hash_of_trajectories_is_that_of_recorded_run_cards():
    chat = Chat(
        "1",
        "train",
        ({"role": "user", "content": "Go"}, {"role": "assistant", "content": "é"}),
        (False, True),
    )
    made = chats.gather_chats({"train": [chat], "val": []})
    assert {split: digest[:12] for split, digest in made.sha256.items()} == {
        "train": "4a1b95572717",
        "val": "e3b0c44298fc",
    }


def test_bad_lines_are_all_named(tmp_path):
    good = {
        "id": "1",
        "split": "train",
        "messages": [{"role": "assistant", "content": "x"}],
        "is_trained": [True],
    }
    good["messages"][0]["content"] = "a line \u2028 separator"
    leaking = good | {"messages": [{"role": "user", "content": "x"}]}
    file = tmp_path / "chats.jsonl"
    separated = json.dumps(good, ensure_ascii=False)
    file.write_text(
        "\n".join([separated, json.dumps(leaking), "{}", json.dumps(good | {"is_trained": []})])
    )
    with pytest.raises(ValueError, match="3 bad line") as caught:
        chats.read_chats(file)
    assert "chats.jsonl:2" in str(caught.value)
    assert "found it on ['user']" in str(caught.value)
    with pytest.raises(FileNotFoundError, match="07_build"):
        chats.read_chats(tmp_path / "none.jsonl")
