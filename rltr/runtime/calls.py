"""Check a call of the reduced part of a model: name its inputs, and refuse those that would give a wrong result."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from rltr.errors import RltrError


def named_inputs(signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name, including those that ``**kwargs`` of the function takes.

    Raises:
        TypeError: if the arguments do not fit the signature, as calling the function would.
    """
    bound = signature.bind(*args, **kwargs)
    inputs = dict(bound.arguments)
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            inputs |= inputs.pop(parameter.name, {})
    return inputs


def refuse_unsound(inputs: Mapping[str, Any], config: PreTrainedConfig, cached: bool) -> None:
    """Refuse a call that cannot be computed correctly with fewer tokens.

    Args:
        inputs: the call's inputs by name.
        config: config of the reduced part.
        cached: whether the model has a KV cache.

    Raises:
        RltrError: if the call is traced or exported, asks for attention weights or a KV cache, or has an attention mask
            that is not a ``(rows, tokens)`` padding mask.
    """
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        raise RltrError(
            "a trace or an export would record which tokens leave for one input, and remove the same positions from "
            "every other: detach rltr before torch.jit.trace or torch.export"
        )
    if inputs.get("output_attentions", getattr(config, "output_attentions", False)):
        raise RltrError(
            "output_attentions=True asks for attention weights of all tokens, but tokens leave between layers, and no "
            "weights are computed: switch it off, or detach rltr for this call"
        )
    if inputs.get("past_key_values") is not None or (cached and inputs.get("use_cache")):
        raise RltrError(
            "a KV cache was requested (generate() does so), but later layers have no keys and values of the removed "
            "tokens: rltr runs this model on whole sequences only; pass use_cache=False, or detach rltr to generate"
        )
    mask = inputs.get("attention_mask")
    if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
        found = f"has {mask.ndim} dimensions" if isinstance(mask, Tensor) else f"is a {type(mask).__name__}"
        raise RltrError(
            f"attention_mask {found}: rltr takes a (rows, tokens) padding mask; any other mask would be lost "
            "when tokens leave"
        )


def wants_hidden_states(inputs: Mapping[str, Any], config: PreTrainedConfig) -> bool:
    """Whether a call asks for the hidden states between layers."""
    wanted = inputs.get("output_hidden_states", getattr(config, "output_hidden_states", False))
    return wanted not in (None, False)
