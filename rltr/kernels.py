"""Softmax attention over a ragged batch: which computation is fastest where, all with the same result."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rltr import tokens as ragged
from rltr.pattern import Pattern, visible
from rltr.tokens import Tokens

SHORT = 1280
"""Tokens of the longest row times head width, up to which padding uneven rows beats a call per row on a CPU."""
CHANNELS = 8
"""Channels added for the sizes: kernels want head sizes that are multiples of 8."""
EVERYONE = Pattern()


def ragged_attention(
    query: Float[Tensor, "batch heads length width"],
    key: Float[Tensor, "batch key_heads length width"],
    value: Float[Tensor, "batch key_heads length width"],
    tokens: Tokens,
    scaling: float,
    pattern: Pattern = EVERYONE,
) -> Float[Tensor, "batch length heads width"]:
    """Softmax attention of every row's tokens to each other, and to no other row's.

    Once tokens have sizes, a token of size s is attended like s equal tokens: log(size) is added to its logits (ToMe,
    section 3). Where a bias keeps fused kernels off, it travels in extra channels of queries and keys; on a CPU the
    fused kernel takes a bias, and copying queries and keys to widen them costs more.

    Args:
        query: queries; ``batch`` is 1 and ``length`` all packed tokens, or rows and their tokens if all have as many.
        key: keys; of fewer heads where queries share them.
        value: values, likewise.
        tokens: the ragged batch.
        scaling: factor of the products of queries and keys.
        pattern: who may attend to whom within a row.
    """
    if not pattern.fused:
        return _padded(query, key, value, tokens, scaling, pattern, products)
    if not (pattern.dense or pattern.causal):
        return _padded(query, key, value, tokens, scaling, pattern)
    attend = _on_cpu if query.device.type == "cpu" else _on_accelerator
    return attend(query, key, value, tokens, scaling, pattern)


def _on_accelerator(
    query: Tensor, key: Tensor, value: Tensor, tokens: Tokens, scaling: float, pattern: Pattern = EVERYONE
) -> Tensor:
    """One fused call, with sizes in extra channels."""
    width = value.shape[-1]
    if tokens.size is not None:
        query, key, value = _with_sizes(query, key, value, tokens, scaling)
    if tokens.uniform is not None:
        out = _fused(query, key, value, scale=scaling, is_causal=pattern.causal).transpose(1, 2)
    else:
        out = _padded(query, key, value, replace(tokens, size=None), scaling, pattern)
    return out[..., :width]


def _on_cpu(
    query: Tensor, key: Tensor, value: Tensor, tokens: Tokens, scaling: float, pattern: Pattern = EVERYONE
) -> Tensor:
    """One fused call for even rows, else one per row, on views: calls are cheap, and no padding is multiplied."""
    attend = partial(_fused, scale=scaling, is_causal=pattern.causal)
    bias = None if tokens.size is None else tokens.log_size
    width = value.shape[-1]
    if bias is not None and pattern.causal:  # the fused kernel takes a bias or causality, not both
        query, key, value = _with_sizes(query, key, value, tokens, scaling)
        bias = None
    if tokens.uniform is not None:
        everyone = None if bias is None else bias.view(len(tokens.counts), 1, 1, -1)
        return attend(query, key, value, everyone).transpose(1, 2)[..., :width]
    if pattern.dense and max(tokens.counts) * query.shape[-1] <= SHORT and query.dtype == torch.float32:
        return _padded(query, key, value, tokens, scaling, pattern, products)
    rows = zip(*(tensor.split(tokens.counts, 2) for tensor in (query, key, value)), strict=True)
    biases = [None] * len(tokens.counts) if bias is None else bias.view(1, 1, 1, -1).split(tokens.counts, 3)
    parts = [attend(q, k, v, own).transpose(1, 2) for (q, k, v), own in zip(rows, biases, strict=True)]
    return torch.cat(parts, 1)[..., :width]


def _fused(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *, scale: float, is_causal: bool = False
) -> Tensor:
    """Fused attention, whose queries may share keys; as transformers calls it, so that results have the same bits."""
    if mask is not None:  # accelerators have no fused kernel for both, a mask and shared keys
        key, value = _for_every_head(key, value, query.shape[1])
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        scale=scale,
        # A single query may see its single key: causality would only change the kernel.
        is_causal=is_causal and query.shape[2] > 1,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _for_every_head(key: Tensor, value: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    times = heads // key.shape[1]
    return (key, value) if times == 1 else (key.repeat_interleave(times, 1), value.repeat_interleave(times, 1))


def products(
    query: Float[Tensor, "rows heads queries width"],
    key: Float[Tensor, "rows key_heads keys width"],
    value: Float[Tensor, "rows key_heads keys width"],
    mask: Tensor | None,
    scaling: float,
    pattern: Pattern = EVERYONE,
) -> Float[Tensor, "rows heads queries width"]:
    """Attention in plain batched products, for what fused kernels cannot do and where rows are too short for them.

    Args:
        query: queries.
        key: keys.
        value: values.
        mask: True, or a number to add, where a query may attend to a key; broadcasts to ``(rows, heads, queries,
            keys)``.
        scaling: factor of the products.
        pattern: only ``softcap`` and ``sinks`` are looked at.
    """
    key, value = _for_every_head(key, value, query.shape[1])
    logits = (query @ key.transpose(2, 3)).mul_(scaling)
    if pattern.softcap is not None:
        logits = logits.div_(pattern.softcap).tanh_().mul_(pattern.softcap)
    if mask is not None:
        logits = logits.masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else logits.add_(mask)
    if pattern.sinks is not None:
        sinks = pattern.sinks.to(logits.dtype).view(1, -1, 1, 1).expand(*logits.shape[:3], 1)
        weights = torch.cat([logits, sinks], -1).softmax(-1, dtype=torch.float32)[..., :-1]
    else:
        weights = logits.softmax(-1, dtype=torch.float32)
    return weights.to(value.dtype) @ value


def _fused_masked(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, pattern: Pattern
) -> Tensor:
    return _fused(query, key, value, mask, scale=scaling)


def _padded(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tokens: Tokens,
    scaling: float,
    pattern: Pattern = EVERYONE,
    attend: Callable[[Tensor, Tensor, Tensor, Tensor | None, float, Pattern], Tensor] = _fused_masked,
) -> Tensor:
    """One call on rows padded to the longest, with a mask of keys: where calls are dear, or rows are short."""
    bias = _bias(tokens, pattern, query.dtype)
    if tokens.uniform is not None:
        return attend(query, key, value, bias, scaling, pattern).transpose(1, 2)
    query, key, value = (
        ragged.pad(tensor[0].transpose(0, 1), tokens).transpose(1, 2) for tensor in (query, key, value)
    )
    return ragged.unpad(attend(query, key, value, bias, scaling, pattern).transpose(1, 2), tokens)[None]


def _bias(tokens: Tokens, pattern: Pattern, dtype: torch.dtype) -> Float[Tensor, "rows 1 queries keys"]:
    """What is added to the logits of padded rows: the logarithm of sizes, ``-inf`` where a query may not look."""
    log_size = torch.zeros(tokens.total, device=tokens.row.device) if tokens.size is None else tokens.log_size
    bias = ragged.pad(log_size.to(dtype), tokens, -torch.inf)[:, None]
    if pattern.dense:
        return bias[:, None]
    assert pattern.allowed is not None
    seen = visible(tokens, pattern.allowed)
    # A place of padding sees itself: a query without any key would be nan, which nobody reads but all would see.
    length = seen.shape[1]
    padding = torch.arange(length, device=seen.device) >= tokens.count[:, None]
    return bias.masked_fill(~seen, -torch.inf).masked_fill(torch.diag_embed(padding), 0.0)[:, None]


def _with_sizes(
    query: Tensor, key: Tensor, value: Tensor, tokens: Tokens, scaling: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Append channels such that scaling * q'k' = scaling * qk + log(size): q gets a 1, k gets log(size) / scaling."""
    batch, _, length, _ = query.shape
    one = query.new_zeros(CHANNELS)
    one[0] = 1
    logarithm = (tokens.log_size / scaling).to(key.dtype).view(batch, 1, length, 1)
    query = torch.cat([query, one.expand(*query.shape[:-1], CHANNELS)], -1)
    key = torch.cat([key, (logarithm * one).expand(*key.shape[:-1], CHANNELS)], -1)
    return query, key, F.pad(value, (0, CHANNELS))
