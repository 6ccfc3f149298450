"""What a model is, to the last bit: for answers that are kept, and for trainings that go on."""

import hashlib
import json
from typing import Any

import torch
from transformers import PreTrainedModel

from rltr.runtime.fingerprint import refuse_unreadable


def weights_digest(model: PreTrainedModel) -> str:
    """SHA-256 over all parameters and buffers, those that no checkpoint holds included: names, shapes, dtypes, values.

    :attr:`rltr.runtime.backbone.Backbone.fingerprint` is the same for a checkpoint in two precisions; this is not.
    """
    found = hashlib.sha256()
    tensors = {**dict(model.named_buffers()), **model.state_dict()}
    for name, value in sorted(tensors.items()):
        refuse_unreadable(name, value)
        found.update(json.dumps([name, list(value.shape), str(value.dtype)]).encode())
        found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def surroundings(model: PreTrainedModel) -> dict[str, Any]:
    """What else answers depend on in their last bits: the configuration of the whole, and how torch computes.

    Of the whole, also where only a part is reduced: what stands around that part has a say in the answers.
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
