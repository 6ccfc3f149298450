"""How good each answer was, and what the mean would have been on other examples of the same kind.

All points answer the same examples. So the bootstrap (Efron and Tibshirani 1993, chapter 8) draws the examples anew
once for all of them: what is hard for one point mostly is for its neighbours, and that cancels out of a difference.
"""

import base64
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike, NDArray

from rltr.errors import RltrError

RESAMPLES = 1000
"""Enough for the ends of a 95 % interval: 25 values lie beyond each."""


def pack(qualities: ArrayLike) -> str:
    """Quality per example as base64: one bit each where all are 0 or 1 (5,000 are 836 characters), else 32 bits."""
    values = np.asarray(qualities, dtype=np.float32)
    stored = np.packbits(values.astype(bool)) if is_binary(values) else values.astype("<f4")
    return base64.b64encode(stored.tobytes()).decode()


def is_binary(qualities: ArrayLike) -> bool:
    """Whether every answer is right or wrong, with nothing in between."""
    values = np.asarray(qualities)
    return bool(((values == 0) | (values == 1)).all())


def unpack(packed: str, examples: int) -> Float[NDArray[np.float32], " examples"]:
    """Undo :func:`pack`.

    Raises:
        RltrError: if ``packed`` is something else, or of another number of examples.
    """
    try:
        stored = np.frombuffer(base64.b64decode(packed, validate=True), dtype=np.uint8)
    except ValueError as error:
        raise RltrError(f"the answers of a point are damaged: {error}. Evaluate again") from error
    if len(stored) == 4 * examples:
        return stored.view("<f4").astype(np.float32)
    if len(stored) != -(-examples // 8):
        raise RltrError(
            f"the answers of a point are damaged: {8 * len(stored)} bits do not hold {examples} examples. "
            "Evaluate again"
        )
    return np.unpackbits(stored, count=examples).astype(np.float32)


def resampled_qualities(
    qualities: Shaped[NDArray[Any], "points examples"], *, seed: int = 0, resamples: int = RESAMPLES
) -> Float[NDArray[np.float64], "resamples points"]:
    """Mean quality of every point on ``resamples`` draws, with replacement, of as many examples, the same for all.

    Args:
        qualities: of each point's answer to each example; True or 1 where it was right.
        seed: of the draws; the same seed and number of examples give the same draws.
        resamples: how many draws.
    """
    examples = qualities.shape[1]
    # How often each example is drawn says all about a draw, and turns all means into one matrix product.
    drawn = np.random.default_rng(seed).multinomial(examples, np.full(examples, 1 / examples), size=resamples)
    return drawn.astype(np.float64) @ qualities.T.astype(np.float64) / examples
