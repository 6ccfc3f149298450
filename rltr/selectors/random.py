"""Keep random tokens: the baseline that shows what a selection rule adds."""

import torch
from jaxtyping import Float
from torch import Tensor

from rltr.runtime.decision import Decision
from rltr.selectors.base import Ranking


class RandomChoice(Ranking):
    """Keeps a random share of the tokens of each row.

    Args:
        keep_rate: share of each row's unprotected tokens to keep at each decision, above 0 and at most 1.
        seed: seed of the random generator.
    """

    def __init__(self, keep_rate: float, seed: int = 0) -> None:
        super().__init__(keep_rate)
        self._generator = torch.Generator().manual_seed(seed)

    def score(self, decision: Decision) -> Float[Tensor, " total"]:
        """Independent uniform numbers, drawn on the CPU so that they are the same on every device."""
        return torch.rand(decision.tokens.total, generator=self._generator).to(decision.hidden.device)
