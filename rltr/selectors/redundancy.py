"""Drop what has a twin: one of the learned policy's priors on its own, so learning must beat it."""

from jaxtyping import Float
from torch import Tensor

from rltr.runtime.decision import Decision
from rltr.selectors.base import Ranking


class LeastRedundant(Ranking):
    """Keeps the tokens least similar to the other side of their row; the even side leaves before the odd one."""

    def score(self, decision: Decision) -> Float[Tensor, " total"]:
        """Minus the cosine to the most similar token of the other side."""
        found = decision.redundancy
        return 3 * (1 - found.side) - found.cosine
