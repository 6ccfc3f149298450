"""What the dense model itself decides, for data without labels: whoever answers as it does is right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Shaped
from torch import Tensor

from rltr.tasks.goals.goal import Answers, Goal, Labels, PerRow


@dataclass(frozen=True)
class Consistency(Goal):
    """The quality of another goal, with the dense model's decisions for labels. The dense model's own is 1.

    Args:
        goal: what the model's head is for. It never sees the examples' own labels, which stand for nothing.
        answer: shape of one answer, which labels would tell otherwise.
    """

    goal: Goal
    answer: tuple[int, ...]
    quality_name = "consistency"

    def read(self, output: Mapping[str, Any], inputs: Mapping[str, Tensor]) -> Answers:
        """See ``Goal``."""
        return self.goal.read(output, inputs)

    def fingerprint(self) -> str:
        """See ``Goal``: the answers are those of the other goal, whether there are labels or not."""
        return self.goal.fingerprint()

    def shape(self, labels: Shaped[Tensor, "examples *label"], classes: Sequence[str]) -> tuple[int, ...]:
        """See ``Goal``."""
        return self.answer

    def fidelity(self, dense: Answers, reduced: Answers) -> PerRow:
        """See ``Goal``."""
        return self.goal.fidelity(dense, reduced)

    @property
    def right_or_wrong(self) -> bool:
        """See ``Goal``."""
        return self.goal.right_or_wrong

    def quality(self, dense: Answers, reduced: Answers, labels: Labels) -> PerRow:
        """How good the reduced model's answer is if the dense model's is right."""
        return self.goal.quality(dense, reduced, self.decide(dense))

    def decide(self, answers: Answers) -> Labels:
        """See ``Goal``."""
        return self.goal.decide(answers)

    def agreement(self, dense: Answers, reduced: Answers) -> PerRow:
        """See ``Goal``."""
        return self.goal.agreement(dense, reduced)

    def chance(self, classes: Sequence[str]) -> float:
        """See ``Goal``."""
        return self.goal.chance(classes)

    def say(self, decided: Shaped[Tensor, "*label"], classes: Sequence[str]) -> str | None:
        """A decision in a word; None for the labels, of which there are none."""
        return self.goal.say(decided, classes) if decided.numel() else None

    def check(self, dense: Tensor, reduced: Tensor, labels: Tensor) -> None:
        """See ``Goal``."""
        self.goal.check(dense, reduced, self.decide(dense))
