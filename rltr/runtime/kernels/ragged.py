"""Ragged attention: combines sizes, masks and groups of rows for the chosen backend."""

import torch
from jaxtyping import Float
from torch import Tensor

from rltr.runtime.kernels import packed
from rltr.runtime.kernels.backends import choose
from rltr.runtime.kernels.plan import Plan
from rltr.runtime.kernels.rectangles import fused, unfused
from rltr.runtime.kernels.sizes import with_sizes
from rltr.runtime.pattern import Pattern

FULL_ATTENTION = Pattern()
"""Every token attends to all tokens of its row."""
LONGEST_MASKED = 512
"""Longest row, in tokens, for which a CPU uses a mask for causal attention to tokens with sizes. The mask is made once
per decision, which is faster than widening queries and keys in every layer, but grows with the square of the length."""


def ragged_attention(
    query: Float[Tensor, "batch heads length width"],
    key: Float[Tensor, "batch key_heads length width"],
    value: Float[Tensor, "batch key_heads length width"],
    plan: Plan,
    scaling: float,
    pattern: Pattern = FULL_ATTENTION,
) -> Float[Tensor, "batch length heads width"]:
    """Softmax attention within each row of a ragged batch.

    A token of size s is attended like s equal tokens: log(s) is added to the logits of its key (ToMe, section 3). The
    log sizes are part of the mask if there is one, and on a CPU, whose fused kernel takes a mask. Otherwise they are
    passed in extra channels of queries and keys.

    Args:
        query: queries. If all rows have equally many tokens, ``batch`` is the rows and ``length`` their tokens;
            otherwise ``batch`` is 1 and ``length`` all packed tokens.
        key: keys, with fewer heads in grouped-query attention.
        value: values, likewise.
        plan: the ragged batch and the backend.
        scaling: factor of the dot products.
        pattern: the attention pattern within a row.

    Raises:
        RltrError: if the plan's backend is a kernel that cannot run on this device in this precision.
    """
    tokens, width = plan.tokens, value.shape[-1]
    sized = tokens.size is not None
    one_call = tokens.uniform is not None and pattern.fused and (pattern.dense or pattern.causal)
    backend = "sdpa-padded" if one_call else choose(plan.backend, query, sized, pattern)
    kernel = {"varlen": packed.varlen, "flash": packed.flash}.get(backend)
    biased = _fused_with_bias(query.device)
    # Fused kernels can attend causally without a mask. Padding comes after the row's tokens, so none attends to it.
    causal = pattern.fused and pattern.causal and not (sized and biased and max(tokens.counts) <= LONGEST_MASKED)
    maskless = kernel is not None or causal
    widened = sized and (maskless or one_call and not biased)
    if widened:
        query, key, value = with_sizes(query, key, value, tokens, scaling)
    if kernel is not None:
        q, k, v = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key, value))
        return kernel(q, k, v, plan, scaling, pattern).view(*query.transpose(1, 2).shape)[..., :width]
    groups = plan.groups(backend, query.shape[1] * width)
    masks = [None] * len(groups.shapes) if maskless else plan.masks(groups, pattern, query.dtype, not widened)
    attend = fused if pattern.fused else unfused
    if tokens.uniform is not None:
        return attend(query, key, value, masks[0], scaling, pattern).transpose(1, 2)[..., :width]
    parts = zip(*(groups.arrange(tensor) for tensor in (query, key, value)), masks, strict=True)
    return groups.collect([attend(q, k, v, mask, scaling, pattern) for q, k, v, mask in parts])[..., :width]


def _fused_with_bias(device: torch.device) -> bool:
    """Whether the fused kernel of a device takes an additive mask: a CPU's does, without copies."""
    return device.type == "cpu"
