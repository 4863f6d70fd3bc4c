import json
import shutil
from collections import Counter

import pytest
from raw_rows import TOOL, call, make_raw, rename

from swaplib.data import dataset, tool_split, xlam
from swaplib.metrics import TRACKS
from swaplib.rows import SPLITS
from swaplib.settings import ROOT

COMMITTED = ROOT / "slm_swap" / "02_dataset"
SIZES = {track: {"train": 100, "val": 10, "test": 10} for track in TRACKS}


def test_one_answer_makes_a_toolcall_and_two_make_a_structured_row():
    other = {"name": "volume", "description": "v", "parameters": {}}
    raw = [
        make_raw(1, [call("area", radius=5)], [TOOL, other]),
        make_raw(2, [call("area"), call("volume")], [TOOL, other]),
    ]
    examples, left_out = xlam.make_examples(raw)
    assert (
        examples["toolcall"][0].row.completion == '<tool_call name="area">{"radius":5}</tool_call>'
    )
    assert "volume" not in examples["toolcall"][0].row.prompt
    assert (
        examples["structured"][0].row.completion
        == '[{"name":"area","arguments":{}},{"name":"volume","arguments":{}}]'
    )
    assert "volume: v" in examples["structured"][0].row.prompt
    assert not left_out


def test_rows_left_out_are_counted_by_reason():
    raw = [
        make_raw(1, [], [TOOL]),
        make_raw(2, [call("area")] * 4, [TOOL]),
        make_raw(3, [call("area")] * 2, [TOOL, *(rename(f"t{i}") for i in range(4))]),
        make_raw(4, [call("area")], [TOOL, TOOL]),
        make_raw(5, [call("area")], [TOOL]),
        make_raw(6, [call("area", radius=1)], [TOOL]),
        make_raw(7, [call("a<b>")], [rename("a<b>")]),
    ]
    examples, left_out = xlam.make_examples(raw)
    assert [e.calls for e in examples["toolcall"]] == [(call("area"),)]
    assert left_out == {
        "no answer, or more than three": 2,
        "several answers and more than 4 tools": 1,
        "a called tool is not offered exactly once": 1,
        "same prompt as an earlier row": 1,
        "a tool's name does not fit the wrapper": 1,
    }


@pytest.mark.parametrize(
    ("arguments", "query", "flaw"),
    [
        ({"radius": 5}, "Radius 5?", None),
        ({"radius": 5, "unit": "m"}, "Radius 5 m?", None),
        # Nothing gives it, but it breaks no instruction.
        ({"radius": 5, "unit": "m"}, "Radius 5 metres?", None),
        (
            {"radius": 5, "unit": "cm"},
            "Radius 5?",
            "a gold states a default that the request does not name word for word",
        ),
        ({"radius": 5, "unit": "cm"}, "Radius 5 cm?", None),
        (
            {"radius": 5, "unit": "cm"},
            "Radius 5 acm?",
            "a gold states a default that the request does not name word for word",
        ),
        ({"radius": "5"}, "Radius 5?", "a gold value is of another type than declared"),
        ({"radius": None}, "Radius 5?", "a gold value is of another type than declared"),
        ({"radius": True}, "Radius 5?", "a gold value is of another type than declared"),
        ({"pair": 5}, "Radius 5?", "a gold value is of another type than declared"),
        (
            {"radius": 5, "colour": "red"},
            "Red, radius 5?",
            "a gold names a parameter that its tool lacks",
        ),
        ({"radius": 5}, "Radius 5 of a hentai poster?", "a request or tool for adults"),
    ],
)
def test_each_flaw_of_a_gold(arguments, query, flaw):
    for calls in (
        [call("area", **arguments)],
        [call("other", radius=5), call("area", **arguments)],
    ):
        examples, left_out = xlam.make_examples(
            [make_raw(1, calls, [TOOL, rename("other")], query)]
        )
        (example,) = (example for of_track in examples.values() for example in of_track)
        assert xlam.find_flaw(example) == flaw
        assert not left_out  # the map from tool to split needs it all the same


def test_a_tool_for_adults_is_a_flaw_only_where_the_prompt_shows_it():
    adult = rename("area") | {"name": "find_video", "description": "Finds erotic videos."}
    (example,) = xlam.make_examples([make_raw(1, [call("find_video")], [adult])])[0]["toolcall"]
    assert xlam.find_flaw(example) == "a request or tool for adults"
    (example,) = xlam.make_examples([make_raw(1, [call("area", radius=5)], [TOOL, adult])])[0][
        "toolcall"
    ]
    assert xlam.find_flaw(example) is None


def split_of_tools(examples, seed):
    """The splits in which each tool is called."""
    made = tool_split.split_by_tool(examples, SIZES, seed)
    return {
        name: {s for by in made.values() for s in SPLITS for e in by[s] if name in e.called}
        for name in {
            n for by in made.values() for found in by.values() for e in found for n in e.called
        }
    }


def make_many(bad_pairs: bool, bad_singles: frozenset[int] = frozenset()):
    """40 tools with a toolcall row each; those of 0 to 19 are tied in pairs by a structured row."""
    tools = [rename(f"t{i}") for i in range(40)]
    raw = [
        make_raw(
            i,
            [call(f"t{i}", radius="no number" if i in bad_singles else i)],
            tools,
            f"Radius {i} here?",
        )
        for i in range(40)
    ]
    for i in range(0, 20, 2):
        calls = [call(f"t{i}", radius=i), call(f"t{i + 1}", radius="no number" if bad_pairs else i)]
        raw.append(make_raw(100 + i, calls, tools[i : i + 2], f"Radius {i} twice?"))
    return xlam.make_examples(raw)[0]


@pytest.mark.parametrize("seed", range(5))
def test_a_row_left_out_for_its_gold_still_ties_its_tools_together(seed):
    examples = make_many(bad_pairs=True)
    found, mapped = split_of_tools(examples, seed), tool_split.map_tools(examples, SIZES, seed)
    assert set(found) == {f"t{i}" for i in range(40)}
    assert len({frozenset(splits) for splits in found.values()}) == 3
    for i in range(0, 20, 2):
        assert found[f"t{i}"] == found[f"t{i + 1}"] == {mapped[f"t{i}"]}
    assert not any(tool_split.split_by_tool(examples, SIZES, seed)["structured"].values())


@pytest.mark.parametrize("seed", range(5))
def test_leaving_rows_out_moves_no_tool_to_another_split(seed):
    sound, bad = make_many(False), make_many(True, bad_singles=frozenset(range(0, 40, 3)))
    assert tool_split.map_tools(bad, SIZES, seed) == tool_split.map_tools(sound, SIZES, seed)
    before, after = split_of_tools(sound, seed), split_of_tools(bad, seed)
    assert set(after) < set(before)
    assert all(after[name] == before[name] for name in after)


def test_the_shipped_rows_lie_where_the_map_of_all_rows_puts_their_tools(settings):
    manifest = json.loads((COMMITTED / "manifest.json").read_text())
    examples = xlam.make_examples(xlam.read_source("sample", settings.sample)[0])[0]
    mapped = tool_split.map_tools(examples, manifest["sizes_asked"], manifest["seed"])
    places = Counter()
    for track, splits in tool_split.split_by_tool(
        examples, manifest["sizes_asked"], manifest["seed"]
    ).items():
        for split, found in splits.items():
            assert {mapped[name] for example in found for name in example.called} == {split}
            assert not any(map(xlam.find_flaw, found))
            places[track, split] = len(found)
    assert {
        (track, split): n for track, by in manifest["rows"].items() for split, n in by.items()
    } == places


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_tools_as_json_schema_are_shown_in_the_prompt(is_wrapped):
    parameters = {
        "type": "object",
        "properties": {
            "radius": {"type": "number", "description": "The radius."},
            "unit": {"enum": ["cm", "m"]},
        },
        "required": ["radius"],
    }
    tool = {"name": "area", "description": "Area of a circle.", "parameters": parameters}
    tool = {"type": "function", "function": tool} if is_wrapped else tool
    examples, left_out = xlam.make_examples([make_raw(1, [call("area", radius=5)], [tool])])
    (example,) = examples["toolcall"]
    assert not left_out
    assert (
        "area: Area of a circle.\n- radius (float): The radius.\n"
        '- unit (str, optional): One of "cm", "m".\n'
    ) in example.row.prompt
    assert xlam.find_flaw(example) is None
    (example,) = xlam.make_examples([make_raw(1, [call("area", radius="5")], [tool])])[0][
        "toolcall"
    ]
    assert xlam.find_flaw(example) == "a gold value is of another type than declared"


def test_answers_and_tools_may_be_lists_rather_than_texts():
    raw = make_raw(1, [call("area", radius=5)], [TOOL])
    plain = raw | {"answers": [call("area", radius=5)], "tools": [TOOL]}
    assert xlam.make_examples([plain]) == xlam.make_examples([raw])


@pytest.mark.parametrize("answers", ['[{"nam":1}]', "{}", "not JSON", "[1]"])
def test_answers_of_another_shape_name_the_raw_row(answers):
    row = {"id": 17, "query": "q", "answers": answers, "tools": "[]"}
    with pytest.raises(ValueError, match="raw row id 17: answers"):
        xlam.make_examples([row])


MALFORMED = {
    "arguments a list": (
        {"answers": json.dumps([{"name": "area", "arguments": [5]}])},
        "answers: .*found list",
    ),
    "arguments a text": (
        {"answers": json.dumps([{"name": "area", "arguments": "5"}])},
        "answers: .*found str",
    ),
    "arguments null": (
        {"answers": json.dumps([{"name": "area", "arguments": None}])},
        "answers: .*found NoneType",
    ),
    "no arguments": ({"answers": json.dumps([{"name": "area"}])}, "answers: .*found NoneType"),
    "query null": ({"query": None}, "query must be a text that is not blank, found null"),
    "query blank": ({"query": " "}, "query must be a text that is not blank"),
    "a tool's name a number": (
        {"tools": json.dumps([{**TOOL, "name": 5}])},
        "tools: expected a tool with a name",
    ),
    "a parameter without type": (
        {"tools": json.dumps([{**TOOL, "parameters": {"radius": {"description": "r"}}}])},
        "tools: tool area, parameter radius: expected an object with a type",
    ),
    "parameters a list": (
        {"tools": json.dumps([{**TOOL, "parameters": []}])},
        "tools: tool area: expected an object of parameters, found",
    ),
    "tools null": ({"tools": None}, "tools must be a list, found NoneType"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_raw_row_is_named_by_its_id(case):
    change, message = MALFORMED[case]
    sound = make_raw(1, [call("area", radius=5)], [TOOL])
    with pytest.raises(ValueError, match=rf"raw row id 17: {message}"):
        xlam.make_examples([sound, sound | {"id": 17} | change])


def test_all_malformed_raw_rows_are_listed_in_one_error():
    sound = make_raw(1, [call("area", radius=5)], [TOOL])
    bad = [sound | {"id": f"bad-{i}"} | change for i, (change, _) in enumerate(MALFORMED.values())]
    with pytest.raises(ValueError) as caught:
        xlam.make_examples([bad[0], sound, *bad[1:]])
    assert str(caught.value).startswith(
        f"{len(MALFORMED)} malformed raw row(s), so nothing was made"
    )
    assert [line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]] == [
        f"raw row id bad-{i}" for i in range(len(MALFORMED))
    ]


def test_a_malformed_raw_row_writes_nothing(settings, tmp_path):
    (tmp_path / "raw.json").write_text(
        json.dumps([make_raw(17, [call("area")], [TOOL]) | {"query": None}])
    )
    with pytest.raises(ValueError, match="raw row id 17: query"):
        dataset.build_dataset(settings, str(tmp_path / "raw.json"), dict.fromkeys(TRACKS, "1/1/1"))
    assert not settings.dataset.exists()


def test_an_array_of_raw_rows_and_jsonl_give_the_same(settings, tmp_path):
    raw = [json.loads(line) for line in settings.sample.read_text().splitlines()[:50]]
    array, lines = tmp_path / "raw.json", tmp_path / "raw.jsonl"
    array.write_text(json.dumps(raw))
    lines.write_text("\n".join(map(json.dumps, raw)))
    assert (
        xlam.read_source(str(array), settings.sample)[0]
        == xlam.read_source(str(lines), settings.sample)[0]
        == raw
    )


def test_sources_that_are_not_there_or_not_raw_rows_say_what_was_expected(settings, tmp_path):
    with pytest.raises(FileNotFoundError, match="'sample', 'hub', a file of raw rows, or a folder"):
        xlam.read_source("smaple", settings.sample)
    bad = tmp_path / "raw.jsonl"
    shutil.copy(COMMITTED / "toolcall" / "test.jsonl", bad)
    with pytest.raises(
        ValueError,
        match=r"87 bad row[^$]*raw.jsonl:1: expected an object with id, query, answers and tools",
    ):
        xlam.read_source(str(bad), settings.sample)


def test_a_source_that_is_not_utf_8_is_named(settings, tmp_path):
    bad = tmp_path / "raw.jsonl"
    bad.write_bytes(b'{"id": "\xff"}')
    with pytest.raises(ValueError, match=r"raw.jsonl: not JSON \('utf-8' codec"):
        xlam.read_source(str(bad), settings.sample)


def test_the_gated_set_says_how_to_get_access(settings):
    with pytest.raises(
        PermissionError, match=r"hf auth login"
    ):  # HF_HUB_OFFLINE is set in the tests
        xlam.read_source("hub", settings.sample)
