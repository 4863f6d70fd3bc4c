"""Where tasks come from: xLAM's rows or files of your own; and the same again for a later stage.

A capture and a build say in their facts which files of your own they are of. What comes after them
takes these, if they have not changed, and runs the tools as the capture was told to.
"""

from collections.abc import Mapping
from typing import Any

from swaplib.agents.own_tasks import OwnFiles, read_own_tasks
from swaplib.agents.tasks import TaskSet, read_tasks
from swaplib.files import hash_file
from swaplib.settings import ROOT, Settings


def choose_files(
    tools: str, tasks: str, trusted: bool = False, allow_unwalled: bool = False
) -> OwnFiles | None:
    """Your own files as 06's parameters name them; None where they name none.

    Raises:
        ValueError: One goes without the other, or `trusted` without both.
    """
    if tools and tasks:
        return OwnFiles(tools, tasks, trusted, allow_unwalled)
    if tools or tasks:
        given, lacking = ("tools", "tasks") if tools else ("tasks", "tools")
        raise ValueError(f"{given}={tools or tasks!r}, but no {lacking}: the two go together")
    if trusted:
        raise ValueError("trusted=True is about tools of your own: name tools and tasks, too")
    return None


def find_tasks(
    settings: Settings, source: str = "sample", fold: int = 0, own: OwnFiles | None = None
) -> TaskSet:
    """The tasks of your own files, else those of the rows that 01's dataset was made from.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: As for read_own_tasks and read_tasks.
    """
    if own is not None:
        return read_own_tasks(own, fold)
    return read_tasks(settings, source, fold)


def find_tasks_again(
    settings: Settings,
    source: str,
    fold: int,
    facts: Mapping[str, Any],
    allow_unwalled: bool = False,
) -> TaskSet:
    """The tasks that a capture was made of.

    Args:
        settings: Says where the dataset is.
        source: As for find_tasks; not used for files of your own.
        fold: Which fifth is held out, 0 to 4.
        facts: What the capture, or its build, says of the tasks' source.
        allow_unwalled: Run tools of your own even where nothing contains them.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: As for find_tasks, or a file of your own is
            another one now.
    """
    known = facts.get("own")
    if known is None:
        return find_tasks(settings, source, fold)
    for name in ("tools", "tasks"):
        path = ROOT / known[name]
        if not path.is_file() or hash_file(path) != known[f"{name}_sha256"]:
            raise ValueError(
                f"{known[name]} is not what it was when it was captured. Run 06_capture again; "
                "where only golds have changed, it asks nothing."
            )
    own = OwnFiles(known["tools"], known["tasks"], known["is_trusted"], allow_unwalled)
    return find_tasks(settings, source, fold, own)
