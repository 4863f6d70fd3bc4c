import inspect
import os
import re
import socket
import time
from contextlib import closing

import psutil
import pytest

from swaplib.agents.own_tools import read_own_tools
from swaplib.agents.sandbox.session import Limits, Sandbox
from swaplib.agents.sandbox.tool_process import ToolProcess
from swaplib.data.tool_schemas import format_signature, to_openai

TOOLS = '''
"""Tools of a test."""
import os, socket, sys, time
from dataclasses import dataclass
from typing import Any, Literal

COUNT = 0


@dataclass
class Slot:
    day: "str"


def count_up(by: int = 1, note: str | None = None) -> int:
    """Count up,
    and say how far.

    Args:
        by: How much.
        note: A note (choices: ["a", "b"])
    """
    global COUNT
    print("noise")
    COUNT += by
    return COUNT


def list_days(kinds: list[Literal["work", "rest"]], *, limit: float) -> dict[str, Any]:
    """List days.

    Args:
        kinds: Which.
        limit: How many.
    """
    return {"kinds": kinds, 7: (limit, None)}


def run_code(code: str) -> Any:
    """Do as told.

    Args:
        code: An expression of Python.
    """
    return eval(code)


def check_count(answer, calls):
    """Whether it counted as far as the answer says, by calls of these names."""
    names = [call["name"] for call in calls]
    return answer == COUNT == len(names) or f"counted to {COUNT} by {names}"


def check_odd(answer, calls):
    return eval(answer)


def _hidden():
    pass
'''


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_tools.py"
    path.write_text(TOOLS)
    return path


@pytest.fixture
def host(file):
    own = read_own_tools(file)
    with closing(ToolProcess(own.file, call_limit_s=1.0)) as host:
        yield host


def ask(host, name, **arguments):
    return host.ask(name, arguments, time.monotonic() + 5)


@pytest.mark.parametrize("is_trusted", [False, True])
def test_tools_are_described_by_their_hints_and_docstrings(file, is_trusted):
    own = read_own_tools(file, is_trusted)
    assert [tool["name"] for tool in own.tools] == ["count_up", "list_days", "run_code"]
    assert own.checks == ("check_count", "check_odd")
    assert format_signature(own.tools[0]) == (
        "count_up: Count up, and say how far.\n"
        "- by (int, optional, default 1): How much.\n"
        '- note (Union[str, None], optional, default null): A note One of "a", "b".'
    )
    schema = to_openai(own.tools[1])["function"]["parameters"]
    assert schema["required"] == ["kinds", "limit"]
    assert schema["properties"]["kinds"]["items"] == {"type": "string", "enum": ["work", "rest"]}
    assert str(own.file.signatures["list_days"]) == "(kinds, *, limit)"


def test_describing_runs_nothing_of_the_file_in_this_process(tmp_path, monkeypatch):
    monkeypatch.setenv("AZURE_API_KEY", "a-secret")
    path = tmp_path / "tools.py"
    path.write_text(
        TOOLS + f"\nopen({str(tmp_path / 'seen')!r}, 'w').write(f'{{os.getpid()}} {{os.environ}}')"
    )
    read_own_tools(path)
    pid, _, environment = (tmp_path / "seen").read_text().partition(" ")
    assert int(pid) != os.getpid()
    assert "a-secret" not in environment


GOOD = 'def f(x: int) -> int:\n    """F.\n\n    Args:\n        x: X.\n    """\n    return x\n'


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(x: int): return x", "f: no docstring. Say what it does"),
        ('def f(x):\n    """F.\n\n    Args:\n        x: X.\n    """', "f: the parameter x has no"),
        ('def f(x: int):\n    """F."""', "no description for the argument 'x'"),
        ('def f(*x: int):\n    """F."""', "f: *x: int has no name to call it by"),
        ('async def f():\n    """F."""', "f: async functions and generators are not called"),
        ('def sum(x: int):\n    """F."""', "sum: an agent's code knows another function"),
        ('def f(x: "Foo"):\n    """F.\n\n    Args:\n        x: X.\n    """', "name 'Foo' is not"),
        (GOOD + "def check_it(answer): ...", "check_it: a check is called as check_it(answer=…"),
        ("x = 1\nfrom math import sqrt", "no tool found"),
        ("x = 1\ndef f(:", ":2: not Python"),
        ("x = 1\nimport nothing_of_this_name", ":2 fails while it is loaded: ModuleNotFoundError"),
        ("raise SystemExit(3)", ":1 fails while it is loaded: SystemExit: 3"),
        ("import os\nos._exit(3)", "ended with status 3"),
    ],
)
def test_a_bad_file_of_tools_ends_in_an_error_that_says_what_to_do(tmp_path, source, message):
    path = tmp_path / "tools.py"
    path.write_text(source)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_own_tools(path)
    assert str(path) in str(caught.value)


def test_a_file_may_import_its_neighbours_while_it_is_loaded_and_hides_nobody_elses(tmp_path):
    (tmp_path / "shop_table.py").write_text("PRICE = 7\n")
    (tmp_path / "json.py").write_text("raise RuntimeError\n")
    (tmp_path / "h2.py").write_text("raise RuntimeError\n")  # httpx looks for one of this name
    path = tmp_path / "tools.py"
    path.write_text("import shop_table\n" + GOOD.replace("return x", "return shop_table.PRICE"))
    own = read_own_tools(path)
    with closing(own.open()) as host:
        assert ask(host, "f", x=1) == {"value": 7}


def test_all_problems_of_a_file_are_listed_and_a_missing_one_is_named(tmp_path):
    path = tmp_path / "tools.py"
    path.write_text("def f(x: int): ...\ndef g(y): ...\n" + GOOD.replace("f(", "h("))
    with pytest.raises(ValueError, match="2 problem") as caught:
        read_own_tools(path)
    assert "f: no docstring" in str(caught.value)
    assert "g: no docstring" in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no tools at"):
        read_own_tools(tmp_path / "none.py")


def test_state_lasts_from_call_to_call_and_begins_afresh_with_the_next_task(file, host):
    assert [ask(host, "count_up", by=2), ask(host, "count_up")] == [{"value": 2}, {"value": 3}]
    with closing(read_own_tools(file).open()) as other:
        assert ask(other, "count_up") == {"value": 1}
    assert ask(host, "list_days", kinds=["work"], limit=1.5) == {
        "value": {"kinds": ["work"], "7": [1.5, None]}
    }


ODD = {
    "raises": ("1 / 0", "ZeroDivisionError", "division by zero"),
    "exits": ("sys.exit(3)", "SystemExit", "3"),
    "interrupts": ("(_ for _ in ()).throw(KeyboardInterrupt())", "KeyboardInterrupt", ""),
    "returns a set": ("{1}", "TypeError", "run_code returned what cannot be sent"),
    "returns NaN": ("float('nan')", "TypeError", "run_code returned what cannot be sent"),
    "nests": ("[x := [], [x := [x] for _ in range(90)]]", "TypeError", "nested too deep"),
    "floods": ("'x' * 10**6", "TypeError", "is too long"),
    "hangs": ("time.sleep(60)", "TimeoutError", "did not end in time and was stopped"),
    "dies": ("os._exit(3)", "RuntimeError", "the process had ended"),
    "speaks": ("[os.write(n, b'{}\\n') for n in range(3, 9)]", "OSError", ""),
    "forgets a function": ("{globals().pop('count_up')}", "TypeError", "cannot be sent"),
    "eats memory": ("'x' * 2**34", "MemoryError", ""),
}


@pytest.mark.parametrize(("code", "kind", "text"), ODD.values(), ids=ODD)
def test_whatever_a_tool_does_is_an_observation_and_the_next_call_works(host, code, kind, text):
    given = ask(host, "run_code", code=code)
    if kind != "OSError":  # what is written to the channel breaks it, or to no descriptor fails
        assert given["error"][0] == kind
        assert text in given["error"][1]
    assert ask(host, "count_up") == {"value": 1}


def test_no_process_is_left_behind_by_one_that_hung_died_or_was_closed(file):
    here = psutil.Process()
    before = set(here.children(recursive=True))
    host = ToolProcess(read_own_tools(file).file, call_limit_s=1.0)
    seen = set()
    for code in ("time.sleep(60)", "os._exit(3)", "1"):
        host.start()
        seen |= set(here.children(recursive=True)) - before
        ask(host, "run_code", code=code)
    host.close()
    host.close()
    assert len(seen) == 6  # three times a process and its walled child
    for _ in range(100):
        if not any(map(is_running, seen)):
            return
        time.sleep(0.05)
    raise AssertionError("a process is left")


def is_running(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_nothing_that_a_tool_writes_to_the_channel_is_taken_for_a_reply(host):
    message = b'{"nonce": "x", "value": 99}\\n'
    given = ask(host, "run_code", code=f"[os.write(n, {message}) for n in range(3, 9)]")
    assert set(given) == {"error"}
    assert ask(host, "count_up") == {"value": 1}


def test_walls_stand_around_the_tools(host, tmp_path, monkeypatch):
    planted = tmp_path / "planted.txt"
    planted.write_text("secret of the machine")
    monkeypatch.setenv("AZURE_API_KEY", "a-secret")
    for code, kind in [
        (f"open({str(planted)!r}).read()", "Error"),
        ("open('/etc/passwd').read()", "Error"),
        ("os.fork()", "Error"),
        ("os.execv('/bin/sh', ['sh'])", "Error"),
        ("os.kill(os.getppid(), 9)", "Error"),
        ("socket.socket()", "Error"),
    ]:
        found = ask(host, "run_code", code=code)
        assert found.get("error", ["(no error)"])[0].endswith(kind), (code, found)
    assert ask(host, "run_code", code="'a-secret' in str(os.environ)") == {"value": False}
    assert host.contained["is_walled"]
    if os.geteuid() == 0:
        assert ask(host, "run_code", code="os.getuid()")["value"] != 0


def test_no_listener_is_reached_from_the_tools(host):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        given = ask(
            host, "run_code", code=f"socket.create_connection(('127.0.0.1', {port}), 1) and 1"
        )
    assert "error" in given


@pytest.mark.parametrize("is_walled", [True, False])
def test_without_a_wall_the_tools_do_not_run_unless_that_is_allowed(file, is_walled):
    known = read_own_tools(file).file
    walls = ["seccomp"] if is_walled else []
    with closing(ToolProcess(known, try_walls=walls)) as host:
        if is_walled:
            assert ask(host, "count_up") == {"value": 1}
            return
        with pytest.raises(RuntimeError, match="nothing to contain your tools"):
            ask(host, "count_up")
    with closing(ToolProcess(known, allow_unwalled=True, try_walls=[])) as host:
        assert ask(host, "count_up") == {"value": 1}


def test_a_file_that_has_changed_since_is_not_run(file):
    own = read_own_tools(file)
    file.write_text(TOOLS + "\nx = 1\n")
    with pytest.raises(RuntimeError, match="has changed since it was described"):
        own.open()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("True", True),
        ("False", "check_odd: False"),
        ("'the  wrong\\n book'", "check_odd: the wrong book"),
        ("None", "check_odd returned NoneType; expected True, False or a reason"),
        ("1", "check_odd returned int; expected True, False or a reason"),
        ("1 / 0", "check_odd raised ZeroDivisionError: division by zero"),
        ("time.sleep(60)", "check_odd: stopped after the time limit"),
        ("os._exit(3)", "check_odd: the process had ended"),
    ],
)
def test_a_check_says_true_or_why_not(host, answer, said):
    assert host.check("check_odd", answer, []) == said


def test_a_check_sees_what_the_calls_have_changed(host):
    calls = [{"name": "count_up", "arguments": {}}]
    ask(host, "count_up")
    assert host.check("check_count", 1, calls) is True
    assert host.check("check_count", 2, calls) == "check_count: counted to 1 by ['count_up']"


def test_trusted_tools_run_in_this_process_each_task_with_a_file_of_its_own(file, monkeypatch):
    monkeypatch.setenv("A_VARIABLE", "is seen")
    own = read_own_tools(file, is_trusted=True)
    with closing(own.open()) as host:
        assert ask(host, "run_code", code="os.getpid()") == {"value": os.getpid()}
        assert ask(host, "run_code", code="os.environ['A_VARIABLE']") == {"value": "is seen"}
        assert ask(host, "run_code", code="sys.exit(3)") == {"error": ["SystemExit", "3"]}
        assert ask(host, "count_up") == {"value": 1}
        assert host.check("check_count", 1, [{"name": "count_up", "arguments": {}}]) is True
        start = time.monotonic()
        given = host.ask("run_code", {"code": "time.sleep(3)"}, time.monotonic() + 1)
        assert given["error"][0] == "TimeoutError"
        assert time.monotonic() - start < 2
    with closing(own.open()) as host:
        assert ask(host, "count_up") == {"value": 1}


def test_an_agents_code_calls_them_and_shares_no_process_with_them(file):
    own = read_own_tools(file)
    names = [tool["name"] for tool in own.tools]
    with (
        closing(own.open()) as host,
        closing(Sandbox(names, Limits(cell_s=3), host=host)) as sandbox,
    ):
        result = sandbox.run("print(count_up(2), count_up(by=3), list_days(['work'], limit=1))")
        assert result.printed == "2 5 {'kinds': ['work'], '7': [1, None]}"
        assert result.calls[0] == {"name": "count_up", "arguments": {"by": 2}}
        failed = sandbox.run("x = 1\ncount_up(times=3)")
        assert failed.error == "TypeError: got an unexpected keyword argument 'times' (line 2)"
        assert failed.calls == ()
        caught = "try:\n    run_code(code='1 / 0')\nexcept ZeroDivisionError as e:\n    print(e)"
        assert sandbox.run(caught).printed == "division by zero"
        hung = sandbox.run("run_code(code='time.sleep(60)')")
        assert hung.error.startswith("TimeoutError: run_code did not end in time")
        assert sandbox.run("print(count_up())").printed == "1"
        assert sandbox.run("check_count(1, [])").error.startswith("NameError")
        pids = {sandbox._child.process.pid, sandbox._child.runner, host._process.popen.pid}
        assert len(pids) == 3


def test_a_child_that_ends_does_not_end_the_tools(file):
    own = read_own_tools(file)
    names = [tool["name"] for tool in own.tools]
    with (
        closing(own.open()) as host,
        closing(Sandbox(names, Limits(cell_s=1), host=host)) as sandbox,
    ):
        sandbox.run("first = count_up()")
        assert sandbox.run("while True: pass").error.startswith("stopped after 1 s")
        assert sandbox.run("print(first, count_up())").printed == "1 2"


def test_a_signature_that_was_described_takes_what_the_function_takes(file):
    bind = read_own_tools(file).file.signatures["count_up"].bind
    assert bind(3).arguments == {"by": 3}
    assert bind().arguments == {}
    assert isinstance(read_own_tools(file).file.signatures["run_code"], inspect.Signature)
