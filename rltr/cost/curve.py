"""A fitted curve: seconds per row as a fixed part, a part per token and a part per pair of tokens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import nnls
from torch import Tensor

from rltr.errors import RltrError

FLOOR = 0.05
"""Times below this share of the longest's count as if they were as long: nobody saves anything on one token."""
LONGEST = 3.0
"""How often the longest count counts: all savings are shares of it, and kernels take a step there that no curve has."""


@dataclass(frozen=True)
class Curve:
    """Seconds per row: ``fixed + linear * n + quadratic * n**2``. More tokens are never cheaper.

    Three numbers for a whole curve leave noise no room: a single slow measurement moves them little, and shows as a
    residual. Layers have such a form by nature: calls, linear maps, attention.
    """

    fixed: float
    linear: float
    quadratic: float
    longest: int
    """The most tokens it was measured with; beyond, the same form goes on."""
    residual: float
    """How far measured times are from it: root mean square, as a share of each; 0.05 is usual, kernels have steps."""

    def __post_init__(self) -> None:
        """Refuse a curve that would make more tokens cheaper, or everything free."""
        parts = (self.fixed, self.linear, self.quadratic, self.residual)
        if not all(0 <= part < math.inf for part in parts) or not any(parts[:3]) or self.longest < 1:
            raise RltrError(
                "a latency curve needs finite parts of at least 0, one of them above, and a longest count of at least "
                f"1, got {self}. Measure it again"
            )

    def __call__(self, counts: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Seconds per row for rows of ``counts`` tokens."""
        return self.fixed + (self.linear + self.quadratic * counts) * counts

    def times(self, factor: float) -> "Curve":
        """The same curve, everything so many times as dear."""
        return Curve(self.fixed * factor, self.linear * factor, self.quadratic * factor, self.longest, self.residual)


def fit(counts: Sequence[int], seconds: Sequence[float]) -> Curve:
    """The curve closest to measured times, in relative error.

    Args:
        counts: tokens per row, rising.
        seconds: per row, each above 0.
    """
    tokens, measured = np.array(counts, dtype=float), np.array(seconds, dtype=float)
    scale = np.maximum(measured, FLOOR * measured.max())
    weight = 1 / scale
    weight[-1] *= math.sqrt(LONGEST)
    powers = np.stack([np.ones_like(tokens), tokens, tokens**2], axis=1)
    # Columns of one size: nnls loses small ones otherwise.
    size = np.linalg.norm(powers * weight[:, None], axis=0)
    parts = nnls(powers * weight[:, None] / size, measured * weight)[0] / size
    residual = math.sqrt(float(np.mean(((powers @ parts - measured) / scale) ** 2)))
    fixed, linear, quadratic = (float(part) for part in parts)
    return Curve(fixed, linear, quadratic, int(counts[-1]), residual)
