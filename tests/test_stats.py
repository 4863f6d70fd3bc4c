import math

import numpy as np
import pytest
import scipy.stats
import statsmodels.stats.contingency_tables as tables
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from swaplib.evaluation import stats
from swaplib.evaluation.intervals import CELLS, newcombe_interval, wilson_interval
from swaplib.evaluation.rows_needed import find_rows_needed


def make_bits(
    both: int, first_only: int, second_only: int, neither: int
) -> tuple[list[bool], list[bool]]:
    pairs = [(True, True)] * both + [(True, False)] * first_only + [(False, True)] * second_only
    pairs += [(False, False)] * neither
    return [a for a, _ in pairs], [b for _, b in pairs]


def judge(*counts: int, margin: float = 0.05) -> stats.PairedEvidence:
    return stats.compare_metrics({"metric": make_bits(*counts)}, margin)["metric"]


@pytest.mark.parametrize(
    ("first_only", "second_only", "p"),
    # Binomial tails by hand.
    [(6, 0, 2 / 64), (5, 0, 2 / 32), (0, 0, 1.0), (3, 3, 1.0), (7, 1, 2 * (1 + 8) / 256)],
)
def test_mcnemar_as_worked_by_hand_and_by_statsmodels(first_only, second_only, p):
    assert stats.compute_mcnemar(first_only, second_only) == pytest.approx(p)
    if first_only + second_only:
        assert p == pytest.approx(
            scipy.stats.binomtest(first_only, first_only + second_only).pvalue
        )
    direct = tables.mcnemar([[4, first_only], [second_only, 9]], exact=True).pvalue
    assert stats.compute_mcnemar(first_only, second_only) == direct


def test_holm_as_worked_by_hand_and_by_statsmodels():
    sides = {"a": make_bits(4, 8, 0, 0), "b": make_bits(6, 6, 0, 0), "c": make_bits(5, 7, 0, 0)}
    found = stats.compare_metrics(sides, 0.0)
    raw = [2 / 2**8, 2 / 2**6, 2 / 2**7]
    assert [found[m].p_value for m in "abc"] == pytest.approx(raw)
    # sorted: a x 3, c x 2, b x 1, never falling
    assert [found[m].p_adjusted for m in "abc"] == pytest.approx(
        [3 * raw[0], 2 * raw[2], 2 * raw[2]]
    )
    assert [found[m].p_adjusted for m in "abc"] == pytest.approx(
        multipletests(raw, method="holm")[1]
    )


def test_the_bootstrap_is_scipys_and_seeded():
    first, second = make_bits(20, 9, 3, 18)
    found, n_groups = stats.bootstrap_gap(first, second, None, seed=7)
    assert (found, n_groups) == stats.bootstrap_gap(first, second, None, seed=7)
    assert n_groups == 50
    direct = scipy.stats.bootstrap(
        (np.array(first, float), np.array(second, float)),
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        paired=True,
        method="percentile",
        rng=7,
    ).confidence_interval
    assert found == pytest.approx((direct.low, direct.high), abs=0.021)  # one row of 50
    assert found[0] < 6 / 50 < found[1]
    assert stats.bootstrap_gap([True], [False], None, seed=1) == ((1.0, 1.0), 1)


def test_groups_are_resampled_as_a_whole():
    # ten groups of ten rows; in a group all rows fall alike, so 100 rows tell no more than 10
    first = [group < 4 for group in range(10) for _ in range(10)]
    second, groups = [False] * 100, [group for group in range(10) for _ in range(10)]
    (low, high), n_groups = stats.bootstrap_gap(first, second, groups, seed=1)
    (of_rows_low, of_rows_high), _ = stats.bootstrap_gap(first, second, None, seed=1)
    ten = stats.bootstrap_gap(first[::10], second[::10], None, seed=1)[0]
    assert n_groups == 10
    assert (low, high) == pytest.approx(ten, abs=0.11)
    assert high - low > 2.5 * (of_rows_high - of_rows_low)  # sqrt(10) = 3.2
    assert stats.bootstrap_gap(first, second, ["one"] * 100, seed=1) == ((0.4, 0.4), 1)


def test_newcombe_as_worked_by_hand():
    # 8 rows, no disagreement: phi is 0, so the reach is that of one Wilson interval, 1 - 0.6756
    assert newcombe_interval(stats.count_pairs(*make_bits(8, 0, 0, 0))) == pytest.approx(
        (-0.3244, 0.3244), abs=1e-4
    )
    # p1 = 0.8 [0.4902, 0.9433], p2 = 0.5 [0.2366, 0.7634];
    # ad - bc = 10 less 5, over sqrt(8*2*5*5) = 20: phi = 0.25
    low = 0.3 - math.sqrt(0.3098**2 - 2 * 0.25 * 0.3098 * 0.2634 + 0.2634**2)
    high = 0.3 + math.sqrt(0.1433**2 - 2 * 0.25 * 0.1433 * 0.2634 + 0.2634**2)
    counts = stats.count_pairs(*make_bits(5, 3, 0, 2))
    assert newcombe_interval(counts) == pytest.approx((low, high), abs=2e-4)


def test_newcombe_covers_the_true_gap_about_as_often_as_it_says():
    rng, hits, n, runs = np.random.default_rng(3), 0, 60, 400
    for _ in range(runs):
        counts = dict(
            zip(
                ("both", "first_only", "second_only", "neither"),
                rng.multinomial(n, [0.5, 0.2, 0.1, 0.2]),
                strict=True,
            )
        )
        low, high = newcombe_interval({k: int(v) for k, v in counts.items()})
        hits += low <= 0.1 <= high
    assert 0.92 <= hits / runs <= 0.99


def test_a_limit_of_a_rate_of_nothing_is_nothing():
    assert wilson_interval(0, 50)[0] == 0
    assert wilson_interval(50, 50)[1] == 1


@pytest.mark.parametrize(
    ("counts", "margin", "rows"),
    [
        # The formula of Wald says 101, and a test of so many has a power of .44.
        ((90, 1, 0, 9), 0.05, 135),
        ((60, 5, 5, 30), 0.05, 321),
        ((60, 15, 5, 20), 0.0, 154),
        # Nothing tells the models apart; at 73 rows newcombe's limit is below 0.05.
        ((8, 0, 0, 0), 0.05, 73),
        ((60, 15, 10, 15), 0.05, None),  # a gap that is the margin is never settled
    ],
)
def test_rows_needed_as_worked_by_hand(counts, margin, rows):
    found = find_rows_needed(dict(zip(CELLS, counts, strict=True)), margin)
    assert (found and found.rows) == rows
    if found:
        assert found.low <= found.rows <= (found.high or math.inf)
        assert found.rows > sum(counts)


def test_rows_needed_are_the_fewest_whose_limit_and_spread_pass_the_margin():
    # (48, 0, 1, 1) of 50: at N rows the upper limit and z(.8) standard errors of the gap stay below
    # 0.05 from 74 rows on.
    def reach(n: int) -> float:
        counts = {cell: share * n / 50 for cell, share in zip(CELLS, (48, 0, 1, 1), strict=True)}
        return newcombe_interval(counts)[1] + 0.8416 * math.sqrt((1 / 50 - 1 / 2500) / n)

    assert reach(73) >= 0.05 > reach(74)
    assert find_rows_needed(dict(zip(CELLS, (48, 0, 1, 1), strict=True)), 0.05).rows == 74


AUDITED = [
    (90, 1, 0, 9),
    (48, 0, 1, 1),
    (93, 2, 0, 5),
    (60, 5, 5, 30),
    (86, 6, 2, 6),
    (85, 1, 0, 1),
    (40, 12, 1, 47),
]


@pytest.mark.parametrize("counts", AUDITED)
def test_rows_needed_give_about_the_power_that_they_promise(counts):
    found = find_rows_needed(dict(zip(CELLS, counts, strict=True)), 0.05)
    n, gap = sum(counts), (counts[1] - counts[2]) / sum(counts)
    drawn = np.random.default_rng(5).multinomial(
        found.rows, [count / n for count in counts], size=1000
    )
    verdicts = [
        stats.judge(newcombe_interval(dict(zip(CELLS, row, strict=True))), 0.05)
        for row in drawn.tolist()
    ]
    wanted = ("worse",) if gap > 0.05 else ("not worse", "better")
    power = np.mean([verdict in wanted for verdict in verdicts])
    assert 0.70 <= power <= 0.88
    assert found.power == pytest.approx(power, abs=0.05)


@pytest.mark.parametrize(
    ("counts", "margin", "verdict"),
    [
        ((40, 22, 1, 37), 0.05, "worse"),  # [.12, .30]
        # Measurably worse, [.04, .18]; by how much is open.
        ((40, 12, 1, 47), 0.05, "not enough rows"),
        ((90, 0, 0, 10), 0.05, "not worse"),
        ((90, 0, 6, 4), 0.0, "better"),
        ((40, 2, 30, 28), 0.05, "better"),
        ((8, 0, 0, 0), 0.05, "not enough rows"),  # equal, but on 8 rows
        ((3, 4, 0, 1), 0.05, "not enough rows"),
        ((40, 12, 1, 47), 0.3, "not worse"),  # surely worse, surely by less than the margin
    ],
)
def test_each_verdict(counts, margin, verdict):
    found = judge(*counts, margin=margin)
    assert found.verdict == verdict
    assert (found.rows_needed is not None) == (verdict == "not enough rows")


@pytest.mark.parametrize("n", [100, 200, 500, 1000, 2000, 5000, 10_000])
def test_rows_in_the_same_proportions_do_not_turn_a_verdict_round(n):
    found = judge(*(share * n // 100 for share in (86, 6, 2, 6)))  # gap .04, margin .05
    assert found.verdict == ("not enough rows" if n < 5000 else "not worse")


def test_no_table_turns_from_worse_to_not_worse_or_back_as_rows_are_added():
    rng = np.random.default_rng(11)
    settled = 0
    for _ in range(3000):
        shares, margin = rng.dirichlet([2, 0.7, 0.7, 1]), rng.choice([0.0, 0.02, 0.05, 0.1])
        verdicts = {
            stats.judge(newcombe_interval(dict(zip(CELLS, shares * n, strict=True))), margin)
            for n in (30, 100, 300, 1000, 3000, 30_000, 1_000_000)
        }
        settled += "worse" in verdicts
        assert not ("worse" in verdicts and {"not worse", "better"} & verdicts), (shares, margin)
    assert 500 < settled < 2500  # the tables are of both kinds


@settings(max_examples=20, deadline=None)  # each resamples rows thousands of times
@given(st.tuples(*[st.integers(0, 30)] * 4).filter(sum), st.sampled_from([0.0, 0.02, 0.1]))
def test_whatever_the_counts_the_intervals_hold_the_gap_and_swapping_mirrors_them(counts, margin):
    found, mirrored = (
        judge(*counts, margin=margin),
        judge(counts[0], counts[2], counts[1], counts[3], margin=margin),
    )
    assert -1 <= found.interval[0] <= found.gap + 1e-12
    assert found.gap - 1e-12 <= found.interval[1] <= 1
    assert (mirrored.interval[0], mirrored.interval[1]) == pytest.approx(
        (-found.interval[1], -found.interval[0])
    )
    assert mirrored.p_value == found.p_value
    assert found.verdict in ("better", "worse", "not worse", "not enough rows")


def test_a_margin_that_is_no_rate_is_refused():
    with pytest.raises(ValueError, match=r"margin=1\.5: expected a rate"):
        judge(1, 1, 1, 1, margin=1.5)
