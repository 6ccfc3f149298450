"""Does a model answer exactly, with fewer tokens, as it should? The proof that every supported family passes.

The reference is the model's own forward pass on the whole grid, in which no token ever leaves: those that should have
left are hidden from everybody's attention instead, by a plain attention function. Nothing of the ragged runtime runs in
it. Compared is what the last layer gives, so any head will do.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from rltr.backbone import Backbone
from rltr.forward import Choice, Decision, Trace
from rltr.rounding import apart, as_its_own, in_single_precision, tolerance

REFERENCE = "rltr-reference"
"""Name under which transformers knows the reference's attention."""


@dataclass(frozen=True)
class Proof:
    """How far the reduced model is from what it should answer: largest differences of hidden states after all layers.

    What a model in half precision should answer is what the same weights do in single precision.

    Attributes:
        kept: with everything kept, to the native model.
        dropped: with tokens dropped at random, of those that stay, to the reference.
        alone: of one row with tokens dropped, to the same row without its batch mates.
        tolerance: how large differences may be: rounding, see :func:`rltr.rounding.tolerance`.
        restored: whether the model answers bit for bit as before once it is detached.
    """

    kept: float
    dropped: float
    alone: float
    tolerance: float
    restored: bool

    @property
    def holds(self) -> bool:
        """Whether the model may be run reduced."""
        # An error of nan does not hold, and where the native model overflows nothing does.
        errors = (self.kept, self.dropped, self.alone)
        return self.restored and all(error <= self.tolerance < math.inf for error in errors)


@torch.no_grad()
def prove(backbone: Backbone, inputs: Mapping[str, Tensor], layers: Sequence[int], seed: int = 0) -> Proof:
    """Run ``inputs`` natively, reduced, as the reference, one row alone, and natively again.

    A model in half precision is copied to single precision for the native pass and the reference, which takes twice its
    memory on top.

    Args:
        backbone: the model.
        inputs: at least two rows, ragged where the model allows it.
        layers: decision layers, rising.
        seed: decides who leaves: half of the tokens at each decision.
    """
    exact = in_single_precision(backbone)
    native = last_states(backbone, inputs)
    expected = native if exact is backbone else last_states(exact, as_its_own(exact, inputs))
    everyone, trace = _reduced(backbone, inputs, layers, _keep_all)
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(len(layers), *trace.stages[0].present.shape, generator=generator).to(backbone.device) < 0.5
    dropped, left = _reduced(backbone, inputs, layers, _replay(masks))
    with hidden_keys(exact, left):
        reference = last_states(exact, as_its_own(exact, inputs))
    other = {name: value[1:2] for name, value in inputs.items()}
    alone, _ = _reduced(backbone, other, layers, _replay(masks[:, 1:2]))
    there, stayed = trace.stages[0].present, left.stages[-1].present
    return Proof(
        kept=apart(everyone[there], expected[there]),
        dropped=apart(dropped[stayed], reference[stayed]),
        alone=apart(alone[stayed[1:2]], dropped[1:2][stayed[1:2]]),
        tolerance=tolerance(native[there], expected[there], backbone.dtype),
        restored=torch.equal(last_states(backbone, inputs), native),
    )


def last_states(backbone: Backbone, inputs: Mapping[str, Tensor]) -> Float[Tensor, "rows grid width"]:
    """What the last layer gives in a forward pass of the model."""
    with _caught(backbone) as caught:
        backbone.model(**{**inputs, "use_cache": False} if backbone.family.cached else inputs)
    return caught[-1]


@contextmanager
def hidden_keys(backbone: Backbone, trace: Trace) -> Iterator[None]:
    """Let the native model run on the whole grid, with tokens hidden from attention from where they have left."""
    layer, present, depth = -1, trace.present, backbone.depth

    def count(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal layer
        layer += 1

    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        inside = 0 <= layer < depth and key.shape[2] == present.shape[-1]
        there = present[sum(decision <= layer for decision in trace.layers)] if inside else None
        return plain_attention(module, query, key, value, mask, there, **kwargs), None

    AttentionInterface.register(REFERENCE, attention)
    AttentionMaskInterface.register(REFERENCE, sdpa_mask)
    before = backbone.config._attn_implementation
    backbone.root.set_attn_implementation(REFERENCE)
    handles = [module.register_forward_pre_hook(count, with_kwargs=True) for module in dict.fromkeys(backbone.layers)]
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
    mask: Bool[Tensor, "rows 1 queries keys"] | None,
    there: Bool[Tensor, "rows keys"] | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Float[Tensor, " heads"] | None = None,
    **kwargs: Any,
) -> Float[Tensor, "rows queries heads width"]:
    """Softmax attention in single precision, as transformers defines it; only keys that are ``there`` are seen."""
    times = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(times, 1).float(), value.repeat_interleave(times, 1)
    logits = query.float() @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        logits = softcap * (logits / softcap).tanh()
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    elif getattr(module, "is_causal", True) if is_causal is None else is_causal:
        logits = logits.masked_fill(torch.ones_like(logits[0, 0], dtype=torch.bool).triu(1), -torch.inf)
    if there is not None:
        logits = logits.masked_fill(~there[:, None, None], -torch.inf)
    if s_aux is not None:
        logits = torch.cat([logits, s_aux.float().view(1, -1, 1, 1).expand(*logits.shape[:3], 1)], -1)
    # A token that has left, or is padding, may see nobody; nobody reads it either.
    weights = logits.softmax(-1)[..., : key.shape[2]].nan_to_num()
    return (weights.to(value.dtype) @ value).transpose(1, 2)


def _keep_all(decision: Decision) -> Choice:
    return Choice(torch.ones_like(decision.protected))


def _replay(masks: Bool[Tensor, "decisions rows grid"]) -> Any:
    return lambda decision: Choice(masks[decision.index][decision.tokens.row, decision.tokens.position])


def _reduced(
    backbone: Backbone, inputs: Mapping[str, Tensor], layers: Sequence[int], decide: Any
) -> tuple[Tensor, Trace]:
    with backbone.attached(), _caught(backbone) as caught:
        _, trace = backbone.run(backbone.forward(decide, layers, "drop"), inputs)
    return caught[-1], trace


@contextmanager
def _caught(backbone: Backbone) -> Iterator[list[Tensor]]:
    """What the last layer gives, with every token in its place; where it runs several times, the last counts."""
    caught: list[Tensor] = []

    def catch(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        caught.append(output[0] if isinstance(output, tuple) else output)

    handle = backbone.layers[-1].register_forward_hook(catch)
    try:
        yield caught
    finally:
        handle.remove()
