"""Task scores: how well a reduced forward did, compared with the dense one. The reward adds them to minus the cost.

A score that cannot be computed is an error, never a number: a silent 0 would look like "as good as the dense model".
"""

from collections.abc import Callable

from torch import Tensor

from rltr.errors import RltrError
from rltr.tasks.goals.goal import MAX_LOSS, Answers, Goal, Labels, PerRow


def gain(goal: Goal, dense: Answers, reduced: Answers, labels: Labels) -> PerRow:
    """The reduced model's quality minus the dense model's, clipped to -3 to 3; for classes -1, 0 or 1.

    The dense model is a free baseline: an input that both get right, or both get wrong, says nothing about tokens.
    """
    change = goal.quality(dense, reduced, labels) - goal.quality(dense, dense, labels)
    return change.clamp(-MAX_LOSS, MAX_LOSS)


def fidelity(goal: Goal, dense: Answers, reduced: Answers, labels: Labels) -> PerRow:
    """How much of the dense model's answer is left: -3 (another answer) to 0 (the same). Reads no labels."""
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
"""Every score by the name a recipe gives it; accuracy is another name of quality, which for classes is what it is."""


def score(kind: str, goal: Goal, dense: Tensor, reduced: Tensor, labels: Tensor) -> PerRow:
    """Score each row of a batch.

    Args:
        kind: a name in ``SCORES``.
        goal: what counts as right.
        dense: what the unreduced model says, as ``goal.read`` has it, one row for each input.
        reduced: what the reduced model says about the same inputs.
        labels: what is true, in the form the goal asks for.

    Raises:
        RltrError: for an unknown kind, answers that are not finite, or labels that do not fit them.
    """
    if kind not in SCORES:
        raise RltrError(f"there is no score {kind!r}; choose one of {', '.join(SCORES)}")
    goal.check(dense, reduced, labels)
    return SCORES[kind](goal, dense, reduced, labels)
