"""Bit-exact identity of a model, for the cache of dense answers and for resumed trainings."""

import hashlib
import json
from typing import Any

import torch
from transformers import PreTrainedModel

from rltr.runtime.fingerprint import refuse_unreadable


def weights_digest(model: PreTrainedModel) -> str:
    """SHA-256 of names, shapes, dtypes and values of all parameters and buffers, non-persistent ones included.

    Unlike :attr:`rltr.runtime.backbone.Backbone.fingerprint`, it differs between two precisions of a checkpoint.
    """
    found = hashlib.sha256()
    tensors = {**dict(model.named_buffers()), **model.state_dict()}
    for name, value in sorted(tensors.items()):
        refuse_unreadable(name, value)
        found.update(json.dumps([name, list(value.shape), str(value.dtype)]).encode())
        found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def surroundings(model: PreTrainedModel) -> dict[str, Any]:
    """Configuration and numeric settings of torch that the last bits of an answer depend on.

    The configuration is that of the whole model even if only one tower is reduced, since the rest of the model
    contributes to the answers, too.
    """
    said = model.config.to_dict()
    attention = {
        path: str(module.config._attn_implementation)
        for path, module in model.named_modules()
        if hasattr(getattr(module, "config", None), "_attn_implementation")
    }
    return {
        "class": type(model).__name__,
        "config": {
            name: value for name, value in said.items() if name not in ("_name_or_path", "transformers_version")
        },
        "attention": attention,
        "precision": torch.get_float32_matmul_precision(),
        "deterministic": [
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.allow_tf32,
        ],
        "mkldnn": torch.backends.mkldnn.enabled,
        "kernels": [
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
        ],
    }
