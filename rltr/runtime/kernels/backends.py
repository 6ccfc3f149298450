"""Choose the attention backend by device, precision and attention pattern."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rltr.errors import RltrError
from rltr.runtime.kernels import packed
from rltr.runtime.kernels.names import BACKENDS, KERNELS, Backend
from rltr.runtime.pattern import Pattern


def check_kernel(backend: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raise if ``backend`` is a kernel for packed rows that cannot run on this device in this precision.

    Raises:
        RltrError: if the device, the precision or the installed packages do not allow it.
    """
    if backend not in KERNELS:
        return
    reason = packed.refusal(device, dtype)
    if reason is None and _kernel(backend) is None:
        reason = "this torch has no such kernel, 2.13 has it" if backend == "varlen" else "install flash-attn >= 2.6"
    if reason is not None:
        usable = ", ".join(name for name in BACKENDS if name not in KERNELS)
        raise RltrError(f"attention={backend!r} cannot run here: {reason}; choose one of {usable}")


def choose(backend: Backend, query: Tensor, sized: bool, pattern: Pattern) -> Backend:
    """Choose the backend for rows of different lengths.

    On a CPU ``auto`` is returned as it is: ``plan.py`` then decides by the lengths of the rows. A kernel that cannot
    compute the pattern exactly is replaced by ``sdpa-padded``.

    Args:
        backend: the requested backend.
        query: queries; their device, precision and channels per head matter.
        sized: whether tokens have sizes.
        pattern: the attention pattern.

    Raises:
        RltrError: if the requested kernel cannot run on this device in this precision.
    """
    if backend in KERNELS:
        check_kernel(backend, query.device, query.dtype)  # the model may have been moved
    elif backend != "auto" or _on_cpu(query.device):
        return backend
    if packed.refusal(query.device, query.dtype) is None:
        for name in KERNELS:
            fits = packed.supports(pattern, query.shape[-1], sized, capped=name == "flash")
            if backend in ("auto", name) and fits and _kernel(name) is not None:
                return name
    return "sdpa-padded"


def _kernel(name: str) -> Callable[..., Any] | None:
    return packed.varlen_kernel() if name == "varlen" else packed.flash_kernel()


def _on_cpu(device: torch.device) -> bool:
    return device.type == "cpu"
