"""Attention of rows that have equally many places: one fused call, or plain products for what it cannot do."""

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
    """Fused attention, whose queries may share keys; as transformers calls it, so that results have the same bits.

    Args:
        query: queries.
        key: keys.
        value: values.
        mask: a number to add where a query attends to a key; broadcasts to ``(rows, heads, queries, keys)``. With one,
            nothing but the mask says who sees whom.
        scaling: factor of the products.
        pattern: without a mask, whether it is causal.
    """
    if mask is not None:  # accelerators have no fused kernel for both, a mask and shared keys
        key, value = _for_every_head(key, value, query.shape[1])
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        scale=scaling,
        # A single query may see its single key: causality would only change the kernel.
        is_causal=mask is None and pattern.causal and query.shape[2] > 1,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def products(
    query: Float[Tensor, "rows heads queries width"],
    key: Float[Tensor, "rows key_heads keys width"],
    value: Float[Tensor, "rows key_heads keys width"],
    mask: Tensor | None,
    scaling: float,
    pattern: Pattern,
) -> Float[Tensor, "rows heads queries width"]:
    """Attention in plain batched products, for what fused kernels cannot do: capped logits, sinks.

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
        # Not all in place: a gradient needs what tanh gave.
        logits = logits.div_(pattern.softcap).tanh() * pattern.softcap
    if mask is not None:
        # Not minus infinity: a query that may attend to nobody (padding in a window) must not spread NaN.
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
