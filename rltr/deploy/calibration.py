"""Calibration: from a budget or a bound on the loss of quality to the cost weight that gives it."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise, takewhile
from typing import Annotated

from pydantic import Field
from scipy.optimize import isotonic_regression

from rltr.errors import RltrError

LARGEST_BUDGET = 2.0
"""Largest accepted budget; larger numbers are likely meant as percent. 1 is the whole dense time or cost."""

SMALLEST_WEIGHT, LARGEST_WEIGHT = 1e-20, 1e20
"""Range of cost weights for which prices neither overflow nor underflow in single precision."""

ROUNDING = 1e-12
"""Tolerance for rounding errors of means."""


@dataclass(frozen=True)
class CalibrationPoint:
    """Cost, time and quality at one cost weight, on the validation split.

    Attributes:
        cost_weight: weight of the cost in the reward.
        cost: cost of the reduced layers, decisions included, relative to the dense layers', by the cost model. The
            dense layers' cost is that of the padded batch, because the native model computes padding.
        quality: mean quality of the answers, at most 1 (see :class:`rltr.tasks.goals.Goal`); for classes, accuracy.
        dense_quality: mean quality of the dense model on the same inputs.
        drop_bound: upper confidence bound of the loss of mean quality (see :mod:`rltr.deploy.drop_bound`); None in
            calibrations of earlier versions.
        confidence: confidence of the bound.
        inputs: number of inputs.
        time: measured time of whole passes relative to native passes over the same batches, padding, embedding and
            head included; None if prices are counted, and in calibrations of earlier versions.
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
        """The value that a budget refers to: relative measured time, or relative cost if no time was measured."""
        return self.cost if self.time is None else self.time

    def to_dict(self) -> dict[str, float | None]:
        """As plain numbers, for JSON."""
        return asdict(self)


def weight_for_budget(table: Sequence[CalibrationPoint], budget: float) -> float:
    """The cost weight for a budget, by linear interpolation of the calibration in the logarithm of the weight.

    Args:
        table: the calibration.
        budget: target relative time, or relative cost if no times were calibrated (:attr:`CalibrationPoint.share`). A
            budget above the calibrated range gives the lowest calibrated weight.

    Raises:
        RltrError: if the budget is below the calibrated range.
    """
    of = "native time" if table and all(point.time is not None for point in table) else "dense cost"
    if not 0 < budget <= LARGEST_BUDGET:
        raise RltrError(
            f"budget must be above 0 and at most {LARGEST_BUDGET:g} (a share of the {of}: 0.6 means 60 % of it), "
            f"got {budget}"
        )
    points = monotone(table)
    highest, lowest = points[0].share, points[-1].share
    if not lowest <= budget:
        least = math.ceil(100 * lowest - 1e-9) / 100  # rounded up, so that the advice is not refused itself
        raise RltrError(
            f"budget={budget} is below what this policy was calibrated for: choose {least:.2f} to {highest:.2f} of "
            f"the {of}, or pass cost_weight= for an uncalibrated point"
        )
    if budget >= highest:
        return points[0].cost_weight
    for upper, lower in pairwise(points):
        if lower.share <= budget <= upper.share:
            fraction = (upper.share - budget) / max(upper.share - lower.share, 1e-12)
            low, high = math.log(upper.cost_weight), math.log(lower.cost_weight)
            return math.exp(low + fraction * (high - low))
    raise AssertionError("a budget between the ends lies between two neighbours")


def weight_for_drop(table: Sequence[CalibrationPoint], max_drop: float) -> float:
    """The cheapest calibrated cost weight that loses at most ``max_drop`` (0.01: one point) of mean quality.

    This holds at the confidence of the calibration: at 0.9, at most one of ten calibrations returns a weight that loses
    more. Taking the best of many bounds would not keep that confidence. So weights are tested in a fixed order, from
    the lowest, until the first bound above ``max_drop`` (fixed-sequence testing, as in "Learn then Test", Angelopoulos
    et al. 2021).

    Raises:
        RltrError: if the bound of the lowest weight is above ``max_drop``, or the table is empty or has no bounds.
    """
    if not 0 <= max_drop < 1:
        raise RltrError(f"max_drop must be at least 0 and below 1 (0.01 means one point of quality), got {max_drop}")
    monotone(table)  # refuses an empty table
    rising = sorted(table, key=lambda point: point.cost_weight)
    if any(point.drop_bound is None for point in rising):
        raise RltrError(
            f"max_drop={max_drop} cannot be guaranteed: an older rltr calibrated this policy, and stored only "
            "estimates of the loss. Calibrate again with `rltr calibrate`, or pass budget= or cost_weight="
        )
    guaranteed = list(takewhile(lambda point: _bound(point) <= max_drop + ROUNDING, rising))
    if not guaranteed:
        raise RltrError(_bound_too_high(rising[0], max_drop))
    return min(guaranteed, key=lambda point: point.share).cost_weight


def _bound(point: CalibrationPoint) -> float:
    return math.inf if point.drop_bound is None else point.drop_bound


def _bound_too_high(lowest: CalibrationPoint, max_drop: float) -> str:
    """Error message if the bound of the lowest weight is above ``max_drop``: the reason, and how to fix it."""
    assert lowest.drop_bound is not None and lowest.confidence is not None and lowest.inputs is not None
    seen = lowest.dense_quality - lowest.quality
    reason = (
        f"max_drop={max_drop} cannot be guaranteed: at the lowest calibrated weight ({lowest.cost_weight:.2g}) "
        f"{seen:.4f} was lost on {lowest.inputs} validation inputs, which means at most {lowest.drop_bound:.4f} "
        f"with {lowest.confidence:.0%} confidence. Accept that much"
    )
    if min(max_drop, max_drop - seen) > ROUNDING:  # no number of inputs can guarantee a loss of 0
        # Halving the margin takes about four times the inputs, or twice if no answer changes.
        power = 1 if seen == 0 else 2
        about = lowest.inputs * ((lowest.drop_bound - seen) / (max_drop - seen)) ** power
        # Imported here, because scipy.stats takes twice as long to import as all else that attaching needs.
        from rltr.deploy.drop_bound import fewest_inputs

        needed = max(math.ceil(about), fewest_inputs(max_drop, lowest.confidence))
        reason += f"; or calibrate on about {needed:,} inputs (data.validation_limit), if the loss on them is the same"
    return f"{reason}; or pass a cost_weight= below {lowest.cost_weight:.2g} and measure it"


def monotone(table: Sequence[CalibrationPoint]) -> list[CalibrationPoint]:
    """The points in ascending order of weight, without those whose share is not below all earlier ones.

    Measured times are smoothed first by isotonic regression. Otherwise one time that noise made too low would remove
    all later points.

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
