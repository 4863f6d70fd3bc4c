"""No two sentences of a box contradict each other: every table's words are claims about the gap."""

import json
import random
import re
from dataclasses import asdict

import pytest
from typer.testing import CliRunner

from swaplib.cli import app
from swaplib.evaluation import stats
from swaplib.evaluation.intervals import CELLS, wilson_interval
from swaplib.evaluation.rule import apply_rule, find_margin
from swaplib.metrics import core_metrics
from swaplib.report import headlines, sentences, words

METRICS = core_metrics("toolcall")
FORM = {
    "n_rows": 1,
    "strict": 1,
    "found": 1,
    "n_fenced": 0,
    "word": None,
    "n_word": 0,
    "hides": False,
}
CAVEATS = {
    "obstacle": None,
    "models": ["azure", "slm"],
    "form": {"azure": FORM, "slm": FORM},
    "given": None,
    "ceiling": {"n_rows": 1, "nobody": [], "impossible": {}, "guess": {}, "rate": 1.0},
    "noise": None,
    "offers_one_tool": True,
}
NO_COSTS = {"prices": {}, "models": {"azure": {"usd_per_1000_rows": None}}, "pays": {}}


def judge(counts: tuple[int, ...], margin: float) -> dict:
    found = stats.judge_counts(dict(zip(CELLS, counts, strict=True)), margin)
    found["rows_needed"] = found["rows_needed"] and asdict(found["rows_needed"])
    return found | {
        "bootstrap": found["interval"],
        "n_groups": found["n_rows"],
        "p_value": 1.0,
        "p_adjusted": 1.0,
    }


def make_decision(
    tables: list[tuple[int, ...]], delta: float, margin: float | None = None, **more
) -> dict:
    """A decision's file from one table (both, first only, second only, neither) for each metric."""
    margin, n, rates = find_margin(delta, margin), sum(tables[0]), {"azure": {}, "slm": {}}
    for metric, (both, first, second, _) in zip(METRICS, tables, strict=True):
        for model, right in (("azure", both + first), ("slm", both + second)):
            rates[model][metric] = {"rate": right / n, "interval": wilson_interval(right, n)}
    sides = [
        {"n_rows": n} | {m: found["rate"] for m, found in of_model.items()}
        for of_model in rates.values()
    ]
    content = apply_rule("toolcall", *sides, delta) | {
        "track": "toolcall",
        "model": "slm",
        "reference": "azure",
        "n_rows": n,
    }
    content |= {
        "delta": delta,
        "margin": margin,
        "earlier": [],
        "caveats": CAVEATS | {"margin": margin},
    }
    pairs = {metric: judge(table, margin) for metric, table in zip(METRICS, tables, strict=True)}
    return (
        content
        | {"evidence": {"rates": rates, "pairs": pairs, "full": []}, "costs": NO_COSTS}
        | more
    )


def read_claims(decision: dict) -> dict[str, list[tuple[str, float]]]:
    """By metric, what the box's sentences claim of its gap, read from the words alone."""
    lines, claims = dict(sentences.describe_decision(decision)), {metric: [] for metric in METRICS}

    def claim(text: str, relation: str, bound: float) -> None:
        for metric in METRICS:
            if metric in text:
                claims[metric].append((relation, bound))

    for part in re.split(r"(?<=[.:]) (?=[A-Z])|: the interval", lines["How sure?"]):
        if found := re.match(
            r"At 95% .*? is (not worse|worse|better)(?: by more than ([\d.]+))? on", part
        ):
            bound = float(found[2] or 0)
            claim(part, "above" if found[1] == "worse" else "below", bound)
        elif part.startswith("Not sure on"):
            claim(part, "open", decision["delta"])
    if within := next((text for label, text in lines.items() if label.startswith("Within")), None):
        for metric in METRICS:
            said = re.search(rf"{metric} (.*?), [+-]", within)[1]
            bound = decision["margin"]
            claims[metric] += {
                "better": [("below", 0.0)],
                f"worse by more than {bound:g}": [("above", bound)],
                "worse": [("above", 0.0)],
                f"not worse by more than {bound:g}": [("below", bound)],
                f"worse, but by less than {bound:g}": [("above", 0.0), ("below", bound)],
                "not enough rows": [("open", bound)],
                "not enough rows (measurably worse, by how much is open)": [
                    ("above", 0.0),
                    ("open", bound),
                ],
            }[said]
    return claims


def find_contradiction(decision: dict) -> str | None:
    """The first metric on which two claims, or a claim and the rule, exclude each other."""
    for metric, found in read_claims(decision).items():
        above = max((bound for relation, bound in found if relation == "above"), default=-1.0)
        below = min((bound for relation, bound in found if relation == "below"), default=1.0)
        gap, opened = (
            decision["gaps"][metric],
            [bound for relation, bound in found if relation == "open"],
        )
        if (
            above >= below
            or not above <= gap <= below
            or any(not above <= bound <= below for bound in opened)
        ):
            return f"{metric}: {found}, gap {gap}"
        is_worse = metric in decision["worse_on"]
        if (above >= decision["delta"] and not is_worse and above > -1) or (
            below <= decision["delta"] and is_worse
        ):
            return f"{metric}: {found}, and the rule says {'worse' if is_worse else 'not worse'}"
    return None


@pytest.mark.parametrize("seed", range(8))
def test_no_two_sentences_contradict_each_other(seed):
    rng = random.Random(seed)
    for _ in range(120):  # 2,880 tables in all
        n = rng.choice((8, 20, 87, 300, 2000))
        tables = []
        for _ in METRICS:
            cuts = sorted(rng.randint(0, n) for _ in range(3))
            if rng.random() < 0.6:  # models that nearly agree
                b, c = rng.randint(0, n // 8), rng.randint(0, n // 8)
                both = rng.randint(0, n - b - c)
                tables.append((both, b, c, n - both - b - c))
            else:
                tables.append((cuts[0], cuts[1] - cuts[0], cuts[2] - cuts[1], n - cuts[2]))
        delta = rng.choice((0.0, 0.0, 0.02, 0.05, 0.15))
        decision = make_decision(
            tables, delta, rng.choice((None, 0.0, 0.05, 0.3)) if not delta else None
        )
        assert find_contradiction(decision) is None
        settling = dict(sentences.describe_decision(decision))["To settle it"]
        open_ = [
            m
            for m, pair in decision["evidence"]["pairs"].items()
            if pair["verdict"] == "not enough rows"
        ]
        assert [m for m in METRICS if m in settling] == open_


def test_a_contradiction_would_be_found():
    decision = make_decision([(85, 1, 1, 0)] * 3, 0.0)
    assert find_contradiction(decision) is None
    decision["evidence"]["pairs"]["args_exact_rate"]["verdict"] = "worse"
    assert "args_exact_rate" in find_contradiction(decision)


def test_at_delta_0_the_sign_is_asked_first_and_the_margin_beside_it():
    lines = dict(
        sentences.describe_decision(
            make_decision([(85, 2, 0, 0), (70, 14, 0, 3), (50, 4, 6, 27)], 0.0)
        )
    )
    assert lines["The rule"] == (
        "On 87 rows, the SLM is worse than the hosted LLM on valid_call_rate (0.98 against 1.00) "
        "and name_match_rate "
        "(0.80 against 0.97)."
    )
    assert (
        "At 95% the SLM is worse on name_match_rate (+0.16 [+0.08, +0.25])." in lines["How sure?"]
    )
    assert (
        "Not sure on valid_call_rate (+0.02 [-0.02, +0.08]): the interval of the gap includes 0."
        in lines["How sure?"]
    )
    assert "coin flip" in lines["How sure?"]
    assert lines["Within 0.05?"].startswith(
        "Another question, for the SLM: valid_call_rate not enough rows, +0.02"
    )
    assert "name_match_rate worse by more than 0.05" in lines["Within 0.05?"]
    assert lines["To settle it"].startswith(
        "At 0.05, if the models go on to disagree as they did: valid_call_rate about"
    )


def test_with_a_delta_rule_and_evidence_answer_one_question():
    lines = dict(
        sentences.describe_decision(
            make_decision([(85, 2, 0, 0), (70, 14, 0, 3), (50, 4, 6, 27)], 0.15)
        )
    )
    assert not [label for label in lines if label.startswith("Within")]
    assert "is worse than the hosted LLM by more than 0.15 on name_match_rate" in lines["The rule"]
    assert lines["How sure?"] == (
        "Not sure on name_match_rate (+0.16 [+0.08, +0.25]): the interval of the gap includes 0.15."
    )


@pytest.mark.parametrize(
    ("gaps", "is_said"),
    [((1, 0, 0), True), ((2, 0, 0), False), ((1, 5, 0), False), ((0, 0, 0), True)],
)
def test_a_single_row_is_said_only_where_it_decides(gaps, is_said):
    tables = [(80 - gap, gap, 0, 20) for gap in gaps]
    assert (
        "A single row decides"
        in dict(sentences.describe_decision(make_decision(tables, 0.0)))["The rule"]
    ) == is_said


def test_groups_are_said_where_they_take_a_verdict_back():
    decision = make_decision([(90, 0, 0, 10)] * 3, 0.0)
    assert "groups" not in json.dumps(sentences.describe_decision(decision))
    decision["evidence"]["pairs"]["args_exact_rate"] |= {"bootstrap": (-0.1, 0.1), "n_groups": 50}
    note = dict(sentences.describe_decision(decision))["Note"]
    assert note.startswith(
        "100 rows, 50 groups: for tools (or prompts) not seen yet args_exact_rate would be not "
        "enough rows"
    )


def test_decisions_taken_before_with_another_delta_are_counted():
    tables = [(90, 0, 0, 10)] * 3
    notes = dict(
        sentences.describe_decision(make_decision(tables, 0.05, earlier=[0.0, 0.02, 0.0, 0.05]))
    )
    assert notes["Note"].startswith(
        "Decision 5 on these runs; the earlier ones had delta 0, 0.02, 0.05."
    )
    assert "Note" not in dict(
        sentences.describe_decision(make_decision(tables, 0.05, earlier=[0.05]))
    )


def test_form_that_hides_skill_is_the_headline_and_says_what_was_found():
    fenced = {"n_rows": 60, "strict": 0, "n_fenced": 60, "word": None, "n_word": 0, "hides": True}
    forms = {"azure": fenced | {"found": 58}, "slm": fenced | {"found": 40}}
    caveats = CAVEATS | {
        "obstacle": "form",
        "form": forms,
        "found": judge((38, 20, 2, 0), 0.05),
        "margin": 0.05,
    }
    decision = make_decision([(0, 0, 0, 60)] * 3, 0.0, caveats=caveats)
    assert sentences.make_head(decision) == "Not comparable (FINE_TUNE=0)"
    lines = dict(sentences.describe_decision(decision))
    assert "60 of 60 answers of both models are inside a code fence" in lines["Why"]
    assert (
        "Right wherever it stands, of 60 rows: the hosted LLM 58, the SLM 40; right as asked: "
        in lines["Why"]
    )
    assert "worse by more than 0.05" in lines["How sure?"]
    assert "-p models azure-shots4,slm-shots4" in lines["Next"]
    assert "To settle it" not in lines
    assert "60 of 60" in headlines.show_verdict(decision).data


def test_two_models_that_can_do_nothing_are_not_as_good_as_each_other():
    forms = {m: FORM | {"n_rows": 60, "strict": 0, "found": 0} for m in ("azure", "slm")}
    caveats = CAVEATS | {
        "obstacle": "useless",
        "form": forms,
        "found": judge((0, 0, 0, 60), 0.05),
        "margin": 0.05,
    }
    decision = make_decision([(0, 0, 0, 60)] * 3, 0.0, caveats=caveats, verdict="not comparable")
    assert sentences.make_head(decision) == "Not comparable (FINE_TUNE=0)"
    assert (
        "The hosted LLM gets 0 of 60 rows right; the SLM gets 0 of 60"
        in dict(sentences.describe_decision(decision))["Why"]
    )


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ("86 6 2 6", "not enough rows, +0.04 [-0.02, +0.11]"),
        (
            "860 60 20 60",
            "not enough rows (measurably worse, by how much is open), +0.04 [+0.02, +0.06]",
        ),
        ("8600 600 200 600", "worse, but by less than 0.05, +0.04 [+0.03, +0.05]"),
        ("40 22 1 37", "worse by more than 0.05"),
        ("90 0 0 10", "not worse by more than 0.05"),
        ("40 2 30 28", "better"),
    ],
)
def test_the_calculator_prints_what_a_box_would_say(counts, said):
    result = CliRunner().invoke(app, ["evidence", *counts.split()])
    found = json.loads(result.output)
    assert list(found) == ["verdict", "interval", "p_value", "rows_needed", "sentence"]
    assert f"the candidate is: {said}" in found["sentence"]
    assert found["sentence"].count("about") == (found["rows_needed"] is not None)


def test_the_calculator_refuses_no_rows_and_takes_a_margin():
    with pytest.raises(ValueError, match="at least one row"):
        words.judge_table(0, 0, 0, 0, 0.05)
    assert CliRunner().invoke(app, ["evidence", "1", "-1", "0", "0"]).exit_code == 2
    assert words.judge_table(40, 12, 1, 47, 0.3)["verdict"] == "not worse"
