"""Trade-offs that a probe measures, and how they are compared. Pure functions on numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise


@dataclass(frozen=True)
class TradeOff:
    """Loss of score at several costs.

    Attributes:
        costs: mean cost relative to the dense model's, descending.
        losses: mean score lost at each cost, relative to the dense model.
        weights: cost weight of each point; empty for rules that have none.
    """

    costs: tuple[float, ...]
    losses: tuple[float, ...]
    weights: tuple[float, ...] = ()

    @classmethod
    def of(cls, points: Sequence[tuple[float, float]], weights: Sequence[float] = ()) -> "TradeOff":
        """Sort pairs of cost and loss by cost."""
        order = sorted(range(len(points)), key=lambda i: -points[i][0])
        costs, losses = zip(*(points[i] for i in order), strict=True)
        return cls(costs, losses, tuple(weights[i] for i in order) if weights else ())

    def cost_at(self, loss: float) -> float:
        """Lowest cost at which no more than ``loss`` is lost, by linear interpolation from the dense model on.

        A loss is counted as at least that of every higher cost, so that noise cannot make a lower cost look better. The
        dense model has cost 1 and loss 0. If the loss is never reached, it is the lowest measured cost.
        """
        found = [(1.0, 0.0), *((c, max(lost, 0.0)) for c, lost in zip(self.costs, self.losses, strict=True) if c < 1)]
        rising = list(zip((c for c, _ in found), accumulate((lost for _, lost in found), max), strict=True))
        for (high, less), (low, more) in pairwise(rising):
            if more > loss:
                return high + (low - high) * (loss - less) / (more - less)
        return rising[-1][0]

    def loss_at(self, cost: float) -> float:
        """Loss at a cost, by linear interpolation between the measured points and the dense model.

        Below the lowest measured cost it is the loss there plus that of the last slope.
        """
        found = [(1.0, 0.0), *zip(self.costs, self.losses, strict=True)]
        found = sorted(dict(found).items(), reverse=True)
        for (high, first), (low, second) in pairwise(found):
            if cost >= low or (low, second) == found[-1]:
                return first + (second - first) * (high - cost) / max(high - low, 1e-9)
        return found[0][1]


def levels(
    random: TradeOff, at: float = 0.5, parts: Sequence[float] = (1 / 81, 1 / 27, 1 / 9, 1 / 3)
) -> tuple[float, ...]:
    """Losses at which trade-offs are compared: parts of what random choice loses at half of the cost.

    Scores have other scales for other tasks; this one is measured on the backbone and the task.

    Args:
        random: trade-off of random choice.
        at: relative cost at which it sets the scale.
        parts: the levels, as parts of that loss.
    """
    scale = max(random.loss_at(at), 1e-6)
    return tuple(part * scale for part in parts)


def mean_cost(curve: TradeOff, losses: Sequence[float]) -> float:
    """Mean of the lowest costs that keep each of ``losses``: the lower, the better the trade-off."""
    return sum(curve.cost_at(loss) for loss in losses) / len(losses)
