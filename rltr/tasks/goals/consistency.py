"""Consistency with the dense model, for data without labels: its decisions take the place of the labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Shaped
from torch import Tensor

from rltr.tasks.goals.goal import Answers, Goal, Labels, PerRow


@dataclass(frozen=True)
class Consistency(Goal):
    """The quality of another goal, with the dense model's decisions as labels. The dense model itself has quality 1.

    Args:
        goal: the goal that fits the model's head. It never gets the examples' labels, which are placeholders.
        answer: shape of one answer; with labels, the goal would infer it from them.
    """

    goal: Goal
    answer: tuple[int, ...]
    quality_name = "consistency"

    def read(self, output: Mapping[str, Any], inputs: Mapping[str, Tensor]) -> Answers:
        """See ``Goal``."""
        return self.goal.read(output, inputs)

    def fingerprint(self) -> str:
        """See ``Goal``: the wrapped goal's own, because the answers are the same with and without labels."""
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
        """Quality of the reduced model's answer, with the dense model's decision as the label."""
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
        """A decision as a short text; None for a label, since there are none."""
        return self.goal.say(decided, classes) if decided.numel() else None

    def check(self, dense: Tensor, reduced: Tensor, labels: Tensor) -> None:
        """See ``Goal``."""
        self.goal.check(dense, reduced, self.decide(dense))
