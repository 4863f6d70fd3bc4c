import math

import numpy as np
import pytest
import scipy.stats
import statsmodels.stats.contingency_tables as tables
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from swaplib import evidence


def make_bits(both: int, first_only: int, second_only: int, neither: int) -> tuple[list[bool], list[bool]]:
    pairs = [(True, True)] * both + [(True, False)] * first_only + [(False, True)] * second_only
    pairs += [(False, False)] * neither
    return [a for a, _ in pairs], [b for _, b in pairs]


def judge(*counts: int, margin: float = 0.05) -> evidence.PairedEvidence:
    return evidence.compare_metrics({"metric": make_bits(*counts)}, margin)["metric"]


@pytest.mark.parametrize(
    ("first_only", "second_only", "p"),
    [(6, 0, 2 / 64), (5, 0, 2 / 32), (0, 0, 1.0), (3, 3, 1.0), (7, 1, 2 * (1 + 8) / 256)],  # binomial tails by hand
)
def test_mcnemar_as_worked_by_hand_and_by_statsmodels(first_only, second_only, p):
    assert evidence.compute_mcnemar(first_only, second_only) == pytest.approx(p)
    if first_only + second_only:
        assert p == pytest.approx(scipy.stats.binomtest(first_only, first_only + second_only).pvalue)
    direct = tables.mcnemar([[4, first_only], [second_only, 9]], exact=True).pvalue
    assert evidence.compute_mcnemar(first_only, second_only) == direct


def test_holm_as_worked_by_hand_and_by_statsmodels():
    sides = {"a": make_bits(4, 8, 0, 0), "b": make_bits(6, 6, 0, 0), "c": make_bits(5, 7, 0, 0)}
    found = evidence.compare_metrics(sides, 0.0)
    raw = [2 / 2**8, 2 / 2**6, 2 / 2**7]
    assert [found[m].p_value for m in "abc"] == pytest.approx(raw)
    # sorted: a x 3, c x 2, b x 1, never falling
    assert [found[m].p_adjusted for m in "abc"] == pytest.approx([3 * raw[0], 2 * raw[2], 2 * raw[2]])
    assert [found[m].p_adjusted for m in "abc"] == pytest.approx(multipletests(raw, method="holm")[1])


def test_the_bootstrap_is_scipys_and_seeded():
    first, second = make_bits(20, 9, 3, 18)
    found = evidence.bootstrap_gap(first, second, seed=7)
    assert found == evidence.bootstrap_gap(first, second, seed=7)
    direct = scipy.stats.bootstrap(
        (np.array(first, float), np.array(second, float)),
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        paired=True,
        method="percentile",
        rng=7,
    ).confidence_interval
    assert found == pytest.approx((direct.low, direct.high), abs=0.021)  # one row of 50
    assert found[0] < 6 / 50 < found[1]
    assert evidence.bootstrap_gap([True], [False], seed=1) == (1.0, 1.0)


def test_newcombe_as_worked_by_hand():
    # 8 rows, no disagreement: phi is 0, so the reach is that of one Wilson interval, 1 - 0.6756
    assert evidence.newcombe_interval(evidence.count_pairs(*make_bits(8, 0, 0, 0))) == pytest.approx(
        (-0.3244, 0.3244), abs=1e-4
    )
    # p1 = 0.8 [0.4902, 0.9433], p2 = 0.5 [0.2366, 0.7634]; ad - bc = 10 less 5, over sqrt(8*2*5*5) = 20: phi = 0.25
    low = 0.3 - math.sqrt(0.3098**2 - 2 * 0.25 * 0.3098 * 0.2634 + 0.2634**2)
    high = 0.3 + math.sqrt(0.1433**2 - 2 * 0.25 * 0.1433 * 0.2634 + 0.2634**2)
    counts = evidence.count_pairs(*make_bits(5, 3, 0, 2))
    assert evidence.newcombe_interval(counts) == pytest.approx((low, high), abs=2e-4)


def test_newcombe_covers_the_true_gap_about_as_often_as_it_says():
    rng, hits, n, runs = np.random.default_rng(3), 0, 60, 400
    for _ in range(runs):
        counts = dict(
            zip(("both", "first_only", "second_only", "neither"), rng.multinomial(n, [0.5, 0.2, 0.1, 0.2]), strict=True)
        )
        low, high = evidence.newcombe_interval({k: int(v) for k, v in counts.items()})
        hits += low <= 0.1 <= high
    assert 0.92 <= hits / runs <= 0.99


def test_rows_needed_as_worked_by_hand():
    # 20% of rows disagree, gap 0.1: (1.95996 * sqrt(0.2) + 0.84162 * sqrt(0.19))^2 / 0.01 = 154.5
    assert evidence.find_rows_needed(evidence.count_pairs(*make_bits(60, 15, 5, 20)), 0.0) == 155
    # no gap, 10% disagree, margin 0.05: (1.95996 + 0.84162)^2 * 0.1 / 0.0025 = 313.96
    assert evidence.find_rows_needed(evidence.count_pairs(*make_bits(60, 5, 5, 30)), 0.05) == 314
    assert evidence.find_rows_needed(evidence.count_pairs(*make_bits(60, 0, 0, 40)), 0.05) is None
    # three metrics: (2.39398 * sqrt(0.5) + 0.84162 * sqrt(0.25))^2 / 0.25 = 17.8
    four_of_eight = evidence.count_pairs(*make_bits(4, 4, 0, 0))
    assert evidence.find_rows_needed(four_of_eight, 0.05, n_metrics=3) == 18


def test_rows_needed_give_about_the_power_that_they_promise():
    b, c, n = 15, 5, 100
    needed = evidence.find_rows_needed(evidence.count_pairs(*make_bits(60, b, c, 20)), 0.0)
    drawn = np.random.default_rng(5).multinomial(needed, [b / n, c / n, 0.8], size=400)
    found = [evidence.compute_mcnemar(first, second) < 0.05 for first, second, _ in drawn.tolist()]
    assert 0.7 <= np.mean(found) <= 0.87  # the exact test is a little strict, the formula is not


@pytest.mark.parametrize(
    ("counts", "margin", "verdict"),
    [
        ((40, 12, 1, 47), 0.05, "worse"),
        ((90, 0, 0, 10), 0.05, "not worse"),
        ((90, 0, 6, 4), 0.0, "not worse"),  # better, even
        ((8, 0, 0, 0), 0.05, "not enough rows"),  # equal, but on 8 rows
        ((3, 4, 0, 1), 0.05, "not enough rows"),  # 4 of 8 rows, p = 0.125
        ((40, 12, 1, 47), 0.3, "not worse"),  # surely worse, surely by less than the margin
    ],
)
def test_each_verdict(counts, margin, verdict):
    found = judge(*counts, margin=margin)
    assert found.verdict == verdict
    assert (found.rows_needed is not None) == (verdict == "not enough rows" and counts[1] + counts[2] > 0)


@settings(max_examples=20, deadline=None)  # each resamples rows thousands of times
@given(st.tuples(*[st.integers(0, 30)] * 4).filter(sum), st.sampled_from([0.0, 0.02, 0.1]))
def test_whatever_the_counts_the_intervals_hold_the_gap_and_swapping_mirrors_them(counts, margin):
    found, mirrored = judge(*counts, margin=margin), judge(counts[0], counts[2], counts[1], counts[3], margin=margin)
    assert -1 <= found.interval[0] <= found.gap + 1e-12
    assert found.gap - 1e-12 <= found.interval[1] <= 1
    assert (mirrored.interval[0], mirrored.interval[1]) == pytest.approx((-found.interval[1], -found.interval[0]))
    assert mirrored.p_value == found.p_value
    assert found.verdict in ("worse", "not worse", "not enough rows")


def test_a_margin_that_is_no_rate_is_refused():
    with pytest.raises(ValueError, match=r"margin=1\.5: expected a rate"):
        judge(1, 1, 1, 1, margin=1.5)
