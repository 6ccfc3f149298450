"""Keep everything: what the ragged runtime itself costs."""

import torch

from rltr.forward import Choice, Decision
from rltr.selectors.base import Selector


class KeepAll(Selector):
    """Keeps every token at every decision."""

    def __call__(self, decision: Decision) -> Choice:
        """Everyone stays."""
        return Choice(torch.ones_like(decision.protected))
