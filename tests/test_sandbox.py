import gc
import os
import tempfile
import time
from pathlib import Path

import pytest

from swaplib import doctor
from swaplib.agents.sandbox.session import Limits, Sandbox
from swaplib.settings import load_settings

# What a hostile model would do once the import list refuses it: find `os` among the loaded classes.
# Names are put together, since code that spells them out is not run.
OS = (
    "u = '_' * 2\nget = lambda o, n: getattr(o, u + n + u)\n"
    "c = [c for c in get(object, 'subclasses')() if c.__name__ == '_wrap' + '_close'][0]\n"
    "o = get(get(c, 'init'), 'globals')\n"
)
MODULES = f"{OS}modules = o['sys'].modules\n"


@pytest.fixture
def sandbox():
    sandbox = Sandbox(
        ["circle_area", "sort_numbers", "calculate_factorial", "count_occurrences"],
        Limits(cell_s=1.5),
    )
    yield sandbox
    sandbox.close()


def test_variables_stay_and_calls_are_recorded_as_they_were_given(sandbox):
    assert sandbox.run("area = circle_area(radius=1)\nprint(area)").printed == "3.141592653589793"
    result = sandbox.run("ordered = sort_numbers([2, 1], descending=True)\n[area, ordered]")
    assert result.printed == "[3.141592653589793, [2, 1]]"
    assert result.calls == (
        {"name": "sort_numbers", "arguments": {"numbers": [2, 1], "descending": True}},
    )


def test_a_call_that_does_not_fit_is_an_error_and_not_recorded(sandbox):
    result = sandbox.run("x = 1\nsort_numbers(values=[1])")
    assert (result.calls, result.has_answer) == ((), False)
    assert result.error == "TypeError: missing a required argument: 'numbers' (line 2)"


def test_a_final_answer_ends_the_cell_and_must_be_a_plain_value(sandbox):
    result = sandbox.run(
        "try:\n    final_answer({'a': (1, 2)})\nexcept Exception:\n    pass\nprint('not reached')"
    )
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
    "a file to read": ("open('/etc/passwd').read()", "No such file"),
    "a folder to write to": ("open('../tmp/evil', 'w')", "No such file"),
    "a file to remove": (f"{OS}o['remove']('/etc/passwd')", "No such file"),
    "a link out of the folder": (
        f"{OS}o['symlink']('/etc', 'etc')\nopen('etc/passwd')",
        "Permission",
    ),
    "a large file": ("f = open('big', 'w')\nwhile True: f.write('x' * 10**6)", "File too large"),
    "many files": (
        "for i in range(10**6):\n    open(str(i), 'w').write('x' * 10**6)",
        "No space left",
    ),
    "folders, one in the other": (
        f"{OS}while True:\n    o['mkdir']('d')\n    o['chdir']('d')",
        "not allowed here",
    ),
    "a call that nests": (
        "x = []\nfor i in range(900): x = [x]\nsort_numbers(numbers=x)",
        "nested too deep",
    ),
    "an answer that nests": (
        "x = []\nfor i in range(900): x = [x]\nfinal_answer(x)",
        "nested too deep",
    ),
    "an answer that is endless": ("x = []\nx.append(x)\nfinal_answer(x)", "Circular reference"),
    "a tool that does not end": ("calculate_factorial(n=10**8)", "stopped after 1.5 s"),
    "calls without end": ("while True: circle_area(radius=1)", "more than 1000 times"),
    "an error that cannot be shown": (
        "class E(Exception):\n    def __str__(self): raise self\nraise E",
        "ended with status 1",
    ),
    "Python's inside": ("().__class__", "__class__ (line 1) is not allowed"),
    "Python's inside, by a text": (
        "'{0.__class__}'.format(1)",
        "__class__ (line 1) is not allowed",
    ),
    "a socket": ("import socket", "import of socket is not allowed"),
    "a socket behind the import list": (
        (
            f"{MODULES}o['sys'].path.append('/nowhere')\n"
            "modules['importlib'].import_module('_socket').socket()"
        ),
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
    assert sandbox.contained["is_walled"]
    if os.geteuid() == 0:
        assert sandbox.contained["user"] in ("own uid", "nobody")


def test_a_tool_gives_what_it_always_gave_and_raises_what_it_always_raised(sandbox):
    assert sandbox.run("print(count_occurrences([1, 2, 1]))").printed == "{1: 2, 2: 1}"
    assert sandbox.run(
        "try:\n    calculate_factorial(-1)\nexcept ValueError as e:\n    print(e)"
    ).printed == ("factorial() not defined for negative values")
    assert sandbox.run("calculate_factorial(n='x')").error.startswith("TypeError: 'str' object")
    assert sandbox.run("calculate_factorial(n=2000) % 7").printed == "0"


@pytest.mark.parametrize("end", ["while True: pass", f"{OS}o['_exit'](3)"])
def test_a_child_that_ends_leaves_the_variables_of_earlier_steps_by_replay(sandbox, end):
    sandbox.run("import random\narea = circle_area(radius=random.choice([2]))")
    sandbox.run("ordered = sort_numbers([2, 1])\nordered.append(area)\n1 / 0")
    assert sandbox.run(f"area = 7\n{end}").error.endswith(
        "; its variables are lost, those of earlier steps are not"
    )
    result = sandbox.run("print(area, ordered)")
    assert (result.printed, result.calls) == ("12.566370614359172 [1, 2, 12.566370614359172]", ())


def test_what_cannot_be_replayed_is_not_made_up(sandbox):
    sandbox.run("import random\ncircle_area(radius=random.random())\nx = 1")
    assert sandbox.run("while True: pass").error == "stopped after 1.5 s; the variables are lost"
    assert sandbox.run("x").error.startswith("NameError")


def test_an_answer_before_an_error_is_none(sandbox):
    result = sandbox.run("try:\n    final_answer(1)\nexcept BaseException:\n    pass\n1 / 0")
    assert (result.has_answer, result.answer) == (False, None)
    assert result.error == "ZeroDivisionError: division by zero (line 5)"


def test_halves_of_surrogate_pairs_are_replaced(sandbox):
    assert sandbox.run(r"print('\ud83d\ude00'[::-1])").printed == "\ufffd\ufffd"
    assert sandbox.run(r"final_answer('\ud83d')").answer == "\ufffd"
    sandbox.run("x = '\ud83d'")


@pytest.mark.parametrize(
    "code",
    [
        "class A:\n    def __init__(self):\n        super().__init__()\nprint(type(A()).__name__)",
        "from collections import namedtuple\nprint(namedtuple('A', 'x')(1)._asdict())",
        "_x = 1\nfor _ in range(2): pass\nprint(_x, __name__)",
    ],
)
def test_ordinary_underscores_are_let_through(sandbox, code):
    assert sandbox.run(code).error is None


def test_long_printouts_are_cut_and_say_so(sandbox):
    printed = sandbox.run("print('x' * 10**6)").printed
    assert printed.endswith("x\n… (cut)")
    assert len(printed) < 1_100


def test_nothing_is_left_behind(sandbox):
    before = set(Path(tempfile.gettempdir()).iterdir())
    sandbox.run(f"{OS}[o['mkdir'](str(i)) for i in range(20)]\nopen('mine', 'w').write('x')")
    pids = sandbox._child.runner, sandbox._child.process.pid
    assert not {
        p for p in set(Path(tempfile.gettempdir()).iterdir()) - before if "swap-cell" in p.name
    }
    sandbox.close()
    sandbox.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_doctor_says_which_walls_there_are():
    assert doctor.check_walls(load_settings()).startswith(
        ("namespaces", "user namespaces", "landlock", "seccomp")
    )


def test_closing_closes_its_own_descriptors_once_and_no_other():
    open_before = set(os.listdir("/proc/self/fd"))
    sandbox = Sandbox([])
    sandbox.run("1")
    sandbox.close()
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(12)]  # the numbers that were its own
    del sandbox
    gc.collect()
    for descriptor in taken:
        os.fstat(descriptor)
        os.close(descriptor)
    assert len(set(os.listdir("/proc/self/fd")) - open_before) <= 1  # of the listing itself


def test_a_child_whose_parent_is_killed_ends_too(env_of_tests):
    import signal
    import subprocess
    import sys

    program = (
        "from swaplib.agents.sandbox.session import Limits, Sandbox\n"
        "s = Sandbox([], Limits(cell_s=60))\ns.run('1')\nprint(s._child.runner, flush=True)\n"
        "s.run('while True: pass')"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], env=env_of_tests, stdout=subprocess.PIPE, text=True
    )
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for _ in range(100):
        if (
            not Path(f"/proc/{child}").exists()
            or "Z" in Path(f"/proc/{child}/stat").read_text().rpartition(")")[2]
        ):
            return
        time.sleep(0.05)
    raise AssertionError(f"process {child} is still running")
