"""How far two computations of the same may be apart: as far as rounding takes them, in the precision of the model."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from rltr.runtime.backbone import Backbone

STEPS = 84
"""Steps of a number's own precision that two orders of the same sums may differ by: 1e-5 in single precision."""


def in_single_precision(backbone: Backbone) -> Backbone:
    """A backbone of the same weights that rounds to nothing that matters: itself, unless it is in half precision.

    A model in half precision is not touched. It is copied for as long as the result lives, which takes three times its
    memory in all.
    """
    if not _half(backbone.dtype):
        return backbone
    path = next(path for path, part in backbone.model.named_modules() if part is backbone.root)
    return Backbone(copy.deepcopy(backbone.model).float(), path or None, backbone.family)


def as_its_own(backbone: Backbone, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inputs in the precision of a backbone, where they are floating-point numbers."""
    return {name: value.to(backbone.dtype) if value.is_floating_point() else value for name, value in inputs.items()}


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference between two tensors."""
    return float((one - other).abs().max())


def tolerance(native: Tensor, exact: Tensor, dtype: torch.dtype) -> float:
    """How far from ``exact`` another computation may be that rounds as the native one does.

    In single precision, where both are the same, some steps of that precision at the size of the largest number. Half
    precision is too coarse for such a bound, which nothing would exceed: there it is twice as far as the native model
    itself is from ``exact``, or one step at that size.

    Args:
        native: what the native model says, in its own precision.
        exact: the same in single precision.
        dtype: the precision of the native model.
    """
    size, step = float(exact.abs().max()), torch.finfo(dtype).eps
    return max(2 * apart(native, exact), step * size) if _half(dtype) else STEPS * step * max(1.0, size)


def _half(dtype: torch.dtype) -> bool:
    return torch.finfo(dtype).eps > torch.finfo(torch.float32).eps
