"""Attention patterns within a row, as requested by transformers: causal, sliding window, capped logits, sinks."""

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
    """How tokens of a row attend to each other; the default is full bidirectional attention.

    Attributes:
        allowed: mask function on *original* positions: a window of 128 tokens still spans 128 places of the input after
            tokens were removed. None allows everything.
        softcap: bound of the logits' absolute values, applied through tanh; None leaves them (Gemma 2, section 2).
        sinks: a logit per head that takes part in the softmax but has no value, or None.
    """

    allowed: Allowed | None = None
    softcap: float | None = None
    sinks: Float[Tensor, " heads"] | None = None

    @property
    def causal(self) -> bool:
        """Whether each token attends to itself and all earlier ones, which fused kernels support without a mask."""
        return self.allowed is causal_mask_function

    @property
    def dense(self) -> bool:
        """Whether every token attends to every token."""
        return self.allowed is None or self.allowed is bidirectional_mask_function

    @property
    def fused(self) -> bool:
        """Whether ``scaled_dot_product_attention`` can compute it: no capped logits, no sinks."""
        return self.softcap is None and self.sinks is None


def visible(
    row: Int[Tensor, " rows"], position: Int[Tensor, "rows length"], allowed: Allowed
) -> Bool[Tensor, "rows length length"]:
    """Evaluate a mask function on rows of equal length; axes of the result are row, query, key.

    Args:
        row: index of each row in the batch.
        position: original position of each token.
        allowed: the mask function.
    """
    rows, length = position.shape
    here = row[:, None, None, None]
    seen = allowed(here, torch.zeros_like(here), position[:, None, :, None], position[:, None, None, :])
    return seen.expand(rows, 1, length, length)[:, 0]
