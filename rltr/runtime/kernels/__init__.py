"""Softmax attention over a ragged batch: several ways to compute the same result, each fastest somewhere."""

from rltr.runtime.kernels.backends import check_kernel
from rltr.runtime.kernels.names import BACKENDS, Backend, check_backend
from rltr.runtime.kernels.plan import Plan
from rltr.runtime.kernels.ragged import FULL_ATTENTION, ragged_attention
from rltr.runtime.kernels.rectangles import unfused

__all__ = [
    "BACKENDS",
    "FULL_ATTENTION",
    "Backend",
    "Plan",
    "check_backend",
    "check_kernel",
    "ragged_attention",
    "unfused",
]
