"""A digest that tells whether a model is the one that something was measured or trained for."""

import hashlib
import json

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from rltr.errors import RltrError

COMPUTED = (
    "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act", "activation_function", "layer_norm_eps",
    "rms_norm_eps", "patch_size", "image_size", "sliding_window", "rope_parameters",
)  # fmt: skip
"""Fields of a config that decide how weights are used, and that no weight's shape tells."""
ALSO_COMPUTED = (
    "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar", "layer_types", "local_attention",
    "layer_norm_epsilon", "norm_eps",
)  # fmt: skip
"""More of them, which count only where a config has them: the fingerprints of all other models stay what they were."""


class Unreadable(RltrError):
    """Weights that cannot be compared: quantised, offloaded, spread over processes. What to do is in the message."""


def fingerprint(model: PreTrainedModel, config: PreTrainedConfig, through: torch.dtype | None = None) -> str:
    """SHA-256 over all weights and what the config does with them: the same on every machine.

    Names, shapes and values count; values are rounded to bfloat16 first, so that a checkpoint has one fingerprint in
    float32 and in bfloat16. In float16 it has another, since rounding twice is not rounding once: ``through`` gives
    that one in advance. Of the config counts what changes answers without changing a weight.

    Args:
        model: the whole model.
        config: of the part that is reduced.
        through: a precision that values are rounded to before.

    Raises:
        Unreadable: if the weights cannot be read: quantised, offloaded, spread over processes.
    """
    computed = [[name, getattr(config, name, None)] for name in COMPUTED]
    also = [[name, getattr(config, name, None)] for name in ALSO_COMPUTED]
    computed += [[name, value] for name, value in also if value is not None]
    digest = hashlib.sha256(json.dumps([config.model_type, computed], default=str).encode())
    for name, value in sorted(model.state_dict().items()):
        refuse_unreadable(name, value)
        digest.update(json.dumps([name, list(value.shape)]).encode())
        rounded = value.detach()
        if value.is_floating_point():
            rounded = (rounded if through is None else rounded.to(through)).to(torch.bfloat16)
        digest.update(rounded.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def refuse_unreadable(name: str, value: object) -> None:
    """Raise if an entry of a state dict is no plain tensor with data of its own.

    Raises:
        Unreadable: what it is, and what to do.
    """
    plain = isinstance(value, Tensor) and type(value) in (Tensor, torch.nn.Parameter)
    if not isinstance(value, Tensor) or not plain or value.is_quantized:
        raise Unreadable(
            f"the weights of this model are packed ({name} is a {type(value).__module__}.{type(value).__name__}), so "
            "they cannot be compared with those a policy was trained for. If they are quantised or sharded, attach to "
            "the model as it was before, then quantise it in place: the attachment stays"
        )
    if value.is_meta:
        raise Unreadable(
            f"the weights of this model are offloaded or were never loaded ({name} is on the device 'meta'): load the "
            "model without device_map offloading, attach, and then call accelerate.cpu_offload or disk_offload"
        )
    if value.layout is not torch.strided:
        raise Unreadable(f"the weights of this model are stored sparsely ({name}): attach before it is made sparse")
