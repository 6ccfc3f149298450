"""Are prices such that a policy can decide by them? Prices that are none would drop everything, without a word."""

from collections.abc import Sequence
from itertools import pairwise

import torch

from rltr.cost import CostModel, dense, span

SMALLEST, LARGEST = 1e-17, 1e6
"""What one token may cost until the next decision, in typical dense passes. With every cost weight that is allowed, the
logarithm that policies take is finite in single precision."""
POINTS = 65
"""Numbers of tokens at which costs are looked at."""


def check_prices(cost: CostModel, layers: Sequence[int], depth: int, typical: int, grid: int) -> None:
    """Refuse a cost model that does not keep its promises for rows of up to ``grid`` tokens.

    Args:
        cost: the cost model.
        layers: the decision layers.
        depth: layers of the backbone.
        typical: tokens of a typical input.
        grid: the most tokens that a row had in training.

    Raises:
        ValueError: if it prices another number of layers; or a cost is not finite, below 0 or falls as tokens are
            added; or a token's price is next to nothing, or beyond all measure.
    """
    if cost.depth != depth:
        raise ValueError(f"cost prices {cost.depth} layers, backbone has {depth}")
    # In single precision, as prices are read; at a few counts, because the grid may be whatever somebody wrote down.
    counts = torch.linspace(1, grid, min(grid, POINTS), dtype=torch.float32, device="cpu").round().unique()
    for layer in range(depth):
        _check_rising(cost.layer(layer, counts), f"layer {layer}")
    decision = cost.decision(counts)
    _check_rising(decision, "a decision")
    unit = dense(cost, depth, typical)
    for start, stop in pairwise((*layers, depth)):
        until_next = span(cost, start, stop, counts) + (decision if stop < depth else 0)
        price = until_next / counts / unit
        if not bool(((price >= SMALLEST) & (price <= LARGEST)).all()):
            raise ValueError(f"cost makes the price of a token before layer {start} {price.min():g} to {price.max():g}")


def _check_rising(costs: torch.Tensor, of: str) -> None:
    if not bool(costs.isfinite().all()) or bool((costs < 0).any()) or bool((costs.diff() < 0).any()):
        raise ValueError(f"cost: that of {of} must be finite, at least 0, and never fall as tokens are added")
