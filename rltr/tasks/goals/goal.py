"""The base class of goals: which part of a model's output is scored, and by which metric."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from transformers import PreTrainedModel

from rltr.errors import RltrError

MAX_LOSS = 3.0
"""Bound at which fidelity and the gain in quality are clipped. Beyond it an answer is simply wrong, and outliers would
dominate the gradient."""

ABSENT = torch.finfo(torch.float32).min
"""The value of an answer at positions without an output, such as the padding of a short text. It is finite, so that
checks for NaN and infinity still work."""

Answers = Float[Tensor, "rows *answer"]
"""A model's outputs for each row of a batch: logits, numbers, or an embedding. The first axis is always the rows."""
Labels = Shaped[Tensor, "rows *label"]
"""The label of each row, in the form that the goal needs."""
PerRow = Float[Tensor, " rows"]


class Goal(ABC):
    """The metric and the head of a task. To add one, copy ``classification.py``: four short methods on tensors.

    All methods take batches and return one value per row, independent of the other rows.
    """

    quality_name: ClassVar[str]
    """The name of the metric in reports: ``accuracy``, …"""

    @classmethod
    def for_task(cls, model: PreTrainedModel, examples: Any) -> "Goal":
        """Create the goal for a task whose recipe names it (``data.goal``); override it if the goal takes arguments.

        Args:
            model: the frozen model.
            examples: the training split (:class:`rltr.tasks.Examples`).
        """
        return cls()

    @property
    def right_or_wrong(self) -> bool:
        """Whether every quality is 0 or 1. Bounds on the loss of quality are then exact and need fewer inputs."""
        return False

    def read(self, output: Mapping[str, Any], inputs: Mapping[str, Tensor]) -> Answers:
        """Extract the answers from a model's output.

        Args:
            output: the model's output.
            inputs: the model inputs that it was computed from.
        """
        answers: Tensor = output["logits"]
        return answers

    def fingerprint(self) -> str:
        """A digest of everything that ``read`` depends on apart from its arguments, the same in every process.

        By default it covers the class and every attribute. Goals may override it to leave out attributes that ``read``
        does not use.
        """
        parts = [type(self).__qualname__]
        for name, value in sorted(vars(self).items()):
            parts += [name, repr(value.tolist() if isinstance(value, Tensor) else value)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @abstractmethod
    def shape(self, labels: Shaped[Tensor, "examples *label"], classes: Sequence[str]) -> tuple[int, ...]:
        """Shape of one answer, for a data set with these labels and classes."""

    @abstractmethod
    def fidelity(self, dense: Answers, reduced: Answers) -> PerRow:
        """How close the reduced model's answer is to the dense model's: 0 for the same, down to -3. Uses no labels."""

    @abstractmethod
    def quality(self, dense: Answers, reduced: Answers, labels: Labels) -> PerRow:
        """The metric of the reduced model's answer: at most 1, which is perfect. Reports show it in percent.

        ``quality(dense, dense, labels)`` is the dense model's quality.
        """

    @abstractmethod
    def decide(self, answers: Answers) -> Labels:
        """The answers in the form of labels: the class with the highest logit, and so on."""

    def agreement(self, dense: Answers, reduced: Answers) -> PerRow:
        """Share of decisions in which the reduced model agrees with the dense one, right or wrong: 0 to 1."""
        same = self.decide(dense) == self.decide(reduced)
        return same.flatten(1).float().mean(1) if same.ndim > 1 else same.float()

    def chance(self, classes: Sequence[str]) -> float:
        """The quality of guessing, the baseline of the area under a curve."""
        return 0.0

    def say(self, decided: Shaped[Tensor, "*label"], classes: Sequence[str]) -> str | None:
        """One label or decision as a short text, for the gallery; None if it has no short text."""
        return None

    def check(self, dense: Tensor, reduced: Tensor, labels: Tensor) -> None:
        """Check that answers and labels can be scored.

        Raises:
            RltrError: if shapes do not fit each other, or answers are not finite.
        """
        if dense.shape != reduced.shape or labels.shape[:1] != dense.shape[:1]:
            raise RltrError(
                "a score needs answers of one shape from both models and one label per row, but got dense "
                f"{tuple(dense.shape)}, reduced {tuple(reduced.shape)} and labels {tuple(labels.shape)}"
            )
        for name, answers in (("dense", dense), ("reduced", reduced)):
            refuse_not_finite(answers, f"the {name} model's")


def refuse_not_finite(answers: Tensor, whose: str) -> None:
    """Raise if answers are NaN or infinite, because they must never become a score.

    Raises:
        RltrError: naming the rows.
    """
    bad = (~answers.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
    if bad:
        raise RltrError(
            f"{whose} answers are NaN or infinite in rows {bad[:5]} of this batch; "
            "likely cause: a half-precision overflow or broken weights; try the model in float32"
        )


def divergence(
    dense: Float[Tensor, "*rest classes"], reduced: Float[Tensor, "*rest classes"]
) -> Float[Tensor, "*rest"]:
    """KL(dense || reduced) of two categorical distributions, given as logits, in nats: 0 to infinity."""
    dense, reduced = dense.float().log_softmax(-1), reduced.float().log_softmax(-1)
    # Rounding can take the divergence of near-equal distributions a little below 0.
    return (dense.exp() * (dense - reduced)).sum(-1).clamp_min(0.0)


def refuse_outside(labels: Shaped[Tensor, "*some"], classes: int) -> None:
    """Raise if labels are not class indices of a head.

    Raises:
        RltrError: naming some of them.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise RltrError(f"labels must be class indices (whole numbers), not {labels.dtype}")
    outside = labels[(labels < 0) | (labels >= classes)].unique().tolist()
    if outside:
        raise RltrError(f"labels {outside[:5]} do not fit a head of {classes} classes, numbered 0 to {classes - 1}")
