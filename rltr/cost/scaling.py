"""Prices of parts held against whole passes: scaled until they add up, or found not to."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int
from scipy.optimize import lsq_linear
from torch import Tensor

from rltr.cost.latency import LatencyCost
from rltr.cost.passes import Fit, WholePasses

SCALES = (0.25, 4.0)
"""How much dearer layers may be in a pass than alone (caches are colder there): beyond, something else was measured."""
DECISION_SCALES = (0.1, 10.0)
"""The same for decisions, which are short, so that what surrounds them weighs more."""

PULL = 0.01
"""How strongly factors stay near 1: where passes hardly differ, they cannot tell layers from decisions."""


def predict(
    cost: LatencyCost, counts: Int[Tensor, "layers rows"], seen: Int[Tensor, "decisions rows"], grid: int
) -> float:
    """Relative time of a reduced pass, as a share of the native pass over ``grid`` tokens, by the prices.

    Args:
        cost: the prices.
        counts: tokens that each layer works on.
        seen: tokens before each decision.
        grid: tokens per row, padding included.
    """
    layers, decisions = _parts(cost, counts, seen)
    return (cost.outside(grid) + layers + decisions) / cost.native_pass(grid)


def compare(cost: LatencyCost, passes: WholePasses) -> LatencyCost:
    """The same prices, with how well they predict ``passes``."""
    predicted = tuple(predict(cost, one.counts, one.seen, passes.grid) for one in passes.reduced)
    return replace(cost, fit=Fit(tuple(one.ratio for one in passes.reduced), predicted))


def scaled(cost: LatencyCost, passes: WholePasses) -> LatencyCost:
    """Prices whose layers and decisions are scaled, each by one factor, to what whole passes took.

    Layers that run alone find warm caches, and decisions are timed on made-up tokens; one factor for each corrects the
    level and leaves the form. The factors are bounded: prices that need more are of something else, and stay wrong.

    Args:
        cost: measured in parts.
        passes: whole ones, at least two of them reduced.
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
    """Seconds per row of a pass's layers and of its decisions."""
    layers = torch.stack([cost.layer(i, own.to(torch.float64)) for i, own in enumerate(counts)]).sum(0)
    decisions = torch.stack([cost.decision(own.to(torch.float64)) for own in seen])
    return float(layers.mean()), float(decisions.sum(0).mean())
