"""Drop what has a twin: the learned policy's prior without any learning, so learning must beat it."""

import torch
from jaxtyping import Float
from torch import Tensor

from rltr.forward import Decision
from rltr.selectors.base import Ranking


class LeastRedundant(Ranking):
    """Keeps the tokens least similar to the other side of their row; the even side leaves before the odd one."""

    def score(self, decision: Decision) -> Float[Tensor, " total"]:
        """Minus the cosine to the most similar token of the other side."""
        found = decision.redundancy
        return torch.where(found.even, 0.0, 3.0) - found.cosine
