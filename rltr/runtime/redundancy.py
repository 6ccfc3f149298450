"""Which tokens have a near-duplicate, and which: one similarity matrix per decision, for selectors and for merging.

Tokens are split by their current place into two sets, A (even places) and B (odd places), and compared across, as in
ToMe's bipartite matching (Bolya et al. 2023, section 3): a quarter of all pairs. Of two near-duplicates in different
sets only that of set A counts as such, so that not both are dropped. Sets go by the current order, so they are new at
every decision.

Rows are padded to one length here. Even and odd places are then two views of one tensor, and a decision needs few,
large operations: on small batches the number of operations is what costs. For very long rows the matrix is never held
as a whole: it is computed in parts, and computed again for the tokens that are dropped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rltr.runtime import merging
from rltr.runtime import tokens as ragged
from rltr.runtime.tokens import Tokens

STEP = 32
"""Numbers of the last axis that torch's maximum takes at a time, with the widest registers that a CPU has."""
_Found: TypeAlias = tuple[Int[Tensor, " some"], Int[Tensor, " some"], Float[Tensor, " some"]]
"""Packed indices of tokens that leave, of their partners, and the cosines of both."""


@dataclass(frozen=True)
class Redundancy:
    """Set A (even places) compared with set B (odd places), on demand; protected tokens are in neither.

    Attributes:
        normalized: hidden states of length 1.
        tokens: the batch.
        free: places of the padded rows that hold an unprotected token.
        causal: whether tokens are only merged into later ones, so that none learns of what comes behind it.
    """

    normalized: Float[Tensor, "total width"]
    tokens: Tokens
    free: Bool[Tensor, "rows length"]
    causal: bool = False

    @property
    def held(self) -> bool:
        """Whether the similarities of all pairs are held at once: if they are few, or no more than hidden states."""
        rows, length = self.free.shape
        return rows * (length - length // 2) * (length // 2) <= max(merging.PAIRS, self.normalized.numel())

    @cached_property
    def similarity(self) -> Float[Tensor, "rows evens odds"]:
        """Cosines of each row's even and odd places, -1 to 1; ``-inf`` where one holds no unprotected token."""
        return self._compared(slice(None), slice(None))

    @cached_property
    def cosines(self) -> tuple[Float[Tensor, "rows evens"], Float[Tensor, "rows odds"]]:
        """Similarity of each place to the most similar one of the other set; ``-inf`` if there is none."""
        if self.held:
            return highest(self.similarity, 2), highest(self.similarity, 1)
        rows, length = self.free.shape
        even = self.normalized.new_empty(rows, length - length // 2)
        odd = self.normalized.new_full((rows, length // 2), -torch.inf)
        step = max(1, merging.PAIRS // odd.shape[1])
        for row in range(rows):
            for begin in range(0, even.shape[1], step):
                part = slice(begin, begin + step)
                similarity = self._compared(slice(row, row + 1), part)[0]
                even[row, part] = highest(similarity, 1)
                odd[row] = torch.maximum(odd[row], highest(similarity, 0))
        return even, odd

    @cached_property
    def features(self) -> Float[Tensor, "total 3"]:
        """``cosine``, ``in_set_a`` and ``rank`` of each token, see there."""
        columns = self.normalized.new_zeros(*self.free.shape, 3)
        self.describe(columns)
        return ragged.unpad(columns, self.tokens).clamp_min(-1)

    def describe(self, columns: Float[Tensor, "rows length columns"]) -> None:
        """Write ``cosine`` (``-inf``, not -1), ``in_set_a`` and ``rank`` into the first three columns, all zeros."""
        even, (cosine, of_odd) = self.free[:, ::2], self.cosines
        # Descending, and stable: of equals the earlier one has the higher rank. Empty places come last.
        order = cosine.clamp_min(-1).add_(self._absent[:, ::2]).argsort(dim=1, descending=True, stable=True)
        last = even.sum(1, keepdim=True) - 1
        steps = torch.sub(last, torch.arange(order.shape[1], device=order.device)).to(cosine.dtype)
        steps = steps.div_(last.clamp_min_(1)).clamp_min_(0)
        columns[:, ::2, 0] = cosine
        columns[:, 1::2, 0] = of_odd
        columns[:, ::2, 1] = even
        columns[:, ::2, 2] = torch.empty_like(cosine).scatter_(1, order, steps)

    @property
    def cosine(self) -> Float[Tensor, " total"]:
        """Similarity to the most similar token of the other set; -1 if there is none."""
        return self.features[:, 0]

    @property
    def in_set_a(self) -> Float[Tensor, " total"]:
        """1 for unprotected tokens at even places (set A), else 0."""
        return self.features[:, 1]

    @property
    def rank(self) -> Float[Tensor, " total"]:
        """Place among the row's tokens of set A by rising cosine, 0 (unlike any of set B) to 1 (a near-duplicate).

        0 for set B and protected ones. A rank, because the scale of cosines differs between models and layers.
        """
        return self.features[:, 2]

    def partners(
        self, kept: Bool[Tensor, " total"]
    ) -> tuple[Int[Tensor, " dropped"], Int[Tensor, " dropped"], Bool[Tensor, " dropped"] | None]:
        """The most similar kept token of the other set for every token that is not kept; protected ones must be.

        Where a row keeps nothing of that set, its most similar kept token at all. Protected tokens take nothing in. If
        ``causal``, only kept tokens behind the dropped one count.

        Returns:
            Packed indices of the tokens that are not kept, in an order of their own; for each its partner's packed
            index, and whether it has one: a row may keep nothing but what is protected. None if all have.
        """
        find = self._among_held if self.held else self._among_all
        leave, into, best = (torch.cat(parts) for parts in zip(*find(kept), strict=True))
        has = best > -torch.inf  # NaN is not
        return (leave, into, None) if bool(has.all()) else self._any_set(kept, leave, into, has)

    def _among_held(self, kept: Bool[Tensor, " total"]) -> Iterator[_Found]:
        """Tokens that leave, partners and cosines of each set, from the similarities that are held."""
        stays = ragged.lay_out(kept, self.tokens, self.free.shape[1]) & self.free
        leaves, absent = self.free ^ stays, self._ruled_out(stays)
        for first in (0, 1):  # set A begins at place 0, set B at place 1
            row, place = leaves[:, first::2].nonzero().unbind(1)
            if first == 0:  # a token's similarities are one piece of memory
                every = self.similarity + absent[:, None, 1::2]
                similarity = every.flatten(0, 1).index_select(0, row * every.shape[1] + place)
            else:
                similarity = (self.similarity + absent[:, ::2, None]).transpose(1, 2)[row, place]
            if self.causal:
                # Even place i is slot 2 i, odd place j is slot 2 j + 1: the odd one lies behind if j >= i.
                other = torch.arange(similarity.shape[1], device=row.device)
                similarity.masked_fill_(other < place[:, None] + first, -torch.inf)
            cosine, other = similarity.max(1)
            begin = self.tokens.start.index_select(0, row)
            leave, partner = (torch.add(begin, index, alpha=2) for index in (place, other))
            # Without a partner the index is any; it must only exist.
            yield leave.add_(first), partner.add_(1 - first).clamp_max_(self.tokens.total - 1), cosine

    def _among_all(self, kept: Bool[Tensor, " total"]) -> Iterator[_Found]:
        """The same for very long rows, whose similarities are computed again."""
        even = self.tokens.slot % 2 == 0
        for source, others in ((even, ~even), (~even, even)):
            source = source & ~kept
            cosine, partner = merging.nearest(
                self.normalized, self.tokens, source, kept & self._free & others, self.causal
            )
            yield ragged.where(source), partner, cosine

    def _any_set(self, kept: Tensor, leave: Tensor, into: Tensor, has: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give those without a partner the most similar kept token of their own set."""
        lonely = torch.zeros_like(kept)
        lonely[leave[~has]] = True
        cosine, partner = merging.nearest(
            self.normalized, self.tokens, lonely & self._free, kept & self._free, self.causal
        )
        # That is in packed order; here tokens have another.
        of_all = torch.zeros_like(lonely, dtype=torch.long).masked_scatter_(lonely, partner)
        found = torch.zeros_like(lonely).masked_scatter_(lonely, cosine.isfinite())
        into[~has], has[~has] = of_all[leave[~has]], found[leave[~has]]
        return leave, into, has

    def _compared(self, rows: slice, evens: slice) -> Float[Tensor, "_rows _evens odds"]:
        """Some of the similarities."""
        padded, absent = self._padded[rows], self._absent[rows]
        odds = padded[:, 1::2].transpose(1, 2)
        similarity = torch.baddbmm(absent[:, None, 1::2], padded[:, ::2][:, evens], odds)
        return similarity.add_(absent[:, ::2][:, evens, None])

    @cached_property
    def _padded(self) -> Float[Tensor, "rows length width"]:
        return ragged.lay_out(self.normalized, self.tokens, self.free.shape[1])

    @cached_property
    def _absent(self) -> Float[Tensor, "rows length"]:
        """What keeps places out of a comparison that hold no unprotected token."""
        return self._ruled_out(self.free)

    def _ruled_out(self, allowed: Bool[Tensor, "rows length"]) -> Float[Tensor, "rows length"]:
        """What is added to similarities: ``-inf`` where a place is not allowed, else 0."""
        return self.normalized.new_zeros(allowed.shape).masked_fill_(~allowed, -torch.inf)

    @cached_property
    def _free(self) -> Bool[Tensor, " total"]:
        return ragged.unpad(self.free, self.tokens)


def highest(values: Float[Tensor, "*axes"], dim: int) -> Float[Tensor, "*fewer"]:
    """``values.amax(dim)``, several times as fast on a CPU if the last axis is no multiple of :data:`STEP`."""
    length = values.shape[-1]
    rest = length % STEP
    if rest == 0 or length < STEP:
        return values.amax(dim)
    # The rest is taken together with enough of the others to be a step.
    whole, last = values[..., : length - rest].amax(dim), values[..., length - STEP :].amax(dim)
    if dim in (-1, values.ndim - 1):  # twice the maximum of some is still the maximum
        return torch.maximum(whole, last)
    return torch.cat([whole, last[..., STEP - rest :]], -1)


def redundancy(
    normalized: Float[Tensor, "total width"], tokens: Tokens, protected: Bool[Tensor, " total"], causal: bool = False
) -> Redundancy:
    """Compare every unprotected token with those of the other set in its row.

    Args:
        normalized: hidden states of length 1.
        tokens: the batch they belong to.
        protected: tokens that cannot leave.
        causal: whether a dropped token may only be merged into a later one.
    """
    length = max(2, tokens.longest)  # so that set B has a place
    return Redundancy(normalized, tokens, ragged.pad(~protected, tokens, False, length), causal)
