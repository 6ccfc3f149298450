"""From what a user wants (a budget, a bound on the loss of quality) to the cost weight that gives it."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise, takewhile
from typing import Annotated

from pydantic import Field
from scipy.optimize import isotonic_regression

from rltr.errors import RltrError

MOST_BUDGET = 2.0
"""Above the dense cost everything is kept; far above, somebody meant percent."""

SMALLEST_WEIGHT, LARGEST_WEIGHT = 1e-20, 1e20
"""Cost weights with which prices are numbers in single precision, far from its ends."""

ROUNDING = 1e-12
"""Means that are equal on paper may differ by this."""


@dataclass(frozen=True)
class CalibrationPoint:
    """What a cost weight gives on the validation split.

    Attributes:
        cost_weight: weight of the cost in the reward.
        cost: cost of the reduced layers as a share of the dense layers', by the cost model, selector included. The
            native model computes padding, too, so the dense layers' cost is that of the padded batch.
        quality: mean quality of the answers, at most 1 (see :class:`rltr.tasks.goals.Goal`): for classes, accuracy.
        dense_quality: the dense model's, on the same inputs.
        drop_bound: mean quality lost at most, as sure as ``confidence``, on inputs like these (see
            :mod:`rltr.deploy.drop_bound`); None in calibrations from before there were bounds.
        confidence: of the bound.
        inputs: how many inputs it comes from.
        time: measured time of whole passes as a share of native passes over the same batches, padding, embedding and
            head included; None where prices are counted, and in calibrations from before times were measured.
    """

    cost_weight: Annotated[float, Field(ge=SMALLEST_WEIGHT, le=LARGEST_WEIGHT)]
    cost: Annotated[float, Field(gt=0, le=1000)]
    quality: Annotated[float, Field(ge=-1e6, le=1)]
    dense_quality: Annotated[float, Field(ge=-1e6, le=1)]
    drop_bound: Annotated[float, Field(ge=-1e6, le=1)] | None = None
    confidence: Annotated[float, Field(gt=0, lt=1)] | None = None
    inputs: Annotated[int, Field(ge=1, le=2**53)] | None = None
    time: Annotated[float, Field(gt=0, le=1000)] | None = None

    @property
    def share(self) -> float:
        """What a budget is a share of: measured time where there is one, the cost model's cost otherwise."""
        return self.cost if self.time is None else self.time

    def to_dict(self) -> dict[str, float | None]:
        """As plain numbers, for JSON."""
        return asdict(self)


def weight_for_budget(table: Sequence[CalibrationPoint], budget: float) -> float:
    """The cost weight at which the validation split took ``budget``, interpolated in the logarithm of the weight.

    A budget is a share of the native model's measured time where times were calibrated, and of the dense layers' cost
    by the cost model elsewhere (:attr:`CalibrationPoint.share`).

    Raises:
        RltrError: if the budget lies outside of what was calibrated.
    """
    of = "native time" if table and all(point.time is not None for point in table) else "dense cost"
    if not 0 < budget <= MOST_BUDGET:
        raise RltrError(
            f"budget must be above 0 and at most {MOST_BUDGET:g} (a share of the {of}: 0.6 means 60 % of it), "
            f"got {budget}"
        )
    falling = monotone(table)
    highest, lowest = falling[0].share, falling[-1].share
    if not lowest <= budget:
        raise RltrError(
            f"budget={budget} is below what this policy was calibrated for: choose {lowest:.2f} to {highest:.2f} of "
            f"the {of}, or pass cost_weight= for an uncalibrated point"
        )
    if budget >= highest:
        return falling[0].cost_weight
    for upper, lower in pairwise(falling):
        if lower.share <= budget <= upper.share:
            share = (upper.share - budget) / max(upper.share - lower.share, 1e-12)
            low, high = math.log(upper.cost_weight), math.log(lower.cost_weight)
            return math.exp(low + share * (high - low))
    raise AssertionError("a budget between the ends lies between two neighbours")


def weight_for_drop(table: Sequence[CalibrationPoint], max_drop: float) -> float:
    """The cheapest calibrated cost weight that is sure to lose at most ``max_drop`` (0.01: one point) of quality.

    Sure as the table's confidence: of ten calibrations at 0.9, at most one promises a weight that loses more. One bound
    alone keeps that promise, but the best of many would not. So the weights are tested one after the other, in an order
    that no data decides: from the gentlest up, until the first whose bound is too high; what comes after it is not
    looked at (fixed-sequence testing, as in "Learn then Test", Angelopoulos et al. 2021).

    Raises:
        RltrError: if not even the gentlest weight is sure to be that good, or the table is empty or has no bounds.
    """
    if not 0 <= max_drop < 1:
        raise RltrError(f"max_drop must be at least 0 and below 1 (0.01 means one point of quality), got {max_drop}")
    monotone(table)  # refuses an empty table
    rising = sorted(table, key=lambda point: point.cost_weight)
    if any(point.drop_bound is None for point in rising):
        raise RltrError(
            f"max_drop={max_drop} cannot be promised: this policy was calibrated by an older rltr, which kept only "
            "estimates of what is lost. `rltr calibrate` measures it anew; or pass budget= or cost_weight="
        )
    sure = list(takewhile(lambda point: _bound(point) <= max_drop + ROUNDING, rising))
    if not sure:
        raise RltrError(_unsure(rising[0], max_drop))
    return min(sure, key=lambda point: point.share).cost_weight


def _bound(point: CalibrationPoint) -> float:
    return math.inf if point.drop_bound is None else point.drop_bound


def _unsure(gentlest: CalibrationPoint, max_drop: float) -> str:
    """Why not even the gentlest weight is sure to lose at most ``max_drop``, and what would help."""
    assert gentlest.drop_bound is not None and gentlest.confidence is not None and gentlest.inputs is not None
    seen = gentlest.dense_quality - gentlest.quality
    reason = (
        f"max_drop={max_drop} cannot be promised: at the gentlest weight this policy was calibrated with "
        f"({gentlest.cost_weight:.2g}) {seen:.4f} was lost on {gentlest.inputs} validation inputs, which with "
        f"{gentlest.confidence:.0%} confidence is at most {gentlest.drop_bound:.4f}. Accept that much"
    )
    if min(max_drop, max_drop - seen) > ROUNDING:  # no number of inputs is sure of no loss at all
        # Twice as sure takes about four times the inputs; where next to nothing changes, twice.
        power = 1 if seen == 0 else 2
        about = gentlest.inputs * ((gentlest.drop_bound - seen) / (max_drop - seen)) ** power
        # Here, because scipy's statistics take twice as long to import as all the rest that attaching needs.
        from rltr.deploy.drop_bound import fewest_inputs

        needed = max(math.ceil(about), fewest_inputs(max_drop, gentlest.confidence))
        reason += f"; or calibrate on about {needed:,} inputs (data.validation_limit), if they answer as well"
    return f"{reason}; or pass a cost_weight= below {gentlest.cost_weight:.2g} and measure it"


def monotone(table: Sequence[CalibrationPoint]) -> list[CalibrationPoint]:
    """The points in order of their weight, without those whose share is no less than that of one before them.

    Measured times are first smoothed, on the grounds that they fall as the weight grows: the lowest of many noisy
    numbers is lower than what it stands for, and would hide all behind it.

    Raises:
        RltrError: if the table is empty.
    """
    rising = sorted(table, key=lambda point: point.cost_weight)
    if rising and all(point.time is not None for point in rising):
        times = isotonic_regression([point.share for point in rising], increasing=False).x
        rising = [replace(point, time=float(own)) for point, own in zip(rising, times, strict=True)]
    kept: list[CalibrationPoint] = []
    for point in rising:
        if not kept or point.share < kept[-1].share:
            kept.append(point)
    if not kept:
        raise RltrError("this policy was exported without calibration: pass cost_weight= instead")
    return kept
