"""Keep the tokens that CLS attends to: EViT's rule without its training (Liang et al. 2022, EViT, section 3.2)."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Decision, Removal
from rltr.selectors.base import Ranking


class ClsAttention(Ranking):
    """Keeps the tokens to which CLS attended most in the previous layer, averaged over heads.

    Models without CLS use the pooled token: the first one, or the last one in causal models, which is FastV's rule
    (Chen et al. 2024, section 4).
    """

    def check(self, backbone: Backbone, layers: Sequence[int]) -> None:
        """Raise :class:`RltrError` for a decision before layer 0, where there is no attention yet."""
        if 0 in layers:
            raise RltrError("cls_attention reads the attention of the previous layer: choose decision layers from 1 on")

    def decision_flops(self, backbone: Backbone, removal: Removal) -> tuple[int, int]:
        """FLOPs of one query times all keys, and of merging."""
        return 2 * backbone.width, super().decision_flops(backbone, removal)[1]

    def score(self, decision: Decision) -> Float[Tensor, " total"]:
        """Attention from the pooled token to each token in the previous layer, averaged over heads."""
        assert decision.attended is not None, "check() refuses layer 0"
        return decision.attended.from_pooled
