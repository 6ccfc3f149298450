"""How replaceable a token is, and by which: one similarity matrix per decision, for selectors and for merging.

Tokens are split by their current place into an even and an odd side, and compared across, as in ToMe's bipartite
matching (Bolya et al. 2023, section 3): a quarter of all pairs. Of two twins on different sides only the even one looks
replaceable, so that not both leave. The order is the current one, so sides are dealt anew after every decision.

Rows are padded to one length here. Even and odd places are then two views of one tensor, and a decision needs few,
large operations: on small batches the number of operations is what costs. Of very long rows the matrix is never held
as a whole: it is computed in parts, and for those that leave once more.
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
    """The comparison of both sides, made when somebody asks; protected tokens are on neither.

    Attributes:
        unit: hidden states of length 1.
        tokens: the batch.
        free: places of the padded rows that hold an unprotected token.
        causal: whether tokens are only merged into later ones, so that none learns of what comes behind it.
    """

    unit: Float[Tensor, "total width"]
    tokens: Tokens
    free: Bool[Tensor, "rows length"]
    causal: bool = False

    @property
    def held(self) -> bool:
        """Whether the similarities of all pairs are held at once: if they are few, or no more than hidden states."""
        rows, length = self.free.shape
        return rows * (length - length // 2) * (length // 2) <= max(ragged.PAIRS, self.unit.numel())

    @cached_property
    def similarity(self) -> Float[Tensor, "rows evens odds"]:
        """Cosines of each row's even and odd places, -1 to 1; ``-inf`` where one holds no unprotected token."""
        return self._compared(slice(None), slice(None))

    @cached_property
    def cosines(self) -> tuple[Float[Tensor, "rows evens"], Float[Tensor, "rows odds"]]:
        """Similarity of each place to the most similar one of the other side; ``-inf`` if there is none."""
        if self.held:
            return self.similarity.amax(2), self.similarity.amax(1)
        rows, length = self.free.shape
        even = self.unit.new_empty(rows, length - length // 2)
        odd = self.unit.new_full((rows, length // 2), -torch.inf)
        step = max(1, ragged.PAIRS // odd.shape[1])
        for row in range(rows):
            for begin in range(0, even.shape[1], step):
                part = slice(begin, begin + step)
                similarity = self._compared(slice(row, row + 1), part)[0]
                even[row, part] = similarity.amax(1)
                odd[row] = torch.maximum(odd[row], similarity.amax(0))
        return even, odd

    @cached_property
    def features(self) -> Float[Tensor, "total 3"]:
        """``cosine``, ``side`` and ``rank`` of each token, see there."""
        even, (cosine, of_odd) = self.free[:, ::2], (side.clamp_min(-1) for side in self.cosines)
        # Descending, and stable: of equals the earlier one has the higher rank. Empty places come last.
        order = cosine.masked_fill(~even, -torch.inf).argsort(dim=1, descending=True, stable=True)
        place = torch.arange(order.shape[1], device=order.device).expand_as(order)
        last = even.sum(1, keepdim=True) - 1
        rank = (last - torch.empty_like(order).scatter_(1, order, place)).to(cosine.dtype) / last.clamp_min(1)
        columns = cosine.new_zeros(*self.free.shape, 3)
        columns[:, ::2, 0] = cosine
        columns[:, 1::2, 0] = of_odd
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
        """The most similar kept token of the other side for every token that is not kept; protected ones must be.

        Where a row keeps nothing on that side, its most similar kept token at all. Protected tokens take nothing in. If
        ``causal``, only kept tokens behind the dropped one count.

        Returns:
            For each dropped token, in packed order, its partner's packed index, and whether it has one: a row may keep
            nothing but what is protected.
        """
        leaving = ragged.where(~kept)
        slot = self.tokens.slot.index_select(0, leaving)
        into, best = torch.empty_like(leaving), self.unit.new_empty(len(leaving))
        find = self._among_held if self.held else self._among_all
        for side in (0, 1):
            mine = ragged.where((slot & 1) == side)
            if len(mine):
                cosine, partner = find(kept, leaving.index_select(0, mine), side)
                best.index_copy_(0, mine, cosine)
                into.index_copy_(0, mine, partner)
        has = best > -torch.inf  # NaN is not
        return (into, has) if bool(has.all()) else self._any_side(kept, leaving, into, has)

    def _among_held(
        self, kept: Tensor, leaving: Int[Tensor, " some"], side: int
    ) -> tuple[Float[Tensor, " some"], Int[Tensor, " some"]]:
        """Cosines and partners of some tokens of one side, from the similarities that are held."""
        tokens = self.tokens
        row, place = tokens.row.index_select(0, leaving), tokens.slot.index_select(0, leaving) >> 1
        # log: 0 where a token stays, -inf where none does.
        absent = ragged.pad(kept, tokens, False, self.free.shape[1])[:, 1 - side :: 2].to(self.unit.dtype).log_()
        if side == 0:  # a token's similarities are one piece of memory
            similarity = self.similarity.flatten(0, 1).index_select(0, row * self.similarity.shape[1] + place)
        else:
            similarity = self.similarity.transpose(1, 2)[row, place]
        similarity += absent.index_select(0, row)
        if self.causal:
            # Even place i is slot 2 i, odd place j is slot 2 j + 1: the odd one lies behind if j >= i.
            other = torch.arange(similarity.shape[1], device=row.device)
            similarity.masked_fill_(other < place[:, None] + side, -torch.inf)
        cosine, other = similarity.max(1)
        partner = torch.add(tokens.start.index_select(0, row), other, alpha=2)
        # Without a partner the index is any; it must only exist.
        return cosine, partner.add_(1 - side).clamp_max_(tokens.total - 1)

    def _among_all(
        self, kept: Tensor, leaving: Int[Tensor, " some"], side: int
    ) -> tuple[Float[Tensor, " some"], Int[Tensor, " some"]]:
        """The same for very long rows, whose similarities are computed again."""
        source = torch.zeros_like(kept).index_fill_(0, leaving, True)
        target = kept & self._free & (self.tokens.slot % 2 != side)
        return ragged.nearest(self.unit, self.tokens, source, target, self.causal)

    def _any_side(
        self, kept: Tensor, leaving: Tensor, into: Tensor, has: Tensor
    ) -> tuple[Int[Tensor, " dropped"], Bool[Tensor, " dropped"]]:
        """Give those without a partner the most similar kept token of their own side."""
        lonely = torch.zeros_like(kept)
        lonely[leaving[~has]] = True
        cosine, partner = ragged.nearest(self.unit, self.tokens, lonely & self._free, kept & self._free, self.causal)
        into[~has], has[~has] = partner, cosine.isfinite()
        return into, has

    def _compared(self, rows: slice, evens: slice) -> Float[Tensor, "_rows _evens odds"]:
        """Some of the similarities."""
        padded, absent = self._padded[rows], self._absent[rows]
        odds = padded[:, 1::2].transpose(1, 2)
        similarity = torch.baddbmm(absent[:, None, 1::2], padded[:, ::2][:, evens], odds)
        return similarity.add_(absent[:, ::2][:, evens, None])

    @cached_property
    def _padded(self) -> Float[Tensor, "rows length width"]:
        return ragged.lay_out(self.unit, self.tokens, self.free.shape[1])

    @cached_property
    def _absent(self) -> Float[Tensor, "rows length"]:
        """What keeps places out of a comparison that hold no unprotected token."""
        return self.free.to(self.unit.dtype).log_()  # 0 where there is one, else -inf

    @cached_property
    def _free(self) -> Bool[Tensor, " total"]:
        return ragged.unpad(self.free, self.tokens)


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
    length = max(2, tokens.longest)  # so that there is an odd side
    return Redundancy(unit, tokens, ragged.pad(~protected, tokens, False, length), causal)
