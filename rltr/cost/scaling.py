"""Compare prices of layers and decisions with the times of whole passes, and scale them to fit."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int
from scipy.optimize import lsq_linear
from torch import Tensor

from rltr.cost.latency import LatencyCost
from rltr.cost.passes import Fit, WholePasses

SCALES = (0.25, 4.0)
"""Bounds of the factor between a layer's time in a pass and alone, where caches are warmer."""
DECISION_SCALES = (0.1, 10.0)
"""The same for decisions, whose time depends more on the surrounding work because they are short."""

PULL = 0.01
"""Weight of a penalty that keeps factors near 1, because similar passes do not determine both."""


def predict(
    cost: LatencyCost, counts: Int[Tensor, "layers rows"], seen: Int[Tensor, "decisions rows"], grid: int
) -> float:
    """Predicted time of a reduced pass, relative to the native pass over ``grid`` tokens.

    Args:
        cost: the prices.
        counts: number of tokens of each row in each layer.
        seen: number of tokens of each row before each decision.
        grid: tokens per row, padding included.
    """
    layers, decisions = _parts(cost, counts, seen)
    return (cost.outside(grid) + layers + decisions) / cost.native_pass(grid)


def compare(cost: LatencyCost, passes: WholePasses) -> LatencyCost:
    """Return the prices with ``fit`` set by comparison with ``passes``."""
    predicted = tuple(predict(cost, one.counts, one.seen, passes.grid) for one in passes.reduced)
    return replace(cost, fit=Fit(tuple(one.ratio for one in passes.reduced), predicted))


def scaled(cost: LatencyCost, passes: WholePasses) -> LatencyCost:
    """Scale the prices of layers and of decisions, each by one factor, to fit the times of whole passes.

    A layer that runs alone finds warm caches, and decisions are timed on random tokens; the factors correct for both.
    They are bounded, so that they do not compensate for prices that are far off for another reason.

    Args:
        cost: prices from timings of single layers and decisions.
        passes: timed whole passes, at least two of them reduced.
    """
    around = passes.around * passes.native
    taken = np.array([one.ratio * passes.native for one in passes.reduced])
    parts = np.array([_parts(cost, one.counts, one.seen) for one in passes.reduced])
    priced = parts[:, 1].any()
    low, high = zip(SCALES, DECISION_SCALES if priced else (0.0, 1e-9), strict=True)
    shares = np.concatenate([parts / taken[:, None], PULL * np.eye(2)])
    layers, decisions = lsq_linear(shares, np.concatenate([1 - around / taken, [PULL, PULL]]), (low, high)).x
    tables = {kind: table.times(float(layers)) for kind, table in cost.tables.items()}
    overhead = None if cost.overhead is None else cost.overhead.times(float(decisions) if priced else 1.0)
    again = replace(cost, tables=tables, overhead=overhead, outside_per_token=around / passes.grid, native=1.0)
    dense = again.native_pass(passes.grid) - around
    return compare(replace(again, native=(passes.native - around) / dense), passes)


def _parts(cost: LatencyCost, counts: Tensor, seen: Tensor) -> tuple[float, float]:
    """Predicted seconds per row of a pass's layers, and of its decisions."""
    layers = torch.stack([cost.layer(i, own.to(torch.float64)) for i, own in enumerate(counts)]).sum(0)
    decisions = torch.stack([cost.decision(own.to(torch.float64)) for own in seen])
    return float(layers.mean()), float(decisions.sum(0).mean())
