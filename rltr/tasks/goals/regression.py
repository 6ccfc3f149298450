"""Regression of one or several numbers, such as ratings, prices or similarities."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from rltr.errors import RltrError
from rltr.tasks.goals.goal import MAX_LOSS, Goal, PerRow

Numbers = Float[Tensor, "rows outputs"]

SAME = 0.1
"""Answers closer than this share of the dense model's spread count as the same."""


@dataclass(frozen=True)
class Regression(Goal):
    """Predicted numbers, scored by their distance to the labels; labels are ``(rows, outputs)``, like the outputs.

    The quality is the D² score of the absolute error (scikit-learn's ``d2_absolute_error_score``), input by input: 1
    minus the error in units of ``deviation``. Its mean is 1 for perfect answers and 0 for always answering the median.
    Unlike R², it is robust to single outliers. Unlike the error itself, it has no unit, so that cost weights mean the
    same for every task.

    Args:
        deviation: mean distance of the labels from their median, above 0; 1 suits standardised labels.
        spread: standard deviation of the dense model's answers, above 0: the unit of fidelity; see :func:`spread_of`.

    Raises:
        RltrError: if one is not above 0.
    """

    deviation: float = 1.0
    spread: float = 1.0
    quality_name = "D²"

    def __post_init__(self) -> None:
        if not (0 < self.deviation < float("inf") and 0 < self.spread < float("inf")):
            raise RltrError(
                f"deviation ({self.deviation}) and spread ({self.spread}) must be finite and above 0; they are 0 if "
                "all labels or all answers are the same, which leaves nothing to predict"
            )

    def fingerprint(self) -> str:
        """See ``Goal``: the units affect scores, not the answers that are read."""
        return type(self).__qualname__

    def shape(self, labels: Float[Tensor, "examples outputs"], classes: Sequence[str]) -> tuple[int, ...]:
        """See ``Goal``."""
        return tuple(labels.shape[1:])

    def fidelity(self, dense: Numbers, reduced: Numbers) -> PerRow:
        """Minus the mean squared difference in units of the spread, clipped: -3 to 0."""
        return -((reduced.float() - dense.float()) / self.spread).square().mean(-1).clamp_max(MAX_LOSS)

    def quality(self, dense: Numbers, reduced: Numbers, labels: Numbers) -> PerRow:
        """1 minus the mean absolute error in units of ``deviation``: 1 for the label itself, below 0 far from it."""
        return 1 - (reduced.float() - labels.float()).abs().mean(-1) / self.deviation

    def decide(self, answers: Numbers) -> Numbers:
        """See ``Goal``: the numbers themselves."""
        return answers

    def agreement(self, dense: Numbers, reduced: Numbers) -> PerRow:
        """Share of the numbers that are within a tenth of the spread of the dense model's."""
        return ((reduced - dense).abs() <= SAME * self.spread).float().mean(-1)

    def check(self, dense: Tensor, reduced: Tensor, labels: Tensor) -> None:
        """See ``Goal``."""
        if dense.ndim != 2 or dense.shape != reduced.shape or labels.shape != dense.shape:
            raise RltrError(
                "regression needs answers and labels of shape (rows, outputs), but got dense "
                f"{tuple(dense.shape)}, reduced {tuple(reduced.shape)} and labels {tuple(labels.shape)}"
            )
        if not bool(labels.isfinite().all()):
            raise RltrError("a label of this batch is NaN or infinite: leave such examples out")
        super().check(dense, reduced, labels)


def deviation_of(labels: Float[Tensor, "examples outputs"]) -> float:
    """Mean distance of labels from their median, which is the mean absolute error of the best constant answer."""
    # torch's median of an even number of values is the lower of two; both have the same mean distance.
    return float((labels - labels.median(0).values).abs().mean())


def spread_of(answers: Float[Tensor, "examples outputs"]) -> float:
    """Standard deviation of a model's answers, over the examples."""
    return float(answers.double().sub(answers.double().mean(0)).square().mean().sqrt())
