"""Intervals that say how far a measured number can be trusted. Pure functions on arrays."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest, bootstrap

Interval = tuple[float, float]
"""Lower and upper end of a 95 % confidence interval."""

LEVEL = 0.95


def mean_interval(values: ArrayLike, *, seed: int = 0, resamples: int = 10_000) -> Interval | None:
    """95 % percentile bootstrap interval of a mean (Efron and Tibshirani 1993, chapter 13).

    Drawing n values with replacement and counting how often each comes is one multinomial draw. For values of few
    kinds, such as right and wrong, that is the bootstrap of ``scipy.stats.bootstrap`` in a fraction of its time.

    Args:
        values: ``(samples,)``, independent of each other, of few kinds.
        seed: of the resampling; the same seed gives the same interval.
        resamples: how many samples are drawn from ``values``.

    Returns:
        The interval; both ends the same where all values are; None for fewer than two values, which say nothing
        about their spread.
    """
    sample = np.asarray(values, dtype=np.float64)
    if len(sample) < 2:
        return None
    kinds, counts = np.unique(sample, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(sample), counts / len(sample), size=resamples)
    low, high = np.quantile(draws @ kinds / len(sample), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def accuracy_interval(correct: ArrayLike, *, seed: int = 0) -> Interval | None:
    """95 % interval of a share of right answers.

    Where all answers are right, or all wrong, a bootstrap would claim certainty; the exact binomial interval
    (Clopper and Pearson 1934) takes its place.

    Args:
        correct: ``(inputs,)``, True or 1 where the answer was right.
        seed: of the bootstrap.

    Returns:
        An interval within 0 to 1, or None for fewer than two inputs.
    """
    right = np.asarray(correct, dtype=bool)
    if len(right) >= 2 and (right.all() or not right.any()):
        exact = binomtest(int(right.sum()), len(right)).proportion_ci(confidence_level=LEVEL)
        return float(exact.low), float(exact.high)
    return mean_interval(right, seed=seed)


def median_ratio(times: ArrayLike, references: ArrayLike, *, seed: int = 0) -> tuple[float, Interval | None]:
    """Median of paired ratios and its 95 % bootstrap interval.

    A ratio of two times taken next to each other hardly feels a machine that slows down over minutes, and a median
    of such ratios hardly feels a single interruption.

    Args:
        times: ``(pairs,)`` seconds, at least one.
        references: ``(pairs,)`` seconds, above 0, each taken next to the time of the same index.
        seed: of the bootstrap.

    Returns:
        The median, and its interval; None in its place for a single pair.
    """
    ratios = np.asarray(times, dtype=np.float64) / np.asarray(references, dtype=np.float64)
    median = float(np.median(ratios))
    if len(ratios) < 2:
        return median, None
    if np.all(ratios == ratios[0]):
        return median, (median, median)
    # The percentile method, because its refinements divide by a jackknife variance, which is often 0 for medians.
    low, high = bootstrap(
        (ratios,),
        np.median,
        confidence_level=LEVEL,
        method="percentile",
        n_resamples=2000,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return median, (float(low), float(high))
