import os
import time
from pathlib import Path

import pytest

from swaplib.sandbox import Limits, Sandbox

# what a hostile model would do, once refused by the import list: find `os` among the classes that are loaded already
OS = "o = [c for c in ().__class__.__mro__[-1].__subclasses__() if c.__name__ == '_wrap_close'][0].__init__.__globals__\n"
MODULES = f"{OS}modules = o['sys'].modules\n"


@pytest.fixture
def sandbox():
    sandbox = Sandbox(["circle_area", "sort_numbers"], Limits(cell_s=1.5))
    yield sandbox
    sandbox.close()


def test_variables_stay_and_calls_are_recorded_as_they_were_given(sandbox):
    assert sandbox.run("area = circle_area(radius=1)\nprint(area)").printed == "3.141592653589793"
    result = sandbox.run("ordered = sort_numbers([2, 1], descending=True)\n[area, ordered]")
    assert result.printed == "[3.141592653589793, [2, 1]]"
    assert result.calls == ({"name": "sort_numbers", "arguments": {"numbers": [2, 1], "descending": True}},)


def test_a_call_that_does_not_fit_is_an_error_and_not_recorded(sandbox):
    result = sandbox.run("x = 1\nsort_numbers(values=[1])")
    assert (result.calls, result.has_answer) == ((), False)
    assert result.error == "TypeError: missing a required argument: 'numbers' (line 2)"


def test_a_final_answer_ends_the_cell_and_must_be_a_plain_value(sandbox):
    result = sandbox.run("try:\n    final_answer({'a': (1, 2)})\nexcept Exception:\n    pass\nprint('not reached')")
    assert (result.has_answer, result.answer, result.printed) == (True, {"a": [1, 2]}, "")
    for value in ("float('nan')", "print", "'x' * 5000"):
        result = sandbox.run(f"final_answer({value})")
        assert result.error
        assert not result.has_answer


HOSTILE = {
    "fork bomb": ("import os\nwhile True: os.fork()", "import of os is not allowed"),
    "fork bomb behind the import list": (f"{OS}while True: o['fork']()", "os.fork is not allowed"),
    "threads, which the process limit stops": (
        f"{MODULES}while True: modules['_thread'].start_new_thread(print, ())",
        "can't start new thread",
    ),
    "endless loop": ("while True: pass", "stopped after 1.5 s"),
    "a loop that catches everything": (
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "stopped after 1.5 s",
    ),
    "a file to read": ("open('/etc/passwd').read()", "outside of the working folder"),
    "a file to write": ("open('../evil', 'w')", "outside of the working folder"),
    "a file to remove": (f"{OS}o['remove']('/etc/passwd')", "outside of the working folder"),
    "a link out of the folder": (f"{OS}o['symlink']('/etc', 'etc')", "outside of the working folder"),
    "a large file": ("f = open('big', 'w')\nwhile True: f.write('x' * 10**6)", "File too large"),
    "a socket": ("import socket", "import of socket is not allowed"),
    "a socket behind the import list": (
        f"{MODULES}o['sys'].path.append('/nowhere')\nmodules['importlib'].import_module('_socket').socket()",
        "socket",  # refused, or not even found by a child that cannot read the library any more
    ),
    "a program": (f"{OS}o['execv']('/bin/sh', ['sh'])", "os.exec is not allowed"),
    "native code": (f"{MODULES}modules['ctypes'].CDLL(None)", "ctypes.dlopen is not allowed"),
    "a kill": (f"{OS}o['kill'](1, 9)", "os.kill is not allowed"),
    "huge allocation": ("x = 'a' * 10**11", "MemoryError"),
    "os._exit": (f"{OS}o['_exit'](3)", "the process ended with status 3; the variables are lost"),
    "sys.exit": ("raise SystemExit(4)", "SystemExit: 4"),
    "endless recursion": ("def f(): return f()\nf()", "RecursionError"),
    "a flood of output": ("while True: print('x' * 1000)", "stopped after 1.5 s"),
}


@pytest.mark.parametrize(("code", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_code_is_contained_and_reported_and_the_next_cell_runs(sandbox, code, message):
    assert message in (sandbox.run(code).error or "")
    assert sandbox.run("print(circle_area(radius=0))").printed == "0.0"


def test_the_child_has_no_environment_no_root_and_no_network(sandbox, monkeypatch):
    monkeypatch.setenv("AZURE_API_KEY", "a-secret")
    code = f"{OS}print('a-secret' in str(o['environ']), o['getuid']())"
    is_known, uid = sandbox.run(code).printed.split()
    assert is_known == "False"
    assert int(uid) != 0
    assert set(sandbox.contained) == {"network", "user"}
    if os.geteuid() == 0:
        assert sandbox.contained == {"network": "namespace and audit hook", "user": "own uid"}


def test_long_printouts_are_cut_and_say_so(sandbox):
    printed = sandbox.run("print('x' * 10**6)").printed
    assert printed.endswith("x\n… (cut)")
    assert len(printed) < 1_100


def test_nothing_is_left_behind(sandbox):
    sandbox.run("open('mine', 'w').write('x')")
    folder, pid = Path(sandbox._folder), sandbox._child.pid
    sandbox.close()
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_child_whose_parent_is_killed_ends_too(env_of_tests):
    import signal
    import subprocess
    import sys

    program = (
        "from swaplib.sandbox import Limits, Sandbox\n"
        "s = Sandbox([], Limits(cell_s=60))\ns.run('1')\nprint(s._child.pid, flush=True)\ns.run('while True: pass')"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], env=env_of_tests, stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().rpartition(")")[2]:
            return
        time.sleep(0.05)
    raise AssertionError(f"process {child} is still running")
