"""Calibrate a policy: run it over the validation split at every cost weight and record quality and cost."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median

import torch
from torch import Tensor

from rltr.cost import LatencyCost
from rltr.cost.pricing import Pricing
from rltr.deploy.calibration import CalibrationPoint
from rltr.deploy.drop_bound import drop_bound
from rltr.policies.network import TokenPolicy
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Removal, Trace
from rltr.selectors.learned import Learned
from rltr.selectors.reduced_model import ReducedModel
from rltr.system.device import move_inputs
from rltr.system.timing import native_beside, pass_order, timed
from rltr.tasks import Examples
from rltr.tasks.goals.plausibility import warn_if_implausible

TIMINGS = 5
"""Minimum number of timed passes per cost weight; the median counts."""
NATIVE_EVERY = 4
"""Largest number of reduced passes between two native ones."""


def calibrate(
    backbone: Backbone,
    policy: TokenPolicy,
    pricing: Pricing,
    removal: Removal,
    examples: Examples,
    weights: Sequence[float],
    batch_size: int = 64,
    confidence: float = 0.9,
    clock: Callable[[], float] = time.perf_counter,
) -> list[CalibrationPoint]:
    """Run the policy over ``examples`` at every cost weight, and measure cost, quality and the bound on its loss.

    If prices are latencies, time is measured, too, in alternation with the native model.

    Args:
        backbone: the frozen model, not attached.
        policy: the policy.
        pricing: prices and decision layers of its training.
        removal: whether removed tokens are merged or dropped.
        examples: a split that training did not see.
        weights: cost weights, each above 0.
        batch_size: inputs per pass.
        confidence: confidence of the bounds on the loss of quality, above 0 and below 1.
        clock: returns seconds; replaced in tests.
    """
    tallies = [_Tally() for _ in weights]
    dense_cost = 0.0
    dense_quality: list[Tensor] = []
    said: list[Tensor] = []
    goal, device = examples.goal, backbone.device
    reduced_models = [ReducedModel(backbone, Learned(policy, pricing, w), pricing.layers, removal) for w in weights]
    parts = list(torch.arange(len(examples)).split(batch_size))
    # A smaller last batch is not timed, since it would mix two batch sizes. Repeats are only for timing.
    whole = [part for part in parts if len(part) == len(parts[0])]
    timing = isinstance(pricing.cost, LatencyCost)
    again = max(0, TIMINGS - len(whole)) if timing else 0
    with torch.no_grad():
        for number, part in enumerate([*parts, *(whole[i % len(whole)] for i in range(again))]):
            inputs = move_inputs(examples.batch(part), device, backbone.dtype)
            labels = examples.labels[part].to(device)
            native = partial(backbone.model, **backbone.uncached(inputs))
            if number == 0:
                _warm_up(backbone, native, reduced_models, inputs)
            order = pass_order(len(weights), number, NATIVE_EVERY) if timing else [None, *range(len(weights))]
            seconds: list[float] = []
            dense: Tensor | None = None
            for which in order:
                if which is None:
                    output, took = timed(native, device, clock)
                    if dense is None and number < len(parts):
                        dense = goal.read(output, inputs).float()
                        dense_quality.append(goal.quality(dense, dense, labels).cpu())
                        said.append(dense.cpu())
                else:
                    with backbone.attached():
                        (output, trace), took = timed(partial(reduced_models[which], inputs), device, clock)
                    if number < len(parts):
                        assert dense is not None  # the native model goes first
                        answers = goal.read(output, inputs).float()
                        goal.check(dense, answers, labels)
                        tallies[which].quality.append(goal.quality(dense, answers, labels).cpu())
                        tallies[which].cost += float(pricing.total(_counts(trace)).sum())
                seconds.append(took)
            if number < len(parts):
                dense_cost += float(pricing.dense(torch.tensor([trace.grid])).sum()) * len(part)
            if timing and len(part) == len(parts[0]):
                for which, beside in native_beside(order, seconds).items():
                    tallies[which].ratios.append(seconds[order.index(which)] / beside)
    warn_if_implausible(goal, torch.cat(said), examples.labels, examples.classes, "validation")
    native_quality = torch.cat(dense_quality).double()
    table = []
    for weight, tally in zip(weights, tallies, strict=True):
        quality = torch.cat(tally.quality).double()
        bound = drop_bound((native_quality - quality).numpy(), confidence, goal.right_or_wrong)
        table.append(
            CalibrationPoint(
                weight,
                tally.cost / dense_cost,
                float(quality.mean()),
                float(native_quality.mean()),
                bound,
                confidence,
                len(examples),
                median(tally.ratios) if timing else None,
            )
        )
    return table


@dataclass
class _Tally:
    """Results of one cost weight so far."""

    quality: list[Tensor] = field(default_factory=list)
    cost: float = 0.0
    ratios: list[float] = field(default_factory=list)


def _counts(trace: Trace) -> list[Tensor]:
    return [torch.tensor(stage.counts) for stage in trace.stages]


def _warm_up(
    backbone: Backbone,
    native: Callable[[], object],
    reduced_models: Sequence[ReducedModel],
    inputs: Mapping[str, Tensor],
) -> None:
    """Run the native model and the reduced ones that keep most and least once, because first runs are slow."""
    native()
    with backbone.attached():
        for reduced_model in (reduced_models[0], reduced_models[-1]):
            reduced_model(inputs)
