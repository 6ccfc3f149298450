"""Attention of rows of equal length: fused, or unfused where the fused kernel cannot compute the pattern."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rltr.runtime.pattern import Pattern
from rltr.runtime.tokens import precise


def fused(
    query: Float[Tensor, "rows heads queries width"],
    key: Float[Tensor, "rows key_heads keys width"],
    value: Float[Tensor, "rows key_heads keys width"],
    mask: Tensor | None,
    scaling: float,
    pattern: Pattern,
) -> Float[Tensor, "rows heads queries width"]:
    """Compute attention with ``scaled_dot_product_attention``, called as transformers does, for bitwise equal results.

    Args:
        query: queries.
        key: keys, with fewer heads in grouped-query attention.
        value: values, likewise.
        mask: added to the logits; broadcasts to ``(rows, heads, queries, keys)``. It then replaces the pattern.
        scaling: factor of the dot products.
        pattern: only whether it is causal is used, and only without a mask.
    """
    if mask is not None:  # accelerators have no fused kernel for a mask with grouped queries
        key, value = _for_every_head(key, value, query.shape[1])
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        scale=scaling,
        # A single token attends to itself in any case; is_causal would only change the kernel.
        is_causal=mask is None and pattern.causal and query.shape[2] > 1,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def unfused(
    query: Float[Tensor, "rows heads queries width"],
    key: Float[Tensor, "rows key_heads keys width"],
    value: Float[Tensor, "rows key_heads keys width"],
    mask: Tensor | None,
    scaling: float,
    pattern: Pattern,
) -> Float[Tensor, "rows heads queries width"]:
    """Compute attention with matrix products, for what fused kernels lack: capped logits and sinks.

    Args:
        query: queries.
        key: keys, with fewer heads in grouped-query attention.
        value: values, likewise.
        mask: boolean (True where a query may attend to a key) or added to the logits; broadcasts to ``(rows, heads,
            queries, keys)``.
        scaling: factor of the dot products.
        pattern: only ``softcap`` and ``sinks`` are used.
    """
    key, value = _for_every_head(key, value, query.shape[1])
    logits = (query @ key.transpose(2, 3)).mul_(scaling)
    if pattern.softcap is not None:
        # The product is not in place, because the gradient needs tanh's output.
        logits = logits.div_(pattern.softcap).tanh() * pattern.softcap
    if mask is not None:
        # Not -inf: a query without any allowed key (padding in a window) would give NaN.
        lowest = torch.finfo(logits.dtype).min
        logits = logits.masked_fill_(~mask, lowest) if mask.dtype == torch.bool else logits.add_(mask)
    if pattern.sinks is not None:
        sinks = pattern.sinks.to(logits.dtype).view(1, -1, 1, 1).expand(*logits.shape[:3], 1)
        weights = torch.cat([logits, sinks], -1).softmax(-1, dtype=precise(logits.dtype))[..., :-1]
    else:
        weights = logits.softmax(-1, dtype=precise(logits.dtype))
    return weights.to(value.dtype) @ value


def _for_every_head(key: Tensor, value: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    times = heads // key.shape[1]
    return (key, value) if times == 1 else (key.repeat_interleave(times, 1), value.repeat_interleave(times, 1))
