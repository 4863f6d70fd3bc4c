import json
from collections import Counter

import pytest

from swaplib.agents.grades import Gold, count_grades, grade
from swaplib.agents.own_splits import BY_REQUEST, BY_TOOL
from swaplib.agents.own_tasks import OwnFiles, read_own_tasks
from swaplib.agents.task_sources import choose_files, find_tasks_again
from swaplib.agents.tasks import FOLDS
from swaplib.agents.trajectory import Step, Trajectory

TOOLS = '''
TABLE = {"Emma": 3}

def lend(title: str, days: int = 14) -> int:
    """Lend a book.

    Args:
        title: Its title.
        days: For how long.
    """
    TABLE[title] -= 1
    return TABLE[title]

def shelve(title: str) -> str:
    """Shelve a book.

    Args:
        title: Its title.
    """
    return "done"

def check_lent(answer, calls):
    return TABLE["Emma"] == 2
'''
LEND = {"name": "lend", "arguments": {"title": "Emma"}}
TOOL = (
    'def t{n}(x: int) -> int:\n    """Tool.\n\n    Args:\n        x: X.\n    """\n    return x\n\n'
)


def write(folder, *lines, tools=TOOLS):
    (folder / "tools.py").write_text(tools)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / "tasks.jsonl").write_text("\n".join(texts) + "\n")
    return OwnFiles(str(folder / "tools.py"), str(folder / "tasks.jsonl"))


def test_tasks_have_one_of_three_golds(tmp_path):
    files = write(
        tmp_path,
        {"request": "Lend Emma.", "calls": [LEND, LEND]},
        {"id": "n", "request": "How many?", "answer": None, "tools": ["shelve"]},
        {"id": 7, "request": "Lend it.", "check": "check_lent"},
    )
    found = read_own_tasks(files)
    assert [task.id for task in found.tasks] == ["1", "n", "7"]
    assert [task.gold for task in found.tasks] == [
        Gold((LEND, LEND), (2, 1)),  # the table is that of the file at the beginning of each task
        Gold((), (), "answer"),
        Gold((), (), "check", check="check_lent"),
    ]
    assert [[tool["name"] for tool in task.offered] for task in found.tasks] == [
        ["lend", "shelve"],
        ["shelve"],
        ["lend", "shelve"],
    ]
    assert [task.is_free for task in found.tasks] == [False, True, True]
    assert found.facts["source_rows"] == 3
    assert set(found.split_of) == {"1", "n", "7"}


WRONG = {
    "no gold": ({"request": "a"}, "exactly one of calls, answer and check, found none"),
    "two golds": (
        {"request": "a", "answer": 1, "check": "check_lent"},
        "exactly one of calls, answer and check, found answer and check",
    ),
    "no request": ({"answer": 1}, "expected a request"),
    "a blank request": ({"request": " ", "answer": 1}, "expected a request"),
    "no JSON": ('{"request": ', "not JSON"),
    "NaN": ('{"request": "a", "answer": NaN}', "not JSON"),
    "half a pair": ('{"request": "a\\ud83d", "answer": 1}', "not JSON"),
    "a list": ("[1]", "expected an object, found list"),
    "another key": ({"request": "a", "anwser": 1}, "unknown key 'anwser'"),
    "an odd id": ({"id": True, "request": "a", "answer": 1}, "expected its id to be"),
    "unknown tools": ({"request": "a", "tools": ["x"], "answer": 1}, "names among lend, shelve"),
    "no tools": ({"request": "a", "tools": [], "answer": 1}, "names among lend, shelve"),
    "an unknown check": ({"request": "a", "check": "check_x"}, "tools.py has check_lent"),
    "no calls": ({"request": "a", "calls": []}, "one at least"),
    "a call that is none": ({"request": "a", "calls": [{"name": "lend"}]}, "expected each call as"),
    "a tool that is not offered": (
        {"request": "a", "tools": ["shelve"], "calls": [LEND]},
        "'lend' is not offered (shelve are)",
    ),
    "an argument too few": (
        {"request": "a", "calls": [{"name": "lend", "arguments": {}}]},
        "lend: missing a required argument: 'title'",
    ),
    "an unknown argument": (
        {"request": "a", "calls": [{"name": "shelve", "arguments": {"title": "x", "y": 1}}]},
        "shelve: got an unexpected keyword argument 'y'",
    ),
    "another type": (
        {"request": "a", "calls": [{"name": "lend", "arguments": {"title": 3}}]},
        "lend: title must be str, found 3",
    ),
    "calls that fail": (
        {"request": "a", "calls": [{"name": "lend", "arguments": {"title": "Ulysses"}}]},
        "lend raised KeyError: 'Ulysses'",
    ),
}


def test_all_wrong_lines_are_listed_with_file_line_and_reason(tmp_path):
    good = {"request": "Lend Emma.", "calls": [LEND]}
    files = write(tmp_path, good, *(line for line, _ in WRONG.values()), good)
    with pytest.raises(ValueError, match=f"{len(WRONG) + 1} wrong line") as caught:
        read_own_tasks(files)
    listed = str(caught.value).splitlines()[1:]
    for number, (text, (_, reason)) in enumerate(zip(listed, WRONG.values(), strict=False), 2):
        assert text.startswith(f"  tasks.jsonl:{number}: ")
        assert reason in text
    assert listed[-1].endswith("its request is that of tasks.jsonl:1")


def test_an_id_stands_once_and_a_file_holds_a_task(tmp_path):
    same = [{"id": "x", "request": f"{n}?", "answer": n} for n in range(2)]
    with pytest.raises(ValueError, match=r"its id .x. is that of tasks\.jsonl:1, too"):
        read_own_tasks(write(tmp_path, *same))
    with pytest.raises(ValueError, match="not JSON"):
        read_own_tasks(write(tmp_path, ""))
    (tmp_path / "tasks.jsonl").unlink()
    files = OwnFiles(str(tmp_path / "tools.py"), str(tmp_path / "tasks.jsonl"))
    with pytest.raises(FileNotFoundError, match="no tasks at"):
        read_own_tasks(files)


def test_by_request_nearly_equal_ones_go_together_and_each_is_test_in_one_fold(tmp_path):
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    lines = [{"request": f"Lend {a} {b} {i}", "answer": i} for i, (a, b) in enumerate(pairs(words))]
    twin = {"request": "lend  ONE two 0!", "answer": 0}
    files = write(tmp_path, *lines, twin)
    tested = Counter()
    for fold in range(FOLDS):
        found = read_own_tasks(files, fold)
        assert found.facts["split_rule"] == BY_REQUEST
        assert found.may_share_tools
        assert found.split_of["1"] == found.split_of[str(len(lines) + 1)]
        tested.update(i for i, split in found.split_of.items() if split == "test")
        sizes = Counter(found.split_of.values())
        assert sizes["test"] in (9, 10)
        assert sizes["val"] in (4, 5)
        assert found == read_own_tasks(files, fold)
    assert set(tested.values()) == {1}
    assert len(tested) == len(lines) + 1
    with pytest.raises(ValueError, match="fold=5"):
        read_own_tasks(files, 5)


def pairs(words):
    return [(a, b) for i, a in enumerate(words) for b in words[i + 1 :]]


def test_by_tool_no_tool_is_called_in_two_splits(tmp_path):
    tools = "".join(TOOL.format(n=n) for n in range(12))
    lines = [
        {"request": f"Task {n} {k}", "calls": [{"name": f"t{n}", "arguments": {"x": k}}]}
        for n in range(12)
        for k in range(3)
    ]
    two = [{"name": f"t{n}", "arguments": {"x": 1}} for n in (0, 1)]
    lines.append({"request": "Both", "calls": two})
    found = read_own_tasks(write(tmp_path, *lines, tools=tools))
    assert found.facts["split_rule"] == BY_TOOL
    assert not found.may_share_tools
    assert (found.facts["units"], found.facts["largest_unit"]) == (11, 7)
    splits = {}
    for task in found.tasks:
        for name in task.called:
            splits.setdefault(name, set()).add(found.split_of[task.id])
    assert all(len(of_tool) == 1 for of_tool in splits.values())
    assert set.union(*splits.values()) == {"train", "val", "test"}
    free = {"request": "Free", "answer": 1}
    assert (
        read_own_tasks(write(tmp_path, *lines, free, tools=tools)).facts["split_rule"] == BY_REQUEST
    )


def trajectory(answer, calls=(), verdict=None, error=None):
    step = Step("I do.", "x = 1", "", error, tuple(calls), True)
    return Trajectory(
        "1", "answered", "task", ("lend",), (step,), answer, {}, {}, {}, verdict=verdict
    )


@pytest.mark.parametrize(
    ("gold", "found", "reason"),
    [
        (Gold((), (), "answer", 7), trajectory(7), None),
        (Gold((), (), "answer", 7), trajectory(7, [LEND]), None),
        (Gold((), (), "answer", {"a": [1]}), trajectory({"a": [1]}), None),
        (Gold((), (), "answer"), trajectory(None), None),
        (Gold((), (), "answer", 7), trajectory(7.0), "another final answer than the expected one"),
        (Gold((), (), "answer", 7), trajectory("7"), "another final answer than the expected one"),
        (Gold((), (), "check", check="check_x"), trajectory(7, verdict=True), None),
        (
            Gold((), (), "check", check="check_x"),
            trajectory(7, verdict="check_x: no"),
            "check_x: no",
        ),
        (Gold((), (), "check", check="check_x"), trajectory(7), "check_x was not asked"),
        (Gold((LEND,), (2,)), trajectory(2, [LEND]), None),
        (Gold((LEND,), (2,)), trajectory(2), "no call made"),
    ],
)
def test_a_trajectory_is_judged_by_its_tasks_kind_of_gold(gold, found, reason):
    assert grade(found, gold).reason == reason


def test_what_a_check_quotes_of_an_outcome_is_not_counted_by():
    said = ("check_x: Emma is lent to reader 7", "check_x: no", "check_x raised KeyError: 'Emma'")
    gold = Gold((), (), "check", check="check_x")
    grades = [grade(trajectory(7, verdict=verdict), gold) for verdict in (*said, True)]
    assert [found.reason for found in grades] == [*said, None]
    assert count_grades(grades)["dropped"] == {"check_x": 2, "check_x raised KeyError": 1}


def test_a_verdict_is_in_the_line_only_where_there_is_one():
    without, with_one = trajectory(1), trajectory(1, verdict="check_x: no")
    assert "verdict" not in json.loads(without.to_json())
    assert Trajectory.from_json(with_one.to_json()).verdict == "check_x: no"
    assert Trajectory.from_json(without.to_json()) == without


def test_tools_and_tasks_go_together():
    assert choose_files("", "") is None
    assert choose_files("a.py", "b.jsonl", True) == OwnFiles("a.py", "b.jsonl", True)
    for given in (("a.py", ""), ("", "b.jsonl")):
        with pytest.raises(ValueError, match="the two go together"):
            choose_files(*given)
    with pytest.raises(ValueError, match="name tools and tasks"):
        choose_files("", "", trusted=True)


def test_a_later_stage_takes_the_same_files_or_says_that_they_have_changed(settings, tmp_path):
    files = write(tmp_path, {"request": "How many?", "answer": 3})
    found = read_own_tasks(files)
    assert find_tasks_again(settings, "sample", 0, found.facts) == found
    with open(files.tasks, "a") as file:
        file.write('{"request": "More?", "answer": 4}\n')
    with pytest.raises(ValueError, match=r"tasks\.jsonl is not what it was .* Run 06_capture"):
        find_tasks_again(settings, "sample", 0, found.facts)
