"""Softmax attention over a ragged batch: which computation is fastest where, all with the same result."""

from rltr.runtime.kernels.backends import check_kernel
from rltr.runtime.kernels.names import BACKENDS, Backend, check_backend
from rltr.runtime.kernels.plan import Plan
from rltr.runtime.kernels.ragged import EVERYONE, ragged_attention
from rltr.runtime.kernels.rectangles import products

__all__ = ["BACKENDS", "EVERYONE", "Backend", "Plan", "check_backend", "check_kernel", "products", "ragged_attention"]
