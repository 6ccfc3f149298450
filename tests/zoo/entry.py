"""Description of a tiny model, and the sizes that most of them have."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import transformers as hf

from rltr.runtime.families import FAMILIES, Family
from tests.conftest import build

VISION = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip
TEXT = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GROUPED = {**TEXT, "num_attention_heads": 4, "num_key_value_heads": 2}
EXPERTS = {**GROUPED, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SOUND = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64,
    "conv_dim": (16, 16), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2, "feat_extract_norm": "layer", "mask_time_prob": 0.0, "vocab_size": 20,
}  # fmt: skip
SEQ2SEQ = {
    "d_model": 32, "encoder_layers": 4, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
NONE, RIGHT, BOTH = ("none",), ("none", "right"), ("none", "right", "left")


@dataclass(frozen=True)
class Entry:
    """How to make one tiny model.

    Attributes:
        model: its class.
        config: its config.
        inputs: kind of inputs, see ``tests/zoo/inputs.py``.
        paddings: sides on which a batch may be padded.
        experts: whether layers choose among experts, whose FLOPs cannot be counted without running them.
    """

    model: type[hf.PreTrainedModel]
    config: Callable[[], Any]
    inputs: str
    paddings: tuple[str, ...] = NONE
    experts: bool = False

    @property
    def family(self) -> Family:
        """The family of a model with this config, as rltr describes it."""
        config = self.config()
        return FAMILIES[config.model_type].with_config(config)

    def build(self) -> hf.PreTrainedModel:
        """Build the model, with random weights on which its answers depend."""
        return build(self.model, self.config())


def entry(model: str, config: str, inputs: str, paddings: tuple[str, ...], sizes: dict[str, Any], **more: Any) -> Entry:
    """Make an entry from the names of its classes; ``more`` is added to ``sizes`` in the config.

    The config is created at each call, because a model may change it.
    """
    experts = "num_experts_per_tok" in sizes
    return Entry(_class(model, config), lambda: _class(config, config)(**sizes | more), inputs, paddings, experts)


def _class(name: str, config: str) -> Any:
    """A class of transformers; parts of larger models are not exported, but lie beside the larger model's config."""
    if hasattr(hf, name):
        return getattr(hf, name)
    whole = getattr(hf, config, None) or getattr(hf, config.replace("Vision", ""))
    modules = [whole.__module__, whole.__module__.replace("configuration_", "modeling_")]
    return next(getattr(module, name) for module in map(import_module, modules) if hasattr(module, name))
