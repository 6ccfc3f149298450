"""Keep the tokens with the largest hidden states."""

from jaxtyping import Float
from torch import Tensor

from rltr.runtime.decision import Decision
from rltr.selectors.base import Ranking


class Norm(Ranking):
    """Keeps the tokens whose hidden states have the largest norm."""

    def score(self, decision: Decision) -> Float[Tensor, " total"]:
        """Euclidean norm of the hidden state."""
        return decision.hidden.norm(dim=-1)
