"""Actions as keep masks: whatever says keep or drop for every token, and nothing else."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from rltr.errors import RltrError


def keep_mask(actions: object, rows: int, grid: int) -> Bool[Tensor, "rows grid"]:
    """Actions as a mask: 1 keeps a token, 0 drops it.

    Args:
        actions: an array, tensor or nested list ``(rows, grid)`` of truth values, or of numbers of any kind, each 0 or
            1; stable-baselines3 hands bits over as floats.
        rows: how many inputs the actions are for.
        grid: places for tokens of each.

    Raises:
        RltrError: for another shape, for what is no number, and for every number but 0 and 1. NaN, a logit or a
            probability compared with a threshold would drop or keep tokens without anybody having said so.
    """
    try:
        # Through numpy: torch lacks some of its types, and makes a tensor of a list of arrays one number at a time.
        given: Any = actions if isinstance(actions, Tensor) else np.asarray(actions)
    except ValueError as error:  # a ragged list
        raise RltrError(f"actions are no array of bits: {error}") from error
    if given.shape != (rows, grid):
        raise RltrError(f"actions have shape {tuple(given.shape)}; expected {(rows, grid)}: one bit for every token")
    if isinstance(given, np.ndarray) and given.dtype.kind not in "buif":
        raise RltrError(
            f"actions are {given.dtype}, not bits: give 1 for every token to keep and 0 for every one to drop"
        )
    keep = given == 1
    wrong = given[~keep & (given != 0)]
    if len(wrong):
        raise RltrError(
            f"an action is {wrong[0].item()}: give 1 for every token to keep and 0 for every one to drop; likely "
            "cause: logits, probabilities or NaN of a policy that diverged, in place of what was drawn from them"
        )
    return torch.as_tensor(keep)
