"""Convert actions to keep masks; anything but one bit per token is an error."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from rltr.errors import RltrError


def keep_mask(actions: object, rows: int, grid: int) -> Bool[Tensor, "rows grid"]:
    """Convert actions to a boolean mask: 1 keeps a token, 0 drops it.

    Args:
        actions: array, tensor or nested list ``(rows, grid)`` of booleans or of numbers that are 0 or 1, of any dtype:
            stable-baselines3 passes bits as floats.
        rows: number of inputs.
        grid: number of token places per input.

    Raises:
        RltrError: for another shape, another type, or any number but 0 and 1. If NaN, logits or probabilities were
            compared with a threshold instead, a mistake of the caller would silently keep or drop tokens.
    """
    try:
        # Through numpy: torch lacks some of its dtypes, and converts lists of arrays one number at a time.
        given: Any = actions if isinstance(actions, Tensor) else np.asarray(actions)
    except ValueError as error:  # a ragged list
        raise RltrError(f"actions are not an array of bits: {error}") from error
    if given.shape != (rows, grid):
        raise RltrError(f"actions have shape {tuple(given.shape)}; expected {(rows, grid)}: one bit per token")
    if isinstance(given, np.ndarray) and given.dtype.kind not in "buif":
        raise RltrError(
            f"actions are {given.dtype}, not bits: pass 1 for every token to keep and 0 for every token to drop"
        )
    keep = given == 1
    wrong = given[~keep & (given != 0)]
    if len(wrong):
        raise RltrError(
            f"an action is {wrong[0].item()}: pass 1 for every token to keep and 0 for every token to drop; likely "
            "cause: logits or probabilities instead of bits sampled from them, or NaN from a policy that diverged"
        )
    return torch.as_tensor(keep)
