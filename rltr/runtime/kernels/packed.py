"""Fused kernels that take packed rows as they are: torch's ``varlen_attn`` and flash-attention's varlen function.

Both need a CUDA device. They are written to their documented signatures and tested through stand-ins that have these
signatures and compute the same in plain operations: **not run on a GPU here**.

Their windows count packed positions, and so would hold tokens together that were far apart before others left. Only
full and causal attention is asked of them.
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
"""Channels per head that both kernels can do at most."""
CAPABILITY = (8, 0)
"""CUDA capability (Ampere) that both kernels need."""


@cache
def varlen_kernel() -> Callable[..., Any] | None:
    """``torch.nn.attention.varlen.varlen_attn``, if this torch has it with all arguments that it is called with."""
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return None
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    return varlen_attn if {"scale", "window_size", "enable_gqa"} <= known.keys() else None


@cache
def flash_kernel() -> Callable[..., Any] | None:
    """``flash_attn.flash_attn_varlen_func`` of flash-attention 2, if it is installed."""
    if importlib.util.find_spec("flash_attn") is None:
        return None
    kernel: Callable[..., Any] = importlib.import_module("flash_attn").flash_attn_varlen_func
    known = inspect.signature(kernel).parameters
    return kernel if {"softmax_scale", "causal", "softcap"} <= known.keys() else None


def refusal(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why neither kernel runs on this device in this precision; None if it does."""
    if device.type != "cuda":
        return f"it needs a CUDA device, and the model is on {device.type}"
    if torch.cuda.get_device_capability(device) < CAPABILITY:
        return "it needs a GPU of compute capability 8.0 (Ampere) or newer"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"it computes in float16 and bfloat16, and the model is in {str(dtype).removeprefix('torch.')}"
    return None


def can(pattern: Pattern, width: int, sized: bool, capped: bool) -> bool:
    """Whether such a kernel computes a pattern exactly.

    Args:
        pattern: who attends to whom.
        width: channels per head.
        sized: whether tokens have sizes, which then travel in extra channels.
        capped: whether the kernel squeezes logits. It squeezes those of sizes, too, so with sizes it is of no use.
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
    """Attention of packed rows by torch's kernel; not run on a GPU here."""
    kernel = varlen_kernel()
    assert kernel is not None
    most = max(plan.tokens.counts)
    return kernel(
        query,
        key,
        value,
        plan.boundaries,
        plan.boundaries,
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
    """Attention of packed rows by flash-attention's kernel; not run on a GPU here."""
    kernel = flash_kernel()
    assert kernel is not None
    most = max(plan.tokens.counts)
    return kernel(
        query,
        key,
        value,
        plan.boundaries,
        plan.boundaries,
        most,
        most,
        softmax_scale=scaling,
        causal=pattern.causal,
        softcap=pattern.softcap or 0.0,  # which means: leave them
    )
