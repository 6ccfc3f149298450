"""How replaceable a token is: cheap similarities that tell a per-token scorer whether a token's twin stays.

Tokens are split by their current place into even and odd, as in ToMe's bipartite matching (Bolya et al. 2023,
section 3): of two twins on different sides only the even one may look replaceable, so that not both leave. The order
is the current one, so sides are dealt anew after every decision.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rltr import tokens as ragged
from rltr.tokens import Tokens


@dataclass(frozen=True)
class Redundancy:
    """Three numbers per token.

    Attributes:
        cosine: similarity to the most similar token of the other side, -1 to 1; -1 if the other side is empty.
        even: 1 for unprotected tokens on the even side, else 0.
        rank: place among the row's even tokens by rising cosine, 0 (unlike any odd token) to 1 (has a twin); 0 for odd
            and protected ones. A rank, because the scale of cosines differs between models and layers.
    """

    cosine: Float[Tensor, " total"]
    even: Float[Tensor, " total"]
    rank: Float[Tensor, " total"]

    def stack(self) -> Float[Tensor, "total 3"]:
        """All three as features."""
        return torch.stack([self.cosine, self.even, self.rank], -1)


def redundancy(unit: Float[Tensor, "total width"], tokens: Tokens, protected: Bool[Tensor, " total"]) -> Redundancy:
    """Compare every unprotected token with those on the other side of its row.

    Args:
        unit: hidden states of length 1.
        tokens: the batch they belong to.
        protected: tokens that cannot leave: on neither side.
    """
    even, odd = (~protected & (tokens.slot % 2 == side) for side in (0, 1))
    evens, odds = ragged.keep(tokens, even), ragged.keep(tokens, odd)
    cosine = unit.new_full((tokens.total,), -1.0)
    rank = torch.zeros_like(cosine)
    if evens.total and odds.total:
        similarity = ragged.pad(unit[even], evens) @ ragged.pad(unit[odd], odds).transpose(1, 2)
        # Padding is a hidden state of zeros: below -1 it is nobody's most similar token.
        if odds.uniform is None:
            similarity += ragged.pad(unit.new_zeros(odds.total), odds, -3.0)[:, None]
        if evens.uniform is None:
            similarity += ragged.pad(unit.new_zeros(evens.total), evens, -3.0)[:, :, None]
        cosine[even] = ragged.unpad(similarity.amax(2), evens).clamp_min(-1)
        cosine[odd] = ragged.unpad(similarity.amax(1), odds).clamp_min(-1)
    if evens.total:
        place = evens.count[evens.row] - 1 - ragged.rank(cosine[even], evens)
        rank[even] = place / (evens.count[evens.row] - 1).clamp_min(1)
    return Redundancy(cosine, even.float(), rank)
