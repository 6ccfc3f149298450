"""Keep every token: shows the overhead of the runtime, and that it is exact."""

import torch

from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Choice, Decision, Removal
from rltr.selectors.base import Selector


class KeepAll(Selector):
    """Keeps every token at every decision."""

    def decision_flops(self, backbone: Backbone, removal: Removal) -> tuple[int, int]:
        """No FLOPs."""
        return 0, 0

    def __call__(self, decision: Decision) -> Choice:
        """Return all tokens."""
        return Choice(torch.ones_like(decision.protected))
