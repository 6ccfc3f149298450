"""Bootstrap over examples: store the quality of each answer, and compute means on resampled examples.

All operating points answer the same examples, so the bootstrap (Efron and Tibshirani 1993, chapter 8) uses the same
resamples for all of them. An example that is hard for one point is mostly hard for others, too, and the difference of
two points cancels that.
"""

import base64
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike, NDArray

from rltr.errors import RltrError

RESAMPLES = 1000
"""Number of resamples, enough for a 95 % interval: 25 values lie beyond each end."""


def pack(qualities: ArrayLike) -> str:
    """Encode the quality per example as base64: one bit each if all are 0 or 1 (836 characters for 5,000), else 32."""
    values = np.asarray(qualities, dtype=np.float32)
    stored = np.packbits(values.astype(bool)) if is_binary(values) else values.astype("<f4")
    return base64.b64encode(stored.tobytes()).decode()


def is_binary(qualities: ArrayLike) -> bool:
    """Whether all qualities are 0 or 1."""
    values = np.asarray(qualities)
    return bool(((values == 0) | (values == 1)).all())


def unpack(packed: str, examples: int) -> Float[NDArray[np.float32], " examples"]:
    """Decode the result of :func:`pack`.

    Raises:
        RltrError: if ``packed`` is not such a result or has another number of examples.
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
    """Mean quality of every point on bootstrap resamples of the examples, the same resamples for all points.

    Args:
        qualities: quality of each point's answer to each example; for classification True or 1 if it was right.
        seed: the same seed and number of examples give the same resamples.
        resamples: number of resamples, each as large as the set of examples, drawn with replacement.
    """
    examples = qualities.shape[1]
    # The number of times each example is drawn describes a resample, and turns all means into one matrix product.
    drawn = np.random.default_rng(seed).multinomial(examples, np.full(examples, 1 / examples), size=resamples)
    return drawn.astype(np.float64) @ qualities.T.astype(np.float64) / examples
