import shutil

import pytest
from kills import kill_at_step

from swaplib.files import replace_files, replaced_folder


def read(folder) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


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
        assert [path.name for path in target.parent.iterdir()] == ["folder"]  # what the kill left is gone
    assert [content for content in found if content not in (old, new)] == [{}]  # between the two names
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
def test_files_killed_at_any_step_are_never_some_of_both_and_the_first_of_the_old_goes_first(tmp_path, removed):
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
