"""Drop near-duplicates: one of the learned policy's priors on its own, so learning must beat it."""

from jaxtyping import Float
from torch import Tensor

from rltr.runtime.decision import Decision
from rltr.selectors.base import Ranking


class LeastRedundant(Ranking):
    """Keeps the tokens least similar to the other set of their row; set A leaves before set B."""

    def score(self, decision: Decision) -> Float[Tensor, " total"]:
        """Minus the cosine to the most similar token of the other set."""
        found = decision.redundancy
        return 3 * (1 - found.in_set_a) - found.cosine
