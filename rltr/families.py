"""What cannot be found by looking at a model: per family, the tokens that must stay, and what keeps it from working.

Layers, widths and attention are found through transformers' own declarations (see :mod:`rltr.layers`). A family is
listed once its tests pass (``tests/test_families.py``); everything else is refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import PreTrainedConfig

from rltr.errors import RltrError

Reader: TypeAlias = Literal["first", "last"]
"""Which token of a row the model's head reads, or would."""
Config: TypeAlias = PreTrainedConfig


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
        leading: tokens at the start of each row that must stay, at least 1, or how to tell from the config. Where no
            token is special the first one stays all the same: a row is never empty.
        trailing: tokens at the end of each row that must stay.
        causal: whether tokens see only those before them, if the config does not say otherwise (EmbeddingGemma's does).
            Then the last token is what a head reads, dropped tokens are merged into later ones only, and forward passes
            keep no cache.
        tower: name of the part of a larger model whose tokens may leave, where it is not the whole.
        cached: whether the forward pass fills a cache of keys and values unless told otherwise.
        padded: whether rows may be padded, by a mask that hides the padding. False where nobody has proven it, or where
            the head reads what is hidden.
        left_padding: whether padding may be at the start of a row.
        also_protected: from the model's inputs, further tokens that must stay; it may give None for none.
        patches_only: whether rotary embeddings come for the tokens behind the leading ones only.
        refusal: why a model of this config cannot work; None if it can.
    """

    leading: int | Callable[[Config], int] = 1
    trailing: int = 0
    causal: bool = False
    tower: str | None = None
    cached: bool = False
    padded: bool = True
    left_padding: bool = False
    also_protected: Callable[[Mapping[str, Any], Config], Bool[Tensor, "rows grid"] | None] | None = None
    patches_only: bool = False
    refusal: Callable[[Config], str | None] = lambda config: None

    def leading_tokens(self, config: Config) -> int:
        """``leading`` of a model of this config."""
        return self.leading if isinstance(self.leading, int) else self.leading(config)

    def with_config(self, config: Config) -> "Family":
        """What is true of a model of this config: a decoder may be told to attend to both sides."""
        both_sides = getattr(config, "use_bidirectional_attention", False)
        return replace(self, causal=False) if self.causal and both_sides else self

    @property
    def reader(self) -> Reader:
        """Which token of a row the head reads."""
        return "last" if self.causal else "first"


def _registers(config: Config) -> int:
    return 1 + int(config.num_register_tokens)


def _weighted_layers(config: Config) -> str | None:
    if not getattr(config, "use_weighted_layer_sum", False):
        return None
    return "its head sums the outputs of all layers (use_weighted_layer_sum), but tokens leave between them"


def _relative_positions(config: Config) -> str | None:
    if not (config.use_relative_position_bias or config.use_shared_relative_position_bias):
        return None
    return PAIRWISE


def _as_encoder(config: Config) -> str | None:
    if not (getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False)):
        return None
    return "it attends causally or to another model's output; rltr runs this family as an encoder only"


def _upcast(config: Config) -> str | None:
    return "reorder_and_upcast_attn computes attention in a way of its own" if config.reorder_and_upcast_attn else None


def end_of_text(inputs: Mapping[str, Any], config: Config) -> Bool[Tensor, "rows grid"]:
    """CLIP's text tower reads the first end-of-text token of each row, wherever it is."""
    ids = inputs.get("input_ids")
    if not isinstance(ids, Tensor):
        raise RltrError("pass input_ids by name: rltr must know where each text ends, which is what the head reads")
    # Old configs say 2, which was never true; the end-of-text token has the largest number then.
    place = ids.argmax(-1) if config.eos_token_id == 2 else (ids == config.eos_token_id).int().argmax(-1)
    return torch.arange(ids.shape[-1], device=ids.device) == place[:, None]


def last_word(inputs: Mapping[str, Any], config: Config) -> Bool[Tensor, "rows grid"] | None:
    """The last token of each row that is not the padding token.

    Transformers' sequence classifiers read that one, whatever the mask says: it is not the row's last token if a text
    itself ends with the token that stands for padding, or if padding is not masked.
    """
    ids, padding = inputs.get("input_ids"), getattr(config, "pad_token_id", None)
    if not isinstance(ids, Tensor) or padding is None:
        return None
    place = torch.arange(ids.shape[-1], device=ids.device)
    return place == (place * (ids != padding)).argmax(-1, keepdim=True)


ENCODER = Family(refusal=_as_encoder)
DECODER = Family(trailing=1, causal=True, cached=True, left_padding=True, also_protected=last_word)
IMAGE = Family(padded=False)
CLASSLESS = IMAGE
"""No token is special, and the first one stays so that no row is empty."""

FAMILIES: dict[str, Family] = {
    # images and video
    "vit": IMAGE,
    "deit": Family(leading=2, padded=False),
    "dinov2": IMAGE,
    "dinov2_with_registers": Family(leading=_registers, padded=False),
    "dinov3_vit": Family(leading=_registers, padded=False, patches_only=True),
    "beit": Family(padded=False, refusal=_relative_positions),
    "vit_mae": IMAGE,
    "vit_msn": IMAGE,
    "ijepa": CLASSLESS,
    "videomae": CLASSLESS,
    "vivit": IMAGE,
    "clip_vision_model": IMAGE,
    "siglip_vision_model": CLASSLESS,
    "siglip2_vision_model": Family(),  # no token is special here either, but small images are padded
    # sound
    "audio-spectrogram-transformer": Family(leading=2, padded=False),
    "wav2vec2": Family(refusal=_weighted_layers),
    "hubert": Family(refusal=_weighted_layers),
    "whisper": Family(tower="encoder", padded=False, refusal=_weighted_layers),
    # text, read as a whole
    "bert": ENCODER,
    "roberta": ENCODER,
    "xlm-roberta": ENCODER,
    "camembert": ENCODER,
    "distilbert": ENCODER,
    "electra": ENCODER,
    "albert": ENCODER,
    "ernie": ENCODER,
    "roberta-prelayernorm": ENCODER,
    "modernbert": Family(),
    "esm": ENCODER,
    "nomic_bert": Family(),
    "eurobert": Family(),
    "clip_text_model": Family(trailing=1, causal=True, also_protected=end_of_text),
    "siglip_text_model": Family(trailing=1, padded=False),  # its head reads the last place, padding or not
    # text, read from left to right
    "gpt2": Family(trailing=1, causal=True, cached=True, left_padding=True, refusal=_upcast),
    "opt": DECODER,
    "llama": DECODER,
    "mistral": DECODER,
    "qwen2": DECODER,
    "qwen3": DECODER,
    "gemma2": DECODER,
    "gemma3_text": DECODER,
    "smollm3": DECODER,
    "phi3": DECODER,
    "gpt_neox": DECODER,
    "olmo2": DECODER,
    "granite": DECODER,
    "starcoder2": DECODER,
    "gpt_oss": DECODER,
}
"""Families by ``config.model_type``, of the tower's config where only a tower is reduced."""

WINDOWS = "it attends within windows of a grid that must be full; tokens that leave would break it"
GRID = "its layers work on a grid of places or on several streams at once, not on a row of tokens"
PAIRWISE = "it adds a bias for every pair of positions inside of its attention, which cannot follow tokens that leave"
OWN_ATTENTION = "it computes attention in its own code, past transformers' attention interface"
NO_ATTENTION = "it mixes tokens by a recurrence, a convolution or a fixed transform, not by attention"
REFUSED: dict[str, str] = {
    "swin": WINDOWS,
    "swinv2": WINDOWS,
    "hiera": WINDOWS,
    "t5": PAIRWISE,
    "mt5": PAIRWISE,
    "mpnet": PAIRWISE,
    "deberta": PAIRWISE,
    "deberta-v2": PAIRWISE,
    "wavlm": PAIRWISE,
    "bloom": OWN_ATTENTION,
    "longformer": OWN_ATTENTION,
    "big_bird": OWN_ATTENTION,
    "xlnet": OWN_ATTENTION,
    "roformer": OWN_ATTENTION,
    "squeezebert": OWN_ATTENTION,
    "yolos": "it adds position embeddings between its layers, which cannot follow tokens that leave",
    "mamba": NO_ATTENTION,
    "fnet": NO_ATTENTION,
    "convnext": NO_ATTENTION,
}
"""Families that are known not to work, and why."""
