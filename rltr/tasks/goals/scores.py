"""Task scores: how good the reduced model's outputs are, compared with the dense model's. Reward = score - cost.

A score that cannot be computed raises an error: a silent 0 would look like "as good as the dense model".
"""

from collections.abc import Callable

from torch import Tensor

from rltr.errors import RltrError
from rltr.tasks.goals.goal import MAX_LOSS, Answers, Goal, Labels, PerRow


def gain(goal: Goal, dense: Answers, reduced: Answers, labels: Labels) -> PerRow:
    """The reduced model's quality minus the dense model's, clipped to -3 to 3; for classes -1, 0 or 1.

    The dense model is a baseline that costs nothing extra. An input that both models get right, or both get wrong, says
    nothing about which tokens to keep.
    """
    change = goal.quality(dense, reduced, labels) - goal.quality(dense, dense, labels)
    return change.clamp(-MAX_LOSS, MAX_LOSS)


def fidelity(goal: Goal, dense: Answers, reduced: Answers, labels: Labels) -> PerRow:
    """How close the answer is to the dense model's: -3 (a different answer) to 0 (the same). Uses no labels."""
    return goal.fidelity(dense, reduced)


def both(goal: Goal, dense: Answers, reduced: Answers, labels: Labels) -> PerRow:
    """The sum of gain and fidelity."""
    return gain(goal, dense, reduced, labels) + goal.fidelity(dense, reduced)


SCORES: dict[str, Callable[[Goal, Answers, Answers, Labels], PerRow]] = {
    "quality": gain,
    "accuracy": gain,
    "fidelity": fidelity,
    "both": both,
}
"""Every score by its name in recipes; ``accuracy`` is an alias of ``quality``, which is the accuracy for classes."""


def score(kind: str, goal: Goal, dense: Tensor, reduced: Tensor, labels: Tensor) -> PerRow:
    """Score each row of a batch.

    Args:
        kind: a name in ``SCORES``.
        goal: the metric and head.
        dense: the dense model's answers, as ``goal.read`` returns them, one row per input.
        reduced: the reduced model's answers to the same inputs.
        labels: the labels, in the form that the goal needs.

    Raises:
        RltrError: for an unknown kind, answers that are not finite, or labels that do not fit them.
    """
    if kind not in SCORES:
        raise RltrError(f"there is no score {kind!r}; choose one of {', '.join(SCORES)}")
    goal.check(dense, reduced, labels)
    return SCORES[kind](goal, dense, reduced, labels)
