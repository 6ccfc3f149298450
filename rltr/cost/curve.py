"""A latency curve: seconds per row as a polynomial of degree 2 in the number of tokens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import nnls
from torch import Tensor

from rltr.errors import RltrError

FLOOR = 0.05
"""Residuals of times below this fraction of the longest time are taken relative to it, because they matter little."""
LONGEST = 3.0
"""Weight of the largest token count in the fit. Savings are relative to it, and kernels are faster or slower there."""


@dataclass(frozen=True)
class Curve:
    """Seconds per row for ``n`` tokens: ``fixed + linear * n + quadratic * n**2``, with coefficients of at least 0.

    The three terms are the cost of calls, of linear maps and of attention. With so few coefficients a single slow
    measurement changes the curve little, and shows as a residual.
    """

    fixed: float
    linear: float
    quadratic: float
    longest: int
    """Largest measured number of tokens; the curve is extrapolated beyond it."""
    residual: float
    """Root mean square of the relative residuals; 0.05 is usual, because the time of kernels rises in steps."""

    def __post_init__(self) -> None:
        """Refuse a curve that falls as tokens are added, or is zero everywhere."""
        parts = (self.fixed, self.linear, self.quadratic, self.residual)
        if not all(0 <= part < math.inf for part in parts) or not any(parts[:3]) or self.longest < 1:
            raise RltrError(
                "a latency curve needs finite coefficients of at least 0, one of them above 0, and a longest count of "
                f"at least 1, got {self}. Measure it again"
            )

    def __call__(self, counts: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Seconds per row for rows of ``counts`` tokens."""
        return self.fixed + (self.linear + self.quadratic * counts) * counts

    def times(self, factor: float) -> "Curve":
        """The curve multiplied by ``factor``."""
        return Curve(self.fixed * factor, self.linear * factor, self.quadratic * factor, self.longest, self.residual)


def fit(counts: Sequence[int], seconds: Sequence[float]) -> Curve:
    """Fit a curve to measured times by least squares of the relative error.

    Args:
        counts: tokens per row, in ascending order.
        seconds: measured seconds per row, each above 0.
    """
    tokens, measured = np.array(counts, dtype=float), np.array(seconds, dtype=float)
    scale = np.maximum(measured, FLOOR * measured.max())
    weight = 1 / scale
    weight[-1] *= math.sqrt(LONGEST)
    powers = np.stack([np.ones_like(tokens), tokens, tokens**2], axis=1)
    # Columns scaled to equal norms, because nnls otherwise sets small ones to 0.
    size = np.linalg.norm(powers * weight[:, None], axis=0)
    parts = nnls(powers * weight[:, None] / size, measured * weight)[0] / size
    residual = math.sqrt(float(np.mean(((powers @ parts - measured) / scale) ** 2)))
    fixed, linear, quadratic = (float(part) for part in parts)
    return Curve(fixed, linear, quadratic, int(counts[-1]), residual)
