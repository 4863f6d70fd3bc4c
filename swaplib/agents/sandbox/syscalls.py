"""Which system calls the cell process may make, as a seccomp filter; and Landlock without rules.

An allow-list: any other call fails with EPERM, so no socket, process, signal, trace or mount can be
reached. Standard library only. The numbers are the kernel's own tables
(arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h); None where an
architecture has no such call.
"""

import ctypes
import errno
import platform
import struct
from collections.abc import Sequence

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
Numbers = dict[str, tuple[int | None, int | None]]  # by name, in the order of AUDIT_ARCH

# Computing: what any code of Python needs.
WORK: Numbers = {
    # open descriptors
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "lseek": (8, 62),
    "fstat": (5, 80),
    "close": (3, 57),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    # memory
    "brk": (12, 214),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    # signals to itself, and locks
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "futex": (202, 98),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "membarrier": (324, 283),
    "sched_yield": (24, 124),
    "restart_syscall": (219, 128),
    # time
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "getrusage": (98, 165),
    # who it is, randomness, and its end
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getrandom": (318, 278),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
# Files: only where the root is a file system of the process's own.
FILES: Numbers = {
    "open": (2, None),
    "openat": (257, 56),
    "stat": (4, None),
    "lstat": (6, None),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "getcwd": (79, 17),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "fcntl": (72, 25),
    "dup": (32, 23),
    "fsync": (74, 82),
    "truncate": (76, 45),
    "ftruncate": (77, 46),
    "getdents64": (217, 61),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "chdir": (80, 49),
}

LANDLOCK_CREATE, LANDLOCK_RESTRICT = 444, 446
# By Landlock's ABI: how many rights of files it knows (16 in later ones), since when rights of TCP,
# and since when scopes of signals and abstract sockets.
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
NET_SINCE, SCOPED_SINCE = 4, 6


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def allow_only_work(libc: ctypes.CDLL, has_files: bool) -> bool:
    """Refuse all system calls but WORK's, and FILES' where there are files, irrevocably.

    Returns:
        False where this kernel or architecture has no such filter: then nothing is refused.
    """
    machine = platform.machine()
    if machine not in AUDIT_ARCH:
        return False
    column = list(AUDIT_ARCH).index(machine)
    calls = WORK | (FILES if has_files else {})
    numbers = [n for pair in calls.values() if (n := pair[column]) is not None]
    code = make_filter(AUDIT_ARCH[machine], numbers)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(buffer))
    return libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0


def make_filter(architecture: int, numbers: Sequence[int]) -> bytes:
    """The filter as classic BPF, 8 bytes an instruction.

    A call of another architecture ends the process, a number of the list passes, any other number
    gets EPERM.
    """
    load, jump_if_equal, end = 0x20, 0x15, 0x06

    def line(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("HBBI", code, if_true, if_false, value)

    lines = [line(load, 4), line(jump_if_equal, architecture, 1, 0), line(end, KILL), line(load, 0)]
    lines += [line(jump_if_equal, number, len(numbers) - i, 0) for i, number in enumerate(numbers)]
    return b"".join([*lines, line(end, REFUSE), line(end, ALLOW)])


def refuse_all_files(libc: ctypes.CDLL) -> bool:
    """Landlock without rules: no file, and on newer kernels no TCP, signal or abstract socket.

    Returns:
        False where the kernel has no Landlock: then nothing is refused. Else it is irrevocable.
    """
    abi = libc.syscall(LANDLOCK_CREATE, None, 0, 1)
    if abi < 1:
        return False
    parts = [(1 << FILE_RIGHTS.get(abi, 16)) - 1]
    parts += [0b11] if abi >= NET_SINCE else []
    parts += [0b11] if abi >= SCOPED_SINCE else []
    attributes = struct.pack(f"{len(parts)}Q", *parts)
    ruleset = libc.syscall(LANDLOCK_CREATE, attributes, len(attributes), 0)
    return ruleset >= 0 and libc.syscall(LANDLOCK_RESTRICT, ruleset, 0) == 0
