"""Fused kernels for packed rows: torch's ``varlen_attn`` and flash-attention's varlen function.

Both need a CUDA device. The calls follow the documented signatures and are tested with stand-ins that have these
signatures and compute the same in plain operations. **They have not been run on a GPU.**

Only full and causal attention is delegated to them: their sliding windows count packed positions instead of original
ones.
"""

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from rltr.runtime.kernels.sizes import CHANNELS
from rltr.runtime.pattern import Pattern

if TYPE_CHECKING:
    from rltr.runtime.kernels.plan import Plan

WIDEST = 256
"""Largest number of channels per head that both kernels support."""
CAPABILITY = (8, 0)
"""Lowest CUDA compute capability that both kernels support (Ampere)."""


@cache
def varlen_kernel() -> Callable[..., Any] | None:
    """Return ``torch.nn.attention.varlen.varlen_attn``, or None if this torch lacks it or an argument used here."""
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return None
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    return varlen_attn if {"scale", "window_size", "enable_gqa"} <= known.keys() else None


@cache
def flash_kernel() -> Callable[..., Any] | None:
    """Return ``flash_attn.flash_attn_varlen_func``, or None if flash-attention 2 is not installed."""
    if importlib.util.find_spec("flash_attn") is None:
        return None
    kernel: Callable[..., Any] = importlib.import_module("flash_attn").flash_attn_varlen_func
    known = inspect.signature(kernel).parameters
    return kernel if {"softmax_scale", "causal", "softcap"} <= known.keys() else None


def refusal(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why the kernels cannot run on this device in this precision, or None if they can."""
    if device.type != "cuda":
        return f"it needs a CUDA device, and the model is on {device.type}"
    if torch.cuda.get_device_capability(device) < CAPABILITY:
        return "it needs a GPU of compute capability 8.0 (Ampere) or newer"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"it computes in float16 and bfloat16, and the model is in {str(dtype).removeprefix('torch.')}"
    return None


def supports(pattern: Pattern, width: int, sized: bool, capped: bool) -> bool:
    """Return whether such a kernel computes a pattern exactly.

    Args:
        pattern: the attention pattern.
        width: channels per head.
        sized: whether tokens have sizes, which are passed in extra channels.
        capped: whether the kernel can cap logits. It would cap the sizes' share of the logits, too, so capped patterns
            are only supported without sizes.
    """
    if not (pattern.dense or pattern.causal) or pattern.sinks is not None:
        return False
    if pattern.softcap is not None and (sized or not capped):
        return False
    return width % 8 == 0 and width + (CHANNELS if sized else 0) <= WIDEST


def varlen(
    query: Float[Tensor, "total heads width"],
    key: Float[Tensor, "total key_heads width"],
    value: Float[Tensor, "total key_heads width"],
    plan: "Plan",
    scaling: float,
    pattern: Pattern,
) -> Float[Tensor, "total heads width"]:
    """Attention over packed rows with torch's kernel."""
    kernel = varlen_kernel()
    assert kernel is not None
    most = max(plan.tokens.counts)
    return kernel(
        query,
        key,
        value,
        plan.cu_seqlens,
        plan.cu_seqlens,
        most,
        most,
        scale=scaling,
        window_size=(-1, 0) if pattern.causal else (-1, -1),
        enable_gqa=query.shape[1] != key.shape[1],
    )


def flash(
    query: Float[Tensor, "total heads width"],
    key: Float[Tensor, "total key_heads width"],
    value: Float[Tensor, "total key_heads width"],
    plan: "Plan",
    scaling: float,
    pattern: Pattern,
) -> Float[Tensor, "total heads width"]:
    """Attention over packed rows with flash-attention's kernel."""
    kernel = flash_kernel()
    assert kernel is not None
    most = max(plan.tokens.counts)
    return kernel(
        query,
        key,
        value,
        plan.cu_seqlens,
        plan.cu_seqlens,
        most,
        most,
        softmax_scale=scaling,
        causal=pattern.causal,
        softcap=pattern.softcap or 0.0,  # 0 means no cap
    )
