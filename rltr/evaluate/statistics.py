"""95 % confidence intervals of qualities, of their differences and of time ratios. Pure functions on arrays.

A sample without errors, or without differences, does not prove that there are none. So every interval of a quality
accounts for what one unseen input could change, and none has a width of 0.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import binomtest, norm, quantile_test, t

from rltr.evaluate.resampling import is_binary

Interval = tuple[float, float]
"""Lower and upper end of a 95 % confidence interval."""

LEVEL = 0.95
TAIL = (1 - LEVEL) / 2

RESAMPLES = 4000
"""Number of draws for the interval of a mean: 100 values lie beyond each end."""


def accuracy_interval(correct: ArrayLike) -> Interval | None:
    """95 % interval of an accuracy: Wilson's interval (1927), widened to the exact one where that reaches further.

    The exact interval is Clopper's and Pearson's (1934). Wilson's alone covers the true value in as few as 84 of 100
    samples when less than one error is expected, as for good models. Both together cover it in at least 95.

    Args:
        correct: ``(inputs,)``, True or 1 where the answer was right.

    Returns:
        An interval within 0 to 1; None for fewer than two inputs. Neither end decreases if one more answer is right.
    """
    right = np.asarray(correct, dtype=bool)
    if len(right) < 2:
        return None
    counted = binomtest(int(right.sum()), len(right))
    wilson, exact = counted.proportion_ci(LEVEL, "wilson"), counted.proportion_ci(LEVEL, "exact")
    return min(float(wilson.low), float(exact.low)), max(float(wilson.high), float(exact.high))


def quality_interval(values: ArrayLike, *, seed: int = 0) -> Interval | None:
    """95 % interval of a mean quality: :func:`accuracy_interval` for 0 and 1 only, else :func:`mean_interval`.

    Qualities that may be negative (D², cosines) have no common lower limit, so an unseen answer counts as 0 or as the
    lowest observed value, whichever is lower.

    Args:
        values: ``(inputs,)``, at most 1 each.
        seed: seed of the resampling; the same seed gives the same interval.

    Returns:
        None for fewer than two inputs.
    """
    sample = np.asarray(values, dtype=np.float64)
    if is_binary(sample):
        return accuracy_interval(sample)
    return mean_interval(sample, min(0.0, float(sample.min())), 1.0, seed=seed)


def quality_change_interval(after: ArrayLike, before: ArrayLike, *, seed: int = 0) -> Interval | None:
    """95 % interval of a change of mean quality on the same inputs.

    It is :func:`paired_change_interval` if all qualities are 0 or 1, else :func:`mean_interval` of the differences. An
    unseen input may then change from the worst to the best quality or back.

    Args:
        after: ``(inputs,)``, at most 1 each.
        before: the qualities to compare with, for the same inputs.
        seed: seed of the resampling.
    """
    now, then = np.asarray(after, dtype=np.float64), np.asarray(before, dtype=np.float64)
    if is_binary(now) and is_binary(then):
        return paired_change_interval(now, then)
    change = now - then
    reach = max(1.0, float(np.abs(change).max()))
    return mean_interval(change, -reach, reach, seed=seed)


def mean_interval(values: ArrayLike, lowest: float, highest: float, *, seed: int = 0) -> Interval | None:
    """95 % interval of the mean of values with known limits (Gaffke 2005; Learned-Miller and Thomas 2019).

    The Bayesian bootstrap (Rubin 1981) draws random weights of sum 1 for the values. Here one additional unseen value
    gets a weight, too: the lowest possible value for the lower end, the highest possible for the upper end. For zeros
    and ones the result is Clopper's and Pearson's interval. For values close to each other it is near the t interval,
    and it still has the right coverage if a few of hundreds of inputs dominate. Its coverage for all bounded values is
    a conjecture without a known counterexample.

    Args:
        values: ``(inputs,)``, independent of each other.
        lowest: lowest possible value.
        highest: highest possible value.
        seed: seed of the weights. With the same seed and number of values, neither end falls if a value rises.

    Returns:
        None for fewer than two values.
    """
    sample = np.asarray(values, dtype=np.float64)
    if len(sample) < 2:
        return None
    draws = np.random.default_rng(seed).standard_exponential((RESAMPLES, len(sample) + 1), dtype=np.float32)
    unseen, total = draws[:, -1].astype(np.float64), draws.sum(1, dtype=np.float64)
    centre = float(sample.mean())  # single precision is enough for the deviations from it
    seen = draws[:, :-1] @ (sample - centre).astype(np.float32)
    low, high = _ends((seen + unseen * (lowest - centre)) / total, (seen + unseen * (highest - centre)) / total)
    return centre + low, centre + high


def resampled_interval(draws: ArrayLike, examples: int, *, seed: int = 0) -> Interval:
    """95 % interval of a difference of two mean qualities, from its values on resampled examples.

    A bootstrap resamples only observed examples. As in :func:`mean_interval`, one unseen example gets a random weight;
    on it one of the two is right and the other wrong.

    Args:
        draws: ``(resamples,)``, the difference on each resample.
        examples: number of examples that were resampled, at least 1.
        seed: seed of the weights.
    """
    unseen = np.random.default_rng(seed).beta(1, examples, size=len(np.asarray(draws)))
    seen = (1 - unseen) * np.asarray(draws, dtype=np.float64)
    return _ends(seen - unseen, seen + unseen)


def _ends(low: NDArray[np.float64], high: NDArray[np.float64]) -> Interval:
    return float(np.quantile(low, TAIL)), float(np.quantile(high, 1 - TAIL))


def paired_change_interval(after: ArrayLike, before: ArrayLike) -> Interval | None:
    """95 % score interval of a change of accuracy on the same inputs (Tango 1998, Statistics in Medicine 17).

    Only discordant inputs, which exactly one of the two got right, carry information about the change. If there are
    none, a bootstrap interval would have a width of 0; this one still depends on the number of inputs.

    Args:
        after: ``(inputs,)``, True or 1 where the answer was right.
        before: the answers to compare with, for the same inputs.

    Returns:
        An interval within -1 to 1 around the change, or None for fewer than two inputs.
    """
    now, then = np.asarray(after, dtype=bool), np.asarray(before, dtype=bool)
    n, won, lost = len(now), int((now & ~then).sum()), int((~now & then).sum())
    if n < 2:
        return None

    def excess(change: float, z: float) -> float:
        """Observed change minus ``change`` minus ``z`` standard errors under ``change``, times ``n``."""
        linear = (2 * n - won + lost) * change - won - lost
        rest = 8 * n * lost * change * (1 - change)
        share_lost = (math.sqrt(max(linear**2 + rest, 0.0)) - linear) / (4 * n)  # maximum likelihood, given the change
        variance = n * (2 * share_lost + change * (1 - change))
        return won - lost - n * change - z * math.sqrt(max(variance, 0.0))

    z, change = float(norm.ppf(1 - TAIL)), (won - lost) / n
    beside = 1e-9  # at the change itself the standard error can be 0, though not next to it
    low = -1.0 if lost == n else brentq(excess, -1, change - beside, args=(z,))
    high = 1.0 if won == n else brentq(excess, change + beside, 1, args=(-z,))
    return float(low), float(high)


def seeds_interval(differences: Sequence[float], draws: ArrayLike, examples: int) -> Interval:
    """95 % interval of a mean over a few trained policies that were all measured on the same examples.

    Its variance is the sum of two: that of the mean over training seeds, and that of the mean over resampled examples,
    with one unseen example as in :func:`resampled_interval`. A few seeds give a poor estimate of their variance, so it
    is a t interval with Welch's and Satterthwaite's degrees of freedom (Satterthwaite 1946). Part of the variance over
    examples is counted twice, so the interval is slightly too wide rather than too narrow.

    Args:
        differences: one per seed. With a single seed, only the variance over examples is used.
        draws: ``(resamples,)``, the mean over the same seeds on each resample.
        examples: number of examples that were resampled.
    """
    mean = float(np.mean(differences))
    # Mean square of the random weight of one unseen example, on which the difference may be 1 or -1.
    unseen = 2 / ((examples + 1) * (examples + 2))
    of_examples = float(np.var(np.asarray(draws, dtype=np.float64), ddof=1)) + unseen
    count = len(differences)
    seeds = float(np.var(differences, ddof=1)) / count if count > 1 else 0.0
    freedom = (of_examples + seeds) ** 2 / (seeds**2 / (count - 1)) if seeds > 0 else math.inf
    margin = float(t.ppf(1 - TAIL, freedom)) * math.sqrt(of_examples + seeds)
    return mean - margin, mean + margin


def median_ratio(times: ArrayLike, references: ArrayLike) -> tuple[float, Interval | None]:
    """Median of paired ratios and its distribution-free 95 % interval, by inverting the sign test.

    The ratio of two adjacent times is robust to a machine that slows down over minutes, and the median of such ratios
    is robust to single interruptions.

    Args:
        times: ``(pairs,)`` seconds, at least one.
        references: ``(pairs,)`` seconds, above 0, each measured next to the time of the same index.

    Returns:
        The median and its interval. The interval is None for fewer than six pairs, since even from the smallest to the
        largest ratio it would cover the true median in less than 95 of 100 cases.
    """
    ratios = np.asarray(times, dtype=np.float64) / np.asarray(references, dtype=np.float64)
    median = float(np.median(ratios))
    low, high = quantile_test(ratios, q=median, p=0.5).confidence_interval(LEVEL)
    return median, None if math.isnan(low) or math.isnan(high) else (float(low), float(high))
