"""Where a number comes from: run, commit, package versions, machine and time.

Every metrics file and every run card has it.
"""

import contextlib
import fcntl
import os
import platform
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from swaplib.settings import ROOT

PACKAGES = (
    "bitsandbytes",
    "datasets",
    "langfuse",
    "openai",
    "peft",
    "torch",
    "transformers",
    "trl",
    "unsloth",
)


def describe_machine() -> dict[str, Any]:
    """The git commit and dirty flag, Python and package versions, and the device.

    Commit and flag are None outside a checkout, a version is None for a missing package.
    """
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    changes = _git("status", "--porcelain")
    return {
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": None if changes is None else bool(changes),
        "versions": versions,
        "device": describe_device(),
    }


def describe_device() -> str:
    """The GPU's name and memory, or the processor with its cores."""
    import torch

    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        return f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"CPU, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.machine()}"


def now_utc() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def make_run_id(*words: str, after: str = "") -> str:
    """A new run id: UTC time to the millisecond, then words.

    Run ids sort by time, and this one after the run id `after`, even where the clock was set
    back.
    """
    time = datetime.now(UTC)
    with contextlib.suppress(ValueError):  # `after` is empty
        time = max(time, _read_time(after) + timedelta(milliseconds=1))
    return "-".join([time.strftime("%Y%m%dT%H%M%S%f")[:-3] + "Z", *words])


def _read_time(run_id: str) -> datetime:
    return datetime.strptime(run_id.partition("-")[0], "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)


def read_start(run_id: str) -> str:
    """The UTC time at which a run began, ISO 8601 to the second, from its id."""
    return _read_time(run_id).isoformat(timespec="seconds")


@contextlib.contextmanager
def locked(runs: Path, key: str) -> Iterator[None]:
    """Keep a second process from a run; the lock ends with the process, however it ends.

    Args:
        runs: The folder of runs.
        key: The hash of the run's question.

    Raises:
        RuntimeError: Another process has the lock.
        OSError: The lock is a link, which is not followed.
    """
    runs.mkdir(parents=True, exist_ok=True)
    with open(runs / f".lock-{key}", "a", opener=_open_no_link) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RuntimeError(
                f"another process is at this run: wait until it is done ({key})"
            ) from None
        yield


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", ROOT, *arguments], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
