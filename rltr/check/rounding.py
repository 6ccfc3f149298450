"""How much rounding may change a model's outputs, by the model's precision."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from rltr.runtime.backbone import Backbone

STEPS = 84
"""Tolerance in units of machine epsilon, for sums in another order: about 1e-5 in single precision."""


def in_single_precision(backbone: Backbone) -> Backbone:
    """Return the backbone, or a copy in single precision if it is in half precision.

    The copy takes twice the memory of the original.
    """
    if not _half(backbone.dtype):
        return backbone
    path = next(path for path, part in backbone.model.named_modules() if part is backbone.root)
    return Backbone(copy.deepcopy(backbone.model).float(), path or None, backbone.family)


def in_its_precision(backbone: Backbone, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert floating-point inputs to the dtype of a backbone."""
    return {name: value.to(backbone.dtype) if value.is_floating_point() else value for name, value in inputs.items()}


def max_difference(one: Tensor, other: Tensor) -> float:
    """Return the largest absolute difference between two tensors."""
    return float((one - other).abs().max())


def tolerance(native: Tensor, exact: Tensor, dtype: torch.dtype) -> float:
    """Return how much a reduced pass may differ from ``exact``.

    In single and double precision, where ``exact`` is the native output itself: :data:`STEPS` times machine epsilon,
    times the largest number of ``exact`` (at least 1). In half precision such a bound would be too wide to detect
    errors: there it is twice the difference between ``native`` and ``exact``, and at least one epsilon of the largest
    number.

    Args:
        native: outputs of the native model in its own precision.
        exact: outputs of the same weights in at least single precision.
        dtype: the native model's dtype.
    """
    size, step = float(exact.abs().max()), torch.finfo(dtype).eps
    return max(2 * max_difference(native, exact), step * size) if _half(dtype) else STEPS * step * max(1.0, size)


def _half(dtype: torch.dtype) -> bool:
    return torch.finfo(dtype).eps > torch.finfo(torch.float32).eps
