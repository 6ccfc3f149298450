"""Softmax attention over a ragged batch: which computation is fastest where, all with the same result."""

from rltr.kernels.backends import BACKENDS, Backend, check_backend, check_kernel
from rltr.kernels.plan import Plan
from rltr.kernels.ragged import EVERYONE, ragged_attention
from rltr.kernels.rectangles import products

__all__ = ["BACKENDS", "EVERYONE", "Backend", "Plan", "check_backend", "check_kernel", "products", "ragged_attention"]
