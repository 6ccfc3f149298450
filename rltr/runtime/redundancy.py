"""Find near-duplicate tokens: one similarity matrix per decision, used by selectors and by merging.

The tokens of a row are split by their current place into set A (even places) and set B (odd places) and compared
across the sets, as in ToMe's bipartite matching (Bolya et al. 2023, section 3): a quarter of all pairs. Of two
near-duplicates, only the one in set A counts as redundant, so that not both are dropped. Places change when tokens are
removed, so the sets are new at every decision.

Rows are padded to one length. Even and odd places are then two views of one tensor, and a decision takes few large
operations; on small batches the number of operations determines the time. For very long rows the matrix is computed in
parts, and again for the tokens that are dropped, so that it is never held as a whole.
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
"""Numbers of the last axis that torch's maximum processes at once, with the widest registers of a CPU."""
_Found: TypeAlias = tuple[Int[Tensor, " some"], Int[Tensor, " some"], Float[Tensor, " some"]]
"""Packed indices of dropped tokens and of their partners, and the cosine of each pair."""


@dataclass(frozen=True)
class Redundancy:
    """Similarities of set A (even places) and set B (odd places), computed on demand.

    Protected tokens are in neither set.

    Attributes:
        normalized: hidden states of length 1.
        tokens: the ragged batch.
        free: places of the padded rows that hold an unprotected token.
        causal: whether tokens are only merged into later ones, so that no token gets information from later ones.
    """

    normalized: Float[Tensor, "total width"]
    tokens: Tokens
    free: Bool[Tensor, "rows length"]
    causal: bool = False

    @property
    def held(self) -> bool:
        """Whether the whole similarity matrix is kept: if it is small, or not larger than the hidden states."""
        rows, length = self.free.shape
        return rows * (length - length // 2) * (length // 2) <= max(merging.PAIRS, self.normalized.numel())

    @cached_property
    def similarity(self) -> Float[Tensor, "rows evens odds"]:
        """Cosines of each row's even and odd places, -1 to 1; ``-inf`` for pairs with padding or a protected token."""
        return self._compared(slice(None), slice(None))

    @cached_property
    def cosines(self) -> tuple[Float[Tensor, "rows evens"], Float[Tensor, "rows odds"]]:
        """Cosine of each place to the most similar place of the other set; ``-inf`` if there is none."""
        if self.held:
            return fast_amax(self.similarity, 2), fast_amax(self.similarity, 1)
        rows, length = self.free.shape
        even = self.normalized.new_empty(rows, length - length // 2)
        odd = self.normalized.new_full((rows, length // 2), -torch.inf)
        step = max(1, merging.PAIRS // odd.shape[1])
        for row in range(rows):
            for begin in range(0, even.shape[1], step):
                part = slice(begin, begin + step)
                similarity = self._compared(slice(row, row + 1), part)[0]
                even[row, part] = fast_amax(similarity, 1)
                odd[row] = torch.maximum(odd[row], fast_amax(similarity, 0))
        return even, odd

    @cached_property
    def features(self) -> Float[Tensor, "total 3"]:
        """:attr:`cosine`, :attr:`in_set_a` and :attr:`rank` of each token."""
        columns = self.normalized.new_zeros(*self.free.shape, 3)
        self.describe(columns)
        return ragged.unpad(columns, self.tokens).clamp_min(-1)

    def describe(self, columns: Float[Tensor, "rows length columns"]) -> None:
        """Write the three :attr:`features` into the first three columns, which must be zeros.

        Here the cosine of a token without a partner is ``-inf``, not -1.
        """
        even, (cosine, of_odd) = self.free[:, ::2], self.cosines
        # Descending and stable: of equal cosines, the earlier token has the higher rank. Empty places come last.
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
        """Cosine to the most similar token of the other set; -1 if there is none."""
        return self.features[:, 0]

    @property
    def in_set_a(self) -> Float[Tensor, " total"]:
        """1 for unprotected tokens at even places (set A), else 0."""
        return self.features[:, 1]

    @property
    def rank(self) -> Float[Tensor, " total"]:
        """Rank by cosine among the row's tokens of set A, from 0 (lowest cosine) to 1 (highest).

        0 for set B and protected tokens. A rank, because the scale of cosines differs between models and layers.
        """
        return self.features[:, 2]

    def partners(
        self, kept: Bool[Tensor, " total"]
    ) -> tuple[Int[Tensor, " dropped"], Int[Tensor, " dropped"], Bool[Tensor, " dropped"] | None]:
        """Find the token to merge each dropped token into: the most similar kept token of the other set.

        A dropped token without a partner there gets the most similar kept token of its own set. Protected tokens are
        never partners. If ``causal``, partners are behind the dropped token.

        Args:
            kept: tokens to keep; must include the protected ones.

        Returns:
            Packed indices of the dropped tokens, not sorted; the packed index of each one's partner; and whether it has
            one (a row may keep only protected tokens), or None if all have one.
        """
        find = self._partners_from_matrix if self.held else self._partners_in_parts
        leave, into, best = (torch.cat(parts) for parts in zip(*find(kept), strict=True))
        has = best > -torch.inf  # NaN is not
        return (leave, into, None) if bool(has.all()) else self._partners_of_own_set(kept, leave, into, has)

    def _partners_from_matrix(self, kept: Bool[Tensor, " total"]) -> Iterator[_Found]:
        """Dropped tokens, partners and cosines of each set, from :attr:`similarity`."""
        stays = ragged.pad_with_own_tokens(kept, self.tokens, self.free.shape[1]) & self.free
        leaves, absent = self.free ^ stays, self._mask_bias(stays)
        for first in (0, 1):  # set A begins at place 0, set B at place 1
            row, place = leaves[:, first::2].nonzero().unbind(1)
            if first == 0:  # the similarities of a token are contiguous
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
            # Without a partner the index is arbitrary, but must be in range.
            yield leave.add_(first), partner.add_(1 - first).clamp_max_(self.tokens.total - 1), cosine

    def _partners_in_parts(self, kept: Bool[Tensor, " total"]) -> Iterator[_Found]:
        """The same for very long rows, whose similarities are computed again in parts."""
        even = self.tokens.slot % 2 == 0
        for source, others in ((even, ~even), (~even, even)):
            source = source & ~kept
            cosine, partner = merging.nearest(
                self.normalized, self.tokens, source, kept & self._free & others, self.causal
            )
            yield ragged.where(source), partner, cosine

    def _partners_of_own_set(
        self, kept: Tensor, leave: Tensor, into: Tensor, has: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Give tokens without a partner the most similar kept token of their own set."""
        unpaired = torch.zeros_like(kept)
        unpaired[leave[~has]] = True
        cosine, partner = merging.nearest(
            self.normalized, self.tokens, unpaired & self._free, kept & self._free, self.causal
        )
        # These are in packed order, ``leave`` is not.
        of_all = torch.zeros_like(unpaired, dtype=torch.long).masked_scatter_(unpaired, partner)
        found = torch.zeros_like(unpaired).masked_scatter_(unpaired, cosine.isfinite())
        into[~has], has[~has] = of_all[leave[~has]], found[leave[~has]]
        return leave, into, has

    def _compared(self, rows: slice, evens: slice) -> Float[Tensor, "_rows _evens odds"]:
        """Similarities of some rows and even places; see :attr:`similarity`."""
        padded, absent = self._padded[rows], self._absent[rows]
        odds = padded[:, 1::2].transpose(1, 2)
        similarity = torch.baddbmm(absent[:, None, 1::2], padded[:, ::2][:, evens], odds)
        return similarity.add_(absent[:, ::2][:, evens, None])

    @cached_property
    def _padded(self) -> Float[Tensor, "rows length width"]:
        return ragged.pad_with_own_tokens(self.normalized, self.tokens, self.free.shape[1])

    @cached_property
    def _absent(self) -> Float[Tensor, "rows length"]:
        """Bias that excludes padding and protected tokens from a comparison."""
        return self._mask_bias(self.free)

    def _mask_bias(self, allowed: Bool[Tensor, "rows length"]) -> Float[Tensor, "rows length"]:
        """Bias for similarities: 0 where a place is allowed, ``-inf`` elsewhere."""
        return self.normalized.new_zeros(allowed.shape).masked_fill_(~allowed, -torch.inf)

    @cached_property
    def _free(self) -> Bool[Tensor, " total"]:
        return ragged.unpad(self.free, self.tokens)


def fast_amax(values: Float[Tensor, "*axes"], dim: int) -> Float[Tensor, "*fewer"]:
    """Compute ``values.amax(dim)``; several times as fast on a CPU if the last axis is no multiple of :data:`STEP`."""
    length = values.shape[-1]
    rest = length % STEP
    if rest == 0 or length < STEP:
        return values.amax(dim)
    # The last block overlaps the others, so that it is a whole step.
    whole, last = values[..., : length - rest].amax(dim), values[..., length - STEP :].amax(dim)
    if dim in (-1, values.ndim - 1):  # the overlap does not change a maximum
        return torch.maximum(whole, last)
    return torch.cat([whole, last[..., STEP - rest :]], -1)


def redundancy(
    normalized: Float[Tensor, "total width"], tokens: Tokens, protected: Bool[Tensor, " total"], causal: bool = False
) -> Redundancy:
    """Prepare the comparison of each row's unprotected tokens in set A (even places) with those in set B (odd places).

    Similarities are computed when they are first read.

    Args:
        normalized: hidden states of length 1.
        tokens: the ragged batch.
        protected: tokens that are always kept.
        causal: whether a dropped token may only be merged into a later one.
    """
    length = max(2, tokens.longest)  # so that set B is not empty
    return Redundancy(normalized, tokens, ragged.pad(~protected, tokens, False, length), causal)
