"""Check the prices of a policy: with a price that is not finite, it would silently drop every token."""

from collections.abc import Sequence
from itertools import pairwise

import torch

from rltr.cost import CostModel, dense, span

SMALLEST, LARGEST = 1e-17, 1e6
"""Accepted range of one token's cost until the next decision, in typical dense passes. Within it the logarithm of the
price is finite in single precision for every allowed cost weight."""
POINTS = 65
"""Number of token counts at which costs are checked."""


def check_prices(cost: CostModel, layers: Sequence[int], depth: int, typical: int, grid: int) -> None:
    """Refuse a cost model whose costs are invalid for rows of up to ``grid`` tokens.

    Args:
        cost: the cost model.
        layers: the decision layers.
        depth: number of layers of the backbone.
        typical: tokens of a typical input.
        grid: largest number of tokens of a row in training.

    Raises:
        ValueError: if it has another number of layers; a cost is not finite, negative, or falls as tokens are added; or
            a token's price is outside ``SMALLEST`` to ``LARGEST``.
    """
    if cost.depth != depth:
        raise ValueError(f"cost has prices for {cost.depth} layers, but the backbone has {depth}")
    # In single precision, as policies use prices. At a few counts, because a damaged file may have a huge grid.
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
            raise ValueError(
                f"cost: the price of a token before layer {start} is {price.min():g} to {price.max():g} typical dense "
                f"passes, but must be {SMALLEST:g} to {LARGEST:g}"
            )


def _check_rising(costs: torch.Tensor, what: str) -> None:
    if not bool(costs.isfinite().all()) or bool((costs < 0).any()) or bool((costs.diff() < 0).any()):
        raise ValueError(f"cost of {what} must be finite, at least 0, and never fall as tokens are added")
