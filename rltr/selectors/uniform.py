"""Keep tokens at equal strides, independent of the input's content."""

from jaxtyping import Float
from torch import Tensor

from rltr.runtime.decision import Decision
from rltr.selectors.base import Ranking


class Uniform(Ranking):
    """Keeps tokens at equal strides in their current order."""

    def score(self, decision: Decision) -> Float[Tensor, " total"]:
        """1 where a stride of ``1 / keep_rate`` tokens begins, else 0."""
        # In float64, so that products that should be whole are not rounded below; on the CPU, as some devices lack it.
        slot = decision.tokens.slot.cpu().double()
        begins = (slot * self.keep_rate).floor() > ((slot - 1) * self.keep_rate).floor()
        return begins.float().to(decision.hidden.device)
