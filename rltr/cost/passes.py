"""Timed passes of the whole model, native and reduced, and how well prices predict their times."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from jaxtyping import Int
from torch import Tensor

from rltr.errors import RltrError


@dataclass(frozen=True)
class ReducedPass:
    """A reduced pass that was timed in alternation with native ones.

    Attributes:
        ratio: its time relative to the native pass's.
        counts: number of tokens of each row in each layer.
        seen: number of tokens of each row before each decision.
    """

    ratio: float
    counts: Int[Tensor, "layers rows"]
    seen: Int[Tensor, "decisions rows"]


@dataclass(frozen=True)
class WholePasses:
    """Passes of one batch, native and reduced.

    Attributes:
        grid: tokens per row, padding included.
        native: seconds per row of the native pass.
        around: fraction of it that is spent before the first and after the last layer.
        reduced: reduced passes at several keep rates.
        busy: sign that other processes used the machine during the measurement; None without a sign.
        disagreement: relative disagreement of repeated timings.
    """

    grid: int
    native: float
    around: float
    reduced: Sequence[ReducedPass]
    busy: str | None = None
    disagreement: float = 0.0


@dataclass(frozen=True)
class Fit:
    """Measured and predicted times of reduced passes at several keep rates, relative to the native pass.

    Attributes:
        measured: measured relative times.
        predicted: the same times predicted by the prices.
    """

    measured: tuple[float, ...]
    predicted: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse times that are not positive and finite, or not in pairs."""
        sound = all(0 < time < math.inf for time in (*self.measured, *self.predicted))
        if not self.measured or len(self.measured) != len(self.predicted) or not sound:
            raise RltrError(
                "relative times are measured and predicted in pairs, each above 0 and finite, got "
                f"{self.measured} and {self.predicted}. Measure them again"
            )

    @property
    def errors(self) -> list[float]:
        """Relative error of each predicted time."""
        return [abs(said / true - 1) for said, true in zip(self.predicted, self.measured, strict=True)]

    @property
    def worst_error(self) -> float:
        """The largest error."""
        return max(self.errors)

    @property
    def median_error(self) -> float:
        """The median error."""
        return median(self.errors)
