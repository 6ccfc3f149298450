"""Token merging (Bolya et al. 2023, "Token Merging: Your ViT But Faster", section 3), written from the paper."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from rltr.errors import RltrError
from rltr.runtime import merging
from rltr.runtime import tokens as ragged
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Choice, Decision, Removal
from rltr.selectors.base import KeepRate, keep_counts, similarity_flops


class ToMe(KeepRate):
    """Bipartite soft matching: tokens alternate between two sets, and the most similar pairs across are merged.

    Similarity is the cosine of the previous layer's keys, averaged over heads. Merged tokens have sizes, which count in
    attention. Two things differ from the paper: tokens are merged between layers, not inside of one, and rows may
    differ in length. At most half of the tokens are removed at a decision. In causal models tokens are merged into
    later ones only.

    Args:
        keep_rate: share of each row's unprotected tokens to keep at each decision, above 0 and at most 1.
    """

    modes = ("merge",)

    def decision_layers(self, layers: Sequence[int], depth: int) -> Sequence[int]:
        """Every layer from 1 on, as in the paper."""
        return range(1, depth)

    def decision_flops(self, backbone: Backbone, removal: Removal) -> tuple[int, int]:
        """FLOPs of comparing keys averaged over heads."""
        return 0, similarity_flops(backbone.width) // backbone.config.num_attention_heads

    def check(self, backbone: Backbone, layers: Sequence[int]) -> None:
        """Raise :class:`RltrError` for a decision before layer 0, where there are no keys yet."""
        if 0 in layers:
            raise RltrError("tome compares keys of the previous layer: choose decision layers from 1 on")

    def __call__(self, decision: Decision) -> Choice:
        """Return the tokens that are not merged, and which token each merged one goes into."""
        assert decision.attended is not None, "check() refuses layer 0"
        tokens, free, keys = decision.tokens, ~decision.protected, decision.attended.keys
        set_a, set_b = (free & (tokens.slot % 2 == first) for first in (0, 1))
        sources = ragged.keep(tokens, set_a)
        cosine, partner = merging.nearest(
            F.normalize(keys.to(ragged.precise(keys.dtype)), dim=-1), tokens, set_a, set_b, decision.causal
        )
        leave = ragged.row_sum(free.float(), tokens).long() - keep_counts(decision, self.keep_rate)
        merged = (ragged.rank(cosine, sources) < leave[sources.row]) & cosine.isfinite()
        keep = torch.ones_like(free)
        keep[set_a] = ~merged
        return Choice(keep, partner[merged])
