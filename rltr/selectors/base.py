"""Base classes of selectors. To add one, copy ``norm.py``: a subclass of :class:`Ranking` with one method."""

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
    """Rule that says at every decision layer which tokens to keep. The runtime merges or drops the others."""

    modes: ClassVar[tuple[Removal, ...]] = ("merge", "drop")
    """Supported ways to remove the tokens that are not kept."""

    def check(self, backbone: Backbone, layers: Sequence[int]) -> None:  # noqa: B027 - most selectors fit everything
        """Raise :class:`RltrError` if the selector cannot work on this backbone at these decision layers."""

    def decision_layers(self, layers: Sequence[int], depth: int) -> Sequence[int]:
        """Return this selector's decision layers in an evaluation whose other methods use ``layers``.

        Args:
            layers: decision layers of the evaluation.
            depth: number of layers of the model.
        """
        return layers

    def decision_flops(self, backbone: Backbone, removal: Removal) -> tuple[int, int]:
        """Return the FLOPs of matrix products in one decision, per token and per pair of tokens.

        The default is what the runtime needs to find the token that a removed one is merged into. Override it in a
        selector with matrix products of its own.
        """
        return 0, similarity_flops(backbone.width)

    @abstractmethod
    def __call__(self, decision: Decision) -> Choice:
        """Return which tokens to keep."""


class KeepRate(Selector):
    """Selector that keeps a fixed share of each row's unprotected tokens at every decision.

    Args:
        keep_rate: share of each row's unprotected tokens to keep, above 0 and at most 1; their number is rounded up.

    Raises:
        RltrError: if ``keep_rate`` is out of range.
    """

    def __init__(self, keep_rate: float) -> None:
        if not 0 < keep_rate <= 1:
            raise RltrError(f"keep_rate must be above 0 and at most 1 (a share of the tokens), got {keep_rate}")
        self.keep_rate = keep_rate


class Ranking(KeepRate):
    """Selector that keeps each row's tokens with the highest scores."""

    @abstractmethod
    def score(self, decision: Decision) -> Float[Tensor, " total"]:
        """Return a score for each packed token: the highest are kept. Scores of protected tokens are ignored."""

    def __call__(self, decision: Decision) -> Choice:
        """Return each row's protected and highest-scored tokens."""
        return Choice(keep_best(self.score(decision), decision, self.keep_rate))


def similarity_flops(width: int) -> int:
    """Return the FLOPs per pair of tokens of comparing set A with set B by vectors of ``width`` numbers.

    A quarter of all pairs is compared; a multiply-add counts as two.
    """
    return 2 * width // 4


def keep_counts(decision: Decision, keep_rate: float) -> Int[Tensor, " rows"]:
    """Return how many of each row's unprotected tokens to keep at a keep rate, rounded up."""
    free = ragged.row_sum((~decision.protected).float(), decision.tokens).tolist()
    # 1e-9: 0.55 * 100 is slightly above 55 in floating point, but must keep 55 tokens.
    return torch.tensor([math.ceil(keep_rate * count - 1e-9) for count in free], device=decision.hidden.device)


def keep_best(score: Float[Tensor, " total"], decision: Decision, keep_rate: float) -> Bool[Tensor, " total"]:
    """Mark each row's protected tokens, and of the others those with the highest scores, :func:`keep_counts` many."""
    tokens, protected = decision.tokens, decision.protected
    best = ragged.row_sum(protected.float(), tokens).long() + keep_counts(decision, keep_rate)
    place = ragged.rank(score.to(ragged.precise(score.dtype)).masked_fill(protected, torch.inf), tokens)
    return place < best.index_select(0, tokens.row)
