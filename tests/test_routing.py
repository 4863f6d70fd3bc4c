import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.recorded_pair import open_record
from swaplib.data.facts import RowFacts
from swaplib.evaluation.costs import Prices
from swaplib.evaluation.intervals import newcombe_interval
from swaplib.evaluation.side_by_side import Compared
from swaplib.evaluation.stats import count_pairs
from swaplib.files import hash_text
from swaplib.notebooks.running import run_notebook
from swaplib.report import route_report, route_words
from swaplib.routing import choice
from swaplib.routing import choose_route as choose_route_module
from swaplib.routing.choose_route import choose_route, count_agreement, open_chosen
from swaplib.routing.policy import Policy
from swaplib.routing.refused import count_groups, count_refusals
from swaplib.routing.replay import Replay
from swaplib.routing.route_file import path_of, read_policy, read_route
from swaplib.routing.validators import Known
from swaplib.rows import Generation, LedgerLine, Row
from swaplib.settings import ROOT

TOOL = {
    "type": "function",
    "function": {
        "name": "t",
        "parameters": {"properties": {"x": {"type": "integer"}}, "required": ["x"]},
    },
}
GOLD = '<tool_call name="t">{"x": 1}</tool_call>'
WRONG = '<tool_call name="t">{"x": 2}</tool_call>'  # right in all that a validator sees
ALIEN = '<tool_call name="u">{"x": 1}</tool_call>'


def make_line(index: int, output: str, confidence: float | None) -> LedgerLine:
    is_right = output == GOLD
    scores = {"valid_call": True, "name_match": is_right, "args_exact": is_right}
    generation = Generation(output, "ok", "stop", 100, 10, 5.0, None, confidence, confidence)
    return LedgerLine(index, hash_text(f"p{index}"), generation, scores)


def make_replay(hosted, slm, confidences, counts=None) -> Replay:
    """A replay of outputs; the SLM takes 0.1 s a row of a machine for 3.6 USD an hour."""
    n = len(slm)
    rows = [Row(f"p{i}", GOLD) for i in range(n)]
    counts = counts or [1] * n
    facts = [RowFacts(hash_text(f"p{i}"), "r", [TOOL], "t", [], counts[i]) for i in range(n)]
    ledgers = {
        "azure": tuple(make_line(i, output, None) for i, output in enumerate(hosted)),
        "slm": tuple(
            make_line(i, *pair) for i, pair in enumerate(zip(slm, confidences, strict=True))
        ),
    }
    metrics = {
        model: {"extra": {"rows_per_second": 10.0}, "run": {"run_id": f"run-{model}"}}
        for model in ledgers
    }
    compared = Compared("toolcall", metrics, ledgers, rows, facts)
    known = tuple(Known.from_facts("toolcall", fact, None) for fact in facts)
    return Replay(compared, "azure", "slm", known, Prices(1.0, 10.0, 3.6))


def make_random(seed: int, n: int = 60) -> Replay:
    rng = np.random.default_rng(seed)
    outputs = np.array([GOLD, WRONG, ALIEN])
    hosted = outputs[rng.choice(3, n, p=[0.6, 0.3, 0.1])]
    slm = outputs[rng.choice(3, n, p=[0.5, 0.3, 0.2])]
    confidences = np.where(slm == GOLD, rng.normal(-0.1, 0.1, n), rng.normal(-0.3, 0.2, n))
    return make_replay(hosted.tolist(), slm.tolist(), confidences.tolist())


@pytest.mark.parametrize("seed", range(5))
def test_a_point_is_the_hosted_llm_less_what_is_lost_and_more_what_is_gained(seed):
    replay = make_random(seed)
    for policy in (Policy(True), Policy(False, "mean_logprob", -0.2)):
        point = replay.measure(policy)
        hosted = int(replay.hosted_right.sum())
        assert point["right"] == hosted - point["lost"] + point["gained"]
        assert point["coverage"] == point["accepted"] / 60
        routed = replay.route_lines(replay.accept(policy))
        assert sum(all(line.scores.values()) for line in routed) == point["right"]


def test_wrong_answers_that_pass_are_counted_as_wrong():
    slm = [GOLD, WRONG, WRONG, ALIEN]
    replay = make_replay([GOLD, GOLD, WRONG, GOLD], slm, [-0.1] * 4)
    point = replay.measure(Policy(True))
    assert (point["accepted"], point["right"]) == (3, 2 + 0)
    assert (point["accepted_wrong"], point["lost"], point["gained"]) == (2, 1, 0)
    [refused] = count_refusals(replay, Policy(True))
    assert (refused["validator"], refused["rows"], refused["hosted_right"]) == ("tool", 1, 1)
    assert count_groups(replay, Policy(True)) == [{"group": "t", "rows": 4, "refused": 1}]
    agreement = count_agreement(replay, Policy(True))
    assert (agreement["n"], agreement["agreed"]) == (3, 2)


@pytest.mark.parametrize("seed", range(3))
def test_good_enough_is_what_the_interval_of_each_way_says(seed):
    replay = make_random(seed)
    swept = choice.sweep(replay, True, "mean_logprob")
    found = choice.find_good_enough(replay, swept.accepted, 0.05)
    for bits, is_good in zip(swept.accepted, found, strict=True):
        routed = np.where(bits, replay.slm_right, replay.hosted_right)
        _, high = newcombe_interval(count_pairs(replay.hosted_right.tolist(), routed.tolist()))
        assert bool(is_good) == (high < 0.05)


@pytest.mark.parametrize("seed", range(5))
def test_a_chosen_policy_accepts_what_its_point_says_and_no_good_one_accepts_more(seed):
    replay = make_random(seed)
    for kind, policy in choice.choose_policies(replay, 0.1).items():
        accepted = replay.accept(policy)
        assert choice.find_good_enough(replay, accepted[None, :], 0.1)[0]
        if kind == choice.VALIDATORS:
            continue
        for swept in choice.list_sweeps(replay)[kind]:
            good = choice.find_good_enough(replay, swept.accepted, 0.1)
            assert swept.accepted[good].sum(axis=1).max(initial=0) <= accepted.sum()


def test_thresholds_go_from_none_to_all_and_lie_between_rows():
    replay = make_replay([GOLD] * 4, [GOLD] * 4, [-0.4, -0.1, -0.1, -0.2])
    swept = choice.sweep(replay, False, "min_logprob")
    assert swept.accepted.sum(axis=1).tolist() == [0, 2, 3, 4]
    assert swept.thresholds[1:].tolist() == pytest.approx([-0.15, -0.3, -0.4])


def test_equal_models_keep_every_row_local_and_a_useless_slm_none():
    same = make_replay([GOLD] * 100, [GOLD] * 100, np.linspace(-1, 0, 100).tolist())
    chosen = choice.choose_policies(same, 0.05)
    assert list(chosen) == list(choice.KINDS)
    assert {same.measure(policy)["coverage"] for policy in chosen.values()} == {1.0}
    useless = make_replay([GOLD] * 100, [WRONG] * 100, np.linspace(-1, 0, 100).tolist())
    assert choice.choose_policies(useless, 0.0) == {}


def test_of_kinds_that_keep_as_much_the_one_with_more_right_rows_is_chosen():
    point = {"accepted": 5, "right": 9}
    assert choice.choose_kind({}) is None
    points = {"validators": point, "confidence": point | {"right": 10}, "both": point}
    assert choice.choose_kind(points) == "confidence"
    assert choice.choose_kind(points | {"both": point | {"accepted": 6}}) == "both"


def test_a_model_without_confidence_has_validators_alone():
    replay = make_replay([GOLD] * 100, [GOLD] * 100, [None] * 100)
    assert list(choice.choose_policies(replay, 0.05)) == ["validators"]
    assert set(choice.draw_curves(replay)) == set()


@pytest.mark.parametrize("unknown", [math.nan, -math.inf])
def test_a_confidence_that_is_no_number_is_never_accepted_by_a_threshold(unknown):
    replay = make_replay([GOLD] * 100, [GOLD] * 100, [unknown] * 50 + [-0.1] * 50)
    for sweeps in choice.list_sweeps(replay).values():
        for swept in sweeps:
            assert swept.accepted[:, :50].sum() == 0
            for i, bits in enumerate(swept.accepted):
                written = json.dumps(swept.take(i).to_record(), allow_nan=False)
                read = read_policy(json.loads(written))
                assert (replay.accept(read) == bits).all()
    none = make_replay([GOLD] * 100, [GOLD] * 100, [unknown] * 100)
    assert list(choice.choose_policies(none, 0.05)) == ["validators"]


@pytest.mark.parametrize("target", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_policy_that_was_written_accepts_the_same_rows_when_it_is_read(seed, target):
    replay = make_random(seed)
    for policy in choice.choose_policies(replay, target).values():
        read = read_policy(json.loads(json.dumps(policy.to_record(), allow_nan=False)))
        assert (replay.accept(read) == replay.accept(policy)).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": "-0.1"},
        {"threshold": math.nan},
        {"threshold": -math.inf},
        {"threshold": True},
        {"threshold": None},
        {"signal": None},
        {"signal": "luck"},
        {"has_validators": "false"},
    ],
)
def test_a_route_whose_policy_is_broken_is_refused_by_name(tmp_path, changes):
    policy = {"has_validators": True, "signal": "mean_logprob", "threshold": -0.1, **changes}
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"track": "toolcall", "model": "slm", "policy": policy}))
    with pytest.raises(ValueError, match=r"r\.json is no route .*09_router"):
        read_route(path)


def test_costs_count_what_is_refused_as_often_as_it_was_asked():
    replay = make_replay([GOLD, GOLD], [GOLD, ALIEN], [-0.1, -0.1], counts=[8, 2])
    bill = replay.measure(Policy(True))["bill"]
    assert (bill["hosted_calls"], bill["requests"]) == (2, 10)
    assert (bill["prompt_tokens"], bill["completion_tokens"]) == (200, 20)
    # a hosted call is 100 and 10 tokens, so 0.0002 USD; a local one 0.1 s, so 0.0001 USD
    assert bill["usd_hosted_per_1000"] == pytest.approx(1000 * 2 * 0.0002 / 10)
    assert bill["usd_per_1000"] == pytest.approx(1000 * (2 * 0.0002 + 10 * 0.0001) / 10)
    assert bill["usd_per_right"] == pytest.approx((2 * 0.0002 + 10 * 0.0001) / 10)
    never = replay.measure_accepted(np.zeros(2, dtype=bool))["bill"]
    assert never["usd_per_1000"] == pytest.approx(0.2)  # the SLM is not asked


@pytest.fixture(scope="module")
def record():
    with open_record() as settings:
        yield settings


def test_the_route_of_the_recorded_pair_is_written_read_and_put_in_words(record):
    route = choose_route(record, "toolcall", "slm_ft")
    assert (route["chosen"], route["verdict"], route["obstacle"]) == ("both", "not worse", None)
    point = route["test"]["points"]["both"]
    assert (point["accepted"], point["n_rows"], point["right"]) == (75, 87, 53)
    head = route_words.make_route_head(route)
    assert head.startswith("86% of requests can stay local: not worse than the hosted LLM by more")
    assert "hosted tokens −83%" in head
    read = read_route(path_of(record, "toolcall"))
    assert read.policy.find_refusal(Known("toolcall"), make_line(0, GOLD, -9.0).generation, None)
    assert read.explain_misfit(route["identity"]) is None
    other = route["identity"] | {"adapter_sha256": "0" * 64}
    assert "adapter_sha256: chosen for" in read.explain_misfit(other)
    replay = open_chosen(record, route)
    assert replay.measure(read.policy)["accepted"] == 75
    page = route_report.show_route(route).data
    for shown in (
        route_report.show_points(route),
        route_report.show_refused(route),
        route_report.show_refused_groups(route),
        route_report.show_route_evidence(route),
        route_report.show_passed(replay, route),
    ):
        page += shown.to_html()
    assert "(chosen)" in page
    assert "5 of 23 wrong answers that were accepted" in page
    folder = record.runs / route["run"]["run_id"]
    assert {path.name for path in folder.iterdir()} == {"router.json", "trace.jsonl"}


@pytest.mark.parametrize(
    ("track", "model", "said"),
    [
        ("toolcall", "slm", "84% of the hosted LLM&#x27;s lead over the SLM, for 77% of its calls"),
        ("structured", "slm_ft", "always the SLM has 43 rows of test right, routed 43: whether"),
    ],
)
def test_the_box_says_what_is_paid_for_a_gap_and_when_no_router_is_needed(
    record, track, model, said
):
    assert said in route_report.show_route(choose_route(record, track, model)).data


def test_without_a_name_the_fine_tuned_slm_is_routed(record):
    assert choose_route(record, "toolcall")["model"] == "slm_ft"


def test_a_route_that_does_not_help_is_no_route_to_serve(record):
    home = record.model_copy(update={"swap_home": record.swap_home / "examples" / "home"})
    route = choose_route(home, "toolcall", "slm")
    assert (route["chosen"], route["policy"], route["verdict"]) == (None, None, "does not help")
    assert "every request goes to the hosted LLM" in route_report.show_route(route).data
    with pytest.raises(ValueError, match="no request can stay local"):
        read_route(path_of(home, "toolcall"))


def with_confidence(monkeypatch, split: str, confidence: float | None) -> None:
    """Have the SLM's runs on a split say how sure it was."""
    read = choose_route_module.open_replay

    def edit(settings, track, reference, model, split_):
        replay = read(settings, track, reference, model, split_)
        if split_ != split:
            return replay
        changes = {"mean_logprob": confidence, "min_logprob": confidence}
        ledgers = dict(replay.compared.ledgers)
        ledgers[model] = tuple(
            replace(line, generation=replace(line.generation, **changes)) for line in ledgers[model]
        )
        return replace(replay, compared=replace(replay.compared, ledgers=ledgers))

    monkeypatch.setattr(choose_route_module, "open_replay", edit)


def test_a_choice_that_keeps_no_row_of_test_is_not_said_to_help(record, monkeypatch):
    with_confidence(monkeypatch, "test", -99.0)
    route = choose_route(record, "toolcall", "slm_ft")
    assert route["test"]["points"][route["chosen"]]["accepted"] == 0
    head = route_words.make_route_head(route)
    assert head == "Open: what val has chosen kept none of test's 87 rows local"


def test_over_a_log_right_is_said_to_be_agreement_and_runs_to_be_native(record, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(record.swap_home, home, ignore=shutil.ignore_patterns("examples", "folds"))
    there = record.model_copy(update={"swap_home": home})
    path = there.dataset / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"gold": "hosted"}))
    lines = dict(route_words.describe_route(choose_route(there, "toolcall", "slm_ft")))
    assert "agreement with the hosted LLM" in lines["The gold"]
    (there.evaluation / "toolcall_azure_val.json").unlink()
    with pytest.raises(FileNotFoundError, match="usually asked natively: try model='slm_ft-native"):
        choose_route(there, "toolcall", "slm_ft")


def test_a_run_without_log_probabilities_is_said_to_have_none(record, monkeypatch):
    with_confidence(monkeypatch, "val", None)
    route = choose_route(record, "toolcall", "slm_ft")
    assert route["chosen"] is None
    [(label, text)] = route_words.describe_route(route)
    assert label == "On val"
    assert text.endswith("no log-probabilities, so validators alone were tried.")


@pytest.mark.parametrize(
    ("model", "target", "message"),
    [
        ("azure", 0.05, "expected an SLM"),
        ("slm", 1.5, "expected a rate from 0 to 1"),
        ("slm_ft-native", 0.05, r"slm_ft-native_val\.json.*02_eval.*split='val'"),
        ("gpt", 0.05, "unknown model"),
    ],
)
def test_what_cannot_be_routed_is_an_error_that_says_so(record, model, target, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        choose_route(record, "toolcall", model, target)


def test_val_of_another_model_is_refused(record, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(record.swap_home, home, ignore=shutil.ignore_patterns("examples", "folds"))
    path = home / "05_eval" / "toolcall_slm_ft_val.json"
    content = json.loads(path.read_text())
    content["run"]["identity"]["adapter_sha256"] = "0" * 64
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="slm_ft is another model"):
        choose_route(record.model_copy(update={"swap_home": home}), "toolcall", "slm_ft")


@pytest.mark.parametrize("text", ["{}", "[]", "no", '{"policy": {"signal": "luck"}}'])
def test_a_file_that_is_no_route_is_named(tmp_path, text):
    path = tmp_path / "r.json"
    with pytest.raises(FileNotFoundError, match="09_router"):
        read_route(path)
    path.write_text(text)
    with pytest.raises(ValueError, match=r"r\.json.*09_router"):
        read_route(path)


@pytest.mark.slow
def test_09_runs_headlessly_over_the_recorded_pair(record, monkeypatch):
    monkeypatch.setenv("SWAP_HOME", str(record.swap_home))
    source = ROOT / "notebooks" / "09_router.ipynb"
    values = [("track", "structured"), ("model", "slm_ft"), ("target", "0.1")]
    _, html = run_notebook(record, source, values, 300)
    assert html.name == "09_router_structured-slm_ft.html"
    page = html.read_text()
    assert "100% of requests can stay local" in page
    assert "Wrong answers that were accepted" in page
    assert json.loads(path_of(record, "structured").read_text())["target"] == 0.1
