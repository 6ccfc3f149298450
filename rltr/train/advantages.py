"""Per-token advantages: the row's leave-one-out score advantage, minus what the token cost beyond expectation.

Also the running standard deviation that advantages are divided by.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def leave_one_out(score: Float[Tensor, " rows"], group_size: int) -> Float[Tensor, " rows"]:
    """Each rollout's score minus the mean of the others of its group (RLOO, Ahmadian et al. 2024, section 3).

    Rollouts of a group share their input and cost weight and lie one behind the other. The baseline is unbiased and
    needs no value network.

    Raises:
        ValueError: if the rows are not whole groups of at least 2.
    """
    if group_size < 2 or len(score) % group_size:
        raise ValueError(f"{len(score)} rows are not whole groups of group_size={group_size} (at least 2)")
    grouped = score.view(-1, group_size)
    others = (grouped.sum(1, keepdim=True) - grouped) / (group_size - 1)
    return (grouped - others).flatten()


def token_costs(
    index: Sequence[Int[Tensor, " _"]],
    kept: Sequence[Bool[Tensor, " _"]],
    price: Sequence[Float[Tensor, " _"]],
) -> list[Float[Tensor, " _"]]:
    """What every token itself pays from each decision to the end of its episode.

    A token that is dropped pays nothing from there on; one that is kept pays the price of this decision and what it
    pays later.

    Args:
        index: per decision, each packed token's place in the flattened ``(rows, grid)`` batch: the same token has the
            same place at every decision.
        kept: per decision, which stayed.
        price: per decision, what one token of its row pays until the next decision.
    """
    places = int(index[0].max()) + 1
    later = price[0].new_zeros(places)
    costs: list[Tensor] = []
    for place, stays, paid in zip(reversed(index), reversed(kept), reversed(price), strict=True):
        cost = torch.where(stays, paid + later[place], 0.0)
        later = later.new_zeros(places).index_copy_(0, place, cost)
        costs.append(cost)
    return costs[::-1]


def token_advantage(
    score_advantage: Float[Tensor, " rows"],
    cost_weight: Float[Tensor, " rows"],
    row: Int[Tensor, " total"],
    cost: Float[Tensor, " total"],
    baseline: Float[Tensor, " total"],
) -> Float[Tensor, " total"]:
    """The row's advantage in score, minus what this token paid beyond what was expected of it.

    Args:
        score_advantage: leave-one-out score advantage.
        cost_weight: reward units per dense pass of a typical input.
        row: each token's row.
        cost: what the token itself pays from here to the end, in such passes.
        baseline: what it was expected to pay.
    """
    return score_advantage[row] - cost_weight[row] * (cost - baseline)


@dataclass
class RunningDeviation:
    """The standard deviation of what is seen over time, by an exponential mean of variances without start-up bias.

    Advantages are divided by it. A batch's own deviation would not do: where an answer changed it is large, where none
    did it is small, so that batches that tell what a token is worth would count least, and those that only know its
    price most, the more so the fewer inputs there are in a batch. Correction of the bias as in Adam (Kingma and Ba
    2015, section 3).

    Attributes:
        decay: what is left of the past at every update, 0 to 1.
        variance: the exponential mean, not corrected.
        weight: what all weights sum to, 0 before the first update.
    """

    decay: float = 0.95
    variance: float = 0.0
    weight: float = 0.0

    def update(self, values: Float[Tensor, " rows"]) -> float:
        """Take in one batch of at least two; the deviation over all so far."""
        self.variance = self.decay * self.variance + (1 - self.decay) * float(values.var())
        self.weight = self.decay * self.weight + (1 - self.decay)
        return (self.variance / self.weight) ** 0.5
