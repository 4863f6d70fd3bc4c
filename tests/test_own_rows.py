import json
import random
import re
from pathlib import Path

import networkx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_rows import TOOL, call, make_raw, rename, toolcall_row, write_own

from swaplib.data import dataset
from swaplib.data.facts import read_facts
from swaplib.data.near_duplicates import SPLIT_RULE, cluster_prompts, split_clusters
from swaplib.data.one_file import read_own_file
from swaplib.data.own_rows import is_own, read_own_rows
from swaplib.files import hash_file, write_json
from swaplib.metrics import TRACKS
from swaplib.rows import SPLITS, Row, write_rows

SIZES = dict.fromkeys(TRACKS, "1/1/1")
SCHEMA = {"type": "object", "properties": {"total": {"type": "integer"}}, "required": ["total"]}


@pytest.mark.parametrize("place", ["toolcall", "."])
def test_tools_are_read_from_the_tracks_folder_or_the_one_above(tmp_path, settings, place):
    own = write_own(
        tmp_path / "own",
        "toolcall",
        test=[toolcall_row("Radius 5?", "area", '{"radius":5,"unit":"cm"}')],
    )
    write_json(own / place / "tools.json", [TOOL, rename("volume")])
    made = dataset.build_dataset(settings, str(own), SIZES)
    (facts,) = read_facts(
        settings.dataset / "toolcall" / "test.jsonl", made.rows["toolcall"]["test"]
    )
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
    (facts,) = read_facts(
        settings.dataset / "structured" / "test.jsonl", made.rows["structured"]["test"]
    )
    assert (facts.tools, facts.group, facts.given) == ([], None, [{"total": "neither"}])


def test_tools_as_json_schema_are_written_back_unchanged(tmp_path):
    own = write_own(tmp_path / "own", "toolcall")
    parameters = {
        "type": "object",
        "properties": {"radius": {"type": "number", "minimum": 0}},
        "required": ["radius"],
    }
    tool = {
        "type": "function",
        "function": {"name": "area", "description": "A.", "parameters": parameters},
    }
    write_json(own / "tools.json", [tool])
    assert read_own_rows(own).facts["toolcall"]["val"][0].tools == [tool]


def test_golds_that_call_a_tool_that_is_not_offered_are_all_named(tmp_path, settings):
    own = write_own(
        tmp_path / "own",
        "toolcall",
        train=[toolcall_row("a", "area", '{"radius":5}'), toolcall_row("b", "vol")],
    )
    write_own(
        own,
        "structured",
        val=[Row("c", '[{"name":"area","arguments":{"radius":5}},{"name":"x","arguments":{}}]')],
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
    assert (
        "structured/test.jsonl:2: does not fit schema.json at $.total "
        "('5' is not of type 'integer')" in str(caught.value)
    )
    assert (
        "structured/test.jsonl:3: does not fit schema.json at $ ([] is not of type 'object')"
        in str(caught.value)
    )
    assert "test.jsonl:1" not in str(caught.value)
    assert not settings.dataset.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tools.json", {"name": "area"}, r"tools\.json: expected a list of tools, found dict"),
        (
            "tools.json",
            [{"name": 5, "parameters": {}}],
            r"tools\.json: expected a tool with a name",
        ),
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
    with pytest.raises(
        ValueError, match=r"structured/train\.jsonl:1: schema\.json refers to itself without end"
    ):
        read_own_rows(own)


def test_rows_without_tools_or_schema_have_no_facts(tmp_path):
    made = read_own_rows(write_own(write_own(tmp_path / "own", "structured"), "toolcall"))
    assert (made.facts, made.schemas) == ({}, {})
    assert {track: set(splits) for track, splits in made.rows.items()} == {
        t: set(SPLITS) for t in TRACKS
    }


def test_a_folder_without_a_track_says_what_was_expected(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"expected structured/ or toolcall/ with train\.jsonl"
    ):
        read_own_rows(tmp_path)


@pytest.mark.parametrize("arguments", ['{"radius":"5"}', "{}", '{"radius":-1}'])
def test_golds_whose_arguments_do_not_fit_the_tools_are_named(tmp_path, arguments):
    own = write_own(tmp_path / "own", "toolcall", test=[toolcall_row("a", "area", arguments)])
    schema = {
        "type": "object",
        "properties": {"radius": {"type": "number", "minimum": 0}},
        "required": ["radius"],
    }
    write_json(own / "tools.json", [{"name": "area", "parameters": schema}])
    with pytest.raises(
        ValueError, match=r"toolcall/test.jsonl:1: does not fit the tool area of tools.json at \$"
    ):
        read_own_rows(own)


def write_file(path: Path, rows: list[Row]) -> Path:
    write_rows(path, rows)
    return path


def make_own(n: int, track: str = "structured") -> list[Row]:
    """Rows whose prompts share an instruction and nothing else."""
    prompts = [f"Reply with JSON for the request. Request: w{i} x{i} y{i}" for i in range(n)]
    completion = (
        '{"total":5}'
        if track == "structured"
        else '<tool_call name="area">{"radius":5}</tool_call>'
    )
    return [Row(prompt, completion) for prompt in prompts]


def jaccard(a: str, b: str) -> float:
    one, other = (set(re.findall(r"\w+", text.lower())) for text in (a, b))
    return len(one & other) / len(one | other) if one | other else 1.0


@pytest.mark.parametrize("track", TRACKS)
@pytest.mark.parametrize("is_folder", [True, False])
def test_one_file_is_split_and_its_track_found(settings, tmp_path, track, is_folder):
    file = write_file(tmp_path / "own" / "rows.jsonl", make_own(100, track))
    made = dataset.build_dataset(settings, str(file.parent if is_folder else file), SIZES)
    assert made.manifest["rows"] == {track: {"train": 60, "val": 10, "test": 30}}
    assert made.manifest["source"] == str(file)
    assert made.manifest["source_sha256"] == hash_file(file)
    assert made.manifest["near_duplicates"] == {"clusters": 0, "rows": 0, "largest": 0}
    assert made.manifest["split_rule"] == SPLIT_RULE
    taken = [row for rows in made.rows[track].values() for row in rows]
    assert sorted(row.prompt for row in taken) == sorted(row.prompt for row in make_own(100, track))


def test_the_seed_makes_the_split(tmp_path):
    file = write_file(tmp_path / "mine.jsonl", make_own(50))
    first, again, other = (read_own_file(file, seed)[0].rows for seed in (42, 42, 7))
    assert first == again != other
    assert {split: len(rows) for split, rows in other["structured"].items()} == {
        "train": 30,
        "val": 5,
        "test": 15,
    }


def test_nearly_equal_prompts_are_counted_and_stay_on_one_side(settings, tmp_path):
    twins = [
        Row(f"Reply with JSON for the request. Request: a b c d e f g h {i}", '{"total":5}')
        for i in range(4)
    ]
    file = write_file(tmp_path / "own.jsonl", make_own(40) + twins)
    made = dataset.build_dataset(settings, str(file), SIZES)
    assert made.manifest["near_duplicates"] == {"clusters": 1, "rows": 4, "largest": 4}
    homes = {split for split, rows in made.rows["structured"].items() if set(rows) & set(twins)}
    assert len(homes) == 1


@given(
    st.lists(
        st.lists(st.sampled_from("abcdefghij"), max_size=8).map(" ".join), min_size=1, max_size=30
    )
)
def test_clusters_are_what_hangs_together_by_similar_words(prompts):
    # Two prompts that share no word with any other: nothing is left out.
    framed = [*prompts, "k", "l"]
    graph = networkx.Graph()
    graph.add_nodes_from(range(len(framed)))
    graph.add_edges_from(
        (i, j) for j in range(len(framed)) for i in range(j) if jaccard(framed[i], framed[j]) >= 0.8
    )
    expected = sorted(sorted(component) for component in networkx.connected_components(graph))
    assert cluster_prompts(framed) == expected
    instruction = [
        f"Read the long text and reply. Request: {prompt} - that is all." for prompt in framed
    ]
    assert cluster_prompts(instruction) == expected


@given(st.lists(st.integers(1, 9), min_size=1, max_size=60), st.integers(0, 99))
def test_no_row_is_lost_and_no_cluster_torn_by_a_split(sizes, seed):
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    clusters = [list(range(start, start + size)) for start, size in zip(starts, sizes, strict=True)]
    splits = split_clusters(clusters, seed)
    side = {row: split for split, rows in splits.items() for row in rows}
    assert sorted(row for rows in splits.values() for row in rows) == list(range(sum(sizes)))
    assert all(len({side[row] for row in cluster}) == 1 for cluster in clusters)


def test_five_thousand_prompts_are_clustered_across_blocks():
    draw = random.Random(1)
    words = [f"w{i}" for i in range(2_000)]
    prompts = [" ".join(draw.sample(words, 40)) for _ in range(4_800)]
    # Each like the next, the first unlike the last.
    chain = [" ".join(words[i : i + 40]) for i in range(200)]
    mixed = [*prompts[:2_400], *chain[:100], *prompts[2_400:], *reversed(chain[100:])]
    clusters = cluster_prompts(mixed)
    assert len(clusters) == 4_801
    assert max(clusters, key=len) == [*range(2_400, 2_500), *range(4_900, 5_000)]


def test_rows_of_two_tracks_in_one_file_are_refused_with_the_lines_of_the_odd_ones(
    settings, tmp_path
):
    rows = make_own(12)
    rows[3], rows[7] = toolcall_row("a", "area"), toolcall_row("b", "area")
    rows[9] = Row("c", "prose")
    with pytest.raises(ValueError) as caught:
        dataset.build_dataset(settings, str(write_file(tmp_path / "rows.jsonl", rows)), SIZES)
    message = str(caught.value)
    assert "3 bad line(s)" in message
    assert "rows.jsonl:4: a toolcall answer, where 9 are structured answers" in message
    assert "rows.jsonl:8: a toolcall answer" in message
    assert re.search(
        r"rows\.jsonl:10: completion is no structured answer \(.*\), no toolcall answer \(", message
    )
    assert not settings.dataset.exists()


def test_contradicting_golds_of_one_file_are_named_by_its_lines(settings, tmp_path):
    rows = [*make_own(12), Row("Total?", '{"total":5}'), Row("total? ", '{"total":6}')]
    file = write_file(tmp_path / "mine.jsonl", rows)
    with pytest.raises(
        ValueError,
        match=r"mine\.jsonl:1[34] and mine\.jsonl:1[34] have the same prompt and different",
    ):
        dataset.build_dataset(settings, str(file), SIZES)


def test_what_lies_beside_one_file_is_checked_by_its_lines(settings, tmp_path):
    volume = toolcall_row("v", "volume", '{"radius":5}')
    file = write_file(tmp_path / "own" / "rows.jsonl", [volume, *make_own(10, "toolcall"), volume])
    write_json(file.parent / "tools.json", [TOOL])
    with pytest.raises(
        ValueError,
        match=r"\n  rows\.jsonl:1: calls volume, .*\n  rows\.jsonl:12: calls volume, .* offer$",
    ):
        dataset.build_dataset(settings, str(file.parent), SIZES)
    write_json(file.parent / "tools.json", [TOOL, rename("volume")])
    made = dataset.build_dataset(settings, str(file.parent), SIZES)
    facts = read_facts(settings.dataset / "toolcall" / "test.jsonl", made.rows["toolcall"]["test"])
    assert len(facts[0].tools) == 2
    file = write_file(tmp_path / "other" / "rows.jsonl", [*make_own(10), Row("x", '{"total":"5"}')])
    write_json(file.parent / "schema.json", SCHEMA)
    with pytest.raises(ValueError, match=r"rows\.jsonl:11: does not fit schema\.json at \$\.total"):
        read_own_file(file, 42)


def test_a_few_rows_or_prompts_that_are_all_alike_cannot_be_split(tmp_path):
    with pytest.raises(ValueError, match=r"few\.jsonl: 9 row\(s\); expected at least 10"):
        read_own_file(write_file(tmp_path / "few.jsonl", make_own(9)), 42)
    assert all(
        read_own_file(write_file(tmp_path / "ten.jsonl", make_own(10)), 42)[0]
        .rows["structured"]
        .values()
    )
    same = [Row("Total?", '{"total":5}')] * 20
    with pytest.raises(
        ValueError,
        match=r"no rows for val, test\. .*20 rows make 1 cluster\(s\) of such, the largest of 20",
    ):
        read_own_file(write_file(tmp_path / "same.jsonl", same), 42)


def test_a_folder_with_both_forms_is_refused(settings, tmp_path):
    own = write_own(tmp_path / "own", "structured")
    write_file(own / "rows.jsonl", make_own(10))
    with pytest.raises(ValueError, match=r"holds rows\.jsonl and structured/\. Keep one"):
        dataset.build_dataset(settings, str(own), SIZES)


def test_own_rows_and_raw_rows_are_told_apart_by_their_keys(settings, tmp_path):
    file = write_file(tmp_path / "rows.jsonl", make_own(10))
    raw = tmp_path / "raw.jsonl"
    raw.write_text(
        "\n".join(json.dumps(make_raw(i, [call("area", radius=i)], [TOOL])) for i in range(3))
    )
    listed = tmp_path / "raw.json"
    listed.write_text("[\n" + ",".join(raw.read_text().split("\n")) + "]")
    assert [
        is_own(path) for path in (file, tmp_path, raw, listed, settings.sample, tmp_path / "none")
    ] == [*(True, True, False, False, False, False)]
    file.write_bytes(b"not JSON\n\n5\n" + file.read_bytes())
    assert is_own(file)
    with pytest.raises(ValueError, match=r"rows\.jsonl:1: not JSON"):
        dataset.build_dataset(settings, str(file), SIZES)


@pytest.mark.parametrize("text", ['{"input": "a", "output": "b"}\n', "prose\n", "", "5\n"])
def test_a_file_that_is_neither_says_what_both_look_like(settings, tmp_path, text):
    file = tmp_path / "rows.jsonl"
    file.write_text(text)
    with pytest.raises(
        ValueError, match=r'neither own rows nor raw xLAM rows.*\{"prompt": .*\{"id": 7, "query": '
    ):
        dataset.build_dataset(settings, str(file), SIZES)
