"""Intervals that say how far a measured number can be trusted. Pure functions on arrays.

All are 95 % intervals. A sample that happens to hold no error, or no difference, is no proof that there are none: every
interval of a quality knows what an input that was not seen could have changed, and none has a width of 0.
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
"""For the ends of an interval of a mean: 100 values lie beyond each."""


def accuracy_interval(correct: ArrayLike) -> Interval | None:
    """95 % interval of a share of right answers: Wilson's (1927), and where that is narrower, the exact one.

    The exact one is Clopper's and Pearson's (1934). Wilson's alone holds the truth in as few as 84 of 100 draws where
    less than one error is expected, which is where good models are; with both it is at least 95.

    Args:
        correct: ``(inputs,)``, True or 1 where the answer was right.

    Returns:
        An interval within 0 to 1, neither end of which falls with a further right answer; None for fewer than two
        inputs.
    """
    right = np.asarray(correct, dtype=bool)
    if len(right) < 2:
        return None
    counted = binomtest(int(right.sum()), len(right))
    wilson, exact = counted.proportion_ci(LEVEL, "wilson"), counted.proportion_ci(LEVEL, "exact")
    return min(float(wilson.low), float(exact.low)), max(float(wilson.high), float(exact.high))


def quality_interval(values: ArrayLike, *, seed: int = 0) -> Interval | None:
    """95 % interval of a mean quality: of a share, where all answers are right or wrong, else :func:`mean_interval`.

    Qualities that may be below 0 (D², cosines) have no worst value, so an unseen answer counts as 0 or as the worst
    seen.

    Args:
        values: ``(inputs,)``, at most 1 each.
        seed: of the resampling; the same seed gives the same interval.

    Returns:
        None for fewer than two inputs.
    """
    sample = np.asarray(values, dtype=np.float64)
    if is_binary(sample):
        return accuracy_interval(sample)
    return mean_interval(sample, min(0.0, float(sample.min())), 1.0, seed=seed)


def quality_change_interval(after: ArrayLike, before: ArrayLike, *, seed: int = 0) -> Interval | None:
    """95 % interval of a change of mean quality on the same inputs.

    A score interval where all answers are right or wrong, else :func:`mean_interval` of the differences, where an
    unseen input may turn from worthless to perfect or back.

    Args:
        after: ``(inputs,)``, at most 1 each.
        before: the same of what it is compared with.
        seed: of the resampling.
    """
    now, then = np.asarray(after, dtype=np.float64), np.asarray(before, dtype=np.float64)
    if is_binary(now) and is_binary(then):
        return paired_change_interval(now, then)
    change = now - then
    reach = max(1.0, float(np.abs(change).max()))
    return mean_interval(change, -reach, reach, seed=seed)


def mean_interval(values: ArrayLike, lowest: float, highest: float, *, seed: int = 0) -> Interval | None:
    """95 % interval of the mean of values with known limits (Gaffke 2005; Learned-Miller and Thomas 2019).

    The Bayesian bootstrap (Rubin 1981) gives every value a random share of 1. Here one value more, which nobody has
    seen, gets a share, too: it is the lowest possible for the lower end and the highest possible for the upper end. Of
    zeros and ones this is Clopper's and Pearson's interval; of values near each other about the t interval, and it
    still holds where a few inputs of hundreds decide. That it holds for all bounded values is conjectured, and no
    counterexample is known.

    Args:
        values: ``(inputs,)``, independent of each other.
        lowest: least possible value.
        highest: largest possible value.
        seed: of the shares; with the same seed and number of values, both ends rise if a value does.

    Returns:
        None for fewer than two values.
    """
    sample = np.asarray(values, dtype=np.float64)
    if len(sample) < 2:
        return None
    draws = np.random.default_rng(seed).standard_exponential((RESAMPLES, len(sample) + 1), dtype=np.float32)
    unseen, total = draws[:, -1].astype(np.float64), draws.sum(1, dtype=np.float64)
    centre = float(sample.mean())  # single precision is for the distances from it
    seen = draws[:, :-1] @ (sample - centre).astype(np.float32)
    low, high = _ends((seen + unseen * (lowest - centre)) / total, (seen + unseen * (highest - centre)) / total)
    return centre + low, centre + high


def resampled_interval(draws: ArrayLike, examples: int, *, seed: int = 0) -> Interval:
    """95 % interval of a difference of two mean qualities, from what it was on examples drawn anew.

    A bootstrap only draws what was seen. As in :func:`mean_interval`, an example that was not seen gets its share, on
    which one of both is right and the other wrong.

    Args:
        draws: ``(resamples,)`` the difference on resampled examples.
        examples: how many examples were drawn from, at least 1.
        seed: of the shares.
    """
    unseen = np.random.default_rng(seed).beta(1, examples, size=len(np.asarray(draws)))
    seen = (1 - unseen) * np.asarray(draws, dtype=np.float64)
    return _ends(seen - unseen, seen + unseen)


def _ends(low: NDArray[np.float64], high: NDArray[np.float64]) -> Interval:
    return float(np.quantile(low, TAIL)), float(np.quantile(high, 1 - TAIL))


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

    z, change = float(norm.ppf(1 - TAIL)), (won - lost) / n
    beside = 1e-9  # at the change itself, the error can be 0 where it is not right beside it
    low = -1.0 if lost == n else brentq(excess, -1, change - beside, args=(z,))
    high = 1.0 if won == n else brentq(excess, change + beside, 1, args=(-z,))
    return float(low), float(high)


def seeds_interval(differences: Sequence[float], draws: ArrayLike, examples: int) -> Interval:
    """95 % interval of a mean over a few trained policies that were all measured on the same examples.

    Two things would be different next time: the trainings and the examples. Their variances add up: that of the mean
    over seeds, and that of the mean on resampled examples, one of which was not seen. Three seeds say little about
    their own variance, so the interval is a t interval, with the degrees of freedom of Welch and Satterthwaite
    (Satterthwaite 1946). Part of the examples' variance is in both, which makes it a little too wide rather than too
    narrow.

    Args:
        differences: one per seed; of a single one only the examples' variance is known.
        draws: ``(resamples,)`` the mean over the same seeds on examples drawn anew.
        examples: how many examples were drawn from.
    """
    mean = float(np.mean(differences))
    # The mean square of the share of an example that was not seen, on which the difference may be 1 or -1.
    unseen = 2 / ((examples + 1) * (examples + 2))
    of_examples = float(np.var(np.asarray(draws, dtype=np.float64), ddof=1)) + unseen
    count = len(differences)
    seeds = float(np.var(differences, ddof=1)) / count if count > 1 else 0.0
    freedom = (of_examples + seeds) ** 2 / (seeds**2 / (count - 1)) if seeds > 0 else math.inf
    margin = float(t.ppf(1 - TAIL, freedom)) * math.sqrt(of_examples + seeds)
    return mean - margin, mean + margin


def median_ratio(times: ArrayLike, references: ArrayLike) -> tuple[float, Interval | None]:
    """Median of paired ratios and its 95 % interval, from their order alone (the sign test turned around).

    A ratio of two times taken next to each other hardly feels a machine that slows down over minutes, and a median
    of such ratios hardly feels a single interruption.

    Args:
        times: ``(pairs,)`` seconds, at least one.
        references: ``(pairs,)`` seconds, above 0, each taken next to the time of the same index.

    Returns:
        The median, and its interval; None in its place for fewer than six pairs, the least and the largest of which
        do not hold the true median in 95 of 100 cases.
    """
    ratios = np.asarray(times, dtype=np.float64) / np.asarray(references, dtype=np.float64)
    median = float(np.median(ratios))
    low, high = quantile_test(ratios, q=median, p=0.5).confidence_interval(LEVEL)
    return median, None if math.isnan(low) or math.isnan(high) else (float(low), float(high))
