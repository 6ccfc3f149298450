"""A selector that replays recorded choices at almost no cost, so that only the runtime is timed."""

from collections.abc import Sequence

from jaxtyping import Bool
from torch import Tensor

from rltr.runtime.decision import Choice, Decision, Trace
from rltr.selectors import Selector


class Replay(Selector):
    """Keeps the marked tokens.

    Args:
        masks: for each decision, the original tokens to keep.
    """

    def __init__(self, masks: Sequence[Bool[Tensor, "rows grid"]]) -> None:
        self.masks = masks

    @classmethod
    def of(cls, trace: Trace) -> "Replay":
        """Build a selector that repeats the choices of a forward pass."""
        return cls([stage.present for stage in trace.stages[1:]])

    def __call__(self, decision: Decision) -> Choice:
        """Which tokens to keep: those in the mask of this decision."""
        return Choice(self.masks[decision.index][decision.tokens.row, decision.tokens.position])
