"""A selector that replays recorded choices at almost no cost, so that only the runtime is timed."""

from collections.abc import Sequence

from jaxtyping import Bool
from torch import Tensor

from rltr.runtime.decision import Choice, Decision, Trace
from rltr.selectors import Selector


class Replay(Selector):
    """Keeps the marked tokens.

    Args:
        masks: for each decision, which original tokens stay.
    """

    def __init__(self, masks: Sequence[Bool[Tensor, "rows grid"]]) -> None:
        self.masks = masks

    @classmethod
    def of(cls, trace: Trace) -> "Replay":
        """Repeat what a forward pass kept."""
        return cls([stage.present for stage in trace.stages[1:]])

    def __call__(self, decision: Decision) -> Choice:
        """The mask of this decision."""
        return Choice(self.masks[decision.index][decision.tokens.row, decision.tokens.position])
