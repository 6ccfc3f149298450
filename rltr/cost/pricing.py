"""Prices of tokens and costs of passes, from a cost model."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rltr.cost import CostModel, dense, span


class Pricing:
    """Prices of one backbone with one set of decision layers.

    Prices per token (:meth:`per_token`) are in typical dense passes: the dense model's cost for an input of typical
    length, the same for all rows. All other costs are in the cost model's unit. With each row's *own* dense cost as the
    unit of prices, a token of a short text would have a higher price than one of a long text, although removing
    it saves less time.

    Args:
        cost: the cost model.
        layers: the decision layers in ascending order.
        depth: number of layers of the backbone.
        typical: tokens of a typical input, padding excluded.

    Attributes:
        typical_cost: the dense model's cost for a typical input, in the cost model's unit.
    """

    def __init__(self, cost: CostModel, layers: Sequence[int], depth: int, typical: int) -> None:
        self.cost = cost
        self.layers = tuple(layers)
        self.depth = depth
        self.typical = typical
        self.typical_cost = dense(cost, depth, typical)
        self._tables: dict[str, Tensor] = {}

    def dense(self, counts: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Cost of the dense model for rows of ``counts`` tokens, in the cost model's unit."""
        return self._look_up("dense", counts, lambda tokens: span(self.cost, 0, self.depth, tokens))

    def until_next(self, decision: int, counts: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Cost of ``counts`` tokens from one decision up to and including the next, in the cost model's unit."""
        return self._look_up(f"decision {decision}", counts, lambda tokens: self._span(decision, tokens))

    def per_token(self, decision: int, counts: Int[Tensor, " rows"], most: int | None = None) -> Float[Tensor, " rows"]:
        """Cost of one token of a row of ``counts`` tokens until the next decision, in typical dense passes.

        Args:
            decision: index of the decision.
            counts: tokens of each row, at least 1.
            most: the largest count, if known; without it an accelerator must synchronise.
        """
        return self._look_up(
            f"token {decision}", counts, lambda tokens: self._span(decision, tokens) / tokens / self.typical_cost, most
        )

    def before_first(self, counts: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Cost of everything up to and including the first decision, in the cost model's unit."""
        return self._look_up(
            "before",
            counts,
            lambda tokens: span(self.cost, 0, self.layers[0], tokens) + self.cost.decision(tokens),
        )

    def total(self, counts_per_stage: Sequence[Int[Tensor, " rows"]]) -> Float[Tensor, " rows"]:
        """Cost of a whole reduced forward pass in the cost model's unit, decisions included.

        Args:
            counts_per_stage: tokens before the first decision, and after each one.
        """
        total = self.before_first(counts_per_stage[0])
        for decision, counts in enumerate(counts_per_stage[1:]):
            total = total + self.until_next(decision, counts)
        return total

    def _span(self, decision: int, tokens: Float[Tensor, " counts"]) -> Float[Tensor, " counts"]:
        """Cost from a decision up to and including the next one."""
        last = decision + 1 == len(self.layers)
        stop = self.depth if last else self.layers[decision + 1]
        layers = span(self.cost, self.layers[decision], stop, tokens)
        return layers if last else layers + self.cost.decision(tokens)

    def _look_up(
        self, name: str, counts: Int[Tensor, " rows"], compute: Callable[[Tensor], Tensor], most: int | None = None
    ) -> Tensor:
        """Look up each row's cost in a cached table over all counts, because computing it layer by layer is slow."""
        longest = int(counts.max()) if most is None else most
        table = self._tables.get(name)
        if table is None or len(table) <= longest or table.device != counts.device:
            tokens = torch.arange(1, longest + 1, device=counts.device).float()
            table = self._tables[name] = torch.cat([tokens.new_full((1,), torch.nan), compute(tokens)])
        return table.index_select(0, counts)
