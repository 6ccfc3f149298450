"""Ragged attention: sizes, masks and groups of rows, put together for the backend that was chosen."""

import torch
from jaxtyping import Float
from torch import Tensor

from rltr.runtime.kernels import packed
from rltr.runtime.kernels.backends import choose
from rltr.runtime.kernels.plan import Plan
from rltr.runtime.kernels.rectangles import fused, products
from rltr.runtime.kernels.sizes import with_sizes
from rltr.runtime.pattern import Pattern

EVERYONE = Pattern()
"""Every token attends to all tokens of its row."""
MASKED = 512
"""Tokens of the longest row, up to which a CPU attends causally to tokens with sizes by a mask made once per decision:
faster there than copying queries and keys in every layer to widen them. Masks grow with the square of a row."""


def ragged_attention(
    query: Float[Tensor, "batch heads length width"],
    key: Float[Tensor, "batch key_heads length width"],
    value: Float[Tensor, "batch key_heads length width"],
    plan: Plan,
    scaling: float,
    pattern: Pattern = EVERYONE,
) -> Float[Tensor, "batch length heads width"]:
    """Softmax attention of every row's tokens to each other, and to no other row's.

    Once tokens have sizes, a token of size s is attended like s equal tokens: log(size) is added to its logits (ToMe,
    section 3). It is part of a mask where there is one, or where a mask keeps no fused kernel off, which is on a CPU;
    else it travels in extra channels of queries and keys.

    Args:
        query: queries; ``batch`` is 1 and ``length`` all packed tokens, or rows and their tokens if all have as many.
        key: keys; of fewer heads where queries share them.
        value: values, likewise.
        plan: the ragged batch, and how it is computed.
        scaling: factor of the products of queries and keys.
        pattern: who may attend to whom within a row.

    Raises:
        RltrError: if the plan asks for a kernel that does not run here.
    """
    tokens, width = plan.tokens, value.shape[-1]
    sized = tokens.size is not None
    alike = tokens.uniform is not None and pattern.fused and (pattern.dense or pattern.causal)
    backend = "sdpa-padded" if alike else choose(plan.backend, query, sized, pattern)
    kernel = {"varlen": packed.varlen, "flash": packed.flash}.get(backend)
    biased = _fused_with_bias(query.device)
    # Fused kernels know causality without a mask. Padding lies behind its row, so nobody sees it then.
    causal = pattern.fused and pattern.causal and not (sized and biased and max(tokens.counts) <= MASKED)
    maskless = kernel is not None or causal
    widened = sized and (maskless or alike and not biased)
    if widened:
        query, key, value = with_sizes(query, key, value, tokens, scaling)
    if kernel is not None:
        q, k, v = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key, value))
        return kernel(q, k, v, plan, scaling, pattern).view(*query.transpose(1, 2).shape)[..., :width]
    groups = plan.groups(backend, query.shape[1] * width)
    masks = [None] * len(groups.shapes) if maskless else plan.masks(groups, pattern, query.dtype, not widened)
    attend = fused if pattern.fused else products
    if tokens.uniform is not None:
        return attend(query, key, value, masks[0], scaling, pattern).transpose(1, 2)[..., :width]
    parts = zip(*(groups.arrange(tensor) for tensor in (query, key, value)), masks, strict=True)
    return groups.collect([attend(q, k, v, mask, scaling, pattern) for q, k, v, mask in parts])[..., :width]


def _fused_with_bias(device: torch.device) -> bool:
    """Whether a bias leaves the fused kernel on; a CPU's takes one, and nothing has to be copied."""
    return device.type == "cpu"
