"""Observations of the token policy as a packed batch, the same in rollouts, updates and production."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rltr.runtime import tokens as ragged
from rltr.runtime.decision import Decision
from rltr.runtime.tokens import Tokens

TOKEN_FEATURES = 5
"""Numbers per token in :func:`token_features`."""
GOLDEN_RATIO = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Observation:
    """Observation of one decision: the remaining tokens of a batch, and each row's layer and price.

    The tokens of all rows are packed, without padding.

    Attributes:
        hidden: hidden states before the decision layer, with mean 0 and length 1 each, in float32.
        token_features: five features per token, each from -1 to 1; see :func:`token_features`.
        tokens: the ragged batch.
        protected: tokens that are always kept.
        layer: decision layer of each row.
        price: cost of keeping one token until the next decision, in reward units, above 0.
        kept: share of the row's tokens that remain, 0 to 1.
    """

    hidden: Float[Tensor, "total width"]
    token_features: Float[Tensor, "total features"]
    tokens: Tokens
    protected: Bool[Tensor, " total"]
    layer: Int[Tensor, " rows"]
    price: Float[Tensor, " rows"]
    kept: Float[Tensor, " rows"]

    @classmethod
    def of_decision(
        cls, decision: Decision, price: Float[Tensor, " rows"], kept: Float[Tensor, " rows"]
    ) -> "Observation":
        """Make the observation of a decision in a forward pass."""
        tokens = decision.tokens
        layer = torch.full((len(tokens.counts),), decision.layer, device=decision.hidden.device)
        # The model may be in double precision; policies are in single precision.
        hidden, features = decision.normalized.float(), token_features(decision).float()
        return cls(hidden, features, tokens, decision.protected, layer, price, kept)

    @classmethod
    def of_grid(cls, grid: Mapping[str, Tensor]) -> "Observation":
        """Pack an observation of the environment, a dict of tensors over all original tokens (see :meth:`to_grid`)."""
        present = grid["present"].bool()
        tokens = ragged.pack(present)
        index = tokens.grid_index
        return cls(
            grid["tokens"].flatten(0, 1).index_select(0, index),
            grid["token_features"].flatten(0, 1).index_select(0, index),
            tokens,
            ~grid["alive"].flatten().bool().index_select(0, index),
            grid["layer"][:, 0].long(),
            grid["price"][:, 0],
            grid["kept"][:, 0],
        )

    def to_grid(self) -> dict[str, Tensor]:
        """Scatter the observation to all original tokens, zeros elsewhere: the environment's observation dict."""
        return {
            "tokens": ragged.scatter_to_grid(self.tokens, self.hidden),
            "token_features": ragged.scatter_to_grid(self.tokens, self.token_features),
            "present": self.tokens.present,
            "alive": ragged.scatter_to_grid(self.tokens, ~self.protected),
            "layer": self.layer[:, None],
            "price": self.price[:, None],
            "kept": self.kept[:, None],
        }


def token_features(decision: Decision) -> Float[Tensor, "total features"]:
    """Compute five features per token that indicate whether it can be dropped, each from -1 to 1.

    1. Cosine to the most similar token of the other set (see :mod:`rltr.runtime.redundancy`).
    2. Whether it is in set A, 0 or 1.
    3. Its rank by that cosine in set A, 0 to 1.
    4. Attention that it got from the pooled token in the previous layer: logarithm of the attention relative to the
       average of unprotected tokens, divided by 4; 0 before layer 0. Protected tokens are left out of the average,
       because in some models the first token gives itself nine tenths of the attention and more.
    5. :func:`low_discrepancy` of its position relative to the row's first token, 0 to 1.
    """
    tokens, similar = decision.tokens, decision.redundancy
    columns = similar.normalized.new_zeros(*similar.free.shape, TOKEN_FEATURES)
    similar.describe(columns)
    if decision.attended is not None:
        share, free = decision.attended.padded_from_pooled, similar.free[:, : tokens.longest]
        # A row of protected tokens only has no average; its features are not used.
        average = (share * free).sum(1, keepdim=True) / free.sum(1, keepdim=True).clamp_min_(1)
        relative = share / average.clamp_min_(torch.finfo(share.dtype).tiny)
        columns[:, : tokens.longest, 3] = relative.log_().mul_(0.25)
    found = ragged.unpad(columns, tokens)
    found[:, 4] = low_discrepancy(tokens.place)
    return found.clamp_(-1, 1)  # cosines and attention may be -inf, and by rounding a cosine is a little above 1


def low_discrepancy(place: Int[Tensor, " total"]) -> Float[Tensor, " total"]:
    """Low-discrepancy sequence over positions, 0 to 1: the fractional part of the position times the golden ratio.

    Tokens above any threshold are spread evenly over the input, with about as many even as odd positions (Kuipers and
    Niederreiter 1974, chapter 2).
    """
    return place.float().mul_(GOLDEN_RATIO).frac_()
