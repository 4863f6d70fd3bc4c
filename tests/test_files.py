import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest
from kills import kill_at_step

from swaplib.files import append_line, read_json, replace_files, replaced_folder, write_text
from swaplib.provenance import locked, make_run_id


def read(folder) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def write_folder(target, word: str) -> None:
    with replaced_folder(target) as built:
        for name in ("a", "b"):
            (built / name).write_text(word)
        (built.parent / "scratch").write_text(word)


def test_a_folder_killed_at_any_step_is_the_old_one_the_new_one_or_not_there(tmp_path):
    old, new, found = {"a": "old", "b": "old"}, {"a": "new", "b": "new"}, []
    target = tmp_path / "deep" / "folder"
    was_killed = True
    while was_killed:
        write_folder(target, "old")
        was_killed = kill_at_step(len(found), lambda: write_folder(target, "new"))
        found.append(read(target))
        write_folder(target, "again")
        # What the kill left is gone.
        assert [path.name for path in target.parent.iterdir()] == ["folder"]
    # Between the two names.
    assert [content for content in found if content not in (old, new)] == [{}]
    assert old in found
    assert found[-1] == new


def test_a_folder_that_fails_leaves_the_old_one_and_nothing_else(tmp_path):
    write_folder(tmp_path / "folder", "old")
    with pytest.raises(KeyboardInterrupt), replaced_folder(tmp_path / "folder") as built:
        (built / "a").write_text("new")
        raise KeyboardInterrupt
    assert read(tmp_path) == {"folder/a": "old", "folder/b": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_folder_that_somebody_else_makes_meanwhile_is_not_replaced(tmp_path):
    with pytest.raises(OSError), replaced_folder(tmp_path / "folder"):
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "theirs").write_text("here")
    assert read(tmp_path) == {"folder/theirs": "here"}


OLD, NEW = {"manifest": "old", "x/1": "old", "x/2": "old"}, {"x/1": "new", "y/3": "new"}


@pytest.mark.parametrize("removed", [("manifest", "x/1", "x/2"), ("x/1", "x/2", "manifest")])
def test_files_killed_at_any_step_are_never_some_of_both_and_the_first_of_the_old_goes_first(
    tmp_path, removed
):
    folder, was_killed, step = tmp_path / "rows", True, 0
    while was_killed:
        shutil.rmtree(folder, ignore_errors=True)
        replace_files(folder, OLD, ())
        was_killed = kill_at_step(step, lambda: replace_files(folder, NEW, removed))
        found = {name: text for name, text in read(folder).items() if ".build" not in name}
        assert found.items() <= OLD.items() or found.items() <= NEW.items()
        assert found == OLD or removed[0] not in found or found.get("x/1") == "new"
        step += 1
    assert found == NEW
    assert not (folder / ".build").exists()


def test_files_that_cannot_be_written_leave_the_old_ones(tmp_path):
    replace_files(tmp_path, OLD, ())
    with pytest.raises(UnicodeEncodeError):
        replace_files(tmp_path, {"x/1": "new", "x/2": "\ud800"}, OLD)
    assert read(tmp_path) == OLD


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_who_may_read_a_file_is_the_umasks_affair_and_stays_as_it_was_set(tmp_path, umask, mode):
    path, before = tmp_path / "rows" / "test.jsonl", os.umask(umask)
    try:
        write_text(path, "a prompt")
        append_line(tmp_path / "ledger.jsonl", "{}")
        replace_files(tmp_path, {"x/1": "a prompt"}, ())
        assert {
            stat.S_IMODE(file.stat().st_mode) for file in tmp_path.rglob("*") if file.is_file()
        } == {mode}
        path.chmod(0o640)
        write_text(path, "another")
    finally:
        os.umask(before)
    assert (stat.S_IMODE(path.stat().st_mode), path.read_text()) == (0o640, "another")


@pytest.fixture
def other_device(tmp_path):
    """A folder on another device than tmp_path."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this machine has no second device that a test may write to")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


def test_files_below_a_link_to_another_device_are_replaced_and_none_is_lost(tmp_path, other_device):
    (tmp_path / "x").symlink_to(other_device)
    replace_files(tmp_path, OLD, ())
    replace_files(tmp_path, NEW, OLD)
    assert {name: (tmp_path / name).read_text() for name in NEW} == NEW
    assert {path.name: path.read_text() for path in other_device.iterdir()} == {"1": "new"}
    assert not list(tmp_path.rglob(".build"))


def test_a_folder_that_is_a_link_to_another_device_is_replaced_there(tmp_path, other_device):
    write_folder(other_device / "folder", "old")
    (tmp_path / "folder").symlink_to(other_device / "folder")
    write_folder(tmp_path / "folder", "new")
    assert (tmp_path / "folder").is_symlink()
    assert read(other_device) == {"folder/a": "new", "folder/b": "new"}


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b'{\n  "a": 1,\n  "b', r":3: not JSON \(.* at column 3\)"),
        (b"", ":1: not JSON"),
        (b"[1]", ":1: expected a JSON object, found list"),
        (b"\xff\xfe{\x00", r": not JSON \(UnicodeDecodeError\)"),
        (b"[" * 200_000, r": not JSON \(RecursionError\)"),
    ],
)
def test_a_broken_file_is_named_with_its_line_and_what_to_do(tmp_path, content, where):
    path = tmp_path / "metrics.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"metrics\.json{where}.*Delete it\."):
        read_json(path, "Delete it.")


def test_a_lock_that_is_a_link_is_refused_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / ".lock-key").symlink_to(tmp_path / "thesis.txt")
    with pytest.raises(OSError, match=r"\.lock-key"), locked(tmp_path, "key"):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_run_id_sorts_behind_the_newest_though_the_clock_was_set_back():
    assert make_run_id("a", after="29991231T235959999Z-toolcall-azure") == "30000101T000000000Z-a"
    assert make_run_id("a", after="20200101T000000000Z-b") > make_run_id("a")[:8]
    assert make_run_id("a", after="no run")[0] == "2"
