import json
import math

import pytest

from swaplib.agents import tools
from swaplib.settings import ROOT

GOLDEN = [
    json.loads(line)
    for line in (ROOT / "tests" / "golden" / "tools.jsonl").read_text().splitlines()
]


@pytest.mark.parametrize(
    "case", GOLDEN, ids=lambda case: f"{case['tool']}-{str(case['arguments'])[:40]}"
)
def test_a_tool_gives_what_was_worked_by_hand(case):
    call = tools.TOOLS[case["tool"]]
    if "error" in case:
        with pytest.raises(ValueError, match=case["error"]):
            call(**case["arguments"])
        return
    result = json.loads(json.dumps(call(**case["arguments"])))
    if case.get("is_close"):  # the gold was rounded by hand
        assert math.isclose(result, case["result"], rel_tol=1e-7)
    else:
        assert (result, type(result)) == (case["result"], type(case["result"]))


def test_every_tool_has_golds():
    counts = [case["tool"] for case in GOLDEN]
    assert {name: counts.count(name) for name in tools.TOOLS if counts.count(name) < 2} == {}


def test_a_tool_of_the_same_name_with_other_parameters_is_another_tool():
    assert (
        tools.find_tool({"name": "is_prime", "parameters": {"num": {}}}) is tools.TOOLS["is_prime"]
    )
    assert tools.find_tool({"name": "is_prime", "parameters": {"number": {}}}) is None
    assert tools.find_tool({"name": "whois", "parameters": {}}) is None


def test_arguments_are_bound_by_name_and_defaults_stay_out():
    call = tools.TOOLS["sort_numbers"]
    assert tools.bind_arguments(call, [2, 1]) == {"numbers": [2, 1]}
    assert tools.bind_arguments(call, descending=True, numbers=[1]) == {
        "descending": True,
        "numbers": [1],
    }
    with pytest.raises(TypeError, match="unexpected keyword argument 'ascending'"):
        tools.bind_arguments(call, [1], ascending=True)
