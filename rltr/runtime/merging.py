"""Find the most similar tokens and average tokens: pure functions on ragged batches."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rltr.runtime.tokens import Tokens, keep, pad, precise, select, take, unpad, where, with_count

PAIRS = 2**22
"""Pairs of tokens that are compared at a time: 16 MB of similarities in single precision, however long rows are."""
TINY_VARIANCE = 1e-12
"""Epsilon of the layer norm in :func:`unit_length`. The usual 1e-5 would make small states, such as embeddings, shorter
than 1."""


def nearest(
    normalized: Float[Tensor, "total width"],
    tokens: Tokens,
    source: Bool[Tensor, " total"],
    target: Bool[Tensor, " total"],
    later: bool = False,
) -> tuple[Float[Tensor, " sources"], Int[Tensor, " sources"]]:
    """Find the most similar target token in the same row for every source token.

    Args:
        normalized: hidden states of length 1, so that a product of two is their cosine.
        tokens: the ragged batch.
        source: tokens to find a partner for.
        target: tokens that may be a partner. A source that is also a target finds itself.
        later: whether only targets behind the source in its row are considered.

    Returns:
        The cosine, -1 to 1 (``-inf`` without a target), and the partner's packed index (arbitrary without a target).
    """
    sources, targets = keep(tokens, source), keep(tokens, target)
    if sources.total == 0 or targets.total == 0:
        no_cosine = normalized.new_full((sources.total,), -torch.inf)
        return no_cosine, torch.zeros(sources.total, dtype=torch.long, device=normalized.device)
    source_vectors, target_vectors = take(normalized, source), take(normalized, target)
    source_slots, target_slots = (take(tokens.slot, marked) if later else None for marked in (source, target))
    if len(tokens.counts) * sources.longest * targets.longest > PAIRS:
        cosine, index = _nearest_in_parts(source_vectors, target_vectors, sources, targets, source_slots, target_slots)
        return cosine, where(target).index_select(0, index)
    similarity = pad(source_vectors, sources) @ pad(target_vectors, targets).transpose(1, 2)
    if targets.uniform is None:
        similarity += pad(normalized.new_zeros(targets.total), targets, -torch.inf)[:, None]
    if source_slots is not None and target_slots is not None:
        similarity.masked_fill_(
            pad(target_slots, targets)[:, None] <= pad(source_slots, sources)[..., None], -torch.inf
        )
    cosine, slot = similarity.max(-1)
    # A row without targets has no slot 0 of its own; its index is never used, but must exist.
    index = (targets.start.index_select(0, sources.row) + unpad(slot, sources)).clamp_max(targets.total - 1)
    return unpad(cosine, sources), where(target).index_select(0, index)


def _nearest_in_parts(
    source_vectors: Float[Tensor, "sources width"],
    target_vectors: Float[Tensor, "targets width"],
    sources: Tokens,
    targets: Tokens,
    source_slots: Int[Tensor, " sources"] | None,
    target_slots: Int[Tensor, " targets"] | None,
) -> tuple[Float[Tensor, " sources"], Int[Tensor, " sources"]]:
    """:func:`nearest` row by row, :data:`PAIRS` at a time; returns indices into ``targets``."""
    cosine = source_vectors.new_full((sources.total,), -torch.inf)
    index = torch.zeros(sources.total, dtype=torch.long, device=source_vectors.device)
    first, start = 0, 0
    for count, target_count in zip(sources.counts, targets.counts, strict=True):
        row_targets = slice(start, start + target_count)
        for begin in range(first, first + count if target_count else first, max(1, PAIRS // max(1, target_count))):
            part = slice(begin, min(begin + max(1, PAIRS // target_count), first + count))
            similarity = source_vectors[part] @ target_vectors[row_targets].T
            if source_slots is not None and target_slots is not None:
                similarity.masked_fill_(target_slots[row_targets] <= source_slots[part, None], -torch.inf)
            cosine[part], place = similarity.max(1)
            index[part] = place + start
        first, start = first + count, start + target_count
    return cosine, index


def merge(
    hidden: Float[Tensor, "total width"],
    tokens: Tokens,
    stay: Int[Tensor, " kept"],
    leave: Int[Tensor, " merged"],
    into: Int[Tensor, " merged"],
) -> tuple[Float[Tensor, "kept width"], Tokens]:
    """Average removed tokens into kept ones, weighted by size (Bolya et al. 2023, ToMe, section 3).

    Args:
        hidden: hidden states.
        tokens: the ragged batch.
        stay: packed indices of the kept tokens, ascending.
        leave: packed indices of the merged tokens, in any order. Tokens in neither are dropped.
        into: for each merged token, the index in ``stay`` of the token it is merged into.

    Returns:
        The kept tokens' new hidden states, and their ragged batch with sizes. Kept tokens that nothing is merged into
        keep their states bit for bit.
    """
    remaining, precision = select(tokens, stay), precise(hidden.dtype)
    average = hidden.index_select(0, stay).to(precision)
    # Each merged token moves the average by its share of the total size. So only merged tokens are computed, not every
    # kept one. In place, because allocating memory is most of the cost.
    moved = hidden.index_select(0, leave).to(precision).sub_(average.index_select(0, into))
    if tokens.size is None or remaining.size is None:
        size, weight = average.new_ones(len(stay)), average.new_ones(len(leave))
    else:
        size, weight = remaining.size, tokens.size.index_select(0, leave)
    size.index_add_(0, into, weight)
    average.index_add_(0, into, moved.mul_((weight / size.index_select(0, into))[:, None]))
    return average.to(hidden.dtype), with_count(replace(remaining, size=size), remaining.count)


def unit_length(hidden: Float[Tensor, "total width"]) -> Float[Tensor, "total width"]:
    """Center hidden states over their width and scale them to length 1, in at least float32. Zeros stay zeros."""
    width, precision = hidden.shape[-1], precise(hidden.dtype)
    scale = hidden.new_full((width,), width**-0.5, dtype=precision)
    return F.layer_norm(hidden.to(precision), (width,), scale, eps=TINY_VARIANCE)
