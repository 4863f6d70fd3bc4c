"""The kernel's walls around the process that runs an agent's code, which it raises around itself.

Python's own guards (guards.py) are objects that code can reach. These are not:

- `namespaces` (as root) or `user namespaces` (as any user): users, mounts, processes, network, IPC
  and host name of its own. The root is an empty file system in memory, of limited size, which is
  gone with the process.
- `landlock`, where namespaces are refused: no file can be opened.
- `seccomp`, wherever the kernel has it: only the system calls of computing (syscalls.py), and those
  of files only with a root of its own.

Beside them: limits, no capabilities, no new privileges, and as root a user id of its own. Standard
library only; Linux only.
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Collection, Mapping
from typing import Any

from swaplib.agents.sandbox import syscalls

ALL = ("namespaces", "user namespaces", "landlock", "seccomp")
# Each of these alone keeps files, sockets and processes out of reach.
SUFFICIENT = {"namespaces", "user namespaces", "seccomp"}

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
APART = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE, MNT_DETACH = 2, 4, 8, 0x4000, 1 << 18, 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
CAPABILITY_VERSION = 0x20080522


def step_apart(allowed: Collection[str], disk_bytes: int) -> dict[str, Any]:
    """Raise the walls that children inherit: namespaces, another user, no capabilities.

    The first process that is forked afterwards is init of the new namespace.

    Args:
        allowed: The walls that may be raised, of ALL.
        disk_bytes: The size of the new root.

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
    """New namespaces and an empty root; False where the kernel or a security module refuses one."""
    if sys.platform != "linux":
        return False
    uid, gid = os.geteuid(), os.getegid()
    if more & CLONE_NEWUSER:
        # Otherwise a process that was root may not write its own maps.
        libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    if libc.unshare(APART | more) != 0:
        return False
    if more & CLONE_NEWUSER:
        maps = {"setgroups": "deny", "uid_map": f"{uid} {uid} 1", "gid_map": f"{gid} {gid} 1"}
        try:
            for name, text in maps.items():
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(text)
        except OSError:
            return False
    return _empty_root(libc, disk_bytes)


def _empty_root(libc: ctypes.CDLL, disk_bytes: int) -> bool:
    """Replace the root by an empty file system in memory; the old root is out of reach then."""
    place = b"/tmp"  # any folder will do: the mount covers it
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    options = f"size={disk_bytes},nr_inodes={max(16, disk_bytes // 2**14)},mode=1777".encode()
    if libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None):
        return False
    if libc.mount(b"none", place, b"tmpfs", flags, options):
        return False
    os.chdir(place)
    if libc.pivot_root(b".", b".") or libc.umount2(b".", MNT_DETACH):
        return False
    os.chdir("/")
    return True


def give_up_root() -> str:
    """Become a user that owns nothing; says which. Some containers know no user but root."""
    for name, uid in (("own uid", 2_000_000_000 + os.getpid()), ("nobody", 65534)):
        with contextlib.suppress(OSError):  # a container often knows 65,536 users only
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            return name
    return "root of a container"


def limit(limits: Mapping[str, int], has_files: bool) -> None:
    """Limit CPU, memory, files and open files; no core dump, and no further process.

    Args:
        limits: `cpu_s`, `memory_bytes`, and `file_bytes` of one file.
        has_files: Whether the root is the process's own; without one, no file can be written.
    """
    for resource_id, value in {
        resource.RLIMIT_CPU: limits["cpu_s"],
        resource.RLIMIT_AS: limits["memory_bytes"],
        resource.RLIMIT_FSIZE: limits["file_bytes"] if has_files else 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 32,
    }.items():
        resource.setrlimit(resource_id, (value, value))


def refuse_calls(allowed: Collection[str], has_files: bool) -> list[str]:
    """Raise the last walls around this process, irrevocably; returns those that were raised."""
    if sys.platform != "linux":
        return []
    libc, raised = _libc(), []
    if "landlock" in allowed and not has_files and syscalls.refuse_all_files(libc):
        raised.append("landlock")
    if "seccomp" in allowed and syscalls.allow_only_work(libc, has_files):
        raised.append("seccomp")
    return raised
