"""Check the operating point passed to ``rltr.attach``, and turn it into a cost weight.

:mod:`rltr.deploy.calibration` looks up budgets and bounds.
"""

import math
from collections.abc import Sequence

from rltr.deploy.calibration import (
    LARGEST_WEIGHT,
    SMALLEST_WEIGHT,
    CalibrationPoint,
    weight_for_budget,
    weight_for_drop,
)
from rltr.errors import RltrError


def chosen_weight(
    table: Sequence[CalibrationPoint], budget: object = None, max_drop: object = None, cost_weight: object = None
) -> float:
    """The cost weight for an operating point. Exactly one of the three must be given.

    Args:
        table: the policy's calibration.
        budget: target relative time, or relative cost if no times were calibrated.
        max_drop: largest loss of mean quality.
        cost_weight: the weight itself, from :data:`rltr.deploy.calibration.SMALLEST_WEIGHT` to
            :data:`rltr.deploy.calibration.LARGEST_WEIGHT`.

    Raises:
        RltrError: if not exactly one is given, it is not a number, or it is outside the calibration.
    """
    asked = {"budget": budget, "max_drop": max_drop, "cost_weight": cost_weight}
    given = {name: number(name, value) for name, value in asked.items() if value is not None}
    if len(given) != 1:
        raise RltrError(f"give exactly one of budget, max_drop and cost_weight (given: {', '.join(given) or 'none'})")
    ((name, value),) = given.items()
    if name == "budget":
        return weight_for_budget(table, value)
    if name == "max_drop":
        return weight_for_drop(table, value)
    if not SMALLEST_WEIGHT <= value <= LARGEST_WEIGHT:
        weights = [point.cost_weight for point in table]
        calibrated = f"{min(weights):.3g} to {max(weights):.3g}" if weights else "an unknown range"
        raise RltrError(
            f"cost_weight={value} must be above 0 ({SMALLEST_WEIGHT:g} to {LARGEST_WEIGHT:g}) and finite; this policy "
            f"was calibrated for {calibrated}"
        )
    return value


def number(name: str, value: object) -> float:
    """Convert a Python, numpy or torch number to a float.

    Raises:
        RltrError: if ``value`` is anything else, such as a string or a bool.
    """
    if hasattr(value, "ndim") and hasattr(value, "item") and value.ndim == 0:  # numpy or torch scalar
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RltrError(f"{name}={value!r} must be a number, such as {name}=0.5, but is of type {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
