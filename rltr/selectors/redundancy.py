"""Drop what has a twin: one of the learned policy's priors on its own, so learning must beat it."""

from jaxtyping import Float
from torch import Tensor

from rltr.backbone import Backbone
from rltr.forward import Decision, Dropped
from rltr.selectors.base import Ranking, similarity_flops


class LeastRedundant(Ranking):
    """Keeps the tokens least similar to the other side of their row; the even side leaves before the odd one."""

    def decision_flops(self, backbone: Backbone, dropped: Dropped) -> tuple[int, int]:
        """One matrix of similarities serves both, the choice and the merging."""
        return 0, similarity_flops(backbone.width)

    def score(self, decision: Decision) -> Float[Tensor, " total"]:
        """Minus the cosine to the most similar token of the other side."""
        found = decision.redundancy
        return 3 * (1 - found.side) - found.cosine
