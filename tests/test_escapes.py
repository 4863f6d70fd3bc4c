# ruff: noqa: E501 - an attempt is one line
"""What code might try to get out of its process. Each attempt first disarms every guard that Python has, so that what is left
is the kernel's, and is made behind each wall alone as well as behind all of them."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from swaplib.agents.sandbox import walls
from swaplib.agents.sandbox.calls import Broken, parse_said
from swaplib.agents.sandbox.session import Limits, Sandbox
from swaplib.settings import ROOT

KEY = "planted-key-7f3a"
WALLS = {
    "all, as root or a user": walls.ALL,
    "as a user": walls.ALL[1:],
    "namespaces alone": ("namespaces", "user namespaces"),
    "without namespaces": ("landlock", "seccomp"),
    "seccomp alone": ("seccomp",),
}

# names are put together, so that the look at the text finds none; then the guards go, which are Python objects
REACH = """
u = '_' * 2
def dunder(o, *names):
    for name in names:
        o = getattr(o, u + name + u)
    return o
classes = dunder(object, 'subclasses')()
os = dunder([c for c in classes if c.__name__ == '_wrap' + '_close'][0], 'init', 'globals')
sys = os['sys']
main = sys.modules[u + 'main' + u]
guards = sys.modules['swaplib.agents.sandbox.guards']
guards.REFUSED_EVENTS = guards.FILE_EVENTS = ()
guards.MODULES = tuple(sys.modules)
ctypes = sys.modules['ctypes']
libc = ctypes.CDLL(None, use_errno=True)
def show(*values):
    print(*values, ctypes.get_errno())
"""
CELLS = """
owner = dunder(final_answer, 'self')
def say(kind, value, nonce=None):
    main.send(owner.target, {'nonce': nonce or owner.nonce, 'kind': kind, 'value': value})
"""

ATTEMPTS = {
    # files
    "open": "print(open({file!r}).read())",
    "open by the system": "fd = libc.open({file!r}.encode(), 0)\nb = ctypes.create_string_buffer(99)\nlibc.read(fd, b, 99)\nshow(fd, b.value)",
    "the openat call itself": "fd = libc.syscall(257, -100, {file!r}.encode(), 0)\nb = ctypes.create_string_buffer(99)\nlibc.read(fd, b, 99)\nshow(fd, b.value)",
    "upwards": "print(open('../' * 40 + {file!r}).read())",
    "a symbolic link": "os['symlink']({file!r}, 'link')\nprint(open('link').read())",
    "a hard link": "os['link']({file!r}, 'link')\nprint(open('link').read())",
    "the old root by chroot": "os['mkdir']('x')\nos['chroot']('x')\nos['chdir']('../' * 40)\nprint(open('.' + {file!r}).read())",
    "the root by a mount": "os['mkdir']('m')\nshow(libc.mount(b'/dev/vda', b'm', b'ext4', 1, None))\nprint(os['listdir']('m'))",
    "proc by a mount": "os['mkdir']('p')\nshow(libc.mount(b'proc', b'p', b'proc', 0, None))\nprint(open('p/1/environ').read())",
    "the parent's root in proc": "print(open('/proc/{parent}/root' + {file!r}).read())",
    "the environment in proc": "print(open('/proc/{parent}/environ').read())",
    "its own root in proc": "print(open('/proc/self/root' + {file!r}).read())",
    "a device": "show(libc.mknod(b'disk', 0o60666, 0xfe00))\nprint(open('disk', 'rb').read(64))",
    "a file handle": "b = ctypes.create_string_buffer(128)\nm = ctypes.c_int()\nshow(libc.name_to_handle_at(-100, {file!r}.encode(), b, ctypes.byref(m), 0))",
    "another's namespace": "fd = libc.open(b'/proc/{parent}/ns/mnt', 0)\nshow(fd, libc.setns(fd, 0))\nprint(open({file!r}).read())",
    "a namespace of its own": "show(libc.unshare(0x10020000))\nshow(libc.mount(b'/', b'/', None, 4096, None))\nprint(open({file!r}).read())",
    "a ring of requests": "b = ctypes.create_string_buffer(120)\nshow(libc.syscall(425, 8, b))",
    # sockets
    "a unix socket": "s = libc.socket(1, 1, 0)\na = b'\\x01\\x00' + {unix!r}.encode() + b'\\0'\nshow(s, libc.connect(s, a, len(a)))\nlibc.write(s, b'hello', 5)",
    "an abstract socket": "s = libc.socket(1, 1, 0)\na = b'\\x01\\x00\\0' + {abstract!r}.encode()\nshow(s, libc.connect(s, a, len(a)))\nlibc.write(s, b'hello', 5)",
    "a TCP socket": "s = libc.socket(2, 1, 0)\na = b'\\x02\\x00' + ({port}).to_bytes(2, 'big') + bytes([127, 0, 0, 1]) + bytes(8)\nshow(s, libc.connect(s, a, 16))\nlibc.write(s, b'hello', 5)",
    "Python's sockets": "socket = main.importlib.import_module('socket')\nsocket.create_connection(('127.0.0.1', {port})).send(b'hello')",
    # processes
    "a signal to the parent": "show(libc.kill({parent}, 10), libc.kill({group}, 10))",
    "a signal to all": "show(libc.kill(-1, 10), libc.kill(0, 10))",
    "a signal to a thread": "show(libc.syscall(200, {parent}, 10), libc.syscall(234, {parent}, {parent}, 10))",
    "a signal by a descriptor": "fd = libc.syscall(434, {parent}, 0)\nshow(fd, libc.syscall(424, fd, 10, None, 0))",
    "a signal by an owner of a pipe": "show(libc.fcntl(owner.target, 8, {parent}), libc.fcntl(owner.target, 4, 0o20000))",
    "tracing the parent": "show(libc.ptrace(16, {parent}, 0, 0), libc.ptrace(0x4206, {parent}, 0, 0))",
    "the parent's memory": "b = ctypes.create_string_buffer(64)\nv = (ctypes.c_size_t * 2)(ctypes.addressof(b), 64)\nw = (ctypes.c_size_t * 2)({address}, 64)\nshow(libc.process_vm_readv({parent}, v, 1, w, 1, 0), b.raw)",
    "the parent's memory in proc": "f = open('/proc/{parent}/mem', 'rb')\nf.seek({address})\nprint(f.read(64))",
    "a fork": "show(libc.fork())",
    "a clone in other namespaces": "show(libc.syscall(56, 0x10000011, 0, 0, 0, 0))",
    "a shell": "a = (ctypes.c_char_p * 4)(b'sh', b'-c', b'cat ' + {file!r}.encode(), None)\nshow(libc.execv(b'/bin/sh', a))",
    "a program in memory": "fd = libc.memfd_create(b'x', 0)\nlibc.write(fd, b'#!/bin/sh\\n', 10)\nshow(fd, libc.fexecve(fd, None, None))",
    "shared memory": "show(libc.shmget({shared}, 64, 0), libc.msgget({shared}, 0))",
    "root again": "show(libc.setuid(0), libc.setresuid(0, 0, 0), libc.capset(0, 0), libc.prctl(8, 1, 0, 0, 0))\nprint(open({file!r}).read())",
    "more limits": "b = (ctypes.c_ulong * 2)(99, 99)\nshow(libc.prlimit({parent}, 7, b, None))",
    "another interpreter": "x = sys.modules.get('_xxsubinterpreters') or main.importlib.import_module('_xxsubinterpreters')\nx.run_string(x.create(), 'import os; os.kill({parent}, 10)')",
    "frames": "f = getattr(sys, '_get' + 'frame')()\nwhile f:\n    print([k for k, v in f.f_globals.items() if {secret} in str(v)])\n    f = f.f_back",
    "objects of the collector": "gc = main.importlib.import_module('gc')\nprint([o for o in gc.get_objects() if isinstance(o, str) and {secret} in o])",
    "its own environment": "print(os['environ'], libc.getenv(b'PLANTED'))",
    "other descriptors": "for fd in range(64):\n    b = ctypes.create_string_buffer(64)\n    if fd not in (owner.source.fileno(),):\n        libc.write(fd, b'', 0)\n        print(libc.lseek(fd, 0, 0))",
    # the record
    "a forged list of calls": "print(dunder(final_answer, 'self').calls)",
    "a call that is none": "say('call', {{'name': 'no_tool', 'args': [], 'kwargs': {{}}}})",
    "a call of odd types": "say('call', {{'name': 7, 'args': 'x', 'kwargs': []}})",
    "a call with extras": "say('call', {{'name': 'circle_area', 'args': [], 'kwargs': {{}}, 'result': 1}})",
    "a record sent with the end": "say('done', {{'printed': 'x', 'error': None, 'calls': [{{'name': 'circle_area', 'arguments': {{}}}}]}})",
    "an end before the end": "say('done', {{'printed': 'forged', 'error': None}})\nprint(1)",
    "an answer for another cell": "say('answer', 1, '0' * 32)",
    "two messages in one": "m = main.json.dumps({{'nonce': owner.nonce, 'kind': 'answer', 'value': 1}}).encode() + b'\\n'\nos['write'](owner.target, m + m)",
    "no JSON": "os['write'](owner.target, b'\\xff{{]\\n')",
    "JSON that nests": "os['write'](owner.target, b'[' * 900 + b']' * 900 + b'\\n')",
    "numbers that are none": "os['write'](owner.target, b'[NaN, 1e999]\\n')",
    "a number without an end": "os['write'](owner.target, b'1' * 50000 + b'\\n')",
    "a line without an end": "while True:\n    os['write'](owner.target, b'x' * 65536)",
    "half a line, then silence": "os['write'](owner.target, b'x')\nwhile True:\n    pass",
    "silence": "os['close'](owner.target)\nwhile True:\n    pass",
    "the end": "os['_exit'](0)",
    "a crash": "ctypes.string_at(0)",
    "the tools' own functions": "tools = sys.modules['swaplib.agents.tools']\ntools.TOOLS['circle_area'] = lambda **k: 666",
}

STRAY = [
    f"{text}; the variables are lost"
    for text in (
        "stopped, since it said more than was asked",
        "the process gave no result that can be read",
    )
]


@pytest.fixture(scope="module")
def open_folder():
    """A folder that every user reaches; pytest closes its own ones to all but its user."""
    with tempfile.TemporaryDirectory(prefix="swap-planted-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.fixture(scope="module")
def planted(open_folder):
    """A key in a file and in memory, sockets that listen, a parent that counts the signals it gets."""
    folder = open_folder
    file, unix, abstract = folder / "key", str(folder / "s"), f"swap-{os.getpid()}"
    file.write_text(KEY)
    file.chmod(0o777)
    heard, signals = [], []
    listeners = [socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX), socket.socket()]
    for listener, address in zip(listeners, (unix, f"\0{abstract}", ("127.0.0.1", 0)), strict=True):
        listener.bind(address)
        listener.listen()
        threading.Thread(target=_listen, args=(listener, heard), daemon=True).start()
    Path(unix).chmod(0o777)
    before = signal.signal(signal.SIGUSR1, lambda *_: signals.append(1))
    kept = KEY.encode() * 1
    known = {
        "file": str(file),
        "unix": unix,
        "abstract": abstract,
        "port": listeners[2].getsockname()[1],
    }
    known |= {"parent": os.getpid(), "group": -os.getpgid(0), "address": id(kept), "shared": 4242}
    known |= {"secret": f"{KEY[:7]!r} + {KEY[7:]!r}"}
    yield known, heard, signals
    signal.signal(signal.SIGUSR1, before)
    for listener in listeners:
        listener.close()


def _listen(listener, heard):
    while True:
        try:
            heard.append(listener.accept()[1])
        except OSError:
            return


@pytest.mark.parametrize("try_walls", WALLS.values(), ids=WALLS)
@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS)
def test_nothing_gets_out_and_the_next_cell_works(planted, monkeypatch, attempt, try_walls):
    known, heard, signals = planted
    monkeypatch.setenv("PLANTED", KEY)
    sandbox = Sandbox(["circle_area"], Limits(cell_s=1.0), try_walls=try_walls)
    try:
        assert sandbox.run("kept = circle_area(radius=1)").error is None
        found = sandbox.run(REACH + CELLS + attempt.format(**known))
        after = sandbox.run("print(circle_area(radius=0))")
        answer = sandbox.run("final_answer(circle_area(radius=1))")
    finally:
        sandbox.close()
    assert KEY not in f"{found.printed}{found.error}".replace(str(known["file"]), "")
    assert (heard, signals, found.calls) == ([], [], ())
    assert (found.has_answer, found.answer) == (False, None)
    if after.error:  # what it left behind ended the next cell, which says so; then all is well
        assert after.error in STRAY
    else:
        assert after.printed == "0.0"
        assert after.calls == ({"name": "circle_area", "arguments": {"radius": 0}},)
    assert (answer.has_answer, answer.answer) == (True, 3.141592653589793)
    assert sandbox.contained["is_walled"]


def test_the_attempts_reach_what_they_aim_at_where_nothing_stands_in_the_way(planted):
    """So that a name mistyped in an attempt is no proof: without walls, what the system calls ask for is had."""
    known, heard, _ = planted
    sandbox = Sandbox(["circle_area"], Limits(cell_s=2.0), allow_unwalled=True, try_walls=())
    try:
        for name in ("open by the system", "the openat call itself"):
            if Path("/proc/self/attr").exists() and os.uname().machine == "x86_64":
                assert KEY in sandbox.run(REACH + CELLS + ATTEMPTS[name].format(**known)).printed
        for name in ("a unix socket", "an abstract socket", "a TCP socket"):
            n = len(heard)
            sandbox.run(REACH + CELLS + ATTEMPTS[name].format(**known))
            deadline = time.monotonic() + 10
            while len(heard) == n and time.monotonic() < deadline:  # a thread of its own hears it
                time.sleep(0.01)
            assert len(heard) == n + 1, name
    finally:
        sandbox.close()
        heard.clear()


@pytest.mark.parametrize("try_walls", WALLS.values(), ids=WALLS)
def test_every_guard_of_python_is_gone_when_an_attempt_begins(try_walls):
    sandbox = Sandbox(["circle_area"], try_walls=try_walls)
    found = sandbox.run(
        f"{REACH}{CELLS}show(libc.getpid() > 0, guards.REFUSED_EVENTS, len(owner.nonce))"
    )
    sandbox.close()
    assert (found.printed, found.error) == ("True () 32 0", None)


def test_without_any_wall_nothing_runs_unless_that_was_allowed():
    for try_walls in ((), ("landlock",)):
        with pytest.raises(RuntimeError, match="allow_unwalled=True"):
            Sandbox([], try_walls=try_walls).run("1")
        sandbox = Sandbox([], allow_unwalled=True, try_walls=try_walls)
        assert sandbox.run("print(1)").printed == "1"
        assert not sandbox.contained["is_walled"]
        sandbox.close()


def test_what_a_child_says_is_taken_or_broken():
    said = parse_said(b'{"nonce": "n", "kind": "answer", "value": "\\ude00\\ud83d"}\n', "n")
    assert said.value == "\ufffd\ufffd"
    with pytest.raises(Broken):
        parse_said(b'{"nonce": "other", "kind": "answer", "value": 1}\n', "n")


AS_A_USER = """
import os
import shutil
from swaplib.agents.sandbox.session import Sandbox
attempts = {attempts!r}
for attempt in attempts:
    s = Sandbox(["circle_area"])
    print(os.getuid(), s.run(attempt), s.run("print(circle_area(radius=0))").printed, s.contained["is_walled"])
    s.close()
"""


def test_a_parent_that_is_an_ordinary_user_keeps_its_files_to_itself(open_folder):
    """The child has its parent's user id then, so only the walls stand between them."""
    python = shutil.which("python3.11", path="/usr/bin:/usr/local/bin")
    if os.geteuid() != 0 or python is None or sys.version_info[:2] != (3, 11):
        pytest.skip("needs root, to become a user, and a Python that this user may run")
    file = open_folder / "key_of_a_user"
    file.write_text(KEY)
    file.chmod(0o400)
    os.chown(file, 65534, 65534)
    known = {"file": str(file), "parent": "0"}
    names = ("open", "open by the system", "its own root in proc", "a signal to all", "a shell")
    program = AS_A_USER.format(
        attempts=[REACH + CELLS + ATTEMPTS[name].format(**known) for name in names]
    )
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    done = subprocess.run(
        [python, "-c", program],
        env={"PYTHONPATH": os.pathsep.join([str(ROOT), packages])},
        cwd="/",
        user=65534,
        group=65534,
        extra_groups=[],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line[:5] for line in lines] == ["65534"] * len(names)
    assert all(line.endswith(" 0.0 True") for line in lines)
    assert KEY not in done.stdout
