import json

import pytest
from raw_rows import TOOL, rename, toolcall_row, write_own

from swaplib import dataset
from swaplib.facts import read_facts
from swaplib.files import write_json
from swaplib.metrics import TRACKS
from swaplib.own_rows import read_own_rows
from swaplib.rows import SPLITS, Row

SIZES = dict.fromkeys(TRACKS, "1/1/1")
SCHEMA = {"type": "object", "properties": {"total": {"type": "integer"}}, "required": ["total"]}


@pytest.mark.parametrize("place", ["toolcall", "."])
def test_tools_are_read_from_the_tracks_folder_or_the_one_above(tmp_path, settings, place):
    own = write_own(tmp_path / "own", "toolcall", test=[toolcall_row("Radius 5?", "area", '{"radius":5,"unit":"cm"}')])
    write_json(own / place / "tools.json", [TOOL, rename("volume")])
    made = dataset.build_dataset(settings, str(own), SIZES)
    (facts,) = read_facts(settings.dataset / "toolcall" / "test.jsonl", made.rows["toolcall"]["test"])
    assert [tool["function"]["name"] for tool in facts.tools] == ["area", "volume"]
    assert facts.request == "Radius 5?"
    assert facts.group == "area"
    assert facts.given == [{"radius": "request", "unit": "default"}]
    assert made.manifest["answerability"]["toolcall"]["test"]["values_default"] == 1
    assert made.manifest["tools_in_several_splits"] == 1


def test_the_file_in_the_tracks_folder_comes_before_the_one_above(tmp_path):
    own = write_own(tmp_path / "own", "toolcall")
    write_json(own / "tools.json", [rename("other")])  # which no gold calls
    write_json(own / "toolcall" / "tools.json", [TOOL])
    facts = read_own_rows(own).facts["toolcall"]["test"]
    assert facts[0].tools[0]["function"]["name"] == "area"


@pytest.mark.parametrize("place", ["structured", "."])
def test_a_schema_is_read_from_the_tracks_folder_or_the_one_above(tmp_path, settings, place):
    own = write_own(write_own(tmp_path / "own", "structured"), "toolcall")
    write_json(own / place / "schema.json", SCHEMA)
    made = dataset.build_dataset(settings, str(own), SIZES)
    assert json.loads((settings.dataset / "structured" / "schema.json").read_text()) == SCHEMA
    assert not (settings.dataset / "toolcall" / "schema.json").exists()
    assert set(made.manifest["answerability"]) == {"structured"}  # a schema says nothing of calls
    (facts,) = read_facts(settings.dataset / "structured" / "test.jsonl", made.rows["structured"]["test"])
    assert (facts.tools, facts.group, facts.given) == ([], None, [{"total": "neither"}])


def test_tools_as_json_schema_are_written_back_unchanged(tmp_path):
    own = write_own(tmp_path / "own", "toolcall")
    parameters = {"type": "object", "properties": {"radius": {"type": "number", "minimum": 0}}, "required": ["radius"]}
    tool = {"type": "function", "function": {"name": "area", "description": "A.", "parameters": parameters}}
    write_json(own / "tools.json", [tool])
    assert read_own_rows(own).facts["toolcall"]["val"][0].tools == [tool]


def test_golds_that_call_a_tool_that_is_not_offered_are_all_named(tmp_path, settings):
    own = write_own(
        tmp_path / "own", "toolcall", train=[toolcall_row("a", "area", '{"radius":5}'), toolcall_row("b", "vol")]
    )
    write_own(
        own, "structured", val=[Row("c", '[{"name":"area","arguments":{"radius":5}},{"name":"x","arguments":{}}]')]
    )
    write_json(own / "tools.json", [TOOL])
    with pytest.raises(ValueError) as caught:
        dataset.build_dataset(settings, str(own), SIZES)
    assert "2 completion(s)" in str(caught.value)
    assert "toolcall/train.jsonl:2: calls vol, which tools.json does not offer" in str(caught.value)
    assert "structured/val.jsonl:1: calls x, which tools.json does not offer" in str(caught.value)
    assert not settings.dataset.exists()


def test_golds_that_do_not_fit_the_schema_are_all_named(tmp_path, settings):
    rows = [Row("a", '{"total":5}'), Row("b", '{"total":"5"}'), Row("c", "[]")]
    own = write_own(tmp_path / "own", "structured", test=rows)
    write_json(own / "schema.json", SCHEMA)
    with pytest.raises(ValueError) as caught:
        dataset.build_dataset(settings, str(own), SIZES)
    assert "structured/test.jsonl:2: does not fit schema.json at $.total ('5' is not of type 'integer')" in str(
        caught.value
    )
    assert "structured/test.jsonl:3: does not fit schema.json at $ ([] is not of type 'object')" in str(caught.value)
    assert "test.jsonl:1" not in str(caught.value)
    assert not settings.dataset.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tools.json", {"name": "area"}, r"tools\.json: expected a list of tools, found dict"),
        ("tools.json", [{"name": 5, "parameters": {}}], r"tools\.json: expected a tool with a name"),
        ("tools.json", [TOOL, TOOL], r"tools\.json: tools with one name: area"),
        ("schema.json", [], r"schema\.json: not a JSON Schema \(expected an object, found list\)"),
        ("schema.json", {"type": "text"}, r"schema\.json: not a JSON Schema"),
    ],
)
def test_tools_and_schemas_that_are_none_are_named(tmp_path, name, content, message):
    own = write_own(tmp_path / "own", "structured")
    write_json(own / name, content)
    with pytest.raises(ValueError, match=message):
        read_own_rows(own)


@pytest.mark.parametrize("reference", ["#/$defs/total", "http://127.0.0.1:9/total.json"])
def test_a_schema_that_refers_to_what_is_not_there_is_named(tmp_path, reference):
    own = write_own(tmp_path / "own", "structured")
    write_json(own / "schema.json", {"properties": {"total": {"$ref": reference}}})
    with pytest.raises(ValueError, match=r"schema\.json.*total"):
        read_own_rows(own)


def test_a_schema_that_refers_to_itself_without_end_is_named(tmp_path):
    own = write_own(tmp_path / "own", "structured")
    write_json(own / "schema.json", {"$ref": "#"})
    with pytest.raises(ValueError, match=r"structured/train\.jsonl:1: schema\.json refers to itself without end"):
        read_own_rows(own)


def test_rows_without_tools_or_schema_have_no_facts(tmp_path):
    made = read_own_rows(write_own(write_own(tmp_path / "own", "structured"), "toolcall"))
    assert (made.facts, made.schemas) == ({}, {})
    assert {track: set(splits) for track, splits in made.rows.items()} == {t: set(SPLITS) for t in TRACKS}


def test_a_folder_without_a_track_says_what_was_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected structured/ or toolcall/ with train\.jsonl"):
        read_own_rows(tmp_path)


@pytest.mark.parametrize("arguments", ['{"radius":"5"}', "{}", '{"radius":-1}'])
def test_golds_whose_arguments_do_not_fit_the_tools_are_named(tmp_path, arguments):
    own = write_own(tmp_path / "own", "toolcall", test=[toolcall_row("a", "area", arguments)])
    schema = {"type": "object", "properties": {"radius": {"type": "number", "minimum": 0}}, "required": ["radius"]}
    write_json(own / "tools.json", [{"name": "area", "parameters": schema}])
    with pytest.raises(ValueError, match=r"toolcall/test.jsonl:1: does not fit the tool area of tools.json at \$"):
        read_own_rows(own)
