"""From what a user wants (a budget, a bound on the loss of quality) to the cost weight that gives it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise, takewhile
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from rltr.backbone import Backbone
from rltr.device import move_inputs
from rltr.errors import RltrError
from rltr.export.drop_bound import drop_bound, fewest_inputs
from rltr.forward import Dropped
from rltr.policies.network import TokenPolicy
from rltr.pricing import Pricing
from rltr.reduction import Reduction
from rltr.selectors.learned import Learned
from rltr.tasks import Examples

MOST_BUDGET = 2.0
"""Above the dense cost everything is kept; far above, somebody meant percent."""

SMALLEST_WEIGHT, LARGEST_WEIGHT = 1e-10, 1e10
"""Cost weights with which prices are numbers in single precision: those of recipes, and a little on both sides."""

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
        drop_bound: mean quality lost at most, as sure as ``confidence``, on inputs like these (see
            :mod:`rltr.export.drop_bound`); None in calibrations from before there were bounds.
        confidence: of the bound.
        inputs: how many inputs it comes from.
    """

    cost_weight: Annotated[float, Field(ge=SMALLEST_WEIGHT, le=LARGEST_WEIGHT)]
    cost: Annotated[float, Field(gt=0, le=1000)]
    quality: Annotated[float, Field(ge=-1e6, le=1)]
    dense_quality: Annotated[float, Field(ge=-1e6, le=1)]
    drop_bound: Annotated[float, Field(ge=-1e6, le=1)] | None = None
    confidence: Annotated[float, Field(gt=0, lt=1)] | None = None
    inputs: Annotated[int, Field(ge=1, le=2**53)] | None = None

    def to_dict(self) -> dict[str, float | None]:
        """As plain numbers, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, numbers: Mapping[str, Any]) -> "Operating":
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
    confidence: float = 0.9,
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
        confidence: of the bounds on what is lost, above 0 and below 1.
    """
    device = backbone.device
    goal = examples.goal
    quality = {weight: 0.0 for weight in weights}
    cost = {weight: 0.0 for weight in weights}
    dense_cost = {weight: 0.0 for weight in weights}
    dense_quality = 0.0
    losses: dict[float, list[Tensor]] = {weight: [] for weight in weights}
    with torch.no_grad(), backbone.attached():
        reductions = {w: Reduction(backbone, Learned(policy, pricing, w), pricing.layers, dropped) for w in weights}
        for part in torch.arange(len(examples)).split(batch_size):
            inputs = move_inputs(examples.batch(part), device, backbone.dtype)
            labels = examples.labels[part].to(device)
            dense = goal.read(backbone.model(**backbone.uncached(inputs)), inputs).float()
            native = goal.quality(dense, dense, labels)
            dense_quality += float(native.sum())
            for weight, reduction in reductions.items():
                output, trace = reduction(inputs)
                answers = goal.read(output, inputs).float()
                goal.check(dense, answers, labels)
                reduced = goal.quality(dense, answers, labels)
                quality[weight] += float(reduced.sum())
                losses[weight].append((native - reduced).cpu())
                counts = [torch.tensor(stage.counts) for stage in trace.stages]
                cost[weight] += float(pricing.total(counts).sum())
                dense_cost[weight] += float(pricing.dense(counts[0]).sum())
    count = len(examples)
    bounds = {w: drop_bound(torch.cat(losses[w]).double().numpy(), confidence, goal.right_or_wrong) for w in weights}
    return [
        Operating(w, cost[w] / dense_cost[w], quality[w] / count, dense_quality / count, bounds[w], confidence, count)
        for w in weights
    ]


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
    """The cheapest calibrated cost weight that is sure to lose at most ``max_drop`` (0.01: one point) of quality.

    Sure as the table's confidence: of ten calibrations at 0.9, at most one promises a weight that loses more. One bound
    alone keeps that promise, but the best of many would not. So the weights are tested one after the other, in an order
    that no data decides: from the gentlest up, until the first whose bound is too high; what comes after it is not
    looked at (fixed-sequence testing, as in "Learn then Test", Angelopoulos et al. 2021).

    Raises:
        RltrError: if not even the gentlest weight is sure to be that good, or the table is empty or has no bounds.
    """
    if not 0 <= max_drop < 1:
        raise RltrError(f"max_drop={max_drop} is no share of quality: 0.01 means one point")
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
    return min(sure, key=lambda point: point.cost).cost_weight


def _bound(point: Operating) -> float:
    return math.inf if point.drop_bound is None else point.drop_bound


def _unsure(gentlest: Operating, max_drop: float) -> str:
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
        needed = max(math.ceil(about), fewest_inputs(max_drop, gentlest.confidence))
        reason += f"; or calibrate on about {needed:,} inputs (data.validation_limit), if they answer as well"
    return f"{reason}; or pass a cost_weight= below {gentlest.cost_weight:.2g} and measure it"


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
