"""Run single layers to time them: find their kind and their arguments, and call them on a given number of tokens."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rltr.runtime.backbone import Backbone
from rltr.runtime.layers import signature_of


def layer_kind(layer: nn.Module) -> str:
    """Identifier of a layer's class, parameter names and shapes; layers with the same one take the same time."""
    shapes = [f"{name}{tuple(parameter.shape)}" for name, parameter in layer.named_parameters()]
    return f"{type(layer).__name__}-{hashlib.sha256(' '.join(shapes).encode()).hexdigest()[:8]}"


@torch.no_grad()
def arguments(backbone: Backbone, inputs: Mapping[str, Tensor]) -> dict[nn.Module, dict[str, Any]]:
    """Arguments of each layer in a native forward pass, without hidden states and mask."""
    called: dict[nn.Module, dict[str, Any]] = {}

    def catch(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = dict(zip(signature_of(layer).parameters, args, strict=False)) | kwargs
        called[layer] = {name: value for name, value in named.items() if name != "hidden_states"}
        if "attention_mask" in named:
            called[layer]["attention_mask"] = None

    handles = [layer.register_forward_pre_hook(catch, with_kwargs=True) for layer in dict.fromkeys(backbone.layers)]
    try:
        backbone.model(**backbone.uncached(inputs))
    finally:
        for handle in handles:
            handle.remove()
    return called


def layer_task(
    layer: nn.Module, named: Mapping[str, Any], backbone: Backbone, rows: int, tokens: int
) -> Callable[[int], object]:
    """A function that runs one layer on the first ``n`` of ``tokens`` random hidden states per row."""
    # Drawn on the CPU, so that every device gets the same values.
    hidden = torch.randn(rows, tokens, backbone.width, generator=torch.Generator().manual_seed(0))
    hidden = hidden.to(backbone.device, backbone.dtype)
    patches = tokens - backbone.family.leading_tokens(backbone.config) if backbone.family.patches_only else None
    inputs: dict[int, tuple[Tensor, dict[str, Any]]] = {}

    def first(value: Any, count: int) -> Any:
        if isinstance(value, tuple):
            return tuple(first(part, count) for part in value)
        if not isinstance(value, Tensor) or value.ndim < 2:
            return value
        if patches is not None and len(value) == patches:
            return value[: max(0, count - (tokens - patches))]
        return value[:, :count] if value.shape[1] == tokens else value

    def run(count: int) -> object:
        if count not in inputs:
            inputs[count] = hidden[:, :count].contiguous(), {name: first(named[name], count) for name in named}
        states, others = inputs[count]
        return layer(states, **others)

    return run
