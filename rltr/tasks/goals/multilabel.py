"""Multi-label classification, such as topics or tags: any number of classes per input."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from rltr.errors import RltrError
from rltr.tasks.goals.goal import MAX_LOSS, Goal, PerRow

Logits = Float[Tensor, "rows classes"]
Marks = Float[Tensor, "rows classes"]


class MultiLabel(Goal):
    """Every class whose logit is above 0. Labels are ``(rows, classes)``: 1 for a class that applies, else 0."""

    quality_name = "label accuracy"

    def shape(self, labels: Float[Tensor, "examples classes"], classes: Sequence[str]) -> tuple[int, ...]:
        """See ``Goal``."""
        return (len(classes),)

    def fidelity(self, dense: Logits, reduced: Logits) -> PerRow:
        """Minus the sum over classes of the Bernoulli KL(dense || reduced) in nats, clipped: -3 to 0."""
        dense, reduced = dense.float(), reduced.float()
        yes = dense.sigmoid() * (logsigmoid(dense) - logsigmoid(reduced))
        no = (-dense).sigmoid() * (logsigmoid(-dense) - logsigmoid(-reduced))
        return -(yes + no).sum(-1).clamp(0.0, MAX_LOSS)

    def quality(self, dense: Logits, reduced: Logits, labels: Marks) -> PerRow:
        """Share of the classes that are predicted correctly (applies or not): 0 to 1."""
        return (self.decide(reduced) == labels).float().mean(-1)

    def decide(self, answers: Logits) -> Marks:
        """See ``Goal``."""
        return (answers > 0).float()

    def chance(self, classes: Sequence[str]) -> float:
        """0.5: each class has two possible answers."""
        return 0.5

    def check(self, dense: Tensor, reduced: Tensor, labels: Tensor) -> None:
        """See ``Goal``."""
        if dense.ndim != 2 or dense.shape != reduced.shape or labels.shape != dense.shape:
            raise RltrError(
                "several labels at once need logits and labels of shape (rows, classes), but got dense "
                f"{tuple(dense.shape)}, reduced {tuple(reduced.shape)} and labels {tuple(labels.shape)}"
            )
        if not bool(((labels == 0) | (labels == 1)).all()):
            raise RltrError("labels of several classes at once must be 0 or 1 for every class")
        super().check(dense, reduced, labels)
