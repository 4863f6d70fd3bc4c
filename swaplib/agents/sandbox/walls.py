"""The kernel's walls around the process that runs an agent's code, which it raises around itself.

Python's own guards (an audit hook, an import list) are objects that code can reach. These are not:

- `namespaces` (as root) or `user namespaces` (as anybody): users, mounts, processes, network, IPC and host name of its own.
  The root is an empty file system in memory, of limited size, which goes with the process.
- `landlock`, where namespaces are refused: no file can be opened.
- `seccomp`, always where there is one: system calls of computing only (syscalls.py); without a root of its own no files.

And limits, no capabilities, no new privileges; as root a user id of its own. Standard library only; Linux only.
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys
from typing import Any

from swaplib.agents.sandbox import syscalls

ALL = ("namespaces", "user namespaces", "landlock", "seccomp")
SUFFICIENT = {
    "namespaces",
    "user namespaces",
    "seccomp",
}  # any keeps files, sockets and processes out of reach

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER = (
    0x00020000,
    0x04000000,
    0x08000000,
    0x10000000,
)
CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWCGROUP = 0x20000000, 0x40000000, 0x02000000
APART = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE, MNT_DETACH = 2, 4, 8, 0x4000, 1 << 18, 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
CAPABILITY_VERSION = 0x20080522


def step_apart(allowed: list[str], disk_bytes: int) -> dict[str, Any]:
    """Namespaces, another user, no capabilities: for this process and all that it forks, the first fork being init there.

    Args:
        allowed: The walls that may be raised, of ALL.
        disk_bytes: What the files of the new root may hold.

    Returns:
        `walls`, those that were raised; `user`, who this process is now.
    """
    libc, raised = _libc(), []
    is_root = os.geteuid() == 0
    if is_root and "namespaces" in allowed and _unshare(libc, 0, disk_bytes):
        raised.append("namespaces")
    user = give_up_root() if is_root else "the caller's uid"
    if not raised and "user namespaces" in allowed and _unshare(libc, CLONE_NEWUSER, disk_bytes):
        raised.append("user namespaces")
    if sys.platform == "linux":
        libc.capset((ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)())
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    os.chdir("/")
    end_with_parent()
    return {"walls": raised, "user": user}


def end_with_parent() -> None:
    """Have the kernel end this process when the thread that started it ends."""
    if sys.platform == "linux":
        _libc().prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _unshare(libc: ctypes.CDLL, more: int, disk_bytes: int) -> bool:
    """New namespaces and an empty root; False where the kernel, or what watches it, refuses any part."""
    if sys.platform != "linux":
        return False
    uid, gid = os.geteuid(), os.getegid()
    if more & CLONE_NEWUSER:
        libc.prctl(
            PR_SET_DUMPABLE, 1, 0, 0, 0
        )  # else a process that was root may not write its own maps
    if libc.unshare(APART | more) != 0:
        return False
    if more & CLONE_NEWUSER:
        try:
            for name, text in (
                ("setgroups", "deny"),
                ("uid_map", f"{uid} {uid} 1"),
                ("gid_map", f"{gid} {gid} 1"),
            ):
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(text)
        except OSError:
            return False
    return _empty_root(libc, disk_bytes)


def _empty_root(libc: ctypes.CDLL, disk_bytes: int) -> bool:
    """An empty file system in memory in place of everything; the old root is gone then."""
    place, flags = b"/tmp", MS_NOSUID | MS_NODEV | MS_NOEXEC  # any folder does: it is covered
    options = f"size={disk_bytes},nr_inodes={max(16, disk_bytes // 2**14)},mode=1777".encode()
    if libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None) or libc.mount(
        b"none", place, b"tmpfs", flags, options
    ):
        return False
    os.chdir(place)
    if libc.pivot_root(b".", b".") or libc.umount2(b".", MNT_DETACH):
        return False
    os.chdir("/")
    return True


def give_up_root() -> str:
    """Become a user that owns nothing; says which. A container that knows no other user than root stays that."""
    for name, uid in (("own uid", 2_000_000_000 + os.getpid()), ("nobody", 65534)):
        with contextlib.suppress(OSError):  # a container often knows 65,536 users only
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            return name
    return "root of a container"


def limit(limits: dict[str, Any], has_files: bool) -> None:
    """CPU, memory, the size of a file (none without a root of one's own), open files, and no further process."""
    size = limits["file_bytes"] if has_files else 0
    for name, value in {
        "CPU": limits["cpu_s"],
        "AS": limits["memory_bytes"],
        "FSIZE": size,
        "NPROC": 0,
    }.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    for name, value in {"CORE": 0, "NOFILE": 32}.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def refuse_calls(allowed: list[str], has_files: bool) -> list[str]:
    """Raise the last walls around this process, for good; returns those that stand."""
    if sys.platform != "linux":
        return []
    libc, raised = _libc(), []
    if "landlock" in allowed and not has_files and syscalls.refuse_all_files(libc):
        raised.append("landlock")
    if "seccomp" in allowed and syscalls.allow_only_work(libc, has_files):
        raised.append("seccomp")
    return raised
