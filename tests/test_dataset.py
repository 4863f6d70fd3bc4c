import json
import os

import pytest
from raw_rows import TOOL, call, make_raw, rename, toolcall_row, write_own

from swaplib.data import dataset
from swaplib.data.audit import called_tools
from swaplib.files import hash_file, write_json
from swaplib.metrics import TRACKS
from swaplib.rows import SPLITS, Row, read_rows, write_rows
from swaplib.settings import ROOT

SIZES = {"toolcall": "340/60/100", "structured": "600/80/100"}
COMMITTED = ROOT / "slm_swap" / "02_dataset"

# The committed rows are frozen: figures on file were measured on them. A change of a line here is
# a change of the question that every recorded run was asked, so mend the code instead, or record
# everything again.
FROZEN = {
    "structured/train.jsonl": "8158da4fe3a5302c4716c712c77ac11d91417b1e8301a931583c53cd9ffd54a7",
    "structured/val.jsonl": "b3ce4e32d97b86b98c221683017276ea670fad318a4fd012c6d3b9a1d1fa784a",
    "structured/test.jsonl": "040631527a9072e671c890e7c0580a48f9fd186207f601874f707ed0e51adde9",
    "toolcall/train.jsonl": "be32f36bc84c3909f86251a727fca8d4021a6ec47e5274387e14950e47c8624d",
    "toolcall/val.jsonl": "10d571066cf7fdf6871fa305ef6779687cbcbfd3de62e7879b059ddd6c35c3f8",
    "toolcall/test.jsonl": "6f10f0c29cdab4790a1ae9fb2dbc6d5ccb48702167b8398c0addbe68b6949895",
}


@pytest.mark.parametrize("file", FROZEN)
def test_committed_rows_stay_as_they_were_frozen(file):
    assert hash_file(COMMITTED / file) == FROZEN[file]


def test_committed_files_are_what_the_shipped_sample_gives(settings):
    made = dataset.build_dataset(settings, "sample", SIZES)
    written = {
        str(path.relative_to(settings.dataset)) for path in settings.dataset.rglob("*.json*")
    }
    assert written == {
        "manifest.json",
        *(
            f"{track}/{split}{end}"
            for track in TRACKS
            for split in SPLITS
            for end in (".jsonl", ".facts.jsonl")
        ),
    }
    for file in written:
        assert (settings.dataset / file).read_bytes() == (COMMITTED / file).read_bytes(), file
    assert (
        made.manifest["source_sha256"]
        == "88c572d05c5e087f67902af0c21dc4e23d10479ae8ac1e2b88262d2a9c8a7ef5"
    )
    assert made.manifest["sha256"] == {
        file: hash_file(settings.dataset / file) for file in written - {"manifest.json"}
    }
    assert made.manifest["rows"]["toolcall"]["test"] == 87
    assert made.manifest["rows"]["structured"]["test"] == 83


def test_every_source_row_is_a_row_or_has_a_reason(settings):
    manifest = dataset.build_dataset(settings, "sample", SIZES).manifest
    kept = sum(n for splits in manifest["rows"].values() for n in splits.values())
    assert kept + sum(manifest["left_out"].values()) == manifest["source_rows"] == 2052
    assert all(n > 0 for n in manifest["left_out"].values())


def test_no_tool_of_test_is_called_in_train_or_val_of_either_track():
    called = {split: set() for split in SPLITS}
    for track in TRACKS:
        for split in SPLITS:
            for row in read_rows(COMMITTED / track / f"{split}.jsonl", track):
                called[split] |= set(called_tools(track, row.completion))
    assert all(called.values())
    assert not called["test"] & (called["train"] | called["val"])
    assert not called["train"] & called["val"]


def test_rows_left_out_for_their_golds_are_counted_in_the_manifest(settings, tmp_path):
    tools = [rename(f"t{i}") for i in range(30)]
    sound = [
        make_raw(i, [call(f"t{i}", radius=i)], tools, f"Radius {i} of a circle?") for i in range(20)
    ]
    pairs = [
        make_raw(i, [call(f"t{i}", radius=i)] * 2, [tools[i]], f"Radius {i}, twice?")
        for i in range(20, 30)
    ]
    flawed = [
        make_raw(100, [call("t0", radius=1, unit="cm")], [tools[0]], "Radius 1?"),
        make_raw(101, [call("t1", radius="1")], [tools[1]], "Radius 1, again?"),
        make_raw(102, [call("t2", size=1)], [tools[2]], "Size 1?"),
        make_raw(103, [call("t3", radius=1)], [tools[3]], "Radius 1 of a porn site's logo?"),
    ]
    (tmp_path / "raw.json").write_text(json.dumps([*sound, *pairs, *flawed]))
    sizes = {"toolcall": "50/2/2", "structured": "50/2/2"}
    made = dataset.build_dataset(settings, str(tmp_path / "raw.json"), sizes)
    left_out = {reason: n for reason, n in made.manifest["left_out"].items() if n}
    assert left_out == {
        "a gold states a default that the request does not name word for word": 1,
        "a gold value is of another type than declared": 1,
        "a gold names a parameter that its tool lacks": 1,
        "a request or tool for adults": 1,
    }
    prompts = [
        row.prompt for splits in made.rows.values() for rows in splits.values() for row in rows
    ]
    assert len(prompts) == 30
    assert not any(
        "again?" in prompt or "Size 1?" in prompt or "porn" in prompt for prompt in prompts
    )


def test_a_prompt_in_two_splits_names_both_rows_and_writes_nothing(settings, tmp_path):
    own = write_own(
        tmp_path / "own",
        "toolcall",
        train=[toolcall_row("First", "x"), toolcall_row("Same  prompt", "a")],
        val=[toolcall_row("Val", "v")],
        test=[toolcall_row("same prompt", "b")],
    )
    with pytest.raises(
        ValueError, match=r"toolcall/train.jsonl:2 and toolcall/test.jsonl:1 have the same prompt"
    ):
        dataset.build_dataset(settings, str(own), SIZES)
    assert not settings.dataset.exists()


def test_own_rows_that_contradict_each_other_name_both_and_write_nothing(settings, tmp_path):
    rows = [Row("Total?", '{"total":5}'), Row("Other?", "{}"), Row("Total?", '{"total":6}')]
    own = write_own(tmp_path / "own", "structured", val=rows)
    with pytest.raises(
        ValueError,
        match=r"structured/val.jsonl:1 and structured/val.jsonl:3 have the same prompt and di",
    ):
        dataset.build_dataset(settings, str(own), SIZES)
    assert not settings.dataset.exists()


def test_own_rows_that_repeat_each_other_are_counted(settings, tmp_path):
    rows = [
        Row("Total?", '{"total":5}'),
        Row("Total?", '{"total": 5}'),
        Row("Other?", '{"total":5}'),
    ]
    own = write_own(tmp_path / "own", "structured", test=rows)
    made = dataset.build_dataset(settings, str(own), SIZES)
    assert made.manifest["repeated_prompts"] == {"structured": {"train": 0, "val": 0, "test": 1}}
    assert made.manifest["rows"]["structured"]["test"] == 3


def test_a_source_too_small_for_a_split_writes_nothing(settings, tmp_path):
    small = tmp_path / "raw.jsonl"
    raw = settings.sample.read_text().split("\n")
    small.write_text("\n".join(raw[:2]))
    with pytest.raises(
        ValueError,
        match="no structured rows: they are made of requests with two or three answers, and",
    ):
        dataset.build_dataset(settings, str(small), SIZES)
    small.write_text(
        "\n".join([*raw[:2], *(line for line in raw if line.count('\\"arguments\\"') == 2)][:6])
    )
    with pytest.raises(ValueError, match=r"no rows for .*train.*too small"):
        dataset.build_dataset(settings, str(small), SIZES)
    assert not settings.dataset.exists()


def test_own_rows_are_taken_as_they_are(settings, tmp_path):
    rows = {split: [Row(f"Sum up {split}", '{"total": 5}')] for split in SPLITS}
    made = dataset.build_dataset(
        settings, str(write_own(tmp_path / "own", "structured", **rows)), SIZES
    )
    assert made.manifest["rows"] == {"structured": {"train": 1, "val": 1, "test": 1}}
    for split in SPLITS:
        file = f"structured/{split}.jsonl"
        assert (settings.dataset / file).read_bytes() == (tmp_path / "own" / file).read_bytes()
        assert (
            read_rows(settings.dataset / file, "structured")
            == made.rows["structured"][split]
            == rows[split]
        )


def test_own_rows_without_tools_or_schema_have_no_facts(settings, tmp_path):
    made = dataset.build_dataset(settings, str(write_own(tmp_path / "own", "structured")), SIZES)
    assert made.manifest["answerability"] == {}
    assert {path.name for path in (settings.dataset / "structured").iterdir()} == {
        f"{s}.jsonl" for s in SPLITS
    }


def test_facts_and_schema_of_an_earlier_build_are_removed(settings, tmp_path):
    own = write_own(tmp_path / "own", "structured")
    write_json(own / "schema.json", {"type": "object"})
    dataset.build_dataset(settings, str(own), SIZES)
    names = {path.name for path in (settings.dataset / "structured").iterdir()}
    assert names == {
        "schema.json",
        *(f"{s}{end}" for s in SPLITS for end in (".jsonl", ".facts.jsonl")),
    }
    assert json.loads((settings.dataset / "structured" / "schema.json").read_text()) == {
        "type": "object"
    }
    (own / "schema.json").unlink()
    made = dataset.build_dataset(settings, str(own), SIZES)
    assert {path.name for path in (settings.dataset / "structured").iterdir()} == {
        f"{s}.jsonl" for s in SPLITS
    }
    assert set(made.manifest["sha256"]) == {f"structured/{split}.jsonl" for split in SPLITS}


def test_a_build_that_is_killed_while_files_are_moved_leaves_no_rows_without_their_facts(
    settings, tmp_path, monkeypatch
):
    own = write_own(write_own(tmp_path / "own", "structured"), "toolcall")
    write_json(own / "schema.json", {"type": "object"})
    write_json(own / "tools.json", [TOOL])
    move, left = os.replace, 0

    def replace(source, target):  # a kill between two files
        nonlocal left
        if ".build" in str(source) and ".build" not in str(target):
            if not left:
                raise KeyboardInterrupt
            left -= 1
        move(source, target)

    for n in range(14):  # manifest, schema, six files of rows and six of facts
        left = n
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "replace", replace)
            dataset.build_dataset(settings, str(own), SIZES)
        for path in settings.dataset.glob("*/*.jsonl"):
            assert path.with_name(f"{path.name.split('.')[0]}.facts.jsonl").is_file(), (
                n,
                path.name,
            )
    dataset.build_dataset(settings, str(own), SIZES)
    assert len(list(settings.dataset.glob("*/*.jsonl"))) == 12


def test_a_track_that_a_source_no_longer_has_is_removed(settings, tmp_path):
    own = write_own(write_own(tmp_path / "own", "structured"), "toolcall")
    write_json(own / "tools.json", [TOOL])
    dataset.build_dataset(settings, str(own), SIZES)
    for path in (own / "toolcall").iterdir():
        path.unlink()
    (own / "toolcall").rmdir()
    dataset.build_dataset(settings, str(own), SIZES)
    assert list((settings.dataset / "toolcall").iterdir()) == []


def test_rows_of_another_source_do_not_end_up_beside_those_of_this_one(settings, tmp_path):
    for folder in ("own", "other"):
        write_own(tmp_path / folder, "structured")
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
