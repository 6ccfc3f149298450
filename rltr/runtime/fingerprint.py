"""A digest that tells whether a model is the one that something was measured or trained for."""

import hashlib
import json

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from rltr.errors import RltrError

CONFIG_FIELDS = (
    "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act", "activation_function", "layer_norm_eps",
    "rms_norm_eps", "patch_size", "image_size", "sliding_window", "rope_parameters",
)  # fmt: skip
"""Config fields that change a model's outputs and do not follow from the shapes of its weights."""
OPTIONAL_FIELDS = (
    "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar", "layer_types", "local_attention",
    "layer_norm_epsilon", "norm_eps",
)  # fmt: skip
"""More such fields, hashed only if a config has them, so that the fingerprints of all other models stay the same."""


class Unreadable(RltrError):
    """Weights that cannot be compared, because they are quantised, offloaded or sharded."""


def fingerprint(model: PreTrainedModel, config: PreTrainedConfig, loaded_as: torch.dtype | None = None) -> str:
    """SHA-256 of a model's weights and of the config fields that decide how they are used; equal on every machine.

    It covers the names, shapes and values of the weights. Values are rounded to bfloat16 first, so that a checkpoint
    loaded in float32 or in bfloat16 has the same fingerprint. Loaded in float16 it has another one, because its values
    are rounded twice; ``loaded_as=torch.float16`` computes that one from the float32 weights.

    Args:
        model: the whole model.
        config: config of the reduced part.
        loaded_as: compute the fingerprint that the same weights have when loaded in this dtype; None takes them as is.

    Raises:
        Unreadable: if the weights are quantised, offloaded or sharded.
    """
    fields = [[name, getattr(config, name, None)] for name in CONFIG_FIELDS]
    optional = [[name, getattr(config, name, None)] for name in OPTIONAL_FIELDS]
    fields += [[name, value] for name, value in optional if value is not None]
    digest = hashlib.sha256(json.dumps([config.model_type, fields], default=str).encode())
    for name, value in sorted(model.state_dict().items()):
        refuse_unreadable(name, value)
        digest.update(json.dumps([name, list(value.shape)]).encode())
        rounded = value.detach()
        if value.is_floating_point():
            rounded = (rounded if loaded_as is None else rounded.to(loaded_as)).to(torch.bfloat16)
        digest.update(rounded.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def refuse_unreadable(name: str, value: object) -> None:
    """Raise if an entry of a state dict is not a plain dense tensor with data.

    Raises:
        Unreadable: if it is quantised, a tensor subclass, on the device ``meta``, or sparse.
    """
    plain = isinstance(value, Tensor) and type(value) in (Tensor, torch.nn.Parameter)
    if not isinstance(value, Tensor) or not plain or value.is_quantized:
        raise Unreadable(
            f"the weights of this model are packed ({name} is a {type(value).__module__}.{type(value).__name__}), so "
            "they cannot be compared with those a policy was trained for. If they are quantised or sharded, attach "
            "the policy before that, then quantise the model in place: the policy stays attached"
        )
    if value.is_meta:
        raise Unreadable(
            f"the weights of this model are offloaded or were never loaded ({name} is on the device 'meta'): load the "
            "model without device_map offloading, attach, and then call accelerate.cpu_offload or disk_offload"
        )
    if value.layout is not torch.strided:
        raise Unreadable(f"the weights of this model are stored sparsely ({name}): attach before they are made sparse")
