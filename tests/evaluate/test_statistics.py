"""Intervals: equal to analytic or SciPy's results, never of width 0, and with the stated coverage."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import xlogy
from scipy.stats import binom, binomtest, multinomial, ttest_1samp

from rltr.evaluate.resampling import resampled_qualities
from rltr.evaluate.statistics import (
    Interval,
    accuracy_interval,
    mean_interval,
    median_ratio,
    paired_change_interval,
    quality_change_interval,
    quality_interval,
    resampled_interval,
    seeds_interval,
)
from tests.evaluate.conftest import pairs


def known(interval: Interval | None) -> Interval:
    assert interval is not None
    return interval


def test_accuracy_interval_is_the_analytic_one() -> None:
    right = np.arange(2000) < 1600
    low, high = known(accuracy_interval(right))
    margin = 1.96 * np.sqrt(0.8 * 0.2 / 2000)
    assert (low, high) == pytest.approx((0.8 - margin, 0.8 + margin), abs=0.001)
    assert quality_interval(right.astype(float), seed=3) == (low, high)
    assert accuracy_interval([True]) is None and quality_interval([0.5]) is None


@given(st.integers(2, 3000), st.data())
def test_accuracy_interval_holds_both_known_ones_and_is_monotone(n: int, data: st.DataObject) -> None:
    wrong = data.draw(st.integers(0, n - 1))
    low, high = known(accuracy_interval(np.arange(n) >= wrong))
    for method in ("wilson", "exact"):
        other = binomtest(n - wrong, n).proportion_ci(0.95, method)
        assert 0 <= low <= other.low < other.high <= high <= 1
    worse = known(accuracy_interval(np.arange(n) >= wrong + 1))
    assert worse[0] <= low and worse[1] <= high
    # Symmetric under exchange of right and wrong answers.
    assert known(accuracy_interval(np.arange(n) < wrong)) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize("n", [2, 7, 50, 320])
def test_accuracy_interval_covers_every_truth(n: int) -> None:
    """Exact coverage from binomial probabilities, also next to the ends of intervals, where coverage jumps."""
    low, high = np.array([known(accuracy_interval(np.arange(n) < k)) for k in range(n + 1)]).T
    truths = np.unique([*np.geomspace(1e-3 / n, 0.5, 100), *(low + 1e-9), *(high - 1e-9)]).clip(0, 1)
    chances = binom.pmf(np.arange(n + 1), n, truths[:, None])
    covered = (chances * ((low <= truths[:, None]) & (truths[:, None] <= high))).sum(1)
    assert covered.min() >= 0.95 - 1e-9


def test_qualities_between_right_and_wrong_have_nearly_t_intervals() -> None:
    generator = np.random.default_rng(0)
    before, after = generator.normal(0.8, 0.1, 2000).clip(0, 1), generator.normal(0.7, 0.1, 2000).clip(0, 1)
    changes = quality_change_interval(after, before), after - before
    for found, values in ((quality_interval(before), before), changes):
        expected = ttest_1samp(values, 0).confidence_interval()
        assert known(found) == pytest.approx((expected.low, expected.high), abs=2 / 2000)
        assert known(found)[0] < expected.low and expected.high < known(found)[1]
    right = before > 0.8
    assert quality_change_interval(right.astype(float), ~right) == paired_change_interval(right, ~right)
    assert quality_change_interval([0.5], [0.25]) is None


@pytest.mark.parametrize("wrong", [0, 1, 4, 50, 100])
def test_mean_interval_of_zeros_and_ones_is_the_exact_one(wrong: int) -> None:
    exact = binomtest(100 - wrong, 100).proportion_ci(0.95)
    assert mean_interval(np.arange(100) >= wrong, 0.0, 1.0) == pytest.approx((exact.low, exact.high), abs=0.004)


@given(st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=60), st.data())
def test_mean_interval_rises_with_every_value_and_holds_the_mean(values: list[float], data: st.DataObject) -> None:
    low, high = known(mean_interval(values, -1.0, 1.0))
    assert -1 - 1e-6 <= low <= np.mean(values) + 1e-6 and np.mean(values) - 1e-6 <= high <= 1 + 1e-6
    place = data.draw(st.integers(0, len(values) - 1))
    better = [*values[:place], data.draw(st.floats(values[place], 1)), *values[place + 1 :]]
    above = known(mean_interval(better, -1.0, 1.0))
    assert low <= above[0] + 1e-6 and high <= above[1] + 1e-6


SKEWED: dict[str, tuple[float, Callable[[np.random.Generator], np.ndarray]]] = {
    "cosines, a few lost": (0.99 * 0.97, lambda generator: np.where(generator.random(120) < 0.03, 0.0, 0.99)),
    "cosines, one in 100 lost": (0.99, lambda generator: (generator.random(120) >= 0.01).astype(float)),
    "shares of tokens": (0.9, lambda generator: generator.binomial(10, 0.9, 120) / 10),
    "nearly all the same": (0.995, lambda generator: generator.beta(199, 1, 120)),
}


@pytest.mark.parametrize("case", SKEWED)
def test_mean_interval_holds_the_truth_as_often_as_it_says(case: str) -> None:
    truth, draw = SKEWED[case]
    generator = np.random.default_rng(0)
    intervals = np.array([known(mean_interval(draw(generator), 0.0, 1.0)) for _ in range(250)])
    assert np.mean((intervals[:, 0] <= truth) & (truth <= intervals[:, 1])) >= 0.93


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_equal_values_are_not_certain(value: float) -> None:
    same = np.full(300, value)
    low, high = known(quality_interval(same))
    assert low < high and low <= value <= high and high - low > 3 / 300 * max(value, 1 - value)
    low, high = known(quality_change_interval(same, same))
    assert -0.02 < low < 0 < high < 0.02
    low, high = resampled_interval(np.full(1000, value - 0.5), 300)
    assert -0.02 < low - (value - 0.5) < 0 < high - (value - 0.5) < 0.02
    low, high = seeds_interval([value] * 3, np.full(1000, value), 300)
    assert low < value - 0.005 and value + 0.005 < high


def test_equal_answers_are_not_certain() -> None:
    low, high = known(paired_change_interval(*pairs(0, 0, 300)))
    z = 1.959964**2
    assert (-low, high) == pytest.approx((z / (300 + z), z / (300 + z)))
    low, high = known(paired_change_interval(*pairs(3, 0, 297)))
    assert low < 0 < 3 / 300 < high
    assert paired_change_interval([True], [False]) is None


@pytest.mark.parametrize(("won", "lost", "same"), [(12, 2, 36), (5, 9, 300), (1, 0, 1), (0, 7, 60), (4, 0, 0)])
def test_change_interval_is_the_score_interval(won: int, lost: int, same: int) -> None:
    """At its ends the score test has p = 5 %; the maximum likelihood share of losses is found on a grid."""
    n = won + lost + same
    low, high = paired_change_interval(*pairs(won, lost, same)) or (0, 0)
    assert low <= (won - lost) / n <= high
    for change in (end for end in (low, high) if abs(end) < 1):
        share = np.linspace(max(0.0, -change), (1 - change) / 2, 400_001)
        likelihood = sum(xlogy(k, p) for k, p in ((lost, share), (won, share + change), (same, 1 - 2 * share - change)))
        best = share[np.nanargmax(likelihood)]  # rounding may put an end of the range below 0
        score = (won - lost - n * change) ** 2 / (n * (2 * best + change * (1 - change)))
        assert score == pytest.approx(1.959964**2, rel=1e-3)


def test_change_interval_covers_every_truth_and_is_monotone() -> None:
    """Exact coverage over all outcomes with up to 16 wins and losses of 50; other outcomes count as not covered."""
    n = 50
    outcomes = [(won, lost) for won in range(17) for lost in range(17)]
    found = {(won, lost): known(paired_change_interval(*pairs(won, lost, n - won - lost))) for won, lost in outcomes}
    for (won, lost), (low, high) in found.items():
        for better in ((won + 1, lost), (won, lost - 1)):
            if better in found:
                assert low <= found[better][0] and high <= found[better][1]
    low, high = np.array(list(found.values())).T
    counts = [(won, lost, n - won - lost) for won, lost in outcomes]
    shares = np.array([0, 0.02, 0.1, 0.2, 0.5, 1, 2, 3, 4, 5]) / n
    for won, lost in ((won, lost) for won in shares for lost in shares):
        chances = multinomial.pmf(counts, n, [won, lost, 1 - won - lost])
        assert chances[(low <= won - lost + 1e-12) & (won - lost - 1e-12 <= high)].sum() >= 0.93


@pytest.mark.parametrize("shares", [(0.03, 0.05), (0.0, 0.005), (0.002, 0.002), (0.2, 0.1)])
def test_resampled_interval_holds_the_truth_as_often_as_it_says(shares: tuple[float, float]) -> None:
    n, inside = 200, 0
    generator = np.random.default_rng(0)
    for _ in range(200):
        won, lost = (int(count) for count in generator.multinomial(n, [*shares, 1 - sum(shares)])[:2])
        drawn = resampled_qualities(np.stack(pairs(won, lost, n - won - lost)), resamples=300)
        low, high = resampled_interval(drawn[:, 0] - drawn[:, 1], n)
        inside += low <= shares[0] - shares[1] <= high
    assert inside / 200 >= 0.93


def test_seeds_interval_covers_seeds_and_examples() -> None:
    draws, many = np.random.default_rng(0).normal(0.02, 0.01, 100_000), 10**9
    # One policy: two standard errors over examples.
    assert seeds_interval([0.02], draws, many) == pytest.approx((0.02 - 0.0196, 0.02 + 0.0196), abs=2e-4)
    assert seeds_interval([0.02, 0.02, 0.02], draws, many) == pytest.approx(seeds_interval([0.02], draws, many))
    # Three seeds and no variance over examples: a t interval with two degrees of freedom.
    seeds = [0.01, 0.02, 0.03]
    exact = ttest_1samp(seeds, 0).confidence_interval(0.95)
    assert seeds_interval(seeds, np.full(100, 0.02), many) == pytest.approx((exact.low, exact.high))
    # With both, wider than with examples alone, and more degrees of freedom than with seeds alone.
    one, both = seeds_interval([0.02], draws, many), seeds_interval(seeds, draws, many)
    assert one[1] < both[1] < exact.high and both[0] < 0 < one[0]
    assert seeds_interval([0.02], draws, 100)[1] > one[1]


def test_median_ratio_is_robust_to_an_interruption() -> None:
    reference = np.linspace(1, 2, 41)
    times = 0.5 * reference
    times[7] *= 100
    ratio, interval = median_ratio(times, reference)
    assert ratio == pytest.approx(0.5)
    assert interval == pytest.approx((0.5, 0.5))


def test_a_few_ratios_have_no_interval() -> None:
    ratios = np.array([1.0, 1.1, 0.9, 1.2, 1.05, 0.95])
    for count in range(1, 6):
        assert median_ratio(ratios[:count], np.ones(count)) == (np.median(ratios[:count]), None)
    assert median_ratio(ratios, np.ones(6)) == (pytest.approx(1.025), (0.9, 1.2))


@pytest.mark.parametrize("pairs_of_times", [6, 9, 40])
def test_median_ratio_holds_the_truth_as_often_as_it_says(pairs_of_times: int) -> None:
    ratios = np.exp(np.random.default_rng(0).exponential(1, (500, pairs_of_times)))  # a median of 2
    intervals = np.array([known(median_ratio(row, np.ones(pairs_of_times))[1]) for row in ratios])
    assert np.mean((intervals[:, 0] <= 2) & (intervals[:, 1] >= 2)) >= 0.93
