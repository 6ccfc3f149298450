"""Which computation runs: by device, precision and pattern, unless somebody says which."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rltr.errors import RltrError
from rltr.runtime.kernels import packed
from rltr.runtime.kernels.names import BACKENDS, KERNELS, Backend
from rltr.runtime.pattern import Pattern


def check_kernel(backend: str, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse a kernel for packed rows that does not run on this device in this precision.

    Raises:
        RltrError: if ``backend`` is one, and why.
    """
    if backend not in KERNELS:
        return
    reason = packed.refusal(device, dtype)
    if reason is None and _kernel(backend) is None:
        reason = "this torch has no such kernel, 2.13 has" if backend == "varlen" else "install flash-attn >= 2.6"
    if reason is not None:
        usable = ", ".join(name for name in BACKENDS if name not in KERNELS)
        raise RltrError(f"attention={backend!r} cannot run here: {reason}; choose one of {usable}")


def choose(backend: Backend, query: Tensor, sized: bool, pattern: Pattern) -> Backend:
    """The backend for uneven rows: ``auto`` is resolved, but for a CPU, where ``plan.py`` decides by the rows.

    Args:
        backend: what was asked for.
        query: queries, for their device, precision and channels per head.
        sized: whether tokens have sizes.
        pattern: who attends to whom.

    Raises:
        RltrError: if a kernel was asked for that does not run here.
    """
    if backend in KERNELS:
        check_kernel(backend, query.device, query.dtype)  # the model may have been moved
    elif backend != "auto" or _on_cpu(query.device):
        return backend
    if packed.refusal(query.device, query.dtype) is None:
        for name in KERNELS:
            fits = packed.can(pattern, query.shape[-1], sized, capped=name == "flash")
            if backend in ("auto", name) and fits and _kernel(name) is not None:
                return name
    return "sdpa-padded"


def _kernel(name: str) -> Callable[..., Any] | None:
    return packed.varlen_kernel() if name == "varlen" else packed.flash_kernel()


def _on_cpu(device: torch.device) -> bool:
    return device.type == "cpu"
