"""Timed passes of the whole model, dense and reduced, and how well the prices of parts predicted them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from jaxtyping import Int
from torch import Tensor

from rltr.errors import RltrError


@dataclass(frozen=True)
class ReducedPass:
    """A whole reduced pass that was timed beside native ones.

    Attributes:
        ratio: its time over the native pass's.
        counts: tokens that each layer worked on.
        seen: tokens before each decision.
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
        around: share of it that is spent before the first and behind the last layer.
        reduced: at several keep rates.
        busy: what said that something else used the machine meanwhile; None if nothing did.
        disagreement: how far repeats of the same pass disagreed, as a share.
    """

    grid: int
    native: float
    around: float
    reduced: Sequence[ReducedPass]
    busy: str | None = None
    disagreement: float = 0.0


@dataclass(frozen=True)
class Fit:
    """How well prices predicted whole reduced passes, each as a share of the native pass's time.

    Attributes:
        measured: relative times of passes at several keep rates.
        predicted: what the prices say of them.
    """

    measured: tuple[float, ...]
    predicted: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what could not have been measured."""
        sound = all(0 < time < math.inf for time in (*self.measured, *self.predicted))
        if not self.measured or len(self.measured) != len(self.predicted) or not sound:
            raise RltrError(
                "relative times are measured and predicted in pairs, each above 0 and finite, got "
                f"{self.measured} and {self.predicted}. Measure them again"
            )

    @property
    def errors(self) -> list[float]:
        """How far each is off, as a share of the measured time."""
        return [abs(said / true - 1) for said, true in zip(self.predicted, self.measured, strict=True)]

    @property
    def worst_error(self) -> float:
        """The largest error."""
        return max(self.errors)

    @property
    def median_error(self) -> float:
        """The median error."""
        return median(self.errors)
