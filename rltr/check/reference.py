"""Reference that a reduced pass must equal: the native model with all tokens, in which removed ones are masked.

Removed tokens stay in the batch, and a plain attention function masks them as keys. In merging, kept tokens become
the average of their group, and attention adds the logarithm of its size. The ragged runtime is not used.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from rltr.runtime.attention import attends_causally
from rltr.runtime.backbone import Backbone
from rltr.runtime.tokens import precise

REFERENCE = "rltr-reference"
"""Name of the reference's attention implementation in transformers."""


@dataclass(frozen=True)
class Departures:
    """Which tokens are removed at which decision, and what they are merged into.

    Attributes:
        present: which original tokens are present before the first decision, then after each.
        layers: the decision layers.
        into: for every decision, the position of the token that each original token is merged into, its own if it is
            kept; None if tokens are dropped.
    """

    present: Bool[Tensor, "stages rows grid"]
    layers: tuple[int, ...]
    into: Int[Tensor, "decisions rows grid"] | None = None


class Reference:
    """State of one reference pass with all tokens.

    Args:
        departures: which tokens are removed when.
        depth: number of layers of the model.
    """

    def __init__(self, departures: Departures, depth: int) -> None:
        self.departures = departures
        self.depth = depth
        self.layer = -1
        self.stage = 0
        self.size = torch.ones(departures.present.shape[1:], device=departures.present.device)

    def before_layer(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Pre-hook of each layer: at a decision, averages the tokens to merge."""
        self.layer += 1
        if self.layer not in self.departures.layers:
            return None
        self.stage += 1
        if self.departures.into is None:
            return None
        if args:
            return (self.merged(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self.merged(kwargs["hidden_states"])}

    def merged(self, hidden: Float[Tensor, "rows grid width"]) -> Float[Tensor, "rows grid width"]:
        """Replace kept tokens by the average of their group, and update the sizes."""
        assert self.departures.into is not None
        into = self.departures.into[self.stage - 1]
        before, after = self.departures.present[self.stage - 1], self.departures.present[self.stage]
        weight = self.size * before
        total = torch.zeros_like(weight).scatter_add(1, into, weight)
        weighted = hidden * weight[..., None]
        sums = torch.zeros_like(weighted).scatter_add(1, into[..., None].expand_as(hidden), weighted)
        self.size = total.where(after, self.size)
        return (sums / total[..., None]).to(hidden.dtype).where(after[..., None], hidden)

    def attention(
        self,
        module: nn.Module,
        query: Float[Tensor, "rows heads queries width"],
        key: Float[Tensor, "rows key_heads keys width"],
        value: Float[Tensor, "rows key_heads keys width"],
        attention_mask: Bool[Tensor, "rows_or_1 1 queries keys"] | None = None,
        **kwargs: Any,
    ) -> tuple[Float[Tensor, "rows queries heads width"], None]:
        """Attention function for transformers; outside of the layers, no token is masked."""
        present, bias = self.departures.present[self.stage], None
        if 0 <= self.layer < self.depth and key.shape[2] == present.shape[-1]:
            bias = self.size.to(precise(query.dtype)).log().masked_fill(~present, -torch.inf)
        return plain_attention(module, query, key, value, attention_mask, bias, **kwargs), None


@contextmanager
def reference_pass(backbone: Backbone, departures: Departures) -> Iterator[None]:
    """Make the next forward pass of the model in a ``with`` block the reference pass."""
    reference = Reference(departures, backbone.depth)
    AttentionInterface.register(REFERENCE, reference.attention)
    AttentionMaskInterface.register(REFERENCE, sdpa_mask)
    before, layers = backbone.config._attn_implementation, dict.fromkeys(backbone.layers)
    backbone.root.set_attn_implementation(REFERENCE)
    handles = [layer.register_forward_pre_hook(reference.before_layer, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        backbone.root.set_attn_implementation(before)


def plain_attention(
    module: nn.Module,
    query: Float[Tensor, "rows heads queries width"],
    key: Float[Tensor, "rows key_heads keys width"],
    value: Float[Tensor, "rows key_heads keys width"],
    mask: Bool[Tensor, "rows_or_1 1 queries keys"] | None,
    bias: Float[Tensor, "rows keys"] | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Float[Tensor, " heads"] | None = None,
    **kwargs: Any,
) -> Float[Tensor, "rows queries heads width"]:
    """Softmax attention as transformers defines it, in at least single precision; ``bias`` is added per key."""
    times = query.shape[1] // key.shape[1]
    precision = precise(query.dtype)
    key, value = key.repeat_interleave(times, 1).to(precision), value.repeat_interleave(times, 1)
    logits = query.to(precision) @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        logits = softcap * (logits / softcap).tanh()
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    elif attends_causally(module, is_causal):
        logits = logits.masked_fill(torch.ones_like(logits[0, 0], dtype=torch.bool).triu(1), -torch.inf)
    if bias is not None:
        logits = logits + bias[:, None, None]
    if s_aux is not None:
        logits = torch.cat([logits, s_aux.to(precision).view(1, -1, 1, 1).expand(*logits.shape[:3], 1)], -1)
    # Removed tokens and padding may have no key to attend to; their outputs are not used.
    weights = logits.softmax(-1)[..., : key.shape[2]].nan_to_num()
    return (weights.to(value.dtype) @ value).transpose(1, 2)
