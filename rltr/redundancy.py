"""How replaceable a token is, and by which: one similarity matrix per decision, for selectors and for merging.

Tokens are split by their current place into an even and an odd side, and compared across, as in ToMe's bipartite
matching (Bolya et al. 2023, section 3): a quarter of all pairs. Of two twins on different sides only the even one looks
replaceable, so that not both leave. The order is the current one, so sides are dealt anew after every decision.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rltr import tokens as ragged
from rltr.tokens import Tokens


@dataclass(frozen=True)
class Redundancy:
    """What the comparison of both sides found; protected tokens are on neither.

    Attributes:
        even: tokens of the even side.
        odd: tokens of the odd side.
        evens: the even side as a batch of its own.
        odds: the odd side as a batch of its own.
        tokens: the batch.
        similarity: cosines of each row's even and odd tokens, -1 to 1; ``-inf`` for padding.
        cosine: per token, similarity to the most similar one of the other side; -1 if there is none.
        rank: place among the row's even tokens by rising cosine, 0 (unlike any odd token) to 1 (has a twin); 0 for odd
            and protected ones. A rank, because the scale of cosines differs between models and layers.
    """

    tokens: Tokens
    even: Bool[Tensor, " total"]
    odd: Bool[Tensor, " total"]
    evens: Tokens
    odds: Tokens
    similarity: Float[Tensor, "rows evens odds"]
    cosine: Float[Tensor, " total"]
    rank: Float[Tensor, " total"]

    def features(self) -> Float[Tensor, "total 3"]:
        """Cosine, side (1 for even) and rank of each token."""
        return torch.stack([self.cosine, self.even.float(), self.rank], -1)

    def partners(self, kept: Bool[Tensor, " total"]) -> tuple[Int[Tensor, " dropped"], Bool[Tensor, " dropped"]]:
        """The most similar kept token of the other side for every token that is not kept.

        Returns:
            For each dropped token, in packed order, its partner's packed index, and whether it has one at all: a row
            may keep nothing on a side, and protected tokens take nothing in.
        """
        into = torch.zeros(self.tokens.total, dtype=torch.long, device=kept.device)
        found = torch.zeros_like(kept)
        if self.evens.total and self.odds.total:
            even, odd = ragged.where(self.even), ragged.where(self.odd)
            sides = ((even, self.evens, odd, self.odds, 2), (odd, self.odds, even, self.evens, 1))
            for place, own, other_place, other, axis in sides:
                # The logarithm turns a kept partner into 0 and one that leaves as well into -inf.
                staying = ragged.pad(kept.index_select(0, other_place).float().log(), other, -torch.inf)
                best, slot = (self.similarity + staying.unsqueeze(3 - axis)).max(axis)
                # Without a candidate the slot is any; it must only exist.
                partner = (other.start[:, None] + slot).clamp_max(other.total - 1)
                into.index_copy_(0, place, other_place.index_select(0, ragged.unpad(partner, own)))
                found.index_copy_(0, place, ragged.unpad(best, own).isfinite())
        leaving = ragged.where(~kept)
        return into.index_select(0, leaving), found.index_select(0, leaving)


def redundancy(unit: Float[Tensor, "total width"], tokens: Tokens, protected: Bool[Tensor, " total"]) -> Redundancy:
    """Compare every unprotected token with those on the other side of its row.

    Args:
        unit: hidden states of length 1.
        tokens: the batch they belong to.
        protected: tokens that cannot leave.
    """
    even, odd = (~protected & (tokens.slot % 2 == side) for side in (0, 1))
    evens, odds = ragged.keep(tokens, even), ragged.keep(tokens, odd)
    cosine = unit.new_full((tokens.total,), -1.0)
    rank = torch.zeros_like(cosine)
    similarity = ragged.pad(ragged.take(unit, even), evens) @ ragged.pad(ragged.take(unit, odd), odds).transpose(1, 2)
    if evens.total and odds.total:
        for side, axes in ((odds, (slice(None), None)), (evens, (slice(None), slice(None), None))):
            if side.uniform is None:
                similarity += ragged.pad(unit.new_zeros(side.total), side, -torch.inf)[axes]
        cosine.index_copy_(0, ragged.where(even), ragged.unpad(similarity.amax(2), evens))
        cosine.index_copy_(0, ragged.where(odd), ragged.unpad(similarity.amax(1), odds))
        cosine.clamp_min_(-1)
    if evens.total:
        count = evens.count.index_select(0, evens.row)
        place = count - 1 - ragged.rank(ragged.take(cosine, even), evens)
        rank.index_copy_(0, ragged.where(even), place / (count - 1).clamp_min(1))
    return Redundancy(tokens, even, odd, evens, odds, similarity, cosine, rank)
