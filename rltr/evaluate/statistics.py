"""Intervals that say how far a measured number can be trusted. Pure functions on arrays."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import binomtest, bootstrap, norm, t

from rltr.evaluate.resampling import is_binary

Interval = tuple[float, float]
"""Lower and upper end of a 95 % confidence interval."""

LEVEL = 0.95


def quantile_interval(draws: ArrayLike) -> Interval:
    """95 % percentile interval from the values that a statistic had on resampled data."""
    low, high = np.quantile(np.asarray(draws, dtype=np.float64), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


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
    return quantile_interval(draws @ kinds / len(sample))


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


def quality_interval(values: ArrayLike, *, seed: int = 0) -> Interval | None:
    """95 % interval of a mean quality: of a share of right answers, where all are right or wrong, else a t interval.

    Args:
        values: ``(inputs,)``, at most 1 each.
        seed: of the bootstrap.

    Returns:
        None for fewer than two inputs.
    """
    sample = np.asarray(values, dtype=np.float64)
    return accuracy_interval(sample, seed=seed) if is_binary(sample) else t_interval(sample)


def quality_change_interval(after: ArrayLike, before: ArrayLike) -> Interval | None:
    """95 % interval of a change of mean quality on the same inputs: a score interval, or a t interval of differences.

    Args:
        after: ``(inputs,)``, at most 1 each.
        before: the same of what it is compared with.
    """
    now, then = np.asarray(after, dtype=np.float64), np.asarray(before, dtype=np.float64)
    return paired_change_interval(now, then) if is_binary(now) and is_binary(then) else t_interval(now - then)


def t_interval(values: ArrayLike) -> Interval | None:
    """95 % t interval of a mean (Student 1908); None for fewer than two values."""
    sample = np.asarray(values, dtype=np.float64)
    if len(sample) < 2:
        return None
    mean = float(sample.mean())
    margin = float(t.ppf((1 + LEVEL) / 2, len(sample) - 1) * sample.std(ddof=1)) / math.sqrt(len(sample))
    return mean - margin, mean + margin


def paired_change_interval(after: ArrayLike, before: ArrayLike) -> Interval | None:
    """95 % score interval of a change of accuracy on the same inputs (Tango 1998, Statistics in Medicine 17).

    Only inputs that one side alone got right speak about the change. Where there are none, a bootstrap would claim
    certainty; this interval still knows how many inputs could have spoken.

    Args:
        after: ``(inputs,)``, True or 1 where the answer was right.
        before: the same of what it is compared with.

    Returns:
        An interval within -1 to 1 around the change, or None for fewer than two inputs.
    """
    now, then = np.asarray(after, dtype=bool), np.asarray(before, dtype=bool)
    n, won, lost = len(now), int((now & ~then).sum()), int((~now & then).sum())
    if n < 2:
        return None

    def excess(change: float, z: float) -> float:
        """How far the observed change lies above ``change``, less ``z`` standard errors as they are if that is true."""
        linear = (2 * n - won + lost) * change - won - lost
        rest = 8 * n * lost * change * (1 - change)
        share_lost = (math.sqrt(max(linear**2 + rest, 0.0)) - linear) / (4 * n)  # most likely, given the change
        variance = n * (2 * share_lost + change * (1 - change))
        return won - lost - n * change - z * math.sqrt(max(variance, 0.0))

    z, change = float(norm.ppf((1 + LEVEL) / 2)), (won - lost) / n
    beside = 1e-9  # at the change itself, the error can be 0 where it is not right beside it
    low = -1.0 if lost == n else brentq(excess, -1, change - beside, args=(z,))
    high = 1.0 if won == n else brentq(excess, change + beside, 1, args=(-z,))
    return float(low), float(high)


def seeds_interval(differences: Sequence[float], draws: ArrayLike) -> Interval:
    """95 % interval of a mean over a few trained policies that were all measured on the same examples.

    Two things would be different next time: the trainings and the examples. Their variances add up: that of the mean
    over seeds, and that of the mean on resampled examples. Three seeds say little about their own variance, so the
    interval is a t interval, with the degrees of freedom of Welch and Satterthwaite (Satterthwaite 1946). Part of the
    examples' variance is in both, which makes it a little too wide rather than too narrow.

    Args:
        differences: one per seed; of a single one only the examples' variance is known.
        draws: ``(resamples,)`` the mean over the same seeds on examples drawn anew.
    """
    mean, examples = float(np.mean(differences)), float(np.var(np.asarray(draws, dtype=np.float64), ddof=1))
    count = len(differences)
    seeds = float(np.var(differences, ddof=1)) / count if count > 1 else 0.0
    freedom = (examples + seeds) ** 2 / (seeds**2 / (count - 1)) if seeds > 0 else math.inf
    margin = float(t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(examples + seeds)
    return mean - margin, mean + margin


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
