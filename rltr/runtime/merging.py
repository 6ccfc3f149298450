"""Which tokens are alike, and what becomes of those that are averaged: pure functions on ragged batches."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rltr.runtime.tokens import Tokens, counted, keep, pad, precise, select, take, unpad, where

PAIRS = 2**22
"""Pairs of tokens that are compared at a time: 16 MB of similarities in single precision, however long rows are."""
TINY_VARIANCE = 1e-12
"""What keeps states that are constant over their width from a division by zero: far below that of any real state, since
the usual 1e-5 would make bare embeddings shorter than 1, and the more so the smaller they are."""


def nearest(
    normalized: Float[Tensor, "total width"],
    tokens: Tokens,
    source: Bool[Tensor, " total"],
    target: Bool[Tensor, " total"],
    later: bool = False,
) -> tuple[Float[Tensor, " sources"], Int[Tensor, " sources"]]:
    """For every source token the most similar target token of its own row.

    Args:
        normalized: hidden states of length 1, so that a product of two is their cosine.
        tokens: the batch they belong to.
        source: tokens that look for a partner.
        target: tokens that may be one. A source that is a target itself would find itself.
        later: whether only targets behind a source in its row count.

    Returns:
        The cosine, -1 to 1 (``-inf`` if there is no such target), and the partner's packed index (any, if it has none).
    """
    sources, targets = keep(tokens, source), keep(tokens, target)
    if sources.total == 0 or targets.total == 0:
        lonely = normalized.new_full((sources.total,), -torch.inf)
        return lonely, torch.zeros(sources.total, dtype=torch.long, device=normalized.device)
    whose, whom = take(normalized, source), take(normalized, target)
    after, until = (take(tokens.slot, marked) if later else None for marked in (source, target))
    if len(tokens.counts) * sources.longest * targets.longest > PAIRS:
        cosine, index = _nearest_in_parts(whose, whom, sources, targets, after, until)
        return cosine, where(target).index_select(0, index)
    similarity = pad(whose, sources) @ pad(whom, targets).transpose(1, 2)
    if targets.uniform is None:
        similarity += pad(normalized.new_zeros(targets.total), targets, -torch.inf)[:, None]
    if after is not None and until is not None:
        similarity.masked_fill_(pad(until, targets)[:, None] <= pad(after, sources)[..., None], -torch.inf)
    cosine, slot = similarity.max(-1)
    # A row without targets has no slot 0 of its own; its index is never used, but must exist.
    index = (targets.start.index_select(0, sources.row) + unpad(slot, sources)).clamp_max(targets.total - 1)
    return unpad(cosine, sources), where(target).index_select(0, index)


def _nearest_in_parts(
    whose: Float[Tensor, "sources width"],
    whom: Float[Tensor, "targets width"],
    sources: Tokens,
    targets: Tokens,
    after: Int[Tensor, " sources"] | None,
    until: Int[Tensor, " targets"] | None,
) -> tuple[Float[Tensor, " sources"], Int[Tensor, " sources"]]:
    """:func:`nearest` row by row, :data:`PAIRS` at a time; the index counts targets."""
    cosine = whose.new_full((sources.total,), -torch.inf)
    index = torch.zeros(sources.total, dtype=torch.long, device=whose.device)
    first, start = 0, 0
    for count, others in zip(sources.counts, targets.counts, strict=True):
        theirs = slice(start, start + others)
        for begin in range(first, first + count if others else first, max(1, PAIRS // max(1, others))):
            part = slice(begin, min(begin + max(1, PAIRS // others), first + count))
            similarity = whose[part] @ whom[theirs].T
            if after is not None and until is not None:
                similarity.masked_fill_(until[theirs] <= after[part, None], -torch.inf)
            cosine[part], place = similarity.max(1)
            index[part] = place + start
        first, start = first + count, start + others
    return cosine, index


def merge(
    hidden: Float[Tensor, "total width"],
    tokens: Tokens,
    stay: Int[Tensor, " kept"],
    leave: Int[Tensor, " merged"],
    into: Int[Tensor, " merged"],
) -> tuple[Float[Tensor, "kept width"], Tokens]:
    """Average tokens that leave into kept ones, weighted by sizes (Bolya et al. 2023, ToMe, section 3).

    Args:
        hidden: hidden states.
        tokens: the batch they belong to.
        stay: packed indices of those that are kept, rising.
        leave: packed indices of those that are merged, in any order. Tokens in neither are lost.
        into: which of the kept ones, counted from 0, takes each in.

    Returns:
        The kept tokens' new hidden states and their index, with sizes. Those that take nobody in keep theirs, bit for
        bit.
    """
    remaining, precision = select(tokens, stay), precise(hidden.dtype)
    average = hidden.index_select(0, stay).to(precision)
    # An average moves towards each new member by that one's share of the whole. So only members are computed with, and
    # not every kept token; in place, as fresh memory is most of what this costs.
    moved = hidden.index_select(0, leave).to(precision).sub_(average.index_select(0, into))
    if tokens.size is None or remaining.size is None:
        size, weight = average.new_ones(len(stay)), average.new_ones(len(leave))
    else:
        size, weight = remaining.size, tokens.size.index_select(0, leave)
    size.index_add_(0, into, weight)
    average.index_add_(0, into, moved.mul_((weight / size.index_select(0, into))[:, None]))
    return average.to(hidden.dtype), counted(replace(remaining, size=size), remaining.count)


def unit_length(hidden: Float[Tensor, "total width"]) -> Float[Tensor, "total width"]:
    """Hidden states with mean 0 over their width and length 1, in :func:`precise`: one fused pass. Zeros stay zeros."""
    width, precision = hidden.shape[-1], precise(hidden.dtype)
    scale = hidden.new_full((width,), width**-0.5, dtype=precision)
    return F.layer_norm(hidden.to(precision), (width,), scale, eps=TINY_VARIANCE)
