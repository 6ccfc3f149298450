"""From what a user wants (a budget, a bound on the loss of quality) to the cost weight that gives it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import torch
from scipy.optimize import isotonic_regression

from rltr.backbone import Backbone
from rltr.device import move_inputs
from rltr.errors import RltrError
from rltr.forward import Dropped
from rltr.policies.network import TokenPolicy
from rltr.pricing import Pricing
from rltr.reduction import Reduction
from rltr.selectors.learned import Learned
from rltr.tasks import Examples

MOST_BUDGET = 2.0
"""Above the dense cost everything is kept; far above, somebody meant percent."""

ROUNDING = 1e-12
"""Means that are equal on paper may differ by this."""


@dataclass(frozen=True)
class Operating:
    """What a cost weight gives on the validation split.

    Attributes:
        cost_weight: the knob.
        cost: cost of the reduced layers as a share of the dense layers', by the cost model, selector included.
        quality: mean quality of the answers, at most 1 (see :class:`rltr.tasks.goals.Goal`): for classes, accuracy.
        dense_quality: the dense model's, on the same inputs.
    """

    cost_weight: float
    cost: float
    quality: float
    dense_quality: float

    def to_dict(self) -> dict[str, float]:
        """As plain numbers, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, numbers: Mapping[str, float]) -> "Operating":
        """Undo :meth:`to_dict`; what was written while all tasks were classifications calls the quality accuracy."""
        return cls(**{name.replace("accuracy", "quality"): value for name, value in numbers.items()})


def calibrate(
    backbone: Backbone,
    policy: TokenPolicy,
    pricing: Pricing,
    dropped: Dropped,
    examples: Examples,
    weights: Sequence[float],
    batch_size: int = 64,
) -> list[Operating]:
    """Run the policy over ``examples`` at every weight.

    Args:
        backbone: the frozen model.
        policy: the policy.
        pricing: prices and decision layers it was trained with.
        dropped: what happens to dropped tokens.
        examples: a split that training did not see.
        weights: cost weights, each above 0.
        batch_size: inputs per pass.
    """
    device = backbone.device
    goal = examples.goal
    quality = {weight: 0.0 for weight in weights}
    cost = {weight: 0.0 for weight in weights}
    dense_cost = {weight: 0.0 for weight in weights}
    dense_quality = 0.0
    with torch.no_grad(), backbone.attached():
        reductions = {w: Reduction(backbone, Learned(policy, pricing, w), pricing.layers, dropped) for w in weights}
        for part in torch.arange(len(examples)).split(batch_size):
            inputs = move_inputs(examples.batch(part), device, backbone.dtype)
            labels = examples.labels[part].to(device)
            dense = goal.read(backbone.model(**backbone.uncached(inputs)), inputs).float()
            dense_quality += float(goal.quality(dense, dense, labels).sum())
            for weight, reduction in reductions.items():
                output, trace = reduction(inputs)
                answers = goal.read(output, inputs).float()
                goal.check(dense, answers, labels)
                quality[weight] += float(goal.quality(dense, answers, labels).sum())
                counts = [torch.tensor(stage.counts) for stage in trace.stages]
                cost[weight] += float(pricing.total(counts).sum())
                dense_cost[weight] += float(pricing.dense(counts[0]).sum())
    count = len(examples)
    return [Operating(w, cost[w] / dense_cost[w], quality[w] / count, dense_quality / count) for w in weights]


def weight_for_budget(table: Sequence[Operating], budget: float) -> float:
    """The cost weight at which the validation split cost ``budget``, interpolated in the logarithm of the weight.

    Where the measured costs do not fall with the weight, the cheapest so far counts.

    Raises:
        RltrError: if the budget lies outside of what was calibrated.
    """
    if not 0 < budget <= MOST_BUDGET:
        raise RltrError(f"budget={budget} is no share of the dense cost: 0.6 means 60 % of it")
    falling = monotone(table)
    highest, lowest = falling[0].cost, falling[-1].cost
    if not lowest <= budget:
        raise RltrError(
            f"budget={budget} is below what this policy was calibrated for: choose {lowest:.2f} to {highest:.2f}, "
            f"or pass cost_weight= for an uncalibrated point"
        )
    if budget >= highest:
        return falling[0].cost_weight
    for upper, lower in pairwise(falling):
        if lower.cost <= budget <= upper.cost:
            share = (upper.cost - budget) / max(upper.cost - lower.cost, 1e-12)
            low, high = math.log(upper.cost_weight), math.log(lower.cost_weight)
            return math.exp(low + share * (high - low))
    raise AssertionError("a budget between the ends lies between two neighbours")


def weight_for_drop(table: Sequence[Operating], max_drop: float) -> float:
    """The cheapest calibrated cost weight whose quality is at most ``max_drop`` (0.01: one point) below the dense one.

    Qualities are first smoothed, on the grounds that they fall as the weight grows: the best of many noisy numbers is
    better than what it stands for, and would promise too much.

    Raises:
        RltrError: if no calibrated weight is that good, or the table is empty.
    """
    if not 0 <= max_drop < 1:
        raise RltrError(f"max_drop={max_drop} is no share of quality: 0.01 means one point")
    monotone(table)  # refuses an empty table
    rising = sorted(table, key=lambda point: point.cost_weight)
    drops = isotonic_regression([point.dense_quality - point.quality for point in rising]).x
    within = [point for point, drop in zip(rising, drops, strict=True) if drop <= max_drop + ROUNDING]
    if not within:
        raise RltrError(
            f"max_drop={max_drop}: the smallest drop this policy was calibrated with is {drops[0]:.4f}. Accept more, "
            f"or pass a cost_weight= below {rising[0].cost_weight:.2g} and measure it"
        )
    return min(within, key=lambda point: point.cost).cost_weight


def monotone(table: Sequence[Operating]) -> list[Operating]:
    """The points in order of their weight, without those that cost no less than one before them.

    Raises:
        RltrError: if the table is empty.
    """
    kept: list[Operating] = []
    for point in sorted(table, key=lambda point: point.cost_weight):
        if not kept or point.cost < kept[-1].cost:
            kept.append(point)
    if not kept:
        raise RltrError("this policy was exported without calibration: pass cost_weight= instead")
    return kept
