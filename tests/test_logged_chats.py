"""Whole tool loops of a log become chats, whose labels are proved as all others are."""

import json
import subprocess
import sys
from collections import Counter

import pytest
from test_traffic import CALL, TOOLS, answer, calling, make_log, pair, saying, write_log

from swaplib.agents import build, distill, logged_chats
from swaplib.agents.logged_chats import NO_LOOP, OPEN_END, UNANSWERED, read_logged_chats
from swaplib.data import dataset
from swaplib.training import labels
from swaplib.training.chats import Chat, format_chat, read_chats

SIZES = {"toolcall": "340/60/100", "structured": "600/80/100"}


def make_loop(i, result="2 copies", closing="Yes, two copies."):
    """The three exchanges of one loop: a call, its result with another call, the final answer."""
    begun = [{"role": "system", "content": "You run a desk."}]
    begun += [{"role": "user", "content": f"Is book {i} in? amber{i * 17} basil{i * 31}"}]
    first = calling((CALL[0], json.dumps({"title": f"book {i}"})))
    given = {"role": "tool", "tool_call_id": "c0", "content": result}
    second = calling(("opening_hours", "{}"))
    second["tool_calls"][0]["id"] = "d0"
    hours = {"role": "tool", "tool_call_id": "d0", "content": "9 to 5"}
    later = [*begun, first, given]
    return [
        pair(answer(first), messages=begun),
        pair(answer(second), messages=later),
        pair(saying(closing), messages=[*later, second, hours]),
    ]


def read(tmp_path, values):
    return read_logged_chats(write_log(tmp_path / "log.jsonl", values), 42)


def test_a_loop_is_one_chat_whose_results_and_requests_carry_no_loss(tmp_path):
    found = read(tmp_path, [value for i in range(12) for value in make_loop(i)])
    assert len(found.chats) == 12
    assert not found.left_out
    chat = found.chats[0]
    roles = [message["role"] for message in chat.messages]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "tool", "assistant"]
    assert chat.is_trained == (False, False, True, False, True, False, True)
    assert chat.messages[2]["tool_calls"][0]["function"]["arguments"] == {"title": "book 0"}
    assert chat.messages[3]["name"] == "lend_book"
    assert list(chat.tools) == TOOLS
    assert {chat.split for chat in found.chats} == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([pair(saying("Hello"))], NO_LOOP),
        (make_loop(0)[:2], OPEN_END),
        (
            make_loop(0, closing="Bye <|im_end|>")[2:],
            "a text holds a chat template's control token",
        ),
        (
            [pair(saying("a"), messages=[{"role": "user", "content": "a"}, calling(CALL)])],
            UNANSWERED,
        ),
        (
            [
                pair(
                    saying("a"),
                    messages=[{"role": "user", "content": "a"}, calling(("burn", "{}"))],
                )
            ],
            "a tool is called that was not offered",
        ),
    ],
    ids=["no call", "open", "control token", "no result", "unknown tool"],
)
def test_what_is_no_whole_loop_is_counted_with_its_reason(tmp_path, values, reason):
    found = read(tmp_path, values)
    assert found.chats == []
    assert found.left_out == Counter({reason: 1})


def test_a_client_that_writes_its_history_in_other_spaces_has_one_loop_all_the_same(tmp_path):
    values = json.loads(json.dumps(make_loop(0)))
    for value in values[1:]:
        for message in value["request"]["messages"]:
            for call in message.get("tool_calls", []):
                arguments = json.loads(call["function"]["arguments"])
                call["function"]["arguments"] = json.dumps(arguments, separators=(",", ":"))
    found = read(tmp_path, values)
    assert len(found.chats) == 1
    assert not found.left_out


def test_a_turn_with_two_calls_is_read_and_not_learned(tmp_path):
    both = calling(CALL, ("opening_hours", "{}"))
    given = [{"role": "tool", "tool_call_id": f"c{i}", "content": "ok"} for i in (0, 1)]
    messages = [{"role": "user", "content": "Both"}, both, *given]
    [chat] = read(tmp_path, [pair(saying("Done."), messages=messages)]).chats
    assert chat.is_trained == (False, False, False, False, True)


def test_private_values_are_replaced_in_every_message_alike(tmp_path):
    [chat] = read(tmp_path, make_loop(0, "ann@x.org has it", "It is with ANN@x.org.")[2:]).chats
    assert chat.messages[3]["content"] == "[EMAIL_1] has it"
    assert chat.messages[-1]["content"] == "It is with [EMAIL_1]."


def test_a_chat_with_tools_is_written_and_read_as_it_was(tmp_path):
    [chat] = read(tmp_path, make_loop(0)).chats
    path = tmp_path / "chats.jsonl"
    path.write_text(format_chat(chat))
    assert format_chat(read_chats(path)[0]) == format_chat(chat)


QWEN = (  # as Qwen2.5 writes calls and results
    "{% for m in messages %}{% if m.role == 'tool' %}"
    "{{ '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role }}{% if m.content %}{{ '\\n' + m.content }}{% endif %}"
    '{% for c in m.tool_calls or [] %}{{ \'\\n<tool_call>\\n{"name": "\' + c.function.name }}'
    "{{ '\", \"arguments\": ' + (c.function.arguments | tojson) + '}\\n</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\\n' }}{% endif %}{% endfor %}{% if tools %}{# shown #}{% endif %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.mark.parametrize("template", [None, QWEN], ids=["in words", "by the template"])
def test_the_labels_of_a_loop_are_its_calls_and_its_answer(
    checkpoint, tmp_path, monkeypatch, template
):
    if template:
        monkeypatch.setattr(checkpoint.tokenizer, "chat_template", template)
    [chat] = read(tmp_path, make_loop(0)).chats
    made = labels.label_chat(checkpoint, chat)
    [record] = labels.prove_labels(checkpoint, [chat], [made])
    for text in ("lend_book", "opening_hours", "Yes, two copies.<|im_end|>"):
        assert text in record["trained"]
    for text in ("You run a desk.", "Is book 0 in?", "2 copies", "9 to 5"):
        assert text in record["not_trained"]
        assert text not in record["trained"]


def test_a_template_that_writes_calls_as_nothing_reads_back_is_refused(
    checkpoint, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        checkpoint.tokenizer, "chat_template", QWEN.replace('{"name"', '{"function"')
    )
    [chat] = read(tmp_path, make_loop(0)).chats
    with pytest.raises(ValueError, match="does not render chat"):
        labels.label_chat(checkpoint, chat)


def test_07_builds_a_log_beside_01s_rows_and_says_what_was_left_out(settings, tmp_path):
    values = [value for i in range(30) for value in make_loop(i)] + make_log(40)
    path = write_log(tmp_path / "log.jsonl", values)
    with pytest.raises(FileNotFoundError, match="01_data"):
        build.build_captured(settings, str(path))
    made = dataset.build_dataset(settings, str(path), SIZES)
    built = build.build_captured(settings, str(path))
    assert built.rows == made.rows
    assert built.manifest["filter"]["kept"] == 30
    assert built.manifest["filter"]["dropped"] == {OPEN_END: 40}
    assert built.manifest["made_from"]["log_sha256"] == made.manifest["source_sha256"]
    assert distill.read_manifest(settings) == built.manifest | {
        "run": distill.read_manifest(settings)["run"]
    }
    kept = distill.read_kept(settings)
    assert [len(kept.chats[split]) for split in ("train", "val")] == [18, 3]
    again = build.build_captured(settings, str(path))
    assert again.manifest["sha256"] == built.manifest["sha256"]
    with path.open("a") as file:
        file.write(json.dumps(values[0]) + "\n")
    with pytest.raises(ValueError, match="Run 01_data with this log first"):
        build.build_captured(settings, str(path))


@pytest.mark.slow
def test_a_log_becomes_an_adapter_and_a_report_without_a_capture(settings, env_of_tests, tmp_path):
    values = [value for i in range(12) for value in make_loop(i)] + make_log(60)
    path = write_log(tmp_path / "log.jsonl", values)
    dataset.build_dataset(settings, str(path), SIZES)
    small = {"row_limit": "2", "test_limit": "2", "max_new_tokens": "24", "source": str(path)}
    command = [sys.executable, "-m", "swaplib.cli", "flywheel", "--track", "toolcall"]
    command += [word for name, value in small.items() for word in ("-p", name, value)]
    env = env_of_tests | {"SWAP_HOME": str(settings.swap_home), "MPLBACKEND": "agg"}
    done = subprocess.run(
        command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    loop = json.loads((settings.evaluation / "flywheel_toolcall.json").read_text())
    assert loop["filter"]["kept"] == 12
    assert loop["trained"]["agent"]["rows"] == {"agent": {"train": 2, "val": 1}}
    asked = {"slm-native", "slm_ft-captured-native", "slm_ft-captured"}
    assert set(loop["track_eval"]["rates"]) == asked
    assert loop["agent_eval"] is None
    assert (settings.adapter_of("agent") / "adapter_model.safetensors").is_file()
    assert not (settings.reports / "06_capture.html").exists()
    assert "12 of the log's 72 conversations" in (settings.reports / "07_build.html").read_text()


def test_a_chat_without_a_trained_turn_is_no_chat(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text(format_chat(Chat("1", "train", ({"role": "user", "content": "a"},), (False,))))
    with pytest.raises(ValueError, match="found it on none"):
        read_chats(path)
    assert logged_chats.NO_LOOP
