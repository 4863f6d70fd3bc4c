"""A small JSON file that several processes change: one at a time, whole, and on disk afterwards.

What the file holds is not known here.
"""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from swaplib.files import read_json, write_json

Content = dict[str, Any]


def change_json(
    path: Path, advice: str, change: Callable[[Content | None], Content | None]
) -> None:
    """Change a JSON file under a lock; when this returns, the change is on disk.

    The lock is on a file beside it, since the file itself is replaced; the system takes it from a
    process that ends, however it ends.

    Args:
        path: The file, in a folder that exists.
        advice: What to do when it is broken, for the error.
        change: Takes what it holds, None where there is no file; gives back what it is to hold,
            None to leave it. What it raises leaves the file as it is.

    Raises:
        ValueError: The file holds no JSON object; it is named.
        OSError: It cannot be read or written.
    """
    with path.with_name(f".{path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        content = change(read_json(path, advice) if path.exists() else None)
        if content is not None:
            write_json(path, content)
            _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Have the new name of a replaced file on disk, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
