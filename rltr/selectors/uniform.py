"""Keep a strided grid, whatever the input shows."""

from jaxtyping import Float
from torch import Tensor

from rltr.forward import Decision
from rltr.selectors.base import Ranking


class Uniform(Ranking):
    """Keeps tokens at equal strides of their current order."""

    def score(self, decision: Decision) -> Float[Tensor, " total"]:
        """1 where a new stride of ``1 / keep_rate`` tokens begins, else 0."""
        slot = decision.tokens.slot.double()
        return ((slot * self.keep_rate).floor() > ((slot - 1) * self.keep_rate).floor()).float()
