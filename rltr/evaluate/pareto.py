"""Which operating points are worth having, and how two methods compare at equal cost. Pure functions on numbers.

A point is a pair ``(cost, accuracy)``: less of the first and more of the second is better.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Point = tuple[float, float]


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other point dominates, from cheap to expensive.

    A point dominates another if it costs no more, is no less accurate, and is better in one of the two. Of equal
    points the first is taken.
    """
    front: list[int] = []
    best = -np.inf
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i)):
        if points[index][1] > best:
            best = points[index][1]
            front.append(index)
    return front


def hypervolume(points: Sequence[Point], cost: float = 1.0, accuracy: float = 0.0) -> float:
    """Area between the Pareto front and a reference point (Zitzler and Thiele 1999), 0 if nothing is better than it.

    Args:
        points: pairs of cost and accuracy.
        cost: reference cost; what costs more adds nothing. 1 is the dense model's, relative to itself.
        accuracy: reference accuracy; what is less accurate adds nothing. 0, or the level of guessing.
    """
    useful = [point for point in points if point[0] < cost and point[1] > accuracy]
    area, reached = 0.0, accuracy
    for index in pareto_front(useful):
        area += (cost - useful[index][0]) * (useful[index][1] - reached)
        reached = useful[index][1]
    return area


def accuracy_at(costs: Sequence[float], points: Sequence[Point]) -> list[float | None]:
    """Accuracy of a method at given costs: straight lines between the members of its Pareto front.

    Nothing is said outside of the measured costs. Between the front's last member and the most expensive point measured
    the last member's accuracy holds, since nobody has to spend more for less.

    Returns:
        One accuracy per cost, None where the method was not measured.
    """
    if not points:
        return [None] * len(costs)
    front = [points[index] for index in pareto_front(points)]
    low, high = front[0][0], max(cost for cost, _ in points)
    known_costs, known = zip(*front, strict=True)
    return [float(np.interp(cost, known_costs, known)) if low <= cost <= high else None for cost in costs]


@dataclass(frozen=True)
class Comparison:
    """One method beside the best of the others at one cost."""

    cost: float
    accuracy: float | None
    best: str | None
    best_accuracy: float | None

    @property
    def difference(self) -> float | None:
        """Accuracy minus the best other's, None unless both were measured at this cost."""
        if self.accuracy is None or self.best_accuracy is None:
            return None
        return self.accuracy - self.best_accuracy


def compare(
    series: Mapping[str, Sequence[Point]], method: str, costs: Sequence[float] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
) -> list[Comparison]:
    """Compare one series with the best of all others at each of ``costs``.

    Args:
        series: the points of every method, by its name.
        method: the one to compare; it may be missing.
        costs: in the unit of the points.
    """
    own = accuracy_at(costs, series.get(method, ()))
    others = {name: accuracy_at(costs, points) for name, points in series.items() if name != method}
    table = []
    for index, cost in enumerate(costs):
        here = {name: value for name, values in others.items() if (value := values[index]) is not None}
        best = max(here, key=lambda name: here[name], default=None)
        table.append(Comparison(cost, own[index], best, None if best is None else here[best]))
    return table
