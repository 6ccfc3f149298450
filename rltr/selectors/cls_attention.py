"""EViT's rule without its training: keep what CLS attends to (Liang et al. 2022, EViT, section 3.2)."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Decision, Removal
from rltr.selectors.base import Ranking


class ClsAttention(Ranking):
    """Keeps the tokens to which CLS attended most in the layer before, averaged over heads.

    Where no token is CLS, the first one takes its part; in causal models it is the last one, which is FastV's rule
    (Chen et al. 2024, section 4).
    """

    def check(self, backbone: Backbone, layers: Sequence[int]) -> None:
        """Before layer 0 nothing has attended yet."""
        if 0 in layers:
            raise RltrError("cls_attention looks at the layer before a decision: choose decision layers from 1 on")

    def decision_flops(self, backbone: Backbone, removal: Removal) -> tuple[int, int]:
        """One query and all keys, and what merging takes."""
        return 2 * backbone.width, super().decision_flops(backbone, removal)[1]

    def score(self, decision: Decision) -> Float[Tensor, " total"]:
        """Attention that the pooled token paid to each token in the layer before, averaged over heads."""
        assert decision.attended is not None, "check() refuses layer 0"
        return decision.attended.from_pooled
