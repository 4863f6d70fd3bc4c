import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swaplib import metrics

GOLDEN = Path(__file__).parent / "golden"
CALL = '<tool_call name="area">{"radius":5,"unit":"cm"}</tool_call>'

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
tool_names = st.text(
    st.characters(exclude_characters='"<>', exclude_categories=("Cs", "Zs", "Cc")), min_size=1
)


@pytest.mark.parametrize("track", metrics.TRACKS)
def test_golden_rows_score_as_worked_by_hand(track):
    cases = [json.loads(line) for line in (GOLDEN / f"{track}.jsonl").read_text().splitlines()]
    assert len(cases) >= 12
    for case in cases:
        found = list(metrics.score_row(track, case["gold"], case["output"]).values())
        assert found == [bool(bit) for bit in case["bits"]], case["why"]


def test_rates_are_over_all_rows():
    scores = metrics.score_rows(
        "toolcall", [CALL] * 4, [CALL, "prose", None, CALL.replace("area", "volume")]
    )
    assert (scores.valid_call_rate, scores.name_match_rate, scores.args_exact_rate) == (
        0.5,
        0.25,
        0.5,
    )
    assert [row["args_exact"] for row in scores.rows] == [True, False, False, True]


def test_a_structured_null_is_a_valid_answer():
    scores = metrics.score_rows("structured", ["null"], ["null"])
    assert (scores.json_valid_rate, scores.exact_match_rate) == (1.0, 1.0)


@given(st.lists(json_values, min_size=1, max_size=5))
def test_gold_against_itself_scores_one_structured(values):
    golds = [json.dumps(value) for value in values]
    scores = metrics.score_rows("structured", golds, golds)
    assert set(metrics.rates_of(scores).values()) == {1.0}


@given(tool_names, st.dictionaries(st.text(), json_values, max_size=4))
def test_gold_against_itself_scores_one_toolcall(name, arguments):
    gold = metrics.format_tool_call(name, arguments)
    scores = metrics.score_rows("toolcall", [gold], [gold])
    assert set(metrics.rates_of(scores).values()) == {1.0}


@given(
    st.sampled_from(metrics.TRACKS),
    st.text() | st.from_regex(r'<tool_call name=".*">.*</tool_call>'),
)
def test_any_text_parses_or_is_none(track, text):
    prediction = metrics.parse_output(track, text)
    assert prediction is None or isinstance(prediction, metrics.Prediction)


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.data())
def test_one_more_wrong_row_never_raises_a_rate(rights, data):
    outputs = [CALL if is_right else "wrong" for is_right in rights]
    worse = list(outputs)
    worse[data.draw(st.integers(0, len(outputs) - 1))] = data.draw(
        st.sampled_from(["wrong", "", None])
    )
    before = metrics.rates_of(metrics.score_rows("toolcall", [CALL] * len(outputs), outputs))
    after = metrics.rates_of(metrics.score_rows("toolcall", [CALL] * len(outputs), worse))
    assert all(after[name] <= before[name] for name in before)


@given(st.dictionaries(st.text(), json_values, min_size=2, max_size=5), st.randoms())
def test_key_order_does_not_matter(arguments, random):
    shuffled = dict(random.sample(list(arguments.items()), len(arguments)))
    gold, output = metrics.format_tool_call("f", arguments), metrics.format_tool_call("f", shuffled)
    assert metrics.score_row("toolcall", gold, output)["args_exact"]


@pytest.mark.parametrize(
    "text", ["[" * 200_000, "9" * 5_000, "1e999", '{"a":' * 100_000, '"\ud800', "\x00"]
)
def test_hostile_text_is_no_prediction(text):
    assert metrics.parse_output("structured", text) is None


@pytest.mark.parametrize(
    ("golds", "outputs", "message"),
    [
        (["1"], [], "1 golds and 0 outputs"),
        ([], [], "no rows"),
        (["1", "{"], ["1", "1"], "gold 1"),
    ],
)
def test_bad_input_is_the_callers_error(golds, outputs, message):
    with pytest.raises(ValueError, match=message):
        metrics.score_rows("structured", golds, outputs)


def test_an_unknown_track_names_the_known_ones():
    with pytest.raises(ValueError, match="structured, toolcall"):
        metrics.score_rows("toolcalls", ["1"], ["1"])


def test_metrics_import_needs_the_standard_library_only():
    code = "import sys, swaplib.metrics; print(sorted({m.partition('.')[0] for m in sys.modules}))"
    isolated = (
        subprocess.run(  # -S: without site-packages, so that only the standard library is there
            [
                sys.executable,
                "-S",
                "-c",
                f"import sys; sys.path.insert(0, {str(GOLDEN.parents[1])!r}); {code}",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    )
    assert "swaplib" in isolated.stdout
    assert not {"numpy", "torch", "pydantic"} & set(ast.literal_eval(isolated.stdout))
