import json
from dataclasses import replace

import pytest

from swaplib.files import append_line, write_text
from swaplib.rows import Generation, LedgerLine, Row, read_ledger, read_rows, write_rows
from swaplib.settings import ROOT

GOOD = json.dumps({"prompt": "p", "completion": '<tool_call name="f">{}</tool_call>'})


def make_line(index: int, status: str = "ok") -> LedgerLine:
    return LedgerLine(
        index,
        "0" * 64,
        Generation("x \ud83d\u2028", status, "stop", 1, 2, 3.5),
        {"valid_call": False},
    )


def test_rows_come_back_as_written(tmp_path):
    rows = [
        Row("é \u2028 line", '<tool_call name="f">{"a":"ü"}</tool_call>'),
        Row("q", '<tool_call name="g">{}</tool_call>'),
    ]
    write_rows(tmp_path / "test.jsonl", rows)
    assert read_rows(tmp_path / "test.jsonl", "toolcall") == rows


def test_every_bad_line_is_listed_with_its_reason(tmp_path):
    lines = [
        GOOD,
        "{",
        "",
        '{"prompt": "p", "completion": "c", "id": 1}',
        '{"prompt": 5, "completion": "c"}',
        '{"prompt": " ", "completion": "c"}',
        '{"prompt": "p", "completion": "just prose"}',
        '{"prompt": "p", "prompt": "q", "completion": "c"}',
        "[1]",
        r'{"prompt": "\ud800", "completion": "c"}',
    ]
    path = tmp_path / "test.jsonl"
    path.write_bytes("\n".join(lines).encode() + b"\n\xff\n")
    with pytest.raises(ValueError) as caught:
        read_rows(path, "toolcall")
    message = str(caught.value)
    assert "10 bad line(s)" in message
    for expected in (
        "test.jsonl:2: not JSON",
        "test.jsonl:3: a blank line",
        (
            "test.jsonl:4: expected an object with exactly the keys prompt and completion, "
            "found ['completion', 'id', 'prompt']"
        ),
        "test.jsonl:5: prompt must be a text",
        "test.jsonl:6: prompt must be a text that is not blank",
        "test.jsonl:7: completion is not a toolcall answer",
        "test.jsonl:8: not JSON (duplicate key 'prompt')",
        "test.jsonl:9: expected an object",
        "test.jsonl:10: prompt holds half of a surrogate pair",
        "test.jsonl:11: not UTF-8",
    ):
        assert expected in message


def test_crlf_rows_are_read_and_a_byte_order_mark_is_named(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_bytes(GOOD.encode() + b"\r\n" + GOOD.encode() + b"\r\n")
    assert len(read_rows(path, "toolcall")) == 2
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    with pytest.raises(ValueError, match=r"test.jsonl:1: .*BOM"):
        read_rows(path, "toolcall")


def test_a_line_of_a_hundred_megabytes_is_refused_in_a_short_message(tmp_path):
    path = tmp_path / "test.jsonl"
    huge = "x" * 100_000_000
    path.write_bytes(
        b"\n".join(
            [
                json.dumps({"prompt": huge, "completion": "c"}).encode(),
                json.dumps({"x" * 1_000_000: 1}).encode(),
                b'{"' + b"y" * 1_000_000 + b'":1,"' + b"y" * 1_000_000 + b'":1}',
                b"[" * 100_000,
                GOOD.encode("utf-16"),
                b"\0" * 100,
            ]
        )
    )
    with pytest.raises(ValueError) as caught:
        read_rows(path, "toolcall")
    message = str(caught.value)
    assert len(message) < 3_000
    size = len(path.read_bytes().split(b"\n")[0])
    assert f"test.jsonl:1: a line of {size} bytes; at most 10000000 are read" in message
    for number, reason in {
        2: "expected an object",
        3: "duplicate key",
        4: "nested",
        5: "not UTF-8",
        6: "not JSON",
    }.items():
        assert f"test.jsonl:{number}: " in message
        assert reason in message


def test_a_file_in_which_every_line_is_bad_names_every_line(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text("{\n" * 2000)
    with pytest.raises(
        ValueError,
        match=r"2000 bad line\(s\)[^$]*test.jsonl:1: not JSON[^$]*test.jsonl:2000: not JSON",
    ):
        read_rows(path, "toolcall")


def test_a_missing_split_names_the_notebook(tmp_path):
    with pytest.raises(FileNotFoundError, match="01_data"):
        read_rows(tmp_path / "test.jsonl", "toolcall")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file.json"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_ledger_lines_come_back_and_the_last_line_of_a_row_counts(tmp_path):
    path = tmp_path / "ledger.jsonl"
    for line in (make_line(0), make_line(1, "error"), make_line(1)):
        append_line(path, line.to_json())
    assert read_ledger(path) == {0: make_line(0), 1: make_line(1)}


def test_logprobs_come_back_and_ledgers_of_old_have_none():
    sure = replace(make_line(0).generation, mean_logprob=-0.25, min_logprob=-1.5)
    line = replace(make_line(0), generation=sure)
    assert LedgerLine.from_json(line.to_json()) == line
    recorded = ROOT / "benchmarks" / "results" / "recorded_smollm2" / "05_eval" / "runs"
    ledgers = [read_ledger(path) for path in recorded.glob("*/ledger.jsonl")]
    assert len(ledgers) > 4
    assert {line.generation.mean_logprob for ledger in ledgers for line in ledger.values()} == {
        None
    }


def test_a_torn_last_line_counts_as_never_written_and_harms_no_later_line(tmp_path):
    path = tmp_path / "ledger.jsonl"
    append_line(path, make_line(0).to_json())
    with path.open("a") as file:
        file.write(make_line(1).to_json()[:25])
    assert set(read_ledger(path)) == {0}
    append_line(path, make_line(2).to_json())
    assert set(read_ledger(path)) == {0, 2}


def test_a_line_that_is_no_ledger_line_is_named(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.write_text('{"index": 1}\n')
    with pytest.raises(ValueError, match=r"ledger.jsonl:1"):
        read_ledger(path)
