"""Intervals: as analysis or SciPy has them, and never certain where nothing is."""

import numpy as np
import pytest
from scipy.special import xlogy
from scipy.stats import bootstrap, ttest_1samp

from rltr.evaluate.statistics import (
    accuracy_interval,
    mean_interval,
    median_ratio,
    paired_change_interval,
    quality_change_interval,
    quality_interval,
    seeds_interval,
)
from tests.evaluate.conftest import pairs


def test_accuracy_interval_is_the_analytic_one() -> None:
    right = np.arange(2000) < 1600
    low, high = accuracy_interval(right) or (0, 0)
    margin = 1.96 * np.sqrt(0.8 * 0.2 / 2000)
    assert (low, high) == pytest.approx((0.8 - margin, 0.8 + margin), abs=0.002)
    assert accuracy_interval(right) == (low, high)


def test_qualities_between_right_and_wrong_have_t_intervals() -> None:
    generator = np.random.default_rng(0)
    before, after = generator.normal(0.8, 0.1, 200), generator.normal(0.7, 0.1, 200)
    expected = ttest_1samp(before, 0).confidence_interval()
    assert quality_interval(before) == pytest.approx((expected.low, expected.high))
    expected = ttest_1samp(after - before, 0).confidence_interval()
    assert quality_change_interval(after, before) == pytest.approx((expected.low, expected.high))
    right = before > 0.8
    assert quality_interval(right.astype(float), seed=3) == accuracy_interval(right, seed=3)
    assert quality_change_interval(right.astype(float), ~right) == paired_change_interval(right, ~right)
    assert quality_interval([0.5]) is None and quality_change_interval([0.5], [0.25]) is None


def test_mean_interval_is_the_bootstrap_of_scipy() -> None:
    change = np.repeat([-1.0, 0.0, 1.0], [30, 250, 20])
    theirs = bootstrap((change,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    assert mean_interval(change) == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_perfect_answers_are_not_certain() -> None:
    low, high = accuracy_interval(np.ones(100, bool)) or (0, 0)
    assert high == 1 and low == pytest.approx(0.025 ** (1 / 100))  # Clopper-Pearson: the p with p**n = 2.5 %
    low, high = accuracy_interval(np.zeros(100, bool)) or (0, 0)
    assert low == 0 and high == pytest.approx(1 - 0.025 ** (1 / 100))


def test_degenerate_samples() -> None:
    assert mean_interval([3.0, 3.0, 3.0]) == (3.0, 3.0)
    assert mean_interval([3.0]) is None
    assert median_ratio([3.0], [2.0]) == (1.5, None)
    assert accuracy_interval([True]) is None


def test_equal_answers_are_not_certain() -> None:
    low, high = paired_change_interval(*pairs(0, 0, 300)) or (0, 0)
    z = 1.959964**2
    assert (-low, high) == pytest.approx((z / (300 + z), z / (300 + z)))
    low, high = paired_change_interval(*pairs(3, 0, 297)) or (0, 0)
    assert low < 0 < 3 / 300 < high
    assert paired_change_interval([True], [False]) is None


@pytest.mark.parametrize(("won", "lost", "same"), [(12, 2, 36), (5, 9, 300), (1, 0, 1), (0, 7, 60), (4, 0, 0)])
def test_change_interval_is_the_score_interval(won: int, lost: int, same: int) -> None:
    """At its ends, the score test rejects at exactly 5 %; the likeliest share of losses is found by trying all."""
    n = won + lost + same
    low, high = paired_change_interval(*pairs(won, lost, same)) or (0, 0)
    assert low <= (won - lost) / n <= high
    for change in (end for end in (low, high) if abs(end) < 1):
        share = np.linspace(max(0.0, -change), (1 - change) / 2, 400_001)
        likelihood = sum(xlogy(k, p) for k, p in ((lost, share), (won, share + change), (same, 1 - 2 * share - change)))
        best = share[np.nanargmax(likelihood)]  # rounding may put an end of the range below 0
        score = (won - lost - n * change) ** 2 / (n * (2 * best + change * (1 - change)))
        assert score == pytest.approx(1.959964**2, rel=1e-3)


def test_change_interval_holds_the_truth_as_often_as_it_says() -> None:
    shares, n = (0.03, 0.05, 0.92), 320
    draws = np.random.default_rng(0).multinomial(n, shares, size=500)
    intervals = [paired_change_interval(*pairs(*map(int, draw))) or (0, 0) for draw in draws]
    assert np.mean([low <= -0.02 <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.025)


def test_seeds_interval_covers_seeds_and_examples() -> None:
    draws = np.random.default_rng(0).normal(0.02, 0.01, 100_000)
    # One policy: the examples alone, two standard errors.
    assert seeds_interval([0.02], draws) == pytest.approx((0.02 - 0.0196, 0.02 + 0.0196), abs=2e-4)
    assert seeds_interval([0.02, 0.02, 0.02], draws) == pytest.approx(seeds_interval([0.02], draws))
    # Three seeds and no doubt about the examples: a t interval with two degrees of freedom.
    seeds = [0.01, 0.02, 0.03]
    exact = ttest_1samp(seeds, 0).confidence_interval(0.95)
    assert seeds_interval(seeds, np.full(100, 0.02)) == pytest.approx((exact.low, exact.high))
    # With both, wider than by the examples alone; more degrees of freedom than the seeds alone have.
    one, both = seeds_interval([0.02], draws), seeds_interval(seeds, draws)
    assert one[1] < both[1] < exact.high and both[0] < 0 < one[0]


def test_median_ratio_shrugs_off_an_interruption() -> None:
    reference = np.linspace(1, 2, 41)
    times = 0.5 * reference
    times[7] *= 100
    ratio, interval = median_ratio(times, reference)
    assert ratio == pytest.approx(0.5)
    assert interval == pytest.approx((0.5, 0.5))
