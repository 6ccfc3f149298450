"""How replaceable a token is, and by which: one similarity matrix per decision, for selectors and for merging.

Tokens are split by their current place into an even and an odd side, and compared across, as in ToMe's bipartite
matching (Bolya et al. 2023, section 3): a quarter of all pairs. Of two twins on different sides only the even one looks
replaceable, so that not both leave. The order is the current one, so sides are dealt anew after every decision.

Rows are padded to one length here. Even and odd places are then two views of one tensor, and a decision needs few,
large operations: on small batches the number of operations is what costs.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rltr import tokens as ragged
from rltr.tokens import Tokens


@dataclass(frozen=True)
class Redundancy:
    """What the comparison of both sides found; protected tokens are on neither.

    Attributes:
        unit: hidden states of length 1.
        tokens: the batch.
        free: places of the padded rows that hold an unprotected token.
        similarity: cosines of each row's even and odd places, -1 to 1; ``-inf`` where one holds no unprotected token.
        causal: whether tokens are only merged into later ones, so that none learns of what comes behind it.
    """

    unit: Float[Tensor, "total width"]
    tokens: Tokens
    free: Bool[Tensor, "rows length"]
    similarity: Float[Tensor, "rows evens odds"]
    causal: bool = False

    @cached_property
    def features(self) -> Float[Tensor, "total 3"]:
        """``cosine``, ``side`` and ``rank`` of each token, see there."""
        even = self.free[:, ::2]
        cosine = self.similarity.amax(2).clamp_min_(-1)
        # Descending, and stable: of equals the earlier one has the higher rank. Empty places come last.
        order = cosine.masked_fill(~even, -torch.inf).argsort(dim=1, descending=True, stable=True)
        place = torch.arange(order.shape[1], device=order.device).expand_as(order)
        last = even.sum(1, keepdim=True) - 1
        rank = (last - torch.empty_like(order).scatter_(1, order, place)) / last.clamp_min(1)
        columns = cosine.new_zeros(*self.free.shape, 3)
        columns[:, ::2, 0] = cosine
        columns[:, 1::2, 0] = self.similarity.amax(1).clamp_min_(-1)
        columns[:, ::2, 1] = even
        columns[:, ::2, 2] = rank * even
        return ragged.unpad(columns, self.tokens)

    @property
    def cosine(self) -> Float[Tensor, " total"]:
        """Similarity to the most similar token of the other side; -1 if there is none."""
        return self.features[:, 0]

    @property
    def side(self) -> Float[Tensor, " total"]:
        """1 on the even side, else 0."""
        return self.features[:, 1]

    @property
    def rank(self) -> Float[Tensor, " total"]:
        """Place among the row's even tokens by rising cosine, 0 (unlike any odd token) to 1 (has a twin).

        0 for odd and protected ones. A rank, because the scale of cosines differs between models and layers.
        """
        return self.features[:, 2]

    def partners(self, kept: Bool[Tensor, " total"]) -> tuple[Int[Tensor, " dropped"], Bool[Tensor, " dropped"]]:
        """The most similar kept token of the other side for every token that is not kept.

        Where a row keeps nothing on that side, its most similar kept token at all. Protected tokens take nothing in. If
        ``causal``, only kept tokens behind the dropped one count.

        Returns:
            For each dropped token, in packed order, its partner's packed index, and whether it has one: a row may keep
            nothing but what is protected.
        """
        tokens, length = self.tokens, self.free.shape[1]
        staying = ragged.pad(kept, tokens, False, length)
        absent = self.similarity.new_zeros(()).masked_fill(~staying, -torch.inf)
        partner = torch.empty(staying.shape, dtype=torch.long, device=kept.device)
        found = torch.empty_like(staying)
        similarity = self.similarity
        # Even place i is slot 2 i, odd place j is slot 2 j + 1: the odd one lies behind if j >= i.
        behind = torch.ones_like(similarity[0], dtype=torch.bool).triu() if self.causal else None
        odd = similarity if behind is None else similarity.masked_fill(~behind, -torch.inf)
        best, place = (odd + absent[:, None, 1::2]).max(2)
        partner[:, ::2], found[:, ::2] = 2 * place + 1, best.isfinite()
        even = similarity if behind is None else similarity.masked_fill(behind, -torch.inf)
        best, place = (even + absent[:, ::2, None]).max(1)
        partner[:, 1::2], found[:, 1::2] = 2 * place, best.isfinite()
        partner += tokens.start[:, None]
        leaving = ragged.where(~kept)
        index = tokens.padded_index(length).index_select(0, leaving)
        # Without a partner the index is any; it must only exist.
        into = partner.flatten().index_select(0, index).clamp_max(tokens.total - 1)
        has = found.flatten().index_select(0, index)
        if bool(has.all()):
            return into, has
        return self._any_side(kept, leaving, into, has)

    def _any_side(
        self, kept: Tensor, leaving: Tensor, into: Tensor, has: Tensor
    ) -> tuple[Int[Tensor, " dropped"], Bool[Tensor, " dropped"]]:
        """Give those without a partner the most similar kept token of their own side."""
        lonely = torch.zeros_like(kept)
        lonely[leaving[~has]] = True
        free = ragged.unpad(self.free, self.tokens)
        cosine, partner = ragged.nearest(self.unit, self.tokens, lonely & free, kept & free, self.causal)
        into[~has], has[~has] = partner, cosine.isfinite()
        return into, has


def redundancy(
    unit: Float[Tensor, "total width"], tokens: Tokens, protected: Bool[Tensor, " total"], causal: bool = False
) -> Redundancy:
    """Compare every unprotected token with those on the other side of its row.

    Args:
        unit: hidden states of length 1.
        tokens: the batch they belong to.
        protected: tokens that cannot leave.
        causal: whether a dropped token may only be merged into a later one.
    """
    length = max(2, *tokens.counts)  # so that there is an odd side
    free = ragged.pad(~protected, tokens, False, length)
    padded = ragged.pad(unit, tokens, 0.0, length)
    absent = unit.new_zeros(()).masked_fill(~free, -torch.inf)
    similarity = torch.baddbmm(absent[:, None, 1::2], padded[:, ::2], padded[:, 1::2].transpose(1, 2))
    return Redundancy(unit, tokens, free, similarity.add_(absent[:, ::2, None]), causal)
