"""Token merging (Bolya et al. 2023, "Token Merging: Your ViT But Faster", section 3), written from the paper."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from rltr.errors import RltrError
from rltr.runtime import merging
from rltr.runtime import tokens as ragged
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Choice, Decision, Removal
from rltr.selectors.base import KeepRate, similarity_flops, stay_counts


class ToMe(KeepRate):
    """Bipartite soft matching: tokens alternate between two sets, and the most similar pairs become one.

    Similarity is the cosine of the last layer's keys, averaged over heads; sizes are kept and weigh the attention. Two
    things differ from the paper: tokens are merged between layers, not inside one, and unevenly long rows are possible.
    At most half of the tokens can leave at a decision. In causal models tokens are merged into later ones only.

    Args:
        keep_rate: share of the unprotected tokens that stays at each decision, above 0 and at most 1.
    """

    modes = ("merge",)

    def decision_layers(self, layers: Sequence[int], depth: int) -> Sequence[int]:
        """At every layer from 1 on, as in the paper."""
        return range(1, depth)

    def decision_flops(self, backbone: Backbone, removal: Removal) -> tuple[int, int]:
        """Its own pairs, by keys averaged over heads."""
        return 0, similarity_flops(backbone.width) // backbone.config.num_attention_heads

    def check(self, backbone: Backbone, layers: Sequence[int]) -> None:
        """Before layer 0 there are no keys yet."""
        if 0 in layers:
            raise RltrError("tome compares keys of the layer before a decision: choose decision layers from 1 on")

    def __call__(self, decision: Decision) -> Choice:
        """Merge the most similar pairs."""
        assert decision.attended is not None, "check() refuses layer 0"
        tokens, free, keys = decision.tokens, ~decision.protected, decision.attended.keys
        set_a, set_b = (free & (tokens.slot % 2 == first) for first in (0, 1))
        sources = ragged.keep(tokens, set_a)
        cosine, partner = merging.nearest(
            F.normalize(keys.to(ragged.precise(keys.dtype)), dim=-1), tokens, set_a, set_b, decision.causal
        )
        leave = ragged.row_sum(free.float(), tokens).long() - stay_counts(decision, self.keep_rate)
        merged = (ragged.rank(cosine, sources) < leave[sources.row]) & cosine.isfinite()
        keep = torch.ones_like(free)
        keep[set_a] = ~merged
        return Choice(keep, partner[merged])
