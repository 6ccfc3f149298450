"""Per-token advantages: the rollout's leave-one-out score advantage minus the token's cost above its baseline.

Also holds the running standard deviation by which advantages are divided.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def leave_one_out(score: Float[Tensor, " rows"], group_size: int) -> Float[Tensor, " rows"]:
    """Each rollout's score minus the mean of the others of its group (RLOO, Ahmadian et al. 2024, section 3).

    The rollouts of a group are consecutive rows and share their input and cost weight. The baseline is unbiased and
    needs no value network.

    Raises:
        ValueError: if ``group_size`` is below 2 or does not divide the number of rows.
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
    """Cost of each token from each decision to the end of its episode.

    A dropped token costs nothing from that decision on. A kept token costs its price until the next decision plus its
    cost from there on.

    Args:
        index: per decision, the index of each packed token in the flattened ``(rows, grid)`` batch. A token has the
            same index at every decision.
        kept: per decision, whether each token was kept.
        price: per decision, what keeping each token costs until the next decision.

    Returns:
        Per decision, the cost of each packed token, in the unit of ``price``.
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
    """Advantage of each token: its row's score advantage minus the weighted difference of its cost to the baseline.

    Args:
        score_advantage: leave-one-out score advantage.
        cost_weight: reward units per dense pass of a typical input.
        row: index of the row of each token.
        cost: cost of each token from this decision to the end of the episode, in dense passes of a typical input.
        baseline: predicted ``cost``.
    """
    return score_advantage[row] - cost_weight[row] * (cost - baseline)


@dataclass
class RunningDeviation:
    """Running standard deviation: square root of a bias-corrected exponential moving average of batch variances.

    Advantages are divided by it. The standard deviation of the batch itself is not used, because it would weight the
    batches wrongly. It is large where an answer changed and small where none did. So batches that show what a token
    contributes to the answer would count least, and batches that show only its price would count most. The fewer
    inputs a batch has, the stronger this effect. The bias is corrected as in Adam (Kingma and Ba 2015, section 3).

    Attributes:
        decay: weight of the previous average at every update, 0 to 1.
        variance: moving average of the batch variances, without bias correction.
        weight: sum of the weights of all batches so far, 0 before the first update.
    """

    decay: float = 0.95
    variance: float = 0.0
    weight: float = 0.0

    def update(self, values: Float[Tensor, " rows"]) -> float:
        """Add a batch of at least two values and return the bias-corrected standard deviation."""
        self.variance = self.decay * self.variance + (1 - self.decay) * float(values.var())
        self.weight = self.decay * self.weight + (1 - self.decay)
        return (self.variance / self.weight) ** 0.5
