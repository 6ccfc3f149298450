"""Keep a strided grid, whatever the input shows."""

from jaxtyping import Float
from torch import Tensor

from rltr.runtime.decision import Decision
from rltr.selectors.base import Ranking


class Uniform(Ranking):
    """Keeps tokens at equal strides of their current order."""

    def score(self, decision: Decision) -> Float[Tensor, " total"]:
        """1 where a new stride of ``1 / keep_rate`` tokens begins, else 0."""
        # On the CPU: not every device has double precision, and in single 0.7 * 10 may fall below 7.
        slot = decision.tokens.slot.cpu().double()
        begins = (slot * self.keep_rate).floor() > ((slot - 1) * self.keep_rate).floor()
        return begins.float().to(decision.hidden.device)
