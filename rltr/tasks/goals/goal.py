"""What counts as right: the part of a model's output that is compared, and how."""

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
"""Where fidelity and the gain in quality are clipped: beyond that an answer is simply wrong, and outliers would rule
the gradient."""

ABSENT = torch.finfo(torch.float32).min
"""What stands in an answer where its row has nothing to say, such as the padding of a short text. It is finite, so that
whatever is not can be refused."""

Answers = Float[Tensor, "rows *answer"]
"""What a model says about each row of a batch: logits, numbers, an embedding. The first axis is always the rows."""
Labels = Shaped[Tensor, "rows *label"]
"""What is true of each row, in the form that the goal asks for."""
PerRow = Float[Tensor, " rows"]


class Goal(ABC):
    """What a task asks of a model. To add one, copy ``classification.py``: four short methods on tensors.

    All methods take whole batches and say something about each row, whatever the other rows are.
    """

    quality_name: ClassVar[str]
    """What reports call the quality: ``accuracy``, …"""

    @classmethod
    def for_task(cls, model: PreTrainedModel, examples: Any) -> "Goal":
        """The goal of a task whose recipe names it (``data.goal``); override it in a goal that takes arguments.

        Args:
            model: the frozen model.
            examples: the training split (:class:`rltr.tasks.Examples`).
        """
        return cls()

    @property
    def right_or_wrong(self) -> bool:
        """Whether every quality is 0 or 1. Then a loss has an exact bound, which needs fewer inputs than another."""
        return False

    def read(self, output: Mapping[str, Any], inputs: Mapping[str, Tensor]) -> Answers:
        """The answers in a model's output.

        Args:
            output: what the model returned.
            inputs: what it was given.
        """
        answers: Tensor = output["logits"]
        return answers

    def fingerprint(self) -> str:
        """A digest of all that ``read`` depends on beside its arguments, the same in another process.

        That is the class and every attribute, unless a goal knows better which of them matter.
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
        """How much of the dense model's answer the reduced one still gives: 0 for the same, down to -3. No labels."""

    @abstractmethod
    def quality(self, dense: Answers, reduced: Answers, labels: Labels) -> PerRow:
        """How good the reduced model's answer is: at most 1, which is perfect. Reports show it in percent.

        ``quality(dense, dense, labels)`` is the dense model's own.
        """

    @abstractmethod
    def decide(self, answers: Answers) -> Labels:
        """The answers in the form of labels: the class with the highest logit, and so on."""

    def agreement(self, dense: Answers, reduced: Answers) -> PerRow:
        """Share of the dense model's decisions that the reduced one makes, too, right or wrong: 0 to 1."""
        same = self.decide(dense) == self.decide(reduced)
        return same.flatten(1).float().mean(1) if same.ndim > 1 else same.float()

    def chance(self, classes: Sequence[str]) -> float:
        """The quality of guessing, from which a curve's area is counted."""
        return 0.0

    def say(self, decided: Shaped[Tensor, "*label"], classes: Sequence[str]) -> str | None:
        """One label or decision in a word, for the gallery; None where a word does not do."""
        return None

    def check(self, dense: Tensor, reduced: Tensor, labels: Tensor) -> None:
        """Refuse what cannot be scored.

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
    """Raise if answers are NaN or infinite: they must never become a score.

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
    """KL(dense || reduced) of two distributions, from logits, in nats: 0 to infinity."""
    dense, reduced = dense.float().log_softmax(-1), reduced.float().log_softmax(-1)
    # Rounding can take the divergence of near-equal distributions a little below 0.
    return (dense.exp() * (dense - reduced)).sum(-1).clamp_min(0.0)


def refuse_outside(labels: Shaped[Tensor, "*some"], classes: int) -> None:
    """Refuse labels that are no class numbers of a head.

    Raises:
        RltrError: naming some of them.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise RltrError(f"labels must be whole numbers, the number of a class each, not {labels.dtype}")
    outside = labels[(labels < 0) | (labels >= classes)].unique().tolist()
    if outside:
        raise RltrError(f"labels {outside[:5]} do not fit a head of {classes} classes, numbered 0 to {classes - 1}")
