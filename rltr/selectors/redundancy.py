"""Remove near-duplicates first: one of the policy's priors as a baseline of its own."""

from jaxtyping import Float
from torch import Tensor

from rltr.runtime.decision import Decision
from rltr.selectors.base import Ranking


class LeastRedundant(Ranking):
    """Keeps the tokens least similar to the other set of their row; removes tokens of set A before those of set B."""

    def score(self, decision: Decision) -> Float[Tensor, " total"]:
        """Minus the cosine to the most similar token of the other set, plus 3 in set B."""
        found = decision.redundancy
        return 3 * (1 - found.in_set_a) - found.cosine
