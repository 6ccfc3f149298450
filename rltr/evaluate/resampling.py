"""Which answers were right, and what the accuracies would have been on other examples of the same kind.

All points answer the same examples. So the bootstrap (Efron and Tibshirani 1993, chapter 8) draws the examples anew
once for all of them: what is hard for one point mostly is for its neighbours, and that cancels out of a difference.
"""

import base64

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike, NDArray

from rltr.errors import RltrError

RESAMPLES = 1000
"""Enough for the ends of a 95 % interval: 25 values lie beyond each."""


def pack(right: ArrayLike) -> str:
    """One bit per example, as base64: 5,000 examples are 836 characters."""
    return base64.b64encode(np.packbits(np.asarray(right, dtype=bool)).tobytes()).decode()


def unpack(packed: str, examples: int) -> Bool[NDArray[np.bool_], " examples"]:
    """Undo :func:`pack`.

    Raises:
        RltrError: if ``packed`` is something else, or of another number of examples.
    """
    try:
        stored = np.frombuffer(base64.b64decode(packed, validate=True), dtype=np.uint8)
    except ValueError as error:
        raise RltrError(f"the right answers of a point are damaged: {error}. Evaluate again") from error
    if len(stored) != -(-examples // 8):
        raise RltrError(
            f"the right answers of a point are damaged: {8 * len(stored)} bits do not hold {examples} examples. "
            "Evaluate again"
        )
    return np.unpackbits(stored, count=examples).astype(bool)


def resampled_accuracies(
    right: Bool[NDArray[np.bool_], "points examples"], *, seed: int = 0, resamples: int = RESAMPLES
) -> Float[NDArray[np.float64], "resamples points"]:
    """Accuracy of every point on ``resamples`` draws, with replacement, of as many examples; all points on the same.

    Args:
        right: whether each point answered each example rightly.
        seed: of the draws; the same seed and number of examples give the same draws.
        resamples: how many draws.
    """
    examples = right.shape[1]
    # How often each example is drawn says all about a draw, and turns all means into one matrix product.
    drawn = np.random.default_rng(seed).multinomial(examples, np.full(examples, 1 / examples), size=resamples)
    return drawn.astype(np.float64) @ right.T.astype(np.float64) / examples
