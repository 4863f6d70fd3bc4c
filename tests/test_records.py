import json

import pytest

from benchmarks import records


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    return tmp_path


def test_a_part_is_replaced_and_the_others_stay(results):
    for part, ours in (("slow", 1.0), ("fast", 2.0), ("slow", 3.0)):
        records.write_part(part, [records.make_record("a row", ours, 1.5, "s")])
    kept = json.loads((results / "throughput.json").read_text())
    assert [(record["part"], record["ours"]) for record in kept] == [("fast", 2.0), ("slow", 3.0)]
    assert {"machine", "git_commit"} <= set(kept[0])
    text = (results / "throughput.md").read_text()
    assert "## slow\n\nOn " in text
    assert "| case | ours | other | unit | ratio |" in text


def test_records_are_replaced_by_all_their_keys(tmp_path):
    path = tmp_path / "prompts.json"
    for model in ("a", "b"):
        records.replace_records(path, [{"part": "rows", "model": model}], ["part", "model"])
    known = records.replace_records(path, [{"part": "rows", "model": "a"}], ["part", "model"])
    assert [record["model"] for record in known] == ["b", "a"]


def test_a_ratio_is_of_unrounded_numbers_and_a_spread_is_of_ours():
    record = records.compare_medians("a row", [2.00004, 2.00006, 9.0], [1.0], "s")
    assert (record["ours"], record["ratio"], record["spread"]) == (2.0, 2.0, "2 to 9")
    assert records.make_record("rows", 7, None, "rows")["ratio"] is None


def test_a_table_has_a_column_for_each_key_that_is_not_left_out():
    table = records.format_records([{"a": 1.23456, "b": {"x": 2, "y": 0}}, {"c": None}], ["c"])
    assert table == ["| a | b |", "| --- | --- |", "| 1.235 | x 2 |", "|  |  |"]
