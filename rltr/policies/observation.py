"""What the token policy sees at a decision, packed: the same in rollouts, in updates and in production."""

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
    """What the policy sees at one decision: the remaining tokens of some inputs, and each input's layer and price.

    The tokens of all inputs ("rows") lie packed behind one another, without padding.

    Attributes:
        hidden: hidden states before the decision layer, with mean 0 and length 1 each, in float32.
        token_features: five per token, each in -1 to 1, that hint at whether it can be dropped: the cosine to its most
            similar token of the other set, whether it is in set A, its rank by that cosine (see
            :mod:`rltr.runtime.redundancy`), how much the pooled token attended to it in the layer before, and its
            number in a low-discrepancy order of places: a threshold on it thins a row out evenly (see
            :func:`low_discrepancy`).
        tokens: the ragged batch they belong to.
        protected: tokens that cannot leave.
        layer: the decision layer of each row.
        price: what keeping one token until the next decision costs, in reward units, above 0.
        kept: share of the row's tokens that were not dropped so far, 0 to 1.
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
        """What there is to see at a pause of the forward pass."""
        tokens = decision.tokens
        layer = torch.full((len(tokens.counts),), decision.layer, device=decision.hidden.device)
        # A model may compute in double precision; policies do in single.
        hidden, features = decision.normalized.float(), token_features(decision).float()
        return cls(hidden, features, tokens, decision.protected, layer, price, kept)

    @classmethod
    def of_grid(cls, grid: Mapping[str, Tensor]) -> "Observation":
        """Pack the environment's observation, in which every original token has its place."""
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
        """Undo :meth:`of_grid`."""
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
    """Five features per token that hint at whether it can be dropped.

    That of attention is the logarithm of a token's share of what unprotected tokens got, relative to an even share of
    that, over 4: 0 if it got as much as their average, and also before layer 0, where nothing has attended yet. Among
    unprotected ones, because the first token of some models gives itself nine tenths and more: relative to all, every
    other token would seem dispensable.

    The last one is :func:`low_discrepancy` of original places, counted from the row's first token.
    """
    tokens, similar = decision.tokens, decision.redundancy
    columns = similar.normalized.new_zeros(*similar.free.shape, TOKEN_FEATURES)
    similar.describe(columns)
    if decision.attended is not None:
        share, free = decision.attended.padded_from_pooled, similar.free[:, : tokens.longest]
        # A row whose tokens are all protected has no average, and nobody to decide on.
        average = (share * free).sum(1, keepdim=True) / free.sum(1, keepdim=True).clamp_min_(1)
        relative = share / average.clamp_min_(torch.finfo(share.dtype).tiny)
        columns[:, : tokens.longest, 3] = relative.log_().mul_(0.25)
    found = ragged.unpad(columns, tokens)
    found[:, 4] = low_discrepancy(tokens.place)
    return found.clamp_(-1, 1)  # cosines and attention may be -inf, and by rounding a cosine is a little above 1


def low_discrepancy(place: Int[Tensor, " total"]) -> Float[Tensor, " total"]:
    """The fraction of each place times the golden ratio, 0 to 1: an order in which to thin out a row evenly.

    Tokens above any threshold are spread evenly over the input, those above a higher one are among them, and even and
    odd places stay about equally many (a low-discrepancy sequence; Kuipers and Niederreiter 1974, chapter 2).
    """
    return place.float().mul_(GOLDEN_RATIO).frac_()
