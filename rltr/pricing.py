"""What keeping tokens costs, in shares of the dense model: the bridge from a cost model to prices and rewards."""

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor

from rltr.cost import CostModel, span


class Pricing:
    """Prices of one backbone with one set of decision layers.

    Costs are shares of what the dense model costs for the same row (padding excluded), so 1 is "nothing saved".

    Args:
        cost: the cost model.
        layers: the decision layers, rising.
        depth: number of layers of the backbone.
    """

    def __init__(self, cost: CostModel, layers: Sequence[int], depth: int) -> None:
        self.cost = cost
        self.layers = tuple(layers)
        self.depth = depth

    def dense(self, counts: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Cost of the dense model for rows with so many tokens, in the cost model's unit."""
        return span(self.cost, 0, self.depth, counts.float())

    def until_next(self, decision: int, counts: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Cost of ``counts`` tokens from a decision up to and including the next one, in the cost model's unit."""
        last = decision + 1 == len(self.layers)
        stop = self.depth if last else self.layers[decision + 1]
        layers = span(self.cost, self.layers[decision], stop, counts.float())
        return layers if last else layers + self.cost.decision(counts.float())

    def per_token(
        self, decision: int, counts: Int[Tensor, " rows"], begun: Int[Tensor, " rows"]
    ) -> Float[Tensor, " rows"]:
        """What each of a row's ``counts`` tokens costs until the next decision, as a share of the dense cost.

        Args:
            decision: index of the decision.
            counts: tokens of each row, at least 1.
            begun: tokens each row had before the first decision.
        """
        return self.until_next(decision, counts) / counts / self.dense(begun)

    def before_first(self, counts: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Cost of everything up to and including the first decision, in the cost model's unit."""
        return span(self.cost, 0, self.layers[0], counts.float()) + self.cost.decision(counts.float())

    def relative(self, counts_per_stage: Sequence[Int[Tensor, " rows"]]) -> Float[Tensor, " rows"]:
        """Cost of a whole reduced forward pass as a share of the dense one, selector included.

        Args:
            counts_per_stage: tokens before the first decision, then after each.
        """
        total = self.before_first(counts_per_stage[0])
        for decision, counts in enumerate(counts_per_stage[1:]):
            total = total + self.until_next(decision, counts)
        return total / self.dense(counts_per_stage[0])
