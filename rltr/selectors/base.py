"""What a selector is. To add one, copy ``norm.py``: a subclass of :class:`Ranking` with one method."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rltr.errors import RltrError
from rltr.runtime import tokens as ragged
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Choice, Decision, Removal


class Selector(ABC):
    """Decides at every decision layer which tokens to keep. The runtime merges or drops the others."""

    modes: ClassVar[tuple[Removal, ...]] = ("merge", "drop")
    """What may happen to the tokens that it does not keep."""

    def check(self, backbone: Backbone, layers: Sequence[int]) -> None:  # noqa: B027 - most selectors fit everything
        """Raise :class:`RltrError` if the selector cannot work on this backbone at these decision layers."""

    def decision_layers(self, layers: Sequence[int], depth: int) -> Sequence[int]:
        """The layers at which it decides in an evaluation where others decide at ``layers``, of ``depth``."""
        return layers

    def decision_flops(self, backbone: Backbone, removal: Removal) -> tuple[int, int]:
        """FLOPs of one decision, per token and per pair of tokens: products of matrices, as in the layers.

        Override it in a selector that multiplies matrices of its own. Finding the token that stands for a dropped one
        takes the similarities between two halves of a row: a quarter of all pairs, a multiply-add counted as two.
        """
        return 0, similarity_flops(backbone.width)

    @abstractmethod
    def __call__(self, decision: Decision) -> Choice:
        """Which tokens to keep."""


class KeepRate(Selector):
    """Keeps a fixed share of the tokens that may leave at every decision.

    Args:
        keep_rate: share of each row's unprotected tokens that stays, above 0 and at most 1; rounded up.

    Raises:
        RltrError: if ``keep_rate`` is out of range.
    """

    def __init__(self, keep_rate: float) -> None:
        if not 0 < keep_rate <= 1:
            raise RltrError(f"keep_rate={keep_rate} is not a share of tokens: choose one above 0 and at most 1")
        self.keep_rate = keep_rate


class Ranking(KeepRate):
    """Keeps the tokens with the highest scores."""

    @abstractmethod
    def score(self, decision: Decision) -> Float[Tensor, " total"]:
        """A score for each packed token; the higher, the longer it stays. Scores of protected tokens are ignored."""

    def __call__(self, decision: Decision) -> Choice:
        """Keep the best of each row."""
        return Choice(keep_best(self.score(decision), decision, self.keep_rate))


def similarity_flops(width: int) -> int:
    """FLOPs per pair of tokens of comparing one half of a row with the other by vectors of this width."""
    return 2 * width // 4


def stay_counts(decision: Decision, keep_rate: float) -> Int[Tensor, " rows"]:
    """How many of each row's unprotected tokens stay at a keep rate, rounded up."""
    free = ragged.row_sum((~decision.protected).float(), decision.tokens).tolist()
    # 1e-9: 0.55 * 100 must keep 55, not 56, whatever its last bit says.
    return torch.tensor([math.ceil(keep_rate * count - 1e-9) for count in free], device=decision.hidden.device)


def keep_best(score: Float[Tensor, " total"], decision: Decision, keep_rate: float) -> Bool[Tensor, " total"]:
    """Mark each row's protected tokens and the ``keep_rate`` best-scored of the others, rounded up."""
    tokens, protected = decision.tokens, decision.protected
    best = ragged.row_sum(protected.float(), tokens).long() + stay_counts(decision, keep_rate)
    place = ragged.rank(score.to(ragged.precise(score.dtype)).masked_fill(protected, torch.inf), tokens)
    return place < best.index_select(0, tokens.row)
