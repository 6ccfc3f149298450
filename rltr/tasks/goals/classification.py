"""Single-label classification of images, texts or sounds."""

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor

from rltr.errors import RltrError
from rltr.tasks.goals.goal import MAX_LOSS, Goal, PerRow, divergence, refuse_outside

Logits = Float[Tensor, "rows classes"]
Classes = Int[Tensor, " rows"]


class Classification(Goal):
    """The class with the highest logit. Labels are class numbers ``(rows,)``."""

    quality_name = "accuracy"

    def shape(self, labels: Int[Tensor, " examples"], classes: Sequence[str]) -> tuple[int, ...]:
        """See ``Goal``."""
        return (len(classes),)

    def fidelity(self, dense: Logits, reduced: Logits) -> PerRow:
        """Minus KL(dense || reduced) in nats, clipped: -3 (a different answer) to 0 (the same)."""
        return -divergence(dense, reduced).clamp_max(MAX_LOSS)

    @property
    def right_or_wrong(self) -> bool:
        """See ``Goal``."""
        return True

    def quality(self, dense: Logits, reduced: Logits, labels: Classes) -> PerRow:
        """1 if the prediction is correct, else 0."""
        return (self.decide(reduced) == labels).float()

    def decide(self, answers: Logits) -> Classes:
        """See ``Goal``."""
        return answers.argmax(-1)

    def chance(self, classes: Sequence[str]) -> float:
        """Accuracy of guessing, if all classes are equally frequent."""
        return 1 / len(classes) if classes else 0.0

    def say(self, decided: Int[Tensor, ""], classes: Sequence[str]) -> str:
        """The name of the class."""
        number = int(decided)
        return classes[number] if number < len(classes) else str(number)

    def check(self, dense: Tensor, reduced: Tensor, labels: Tensor) -> None:
        """See ``Goal``; labels must be classes of the head."""
        if dense.shape != reduced.shape or dense.ndim != 2 or labels.shape != dense.shape[:1]:
            raise RltrError(
                "a score needs logits of shape (rows, classes) from both models and one label per row, "
                f"but got dense {tuple(dense.shape)}, reduced {tuple(reduced.shape)} and labels {tuple(labels.shape)}"
            )
        if dense.shape[1] < 2:
            raise RltrError(
                "the model's head has a single output, but a classification needs two or more; "
                "if it predicts a number, use the goal Regression"
            )
        super().check(dense, reduced, labels)
        refuse_outside(labels, dense.shape[1])
