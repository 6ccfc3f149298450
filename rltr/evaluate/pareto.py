"""Pareto fronts, hypervolumes, and the comparison of methods at equal cost. Pure functions on numbers.

A point is a pair ``(cost, quality)``; lower cost and higher quality are better.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from rltr.evaluate.statistics import Interval, resampled_interval

Point = tuple[float, float]

COSTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Relative latencies at which methods are compared."""


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other point dominates, from cheap to expensive.

    A point dominates another if it is at least as good in both cost and quality and better in one of them. Of equal
    points only the first is returned.
    """
    front: list[int] = []
    best = -np.inf
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i)):
        if points[index][1] > best:
            best = points[index][1]
            front.append(index)
    return front


def hypervolume(points: Sequence[Point], cost: float = 1.0, quality: float = 0.0) -> float:
    """Area between the Pareto front and a reference point (Zitzler and Thiele 1999); 0 if no point is better.

    Args:
        points: pairs of cost and quality.
        cost: reference cost; points that cost more add nothing. 1 is the cost of the dense model.
        quality: reference quality, for example that of guessing; points below it add nothing.
    """
    useful = [point for point in points if point[0] < cost and point[1] > quality]
    area, reached = 0.0, quality
    for index in pareto_front(useful):
        area += (cost - useful[index][0]) * (useful[index][1] - reached)
        reached = useful[index][1]
    return area


def quality_at(costs: Sequence[float], points: Sequence[Point]) -> list[float | None]:
    """Quality of a method at given costs, by linear interpolation between the points of its Pareto front.

    There is no extrapolation beyond the measured costs. Between the last point of the front and the most expensive
    measured point, the quality of the former holds: a larger budget can always use the cheaper point.

    Returns:
        One quality per cost, None outside of the measured costs.
    """
    if not points:
        return [None] * len(costs)
    measured, qualities = zip(*points, strict=True)
    return [None if np.isnan(value) else float(value) for value in read_off(measured, [qualities], costs)[0]]


def read_off(
    measured: Sequence[float], qualities: ArrayLike, costs: Sequence[float]
) -> Float[NDArray[np.float64], "draws costs"]:
    """Interpolate many curves, whose points have the same costs, at given costs; see :func:`quality_at`.

    Args:
        measured: cost of each point, at least one.
        qualities: quality of each point in each draw ``(draws, points)``; every draw has its own Pareto front.
        costs: costs at which to interpolate.

    Returns:
        Qualities, NaN outside of the measured costs.
    """
    order = np.argsort(measured, kind="stable")
    known, starts = np.unique(np.asarray(measured, dtype=np.float64)[order], return_index=True)
    # Of points with equal cost only the best counts. A point is on the front if all cheaper ones are worse.
    best = np.maximum.reduceat(np.asarray(qualities, dtype=np.float64)[:, order], starts, axis=1)
    reached = np.maximum.accumulate(best, axis=1)
    front = np.ones(best.shape, dtype=bool)
    front[:, 1:] = best[:, 1:] > reached[:, :-1]
    place, draws = np.arange(len(known)), np.arange(len(best))
    found = np.full((len(best), len(costs)), np.nan)
    for column, cost in enumerate(costs):
        if not known[0] <= cost <= known[-1]:
            continue
        left = np.where(front & (known <= cost), place, -1).max(1)
        right = np.where(front & (known >= cost), place, len(known)).min(1)
        right = np.where(right == len(known), left, right)  # beyond the last point of the front, its quality holds
        width = known[right] - known[left]
        share = np.divide(cost - known[left], width, out=np.zeros(len(draws)), where=width > 0)
        low, high = best[draws, left], best[draws, right]
        found[:, column] = low + share * (high - low)
    return found


@dataclass(frozen=True)
class Comparison:
    """One method compared with the best other one at one cost."""

    cost: float
    quality: float | None
    best: str | None
    best_quality: float | None
    interval: Interval | None = None
    """95 % interval of the difference; None where it is unknown."""

    @property
    def difference(self) -> float | None:
        """Quality minus that of the best other method; None unless both were measured at this cost."""
        if self.quality is None or self.best_quality is None:
            return None
        return self.quality - self.best_quality


def compare(
    series: Mapping[str, Sequence[Point]],
    method: str,
    costs: Sequence[float] = COSTS,
    resampled: Mapping[str, Float[NDArray[np.float64], "draws points"]] | None = None,
    examples: int = 0,
) -> list[Comparison]:
    """Compare one method with the best of all others at each of ``costs``.

    The interval is that of the difference to this best other method: both curves are interpolated again for every
    resample of the examples. The other is chosen on the same examples, which favours it slightly over ``method``.

    Args:
        series: points by name of the method.
        method: name of the method to compare; it may be missing.
        costs: costs at which to compare, in the unit of the points.
        resampled: by name, the qualities of the points on resampled examples (see
            :func:`rltr.evaluate.resampling.resampled_qualities`). Without them there are no intervals.
        examples: number of examples that were resampled; at least 1 if ``resampled`` is given.
    """
    own = quality_at(costs, series.get(method, ()))
    others = {name: quality_at(costs, points) for name, points in series.items() if name != method}
    draws = drawn(series, resampled or {}, costs)
    table = []
    for index, cost in enumerate(costs):
        here = {name: value for name, values in others.items() if (value := values[index]) is not None}
        best = max(here, key=lambda name: here[name], default=None)
        interval = None
        if best in draws and method in draws and own[index] is not None:
            interval = resampled_interval(draws[method][:, index] - draws[best][:, index], examples)
        table.append(Comparison(cost, own[index], best, None if best is None else here[best], interval))
    return table


def drawn(
    series: Mapping[str, Sequence[Point]],
    resampled: Mapping[str, Float[NDArray[np.float64], "draws points"]],
    costs: Sequence[float],
) -> dict[str, Float[NDArray[np.float64], "draws costs"]]:
    """Quality of every method at each of ``costs`` on every resample; arguments as for :func:`compare`."""
    return {name: read_off([cost for cost, _ in series[name]], resampled[name], costs) for name in resampled}
