"""Who may attend to whom within a row: causal, sliding windows, capped logits, sinks, as transformers asked for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function

Allowed: TypeAlias = Callable[[Any, Any, Any, Any], Any]
"""Transformers' mask function: whether, in row ``r`` and head ``h``, a query at ``q`` may attend to a key at ``k``."""


@dataclass(frozen=True)
class Pattern:
    """How tokens of a row attend to each other; the default lets everyone attend to everyone.

    Attributes:
        allowed: who may attend to whom, by *original* positions: a window of 128 tokens still spans 128 places of the
            input after most of its tokens have left. None allows everything.
        softcap: logits are squeezed to between minus and plus this, None leaves them (Gemma 2, section 2).
        sinks: a logit per head that takes part in the softmax and gives no value, or None.
    """

    allowed: Allowed | None = None
    softcap: float | None = None
    sinks: Float[Tensor, " heads"] | None = None

    @property
    def causal(self) -> bool:
        """Whether tokens attend to themselves and to all before them: fused kernels know that without a mask."""
        return self.allowed is causal_mask_function

    @property
    def dense(self) -> bool:
        """Whether everyone attends to everyone."""
        return self.allowed is None or self.allowed is bidirectional_mask_function

    @property
    def fused(self) -> bool:
        """Whether ``scaled_dot_product_attention`` can compute it: it neither caps logits nor knows sinks."""
        return self.softcap is None and self.sinks is None


def visible(
    row: Int[Tensor, " rows"], position: Int[Tensor, "rows length"], allowed: Allowed
) -> Bool[Tensor, "rows length length"]:
    """Which keys each query may see, in rows that have equally many places.

    Args:
        row: which rows of the batch they are.
        position: the original place of the token at each place.
        allowed: who may attend to whom.
    """
    rows, length = position.shape
    here = row[:, None, None, None]
    seen = allowed(here, torch.zeros_like(here), position[:, None, :, None], position[:, None, None, :])
    return seen.expand(rows, 1, length, length)[:, 0]
