"""What cannot be read from a model itself: per family, which tokens must stay, and why some families are refused.

Layers, widths and attention are found through transformers' own declarations (see :mod:`rltr.runtime.layers`). A family
is listed once its tests pass (``tests/families``); everything else is refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedConfig

from rltr.errors import RltrError

PooledToken: TypeAlias = Literal["first", "last"]
"""Place in the row of the pooled token, which heads read: ``last`` with causal attention, otherwise ``first``."""
Config: TypeAlias = PreTrainedConfig


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
        leading: number of tokens at the start of each row that must stay, at least 1, or a function that computes it
            from the config. In families without special tokens it is 1, so that a row is never empty.
        trailing: number of tokens at the end of each row that must stay.
        causal: whether attention is causal, unless the config says otherwise (EmbeddingGemma's does). Then the head
            reads the last token, removed tokens are merged only into later ones, and no KV cache is filled.
        tower: name of the submodule whose tokens may leave, if it is not the whole model.
        cached: whether a forward pass fills a KV cache by default.
        padded: whether rows may be padded and the padding masked. False if this is untested, or if the head reads
            masked positions.
        left_padding: whether padding may be at the start of a row.
        also_protected: computes from the model's inputs further tokens that must stay; None for none.
        patches_only: whether the model passes rotary embeddings only for the tokens after the leading ones.
        refusal: computes from the config why this model cannot be reduced; None if it can.
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
        """Number of leading tokens that must stay in a model with this config."""
        return self.leading if isinstance(self.leading, int) else self.leading(config)

    def with_config(self, config: Config) -> "Family":
        """This family for a model with this config, which may make a decoder bidirectional."""
        both_sides = getattr(config, "use_bidirectional_attention", False)
        return replace(self, causal=False) if self.causal and both_sides else self

    @property
    def pooled(self) -> PooledToken:
        """The pooled token: which token of a row the head reads."""
        return "last" if self.causal else "first"


def _registers(config: Config) -> int:
    return 1 + int(config.num_register_tokens)


def _weighted_layer_sum(config: Config) -> str | None:
    if not getattr(config, "use_weighted_layer_sum", False):
        return None
    return "its head sums the outputs of all layers (use_weighted_layer_sum), but tokens leave between layers"


def _relative_positions(config: Config) -> str | None:
    if not (config.use_relative_position_bias or config.use_shared_relative_position_bias):
        return None
    return PAIRWISE


def _used_as_decoder(config: Config) -> str | None:
    if not (getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False)):
        return None
    return "it attends causally or to another model's output; rltr runs this family as an encoder only"


def _shared_kv_layers(config: Config) -> str | None:
    if not getattr(config, "num_kv_shared_layers", 0):
        return None
    return "layers attend to keys of earlier layers (num_kv_shared_layers), some of whose tokens have left since"


def _attention_temperature(config: Config) -> str | None:
    if not config.attn_temperature_tuning or all(config.no_rope_layers):
        return None
    return "layers count positions themselves (attn_temperature_tuning), which is wrong once earlier tokens have left"


def _upcast(config: Config) -> str | None:
    return "reorder_and_upcast_attn computes attention in its own code" if config.reorder_and_upcast_attn else None


def end_of_text(inputs: Mapping[str, Any], config: Config) -> Bool[Tensor, "rows grid"]:
    """The end-of-text token of each row that CLIP's text tower reads: the first one."""
    # eos_token_id=2 in old configs is wrong; transformers then reads the token with the largest id, and so do we.
    return largest_id(inputs, config) if config.eos_token_id == 2 else first_end_of_text(inputs, config)


def first_end_of_text(inputs: Mapping[str, Any], config: Config) -> Bool[Tensor, "rows grid"]:
    """The first end-of-text token of each row, or the row's first token if there is none, as such heads read it."""
    return _mark((_input_ids(inputs) == config.eos_token_id).int().argmax(-1), _input_ids(inputs))


def largest_id(inputs: Mapping[str, Any], config: Config) -> Bool[Tensor, "rows grid"]:
    """The token with the largest id of each row, which OWL-ViT takes as the end of the text."""
    return _mark(_input_ids(inputs).argmax(-1), _input_ids(inputs))


def _input_ids(inputs: Mapping[str, Any]) -> Tensor:
    ids = inputs.get("input_ids")
    if not isinstance(ids, Tensor):
        raise RltrError(
            "pass input_ids by name: the head reads the token at which each text ends, and rltr finds it in input_ids"
        )
    return ids


def _mark(place: Int[Tensor, " rows"], ids: Int[Tensor, "rows grid"]) -> Bool[Tensor, "rows grid"]:
    return torch.arange(ids.shape[-1], device=ids.device) == place[:, None]


def last_text_token(inputs: Mapping[str, Any], config: Config) -> Bool[Tensor, "rows grid"] | None:
    """The last token of each row that is not the padding token.

    Transformers' sequence classifiers read it regardless of the mask. It is not the row's last token if the text itself
    ends with the padding token, or if padding is not masked.
    """
    ids, padding = inputs.get("input_ids"), getattr(config, "pad_token_id", None)
    if not isinstance(ids, Tensor) or padding is None:
        # Then they read the last position, even if it is padding.
        given = inputs.get("attention_mask")
        return (
            None
            if not isinstance(given, Tensor)
            else torch.arange(given.shape[1], device=given.device).expand_as(given) == given.shape[1] - 1
        )
    place = torch.arange(ids.shape[-1], device=ids.device)
    return place == (place * (ids != padding)).argmax(-1, keepdim=True)


def question_tokens(inputs: Mapping[str, Any], config: Config) -> Bool[Tensor, "rows grid"] | None:
    """Splinter's question tokens, with which its head compares all other tokens."""
    ids = inputs.get("input_ids")
    return ids == config.question_token_id if isinstance(ids, Tensor) else None


ENCODER = Family(refusal=_used_as_decoder)
DECODER = Family(trailing=1, causal=True, cached=True, left_padding=True, also_protected=last_text_token)
CLIP_TEXT = Family(trailing=1, causal=True, also_protected=end_of_text)
IMAGE = Family(padded=False)
NO_SPECIAL_TOKEN = IMAGE
"""Has no special token; the first token stays so that no row is empty."""
SOUND = Family(refusal=_weighted_layer_sum)
ENCODER_DECODER = Family(tower="encoder")
"""The encoder of an encoder-decoder model; the decoder attends to all its outputs."""

FAMILIES: dict[str, Family] = {
    # images and video
    **dict.fromkeys(("vit", "dinov2", "vit_mae", "vit_msn", "vivit", "dpt", "pixio"), IMAGE),
    **dict.fromkeys(("ijepa", "videomae", "siglip_vision_model", "aimv2_vision_model"), NO_SPECIAL_TOKEN),
    **dict.fromkeys(("clip_vision_model", "altclip_vision_model", "chinese_clip_vision_model"), IMAGE),
    **dict.fromkeys(("clipseg_vision_model", "metaclip_2_vision_model", "owlvit_vision_model"), IMAGE),
    **dict.fromkeys(("owlv2_vision_model", "git_vision_model"), IMAGE),
    **dict.fromkeys(("blip_2_vision_model", "instructblip_vision_model", "internvl_vision"), IMAGE),
    "deit": Family(leading=2, padded=False),
    "dinov2_with_registers": Family(leading=_registers, padded=False),
    "dinov3_vit": Family(leading=_registers, padded=False, patches_only=True),
    "tipsv2_vision_model": Family(leading=_registers, padded=False),
    "beit": Family(padded=False, refusal=_relative_positions),
    "janus_vision_model": NO_SPECIAL_TOKEN,
    # no special token here either, but small images are padded
    **dict.fromkeys(("siglip2_vision_model", "idefics2_vision", "idefics3_vision", "smolvlm_vision"), Family()),
    # sound
    "audio-spectrogram-transformer": Family(leading=2, padded=False),
    **dict.fromkeys(("wav2vec2", "hubert", "data2vec-audio", "sew", "unispeech", "unispeech-sat"), SOUND),
    "whisper": Family(tower="encoder", padded=False, refusal=_weighted_layer_sum),
    "moonshine": ENCODER_DECODER,
    "speech_to_text": ENCODER_DECODER,
    "qwen2_audio_encoder": Family(padded=False),
    "voxtral_encoder": Family(padded=False),
    "pe_audio_encoder": Family(),
    # text, bidirectional
    **dict.fromkeys(
        ("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra", "albert", "ernie"), ENCODER
    ),
    **dict.fromkeys(("roberta-prelayernorm", "esm", "data2vec-text", "mobilebert", "xlm-roberta-xl"), ENCODER),
    "splinter": replace(ENCODER, also_protected=question_tokens),
    **dict.fromkeys(("roc_bert", "bert-generation", "jina_embeddings_v3"), ENCODER),
    **dict.fromkeys(("chinese_clip_text_model", "dpr"), ENCODER),
    "altclip_text_model": Family(tower="roberta"),
    **dict.fromkeys(("modernbert", "nomic_bert", "eurobert", "gte", "esmc"), Family()),
    **dict.fromkeys(("bart", "mbart", "plbart", "m2m_100", "marian", "pegasus", "blenderbot"), ENCODER_DECODER),
    **dict.fromkeys(("clip_text_model", "clipseg_text_model"), CLIP_TEXT),
    "metaclip_2_text_model": replace(CLIP_TEXT, also_protected=first_end_of_text),
    **dict.fromkeys(("owlvit_text_model", "owlv2_text_model"), replace(CLIP_TEXT, also_protected=largest_id)),
    # these heads read the last position, even if it is padding
    **dict.fromkeys(("siglip_text_model", "siglip2_text_model"), Family(trailing=1, padded=False)),
    # text, causal
    "gpt2": replace(DECODER, refusal=_upcast),
    **dict.fromkeys(("gpt_bigcode", "gpt_neox", "gpt_oss", "opt", "biogpt", "phi", "phi3", "phimoe"), DECODER),
    **dict.fromkeys(("llama", "arcee", "apertus", "mistral", "ministral", "ministral3", "mixtral"), DECODER),
    **dict.fromkeys(("qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen2_vl_text", "qwen3_vl_text"), DECODER),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text", "vaultgemma", "smollm3", "starcoder2"), DECODER),
    **dict.fromkeys(("olmo", "olmo2", "olmo3", "olmoe", "flex_olmo"), DECODER),
    **dict.fromkeys(("granite", "granitemoe", "granitemoeshared", "cohere", "cohere2"), DECODER),
    **dict.fromkeys(("glm", "glm4", "glm4_moe", "exaone4", "seed_oss", "nemotron", "persimmon"), DECODER),
    **dict.fromkeys(("ernie4_5", "ernie4_5_moe", "hunyuan_v1_dense", "hunyuan_v1_moe"), DECODER),
    **dict.fromkeys(("stablelm", "helium", "bitnet", "diffllama", "nanochat", "modernbert-decoder"), DECODER),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "dots1", "minimax_m2", "cwm", "jais2"), DECODER),
    "gemma4_text": replace(DECODER, refusal=_shared_kv_layers),
    "llama4_text": replace(DECODER, refusal=_attention_temperature),
}
"""Families by ``config.model_type``, of the tower's config where only a tower is reduced."""

WINDOWS = "it attends within windows of a complete grid, which tokens that leave would break"
GRID = "its layers work on a 2-D grid or on several streams at once, not on a row of tokens"
PAIRWISE = "it adds a bias for every pair of positions inside of its attention, which cannot follow tokens that leave"
OWN_ATTENTION = "it computes attention in its own code, without transformers' attention interface"
OWN_MASK = "it makes attention masks without transformers' mask functions, which cannot follow tokens that leave"
NO_ATTENTION = "it mixes tokens by a recurrence, a convolution or a fixed transform, not by attention"
NOT_ONLY_ATTENTION = (
    "some of its layers mix tokens by a recurrence or a convolution, beside attention or in place of it"
)
REFUSED: dict[str, str] = {
    **dict.fromkeys(
        ("swin", "swinv2", "hiera", "donut-swin", "maskformer-swin", "swin2sr", "clap_audio_model"), WINDOWS
    ),
    **dict.fromkeys(("sam_vision_model", "sam_hq_vision_model", "sam3_vit_model", "gemma3n_text"), GRID),
    **dict.fromkeys(("t5", "mt5", "umt5", "longt5", "switch_transformers", "udop", "pop2piano"), PAIRWISE),
    **dict.fromkeys(("mpnet", "deberta", "deberta-v2", "wavlm"), PAIRWISE),
    # text
    **dict.fromkeys(("big_bird", "bloom", "bros", "canine", "codegen", "convbert", "cpmant", "falcon"), OWN_ATTENTION),
    **dict.fromkeys(
        ("flaubert", "fsmt", "funnel", "gpt_neox_japanese", "gptj", "ibert", "layoutlmv3", "led"), OWN_ATTENTION
    ),
    **dict.fromkeys(
        ("lilt", "longformer", "lxmert", "megatron-bert", "mpt", "mra", "mvp", "nystromformer"), OWN_ATTENTION
    ),
    **dict.fromkeys(
        ("openai-gpt", "prophetnet", "reformer", "rembert", "roformer", "squeezebert", "tapas"), OWN_ATTENTION
    ),
    **dict.fromkeys(("trocr", "visual_bert", "xglm", "xlm", "xlnet", "yoso", "flava_text_model"), OWN_ATTENTION),
    **dict.fromkeys(("groupvit_text_model", "clvp_encoder"), OWN_ATTENTION),
    # images and sound
    **dict.fromkeys(("blip_vision_model", "data2vec-vision", "flava_image_model", "imagegpt", "seggpt"), OWN_ATTENTION),
    **dict.fromkeys(
        ("timesformer", "vilt", "vitdet", "levit", "pvt", "pvt_v2", "mobilevit", "cvt", "sew-d"), OWN_ATTENTION
    ),
    **dict.fromkeys(("layoutlm", "markuplm", "kosmos_2_text_model", "pixtral", "eomt"), OWN_MASK),
    **dict.fromkeys(("mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm", "fnet"), NO_ATTENTION),
    **dict.fromkeys(("convnext", "convnextv2", "dinov3_convnext", "focalnet", "poolformer", "resnet"), NO_ATTENTION),
    **dict.fromkeys(("regnet", "bit", "efficientnet", "mobilenet_v1", "mobilenet_v2"), NO_ATTENTION),
    **dict.fromkeys(("jamba", "zamba", "zamba2", "bamba", "falcon_h1", "nemotron_h", "minimax"), NOT_ONLY_ATTENTION),
    **dict.fromkeys(
        ("granitemoehybrid", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "kimi_linear"), NOT_ONLY_ATTENTION
    ),
    **dict.fromkeys(("lfm2", "lfm2_moe", "olmo_hybrid", "recurrent_gemma"), NOT_ONLY_ATTENTION),
    **dict.fromkeys(("wav2vec2-bert", "wav2vec2-conformer"), NOT_ONLY_ATTENTION),
    "yolos": "it adds position embeddings between its layers, which cannot follow tokens that leave",
    "aimv2_text_model": "it is causal only if rows are padded, so the output for a text depends on its batch",
    "llama4_vision_model": "transformers does not declare its layers, so rltr cannot find them",
}
"""Families that are refused, and why."""
