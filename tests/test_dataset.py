import json
import shutil

import pytest

from swaplib import dataset, xlam
from swaplib.metrics import TRACKS
from swaplib.prompts import build_messages
from swaplib.rows import SPLITS, Row, read_rows, write_rows
from swaplib.settings import ROOT

SIZES = {"toolcall": "340/60/100", "structured": "600/80/100"}
COMMITTED = ROOT / "slm_swap" / "02_dataset"

TOOL = {
    "name": "area",
    "description": "Area of a circle.",
    "parameters": {
        "radius": {"type": "float", "description": "The radius."},
        "unit": {"type": "str, optional", "description": "The unit.", "default": "cm"},
        "pair": {"type": "Tuple[int, int], optional, default=1", "description": "Two."},
    },
}


def make_raw(index: int, calls: list[dict], tools: list[dict], query: str = "Radius 5?") -> dict:
    return {"id": index, "query": query, "answers": json.dumps(calls), "tools": json.dumps(tools)}


def call(name: str, **arguments) -> dict:
    return {"name": name, "arguments": arguments}


def toolcall_row(prompt: str, tool: str) -> Row:
    return Row(prompt, f'<tool_call name="{tool}">{{}}</tool_call>')


def test_committed_files_are_what_the_shipped_sample_gives(settings):
    made = dataset.build_dataset(settings, "sample", SIZES)
    for file in ("manifest.json", *(f"{track}/{split}.jsonl" for track in TRACKS for split in SPLITS)):
        assert (settings.dataset / file).read_bytes() == (COMMITTED / file).read_bytes(), file
    assert made.manifest["source_sha256"] == "88c572d05c5e087f67902af0c21dc4e23d10479ae8ac1e2b88262d2a9c8a7ef5"
    assert made.manifest["rows"]["toolcall"]["test"] == made.manifest["rows"]["structured"]["test"] == 100


def test_every_source_row_is_a_row_or_has_a_reason(settings):
    manifest = dataset.build_dataset(settings, "sample", SIZES).manifest
    kept = sum(n for splits in manifest["rows"].values() for n in splits.values())
    assert kept + sum(manifest["left_out"].values()) == manifest["source_rows"] == 2052


def test_no_tool_of_test_is_called_in_train_or_val_of_either_track():
    called = {split: set() for split in SPLITS}
    for track in TRACKS:
        for split in SPLITS:
            for row in read_rows(COMMITTED / track / f"{split}.jsonl", track):
                called[split] |= set(dataset.called_tools(track, row.completion))
    assert not called["test"] & (called["train"] | called["val"])
    assert not called["train"] & called["val"]


def test_a_signature_shows_types_defaults_and_what_is_optional_without_copying_the_types_words():
    assert xlam.format_signature(TOOL) == (
        "area: Area of a circle.\n"
        "- radius (float): The radius.\n"
        '- unit (str, optional, default "cm"): The unit.\n'
        "- pair (Tuple[int, int], optional): Two."
    )


def test_one_answer_makes_a_toolcall_and_two_make_a_structured_row():
    other = {"name": "volume", "description": "v", "parameters": {}}
    raw = [
        make_raw(1, [call("area", radius=5)], [TOOL, other]),
        make_raw(2, [call("area"), call("volume")], [TOOL, other]),
    ]
    examples, left_out = xlam.make_examples(raw)
    assert examples["toolcall"][0].row.completion == '<tool_call name="area">{"radius":5}</tool_call>'
    assert "volume" not in examples["toolcall"][0].row.prompt
    assert (
        examples["structured"][0].row.completion == '[{"name":"area","arguments":{}},{"name":"volume","arguments":{}}]'
    )
    assert not left_out


def test_rows_left_out_are_counted_by_reason():
    raw = [
        make_raw(1, [], [TOOL]),
        make_raw(2, [call("area")] * 4, [TOOL]),
        make_raw(3, [call("area")] * 2, [TOOL, *({**TOOL, "name": f"t{i}"} for i in range(4))]),
        make_raw(4, [call("area")], [TOOL, TOOL]),
        make_raw(5, [call("area")], [TOOL]),
        make_raw(6, [call("area", radius=1)], [TOOL]),
    ]
    examples, left_out = xlam.make_examples(raw)
    assert [e.calls for e in examples["toolcall"]] == [(call("area"),)]
    assert left_out == {
        "no answer, or more than three": 2,
        "several answers and more than 4 tools": 1,
        "a called tool is not offered exactly once": 1,
        "same prompt as an earlier row": 1,
    }


def test_the_audit_counts_values_given_default_and_neither():
    calls = [call("area", radius=5, unit="cm", colour="red", is_big=True)]
    examples, _ = xlam.make_examples([make_raw(1, calls, [TOOL], "A red circle, radius 5.0?")])
    assert dataset.audit_answers({"test": examples["toolcall"]}) == {
        "keys": 4,
        "keys_not_in_prompt": 2,
        "values_in_request": 2,
        "values_default": 1,
        "values_neither": 1,
    }


@pytest.mark.parametrize(
    ("value", "query", "is_given"),
    [
        (5, "radius 5", True),
        (5, "radius 50", False),
        (5.0, "radius 5", True),
        (1500, "1,500 items", True),
        ([1, 2], "2 and 1", True),
        ([1, 3], "2 and 1", False),
        ({"a": "Rome"}, "in rome", True),
        (True, "true", False),
        (0.02, "2%", False),
    ],
)
def test_a_value_is_found_in_the_request(value, query, is_given):
    assert dataset._is_in_request(value, query) is is_given


def test_a_prompt_in_two_splits_names_both_rows_and_writes_nothing(settings, tmp_path):
    rows = {
        "train": [toolcall_row("First", "x"), toolcall_row("Same  prompt", "a")],
        "val": [toolcall_row("Val", "v")],
        "test": [toolcall_row("same prompt", "b")],
    }
    for split, of_split in rows.items():
        write_rows(tmp_path / "own" / "toolcall" / f"{split}.jsonl", of_split)
    with pytest.raises(ValueError, match=r"toolcall/train.jsonl:2 and toolcall/test.jsonl:1 have the same prompt"):
        dataset.build_dataset(settings, str(tmp_path / "own"), SIZES)
    assert not settings.dataset.exists()


def test_a_tool_in_two_splits_is_a_leak_and_of_own_rows_a_count():
    rows = {"toolcall": {"train": [toolcall_row("One", "a")], "test": [toolcall_row("Two", "a")]}}
    with pytest.raises(ValueError, match=r"toolcall/train.jsonl:1 and toolcall/test.jsonl:1 both call the tool 'a'"):
        dataset.check_leaks(rows)
    assert dataset.check_leaks(rows, may_share_tools=True) == 1


def test_a_list_of_named_things_is_no_list_of_calls():
    assert dataset.called_tools("structured", '[{"name":"Alice","age":3},{"name":"f","arguments":{}}]') == ["f"]


def test_a_source_too_small_for_a_split_writes_nothing(settings, tmp_path):
    small = tmp_path / "raw.jsonl"
    small.write_text("\n".join(settings.sample.read_text().split("\n")[:2]))
    with pytest.raises(ValueError, match=r"no rows for .*toolcall/train.*too small"):
        dataset.build_dataset(settings, str(small), SIZES)
    assert not settings.dataset.exists()


@pytest.mark.parametrize("answers", ['[{"nam":1}]', "{}", "not JSON", "[1]"])
def test_answers_of_another_shape_name_the_raw_row(answers):
    row = {"id": 17, "query": "q", "answers": answers, "tools": "[]"}
    with pytest.raises(ValueError, match="raw row id 17: answers"):
        xlam.make_examples([row])


def test_a_tool_of_a_structured_train_row_leaks_into_a_toolcall_test_row():
    structured = [Row("s", '[{"name":"a","arguments":{}}]')]
    with pytest.raises(ValueError, match="call the tool 'a'"):
        dataset.check_leaks({"structured": {"train": structured}, "toolcall": {"test": [toolcall_row("t", "a")]}})


def test_own_rows_are_taken_as_they_are(settings, tmp_path):
    for split in SPLITS:
        write_rows(tmp_path / "own" / "structured" / f"{split}.jsonl", [Row(f"Sum up {split}", '{"total": 5}')])
    made = dataset.build_dataset(settings, str(tmp_path / "own"), SIZES)
    assert made.manifest["rows"] == {"structured": {"train": 1, "val": 1, "test": 1}}
    assert read_rows(settings.dataset / "structured" / "test.jsonl", "structured") == made.rows["structured"]["test"]


def test_rows_of_another_source_do_not_end_up_beside_those_of_this_one(settings, tmp_path):
    for folder in ("own", "other"):
        for split in SPLITS:
            write_rows(tmp_path / folder / "structured" / f"{split}.jsonl", [Row(f"Sum up {split}", '{"total": 5}')])
    dataset.build_dataset(settings, str(tmp_path / "own"), SIZES)
    dataset.build_dataset(settings, str(tmp_path / "own"), SIZES)
    with pytest.raises(ValueError, match=r"made from .*own, not from .*other.*SWAP_HOME"):
        dataset.build_dataset(settings, str(tmp_path / "other"), SIZES)


def test_rows_that_nobody_owns_are_not_overwritten(settings):
    write_rows(settings.dataset / "toolcall" / "test.jsonl", [toolcall_row("mine", "a")])
    with pytest.raises(ValueError, match=r"no manifest says whose it is"):
        dataset.build_dataset(settings, "sample", SIZES)
    assert len(read_rows(settings.dataset / "toolcall" / "test.jsonl", "toolcall")) == 1


def test_own_rows_with_problems_list_all_of_them(settings, tmp_path):
    folder = tmp_path / "own" / "toolcall"
    write_rows(folder / "train.jsonl", [Row("p", "prose")])
    write_rows(folder / "val.jsonl", [Row("p", "more prose")])
    with pytest.raises(ValueError) as caught:
        dataset.build_dataset(settings, str(tmp_path / "own"), SIZES)
    for expected in ("train.jsonl:1", "val.jsonl:1", "no rows at"):
        assert expected in str(caught.value)
    assert not settings.dataset.exists()


@pytest.mark.parametrize("text", ["340/60", "0/1/1", "a/b/c", "1/2/3/4"])
def test_sizes_of_the_wrong_form_say_which_form(text):
    with pytest.raises(ValueError, match="340/60/100"):
        dataset.parse_sizes(text)


def test_an_array_of_raw_rows_and_jsonl_give_the_same(settings, tmp_path):
    raw = [json.loads(line) for line in settings.sample.read_text().splitlines()[:50]]
    array, lines = tmp_path / "raw.json", tmp_path / "raw.jsonl"
    array.write_text(json.dumps(raw))
    lines.write_text("\n".join(map(json.dumps, raw)))
    assert xlam.read_source(str(array), settings.sample)[0] == xlam.read_source(str(lines), settings.sample)[0] == raw


def test_sources_that_are_not_there_or_not_raw_rows_say_what_was_expected(settings, tmp_path):
    with pytest.raises(FileNotFoundError, match="'sample', 'hub', a file of raw rows, or a folder"):
        xlam.read_source("smaple", settings.sample)
    bad = tmp_path / "raw.jsonl"
    shutil.copy(COMMITTED / "toolcall" / "test.jsonl", bad)
    with pytest.raises(
        ValueError, match=r"100 bad row[^$]*raw.jsonl:1: expected an object with id, query, answers and tools"
    ):
        xlam.read_source(str(bad), settings.sample)


def test_a_source_that_is_not_utf_8_is_named(settings, tmp_path):
    bad = tmp_path / "raw.jsonl"
    bad.write_bytes(b'{"id": "\xff"}')
    with pytest.raises(ValueError, match=r"raw.jsonl: not JSON \('utf-8' codec"):
        xlam.read_source(str(bad), settings.sample)


def test_the_gated_set_says_how_to_get_access(settings):
    with pytest.raises(PermissionError, match=r"hf auth login"):  # HF_HUB_OFFLINE is set in the tests
        xlam.read_source("hub", settings.sample)


@pytest.mark.parametrize("track", TRACKS)
def test_messages_are_one_system_message_and_the_prompt(track):
    system, user = build_messages(track, "the prompt")
    assert system["role"] == "system"
    assert system["content"]
    assert user == {"role": "user", "content": "the prompt"}
