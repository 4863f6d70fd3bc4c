import json
from dataclasses import asdict

import jsonschema
import pytest
from raw_rows import TOOL, call, make_raw, rename, toolcall_row

from swaplib.data import tool_split, xlam
from swaplib.data.audit import called_tools
from swaplib.data.dataset import collect
from swaplib.data.facts import (
    RowFacts,
    count_given,
    file_of,
    find_facts,
    format_facts,
    list_parts,
    make_facts,
    read_facts,
)
from swaplib.data.tool_schemas import parse_tool
from swaplib.files import hash_text, write_text
from swaplib.metrics import TRACKS, parse_gold
from swaplib.rows import SPLITS, Row, read_rows, write_rows
from swaplib.settings import ROOT

COMMITTED = ROOT / "slm_swap" / "02_dataset"
AREA = parse_tool(TOOL)
AS_OPENAI = {
    "type": "function",
    "function": {
        "name": "area",
        "description": "Area of a circle.",
        "parameters": {
            "type": "object",
            "properties": {
                "radius": {"type": "number", "description": "The radius."},
                "unit": {"type": "string", "description": "The unit.", "default": "cm"},
                "pair": {
                    "type": "array",
                    "prefixItems": [{"type": "integer"}, {"type": "integer"}],
                    "minItems": 2,
                    "maxItems": 2,
                    "description": "Two.",
                },
            },
            "required": ["radius"],
        },
    },
}


def read_shipped(track, split):
    path = COMMITTED / track / f"{split}.jsonl"
    rows = read_rows(path, track)
    return list(zip(rows, read_facts(path, rows), strict=True))


def write_split(folder, rows, facts):
    path = folder / "test.jsonl"
    write_rows(path, rows)
    write_text(file_of(path), format_facts(facts))
    return path


def make_split(n=3):
    rows = [toolcall_row(f"Radius {i}?", "area", f'{{"radius":{i}}}') for i in range(n)]
    return rows, [make_facts("toolcall", row, row.prompt, [AREA], {"area": "area"}) for row in rows]


@pytest.mark.parametrize("track", TRACKS)
@pytest.mark.parametrize("split", SPLITS)
def test_shipped_line_i_is_about_row_i(track, split):
    shipped = read_shipped(track, split)
    assert len(file_of(COMMITTED / track / f"{split}.jsonl").read_text().splitlines()) == len(
        shipped
    )
    for row, facts in shipped:
        assert facts.prompt_sha256 == hash_text(row.prompt)
        assert row.prompt.endswith(f"Request: {facts.request}")
        assert all(f"\n{tool['function']['name']}: " in row.prompt for tool in facts.tools)
        names = [tool["function"]["name"] for tool in facts.tools]
        assert set(called_tools(track, row.completion)) <= set(names)
        assert track == "structured" or len(names) == 1
        parts = list_parts(parse_gold(track, row.completion))
        assert [set(values) for _, values in parts] == [set(given) for given in facts.given]


@pytest.mark.parametrize("track", TRACKS)
@pytest.mark.parametrize("split", SPLITS)
def test_shipped_tools_are_json_schema(track, split):
    for _, facts in read_shipped(track, split):
        for tool in facts.tools:
            assert set(tool) == {"type", "function"}
            assert set(tool["function"]) == {"name", "description", "parameters"}
            jsonschema.Draft202012Validator.check_schema(tool["function"]["parameters"])


@pytest.mark.parametrize("track", TRACKS)
def test_shipped_test_golds_fit_the_schemas_of_their_tools(track):
    for row, facts in read_shipped(track, "test"):
        schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in facts.tools}
        for name, arguments in list_parts(parse_gold(track, row.completion)):
            jsonschema.validate(arguments, schemas[name], jsonschema.Draft202012Validator)


def test_a_shipped_group_stands_in_one_split_and_is_a_name_of_its_tools():
    splits: dict[str, set[str]] = {}
    group_of: dict[str, set[str]] = {}
    for track in TRACKS:
        for split in SPLITS:
            for row, facts in read_shipped(track, split):
                splits.setdefault(facts.group, set()).add(split)
                for name in called_tools(track, row.completion):
                    group_of.setdefault(name, set()).add(facts.group)
    assert all(len(found) == 1 for found in splits.values())
    # Every row that calls a tool is in the tool's group.
    assert all(len(found) == 1 for found in group_of.values())


def test_facts_of_a_toolcall_row_made_from_raw_rows():
    calls = [call("area", radius=5, unit="cm", pair=[1, 2])]
    raw = [
        make_raw(1, calls, [rename("other"), TOOL], "Radius 5 in cm?"),
        make_raw(
            2,
            [call("aaa", radius=1), call("area", radius=5)],
            [rename("aaa"), TOOL],
            "Radius 5 and one?",
        ),
    ]
    examples = xlam.make_examples(raw)[0]
    everything = [e.called for of_track in examples.values() for e in of_track]
    groups = {name: group[0] for group in tool_split.group_tools(everything) for name in group}
    made = collect({track: {"test": found} for track, found in examples.items()}, groups)
    (row,), (facts,) = made.rows["toolcall"]["test"], made.facts["toolcall"]["test"]
    assert asdict(facts) == {
        "prompt_sha256": hash_text(row.prompt),
        "request": "Radius 5 in cm?",
        "tools": [AS_OPENAI],  # the one that the prompt shows
        "group": "aaa",  # another row calls both
        "given": [{"radius": "request", "unit": "default", "pair": "neither"}],
        "count": 1,
        "schema": None,
    }
    (facts,) = made.facts["structured"]["test"]
    assert facts.given == [{"radius": "neither"}, {"radius": "request"}]
    assert [tool["function"]["name"] for tool in facts.tools] == ["aaa", "area"]
    assert facts.group == "aaa"


def test_facts_of_an_own_structured_row_that_is_no_call():
    row = Row("Read: 5 euro, Rome.", '{"total":5,"place":"Rome","is_paid":true,"items":[]}')
    facts = make_facts("structured", row, row.prompt, [], {})
    assert (facts.request, facts.tools, facts.group) == (row.prompt, [], None)
    assert facts.given == [
        {"total": "request", "place": "request", "is_paid": "neither", "items": "neither"}
    ]
    several = Row("Rome, 5", '[{"place":"Rome"},5,"Paris"]')
    given = make_facts("structured", several, several.prompt, [], {}).given
    assert given == [{"place": "request"}, {"value": "request"}, {"value": "neither"}]


def test_facts_are_read_as_they_were_written(tmp_path):
    rows, facts = make_split()
    path = write_split(tmp_path, rows, facts)
    assert file_of(path).name == "test.facts.jsonl"
    assert read_facts(path, rows) == facts
    assert read_facts(path, rows[:2]) == facts[:2]
    assert facts[0].list_types() == {"area": AS_OPENAI["function"]["parameters"]["properties"]}


def test_facts_beside_a_changed_row_name_the_line(tmp_path):
    rows, facts = make_split()
    path = write_split(tmp_path, rows, facts)
    rows[1] = Row("Radius 7?", rows[1].completion)
    with pytest.raises(
        ValueError, match=r"test\.facts\.jsonl:2 is about another prompt than line 2 of test\.jsonl"
    ):
        read_facts(path, rows)


def test_facts_in_another_order_are_refused(tmp_path):
    rows, facts = make_split()
    with pytest.raises(ValueError, match=r"test\.facts\.jsonl:1 is about another prompt"):
        read_facts(write_split(tmp_path, rows, facts[::-1]), rows)


def test_fewer_facts_than_rows_are_refused(tmp_path):
    rows, facts = make_split()
    with pytest.raises(ValueError, match=r"test\.facts\.jsonl: 2 lines for 3 rows"):
        read_facts(write_split(tmp_path, rows, facts[:2]), rows)


NO_FACTS = [
    "not JSON",
    "[]",
    "{}",
    '{"prompt_sha256": "x", "colour": 1}',
    "\ud800",
    '{"prompt_sha256":"x","request":5,"tools":[],"group":null,"given":[]}',
    '{"prompt_sha256":"x","request":"r","tools":[{"name":"area"}],"group":null,"given":[]}',
    '{"prompt_sha256":"x","request":"r","tools":[],"group":null,"given":["request"]}',
]


@pytest.mark.parametrize("line", NO_FACTS)
def test_a_line_that_is_no_facts_is_named(tmp_path, line):
    rows, facts = make_split(2)
    path = write_split(tmp_path, rows, facts)
    first = format_facts(facts[:1]).encode()
    file_of(path).write_bytes(first + line.encode("utf-8", "surrogatepass") + b"\n")
    with pytest.raises(ValueError, match=r"test\.facts\.jsonl:2: not the facts of a row"):
        read_facts(path, rows)


def test_no_facts_say_what_own_rows_must_bring(tmp_path):
    rows, _ = make_split()
    write_rows(tmp_path / "test.jsonl", rows)
    with pytest.raises(
        FileNotFoundError,
        match=r"test\.facts\.jsonl.*own rows must bring tools\.json or schema\.json",
    ):
        read_facts(tmp_path / "test.jsonl", rows)


def test_facts_of_a_dataset_are_found_where_there_are_any(settings):
    rows, facts = make_split()
    path = write_split(settings.dataset / "toolcall", rows, facts)
    assert find_facts(settings, "toolcall", "test", rows) == facts
    assert find_facts(settings, "toolcall", "val", rows) is None
    write_text(file_of(path), json.dumps({}) + "\n")
    with pytest.raises(ValueError, match=r"test\.facts\.jsonl"):
        find_facts(settings, "toolcall", "test", rows)


def test_given_values_are_counted_and_rows_that_lack_one():
    given = [
        [{"radius": "request", "unit": "default"}],
        [{"radius": "neither"}, {"radius": "neither", "unit": "request"}],
        [{}],
    ]
    facts = [RowFacts("", "", [], None, found) for found in given]
    assert count_given(facts) == {
        "values": 5,
        "values_request": 2,
        "values_default": 1,
        "values_neither": 2,
        "rows_with_neither": 1,
    }


@pytest.mark.parametrize("track", TRACKS)
def test_the_manifest_counts_what_the_shipped_facts_say(track):
    counted = json.loads((COMMITTED / "manifest.json").read_text())["answerability"]
    for split in SPLITS:
        assert counted[track][split] == count_given(
            [facts for _, facts in read_shipped(track, split)]
        )
