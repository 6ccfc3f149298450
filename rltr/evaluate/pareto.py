"""Which operating points are worth having, and how two methods compare at equal cost. Pure functions on numbers.

A point is a pair ``(cost, quality)``: less of the first and more of the second is better.
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

    A point dominates another if it costs no more, is no less good, and is better in one of the two. Of equal
    points the first is taken.
    """
    front: list[int] = []
    best = -np.inf
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i)):
        if points[index][1] > best:
            best = points[index][1]
            front.append(index)
    return front


def hypervolume(points: Sequence[Point], cost: float = 1.0, quality: float = 0.0) -> float:
    """Area between the Pareto front and a reference point (Zitzler and Thiele 1999), 0 if nothing is better than it.

    Args:
        points: pairs of cost and quality.
        cost: reference cost; what costs more adds nothing. 1 is the dense model's, relative to itself.
        quality: reference quality; what is less good adds nothing. 0, or the level of guessing.
    """
    useful = [point for point in points if point[0] < cost and point[1] > quality]
    area, reached = 0.0, quality
    for index in pareto_front(useful):
        area += (cost - useful[index][0]) * (useful[index][1] - reached)
        reached = useful[index][1]
    return area


def quality_at(costs: Sequence[float], points: Sequence[Point]) -> list[float | None]:
    """Accuracy of a method at given costs: straight lines between the members of its Pareto front.

    Nothing is said outside of the measured costs. Between the front's last member and the most expensive point measured
    the last member's quality holds, since nobody has to spend more for less.

    Returns:
        One quality per cost, None where the method was not measured.
    """
    if not points:
        return [None] * len(costs)
    measured, qualities = zip(*points, strict=True)
    return [None if np.isnan(value) else float(value) for value in read_off(measured, [qualities], costs)[0]]


def read_off(
    measured: Sequence[float], qualities: ArrayLike, costs: Sequence[float]
) -> Float[NDArray[np.float64], "draws costs"]:
    """Read the quality at given costs off many curves at once, whose points cost the same: see :func:`quality_at`.

    Args:
        measured: cost of each point, at least one.
        qualities: ``(draws, points)``; every draw has a Pareto front of its own.
        costs: where to read.

    Returns:
        NaN at costs that were not measured.
    """
    order = np.argsort(measured, kind="stable")
    known, starts = np.unique(np.asarray(measured, dtype=np.float64)[order], return_index=True)
    # Of points that cost the same only the best counts; a point is on the front if none before it is as good.
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
        right = np.where(right == len(known), left, right)  # beyond the front's last member, that one holds
        width = known[right] - known[left]
        share = np.divide(cost - known[left], width, out=np.zeros(len(draws)), where=width > 0)
        low, high = best[draws, left], best[draws, right]
        found[:, column] = low + share * (high - low)
    return found


@dataclass(frozen=True)
class Comparison:
    """One method beside the best of the others at one cost."""

    cost: float
    quality: float | None
    best: str | None
    best_quality: float | None
    interval: Interval | None = None
    """95 % interval of the difference; None where it is unknown."""

    @property
    def difference(self) -> float | None:
        """Accuracy minus the best other's, None unless both were measured at this cost."""
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
    """Compare one series with the best of all others at each of ``costs``.

    The interval is that of the difference to this one other: both curves are read off again for every draw of examples.
    The other is the best on the same examples, which flatters it a little, and so is no favour to ``method``.

    Args:
        series: the points of every method, by its name.
        method: the one to compare; it may be missing.
        costs: in the unit of the points.
        resampled: per series the qualities of its points on examples drawn anew (see
            :func:`rltr.evaluate.resampling.resampled_qualities`); without them there are no intervals.
        examples: how many examples those were drawn from; at least 1 if they are given.
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
    """Accuracy of every series at each of ``costs``, draw by draw; arguments as for :func:`compare`."""
    return {name: read_off([cost for cost, _ in series[name]], resampled[name], costs) for name in resampled}
