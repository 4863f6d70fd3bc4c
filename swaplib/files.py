"""Files and folders on disk: written whole or not at all, appended line by line, hashed.

What they hold is not known here.
"""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

Parsed = TypeVar("Parsed")


def hash_text(text: str) -> str:
    """The sha256 of a text in UTF-8, in hex (a lone surrogate counts as itself)."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def hash_file(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: a temporary file beside it, synced, then renamed. Makes the folder.

    A new file has the permissions of the umask; one that is replaced keeps its own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with _with_filename(path), temporary.open("x", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if path.is_file():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_text(path, format_json(value))


def format_json(value: Any) -> str:
    """A value as the text of a JSON file: indented, with a newline at its end."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: The file, which must exist.
        advice: What to do when it is broken, for the error.

    Raises:
        ValueError: It does not hold an object; file, line and column are named.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}:{error.lineno}: not JSON ({error.msg} at column {error.colno}). {advice}"
        ) from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({type(error).__name__}). {advice}") from None
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}:1: expected a JSON object, found {type(content).__name__}. {advice}"
        )
    return content


@contextlib.contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """Make a folder beside its place and rename it at the end; an old one makes room only then.

    A kill leaves the old folder, the new one or neither; what else it leaves, the next attempt
    removes. Whatever fails, nothing of the attempt is left.

    Args:
        target: The folder's place; where that is a link, the place it leads to. Makes the folders
            above it.

    Yields:
        The empty folder to fill. Its parent belongs to the attempt: what else is put there is
        removed with it.
    """
    target = target.resolve()
    work = target.with_name(f".{target.name}.build")
    is_there = target.exists()
    shutil.rmtree(work, ignore_errors=True)  # left by a kill
    built = work / "new"
    try:
        built.mkdir(parents=True)
        yield built
        if is_there:
            os.replace(target, work / "old")
        os.replace(built, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def replace_files(folder: Path, texts: Mapping[str, str], old: Iterable[str]) -> None:
    """Replace files below a folder by others: some old ones are never beside some new ones.

    All are written beside their place first, where a full disk harms nothing (each in the folder it
    will be in, which may be a link to another device); then the old ones are removed, and then the
    new ones are moved in, both in their order. A kill in between leaves files missing, and readers
    must say so.

    Args:
        folder: The folder, which is made.
        texts: The new files by path below the folder; one may replace a file that is not among the
            old.
        old: The files to remove, as far as they exist.
    """
    staged = {name: (folder / name).parent / ".build" / Path(name).name for name in texts}
    places = {path.parent for path in staged.values()}
    try:
        for place in places:
            shutil.rmtree(place, ignore_errors=True)  # left by a kill
        for name, text in texts.items():
            write_text(staged[name], text)
        for name in old:
            (folder / name).unlink(missing_ok=True)
        for name, path in staged.items():
            os.replace(path, folder / name)
    finally:
        for place in places:
            shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def _with_filename(path: Path) -> Iterator[None]:
    """Add the file's name to errors of writing that lack it, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def append_line(path: Path, line: str) -> None:
    """Append one line; as append_lines."""
    append_lines(path, [line])


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Append lines and sync them to disk at once; makes the folder.

    A torn last line, left by a kill, is closed first.
    """
    with _with_filename(path), _open_to_append(path) as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(b"".join(line.encode() + b"\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())


def _open_to_append(path: Path) -> BinaryIO:
    try:
        return path.open("ab+")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab+")


def read_appended(path: Path) -> Iterator[str]:
    """The lines of a file that append_line wrote; a missing one has none.

    A torn line may hold any bytes.
    """
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            yield from (line.removesuffix("\n") for line in file)


def parse_appended(path: Path, parse: Callable[[str], Parsed], what: str) -> Iterator[Parsed]:
    """Parse a file that append_line wrote, line by line; torn lines are skipped.

    Args:
        path: The file; a missing one has no lines.
        parse: Takes a line's text; raises JSONDecodeError for a torn one.
        what: What a line should be, for the error.

    Raises:
        ValueError: A line is JSON but not what it should be; file:line is named.
    """
    for number, text in enumerate(read_appended(path), start=1):
        try:
            parsed = parse(text)
        except json.JSONDecodeError:
            continue
        except KeyError as error:
            raise ValueError(f"{path}:{number}: not {what} (it lacks {error})") from None
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path}:{number}: not {what} ({error})") from None
        yield parsed
