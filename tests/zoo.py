"""A tiny, randomly initialised model of every supported family, made from its config, and a ragged batch for it.

A new family is one entry here and one in ``rltr/families.py``; the tests and the list in the documentation follow. What
a config makes of a family that differs in that list has an entry of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from torch import Tensor

from rltr.families import FAMILIES, Family
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
SOUND = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64,
    "conv_dim": (16, 16), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2, "feat_extract_norm": "layer", "mask_time_prob": 0.0, "vocab_size": 20,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """How to make one tiny model.

    Attributes:
        model: its class.
        config: its config.
        inputs: names one of the kinds of inputs below.
        paddings: sides on which a batch of it may be padded.
        tower: the part that is reduced.
    """

    model: type[hf.PreTrainedModel]
    config: Callable[[], Any]
    inputs: str
    paddings: tuple[str, ...] = ("none",)
    tower: str | None = None

    @property
    def family(self) -> Family:
        config = self.config()
        return FAMILIES[config.model_type].with_config(config)

    def build(self) -> hf.PreTrainedModel:
        return build(self.model, self.config())


RIGHT, BOTH = ("none", "right"), ("none", "right", "left")


def _image(**options: Any) -> dict[str, Any]:
    return {**VISION, **options}


def _text(**options: Any) -> dict[str, Any]:
    return {**TEXT, **options}


def _decoder(**options: Any) -> dict[str, Any]:
    return {**GROUPED, **options}


ZOO: dict[str, Entry] = {
    "vit": Entry(hf.ViTForImageClassification, lambda: hf.ViTConfig(**_image()), "images"),
    "deit": Entry(hf.DeiTForImageClassification, lambda: hf.DeiTConfig(**_image()), "images"),
    "dinov2": Entry(hf.Dinov2ForImageClassification, lambda: hf.Dinov2Config(**_image()), "images"),
    "dinov2_with_registers": Entry(
        hf.Dinov2WithRegistersForImageClassification,
        lambda: hf.Dinov2WithRegistersConfig(**_image(num_register_tokens=2)),
        "images",
    ),
    "dinov3_vit": Entry(hf.DINOv3ViTModel, lambda: hf.DINOv3ViTConfig(**_image(num_register_tokens=2)), "images"),
    "beit": Entry(hf.BeitForImageClassification, lambda: hf.BeitConfig(**_image()), "images"),
    "vit_mae": Entry(hf.ViTMAEModel, lambda: hf.ViTMAEConfig(**_image(image_size=24, mask_ratio=0.5)), "masked images"),
    "vit_msn": Entry(hf.ViTMSNForImageClassification, lambda: hf.ViTMSNConfig(**_image()), "images"),
    "ijepa": Entry(hf.IJepaForImageClassification, lambda: hf.IJepaConfig(**_image()), "images"),
    "videomae": Entry(
        hf.VideoMAEForVideoClassification, lambda: hf.VideoMAEConfig(**_image(num_frames=4, tubelet_size=2)), "videos"
    ),
    "vivit": Entry(
        hf.VivitForVideoClassification, lambda: hf.VivitConfig(**_image(num_frames=4, tubelet_size=[2, 4, 4])), "videos"
    ),
    "clip_vision_model": Entry(hf.CLIPVisionModel, lambda: hf.CLIPVisionConfig(**_image()), "images"),
    "siglip_vision_model": Entry(hf.SiglipVisionModel, lambda: hf.SiglipVisionConfig(**_image()), "images"),
    "siglip2_vision_model": Entry(
        hf.Siglip2VisionModel,
        lambda: hf.Siglip2VisionConfig(
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=64,
            patch_size=4,
            num_patches=16,
        ),  # fmt: skip
        "patches",
        RIGHT,
    ),
    "audio-spectrogram-transformer": Entry(
        hf.ASTForAudioClassification,
        lambda: hf.ASTConfig(
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=64,
            patch_size=4,
            frequency_stride=4,
            time_stride=4,
            max_length=16,
            num_mel_bins=16,
        ),  # fmt: skip
        "spectrograms",
    ),
    "wav2vec2": Entry(hf.Wav2Vec2ForSequenceClassification, lambda: hf.Wav2Vec2Config(**SOUND), "waves", RIGHT),
    "hubert": Entry(
        hf.HubertForSequenceClassification,
        lambda: hf.HubertConfig(**SOUND, do_stable_layer_norm=True),
        "waves",
        RIGHT,
    ),
    "whisper": Entry(
        hf.WhisperForAudioClassification,
        lambda: hf.WhisperConfig(
            d_model=32,
            encoder_layers=4,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            num_mel_bins=8,
            max_source_positions=20,
            vocab_size=50,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        ),  # fmt: skip
        "mel",
    ),
    "bert": Entry(hf.BertForSequenceClassification, lambda: hf.BertConfig(**_text()), "texts", RIGHT),
    "roberta": Entry(hf.RobertaForSequenceClassification, lambda: hf.RobertaConfig(**_text()), "texts", RIGHT),
    "xlm-roberta": Entry(
        hf.XLMRobertaForSequenceClassification, lambda: hf.XLMRobertaConfig(**_text()), "texts", RIGHT
    ),
    "camembert": Entry(hf.CamembertForSequenceClassification, lambda: hf.CamembertConfig(**_text()), "texts", RIGHT),
    "distilbert": Entry(
        hf.DistilBertForSequenceClassification,
        lambda: hf.DistilBertConfig(
            dim=32, n_layers=4, n_heads=2, hidden_dim=64, vocab_size=50, max_position_embeddings=64, pad_token_id=0
        ),
        "texts",
        RIGHT,
    ),
    "electra": Entry(
        hf.ElectraForSequenceClassification, lambda: hf.ElectraConfig(**_text(embedding_size=16)), "texts", RIGHT
    ),
    "albert": Entry(
        hf.AlbertForSequenceClassification,
        lambda: hf.AlbertConfig(**_text(embedding_size=16, num_hidden_groups=2)),
        "texts",
        RIGHT,
    ),
    "ernie": Entry(hf.ErnieForSequenceClassification, lambda: hf.ErnieConfig(**_text()), "texts", RIGHT),
    "roberta-prelayernorm": Entry(
        hf.RobertaPreLayerNormForSequenceClassification, lambda: hf.RobertaPreLayerNormConfig(**_text()), "texts", RIGHT
    ),
    "modernbert": Entry(
        hf.ModernBertForSequenceClassification,
        lambda: hf.ModernBertConfig(
            **_text(local_attention=8, global_attn_every_n_layers=2, cls_token_id=1, sep_token_id=2)
        ),
        "texts",
        RIGHT,
    ),
    "esm": Entry(
        hf.EsmForSequenceClassification,
        lambda: hf.EsmConfig(**_text(mask_token_id=3, position_embedding_type="rotary")),
        "texts",
        RIGHT,
    ),
    "nomic_bert": Entry(hf.NomicBertModel, lambda: hf.NomicBertConfig(**_text()), "texts", RIGHT),
    "eurobert": Entry(hf.EuroBertForSequenceClassification, lambda: hf.EuroBertConfig(**_decoder()), "texts", RIGHT),
    "clip_text_model": Entry(hf.CLIPTextModel, lambda: hf.CLIPTextConfig(**_text()), "captions", RIGHT),
    "siglip_text_model": Entry(hf.SiglipTextModel, lambda: hf.SiglipTextConfig(**_text()), "texts"),
    "gpt2": Entry(
        hf.GPT2ForSequenceClassification,
        lambda: hf.GPT2Config(n_embd=32, n_layer=4, n_head=2, vocab_size=50, n_positions=64, pad_token_id=0),
        "texts",
        BOTH,
    ),
    "opt": Entry(
        hf.OPTForSequenceClassification,
        lambda: hf.OPTConfig(
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            ffn_dim=64,
            vocab_size=50,
            pad_token_id=0,
            max_position_embeddings=64,
            word_embed_proj_dim=32,
        ),  # fmt: skip
        "texts",
        BOTH,
    ),
    "llama": Entry(hf.LlamaForSequenceClassification, lambda: hf.LlamaConfig(**_decoder()), "texts", BOTH),
    "mistral": Entry(
        hf.MistralForSequenceClassification, lambda: hf.MistralConfig(**_decoder(sliding_window=5)), "texts", BOTH
    ),
    "qwen2": Entry(
        hf.Qwen2ForSequenceClassification,
        lambda: hf.Qwen2Config(**_decoder(use_sliding_window=True, sliding_window=5, max_window_layers=2)),
        "texts",
        BOTH,
    ),
    "qwen3": Entry(hf.Qwen3ForSequenceClassification, lambda: hf.Qwen3Config(**_decoder(head_dim=8)), "texts", BOTH),
    "gemma2": Entry(
        hf.Gemma2ForSequenceClassification,
        lambda: hf.Gemma2Config(**_decoder(head_dim=8, sliding_window=5, attn_logit_softcapping=2.0)),
        "texts",
        BOTH,
    ),
    "gemma3_text": Entry(
        hf.Gemma3TextForSequenceClassification,
        lambda: hf.Gemma3TextConfig(**_decoder(head_dim=8, sliding_window=5, sliding_window_pattern=2)),
        "texts",
        BOTH,
    ),
    "gemma3_text, to both sides": Entry(
        hf.Gemma3TextModel,
        lambda: hf.Gemma3TextConfig(
            **_decoder(head_dim=8, sliding_window=5, sliding_window_pattern=2, use_bidirectional_attention=True)
        ),
        "texts",
        BOTH,
    ),
    "smollm3": Entry(
        hf.SmolLM3ForSequenceClassification,
        lambda: hf.SmolLM3Config(**_decoder(no_rope_layers=[1, 1, 1, 0])),
        "texts",
        BOTH,
    ),
    "phi3": Entry(hf.Phi3ForSequenceClassification, lambda: hf.Phi3Config(**_decoder(sliding_window=5)), "texts", BOTH),
    "gpt_neox": Entry(hf.GPTNeoXForSequenceClassification, lambda: hf.GPTNeoXConfig(**_text()), "texts", BOTH),
    "olmo2": Entry(hf.Olmo2ForSequenceClassification, lambda: hf.Olmo2Config(**_decoder()), "texts", BOTH),
    "granite": Entry(hf.GraniteForCausalLM, lambda: hf.GraniteConfig(**_decoder()), "texts", BOTH),
    "starcoder2": Entry(
        hf.Starcoder2ForSequenceClassification, lambda: hf.Starcoder2Config(**_decoder(sliding_window=5)), "texts", BOTH
    ),
    "gpt_oss": Entry(
        hf.GptOssForSequenceClassification,
        lambda: hf.GptOssConfig(**_decoder(head_dim=8, sliding_window=5, num_local_experts=2, num_experts_per_tok=1)),
        "texts",
        BOTH,
    ),
}
"""Every supported family by its name in ``rltr.families.FAMILIES``, and what of it differs."""

LENGTHS = (12, 7, 9, 4)
"""Tokens of the four texts of a padded batch."""


def batch(entry: Entry, padding: str = "none", seed: int = 1) -> dict[str, Tensor]:
    """Four inputs: of one length without padding, else of :data:`LENGTHS`."""
    return INPUTS[entry.inputs](padding, torch.Generator().manual_seed(seed))


def _present(padding: str, lengths: tuple[int, ...] = LENGTHS) -> Tensor:
    longest = max(lengths)
    if padding == "none":
        return torch.ones(len(lengths), longest, dtype=torch.bool)
    present = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return present if padding == "right" else present.flip(1)


def _texts(padding: str, generator: torch.Generator) -> dict[str, Tensor]:
    present = _present(padding)
    ids = torch.randint(5, 50, present.shape, generator=generator)
    inputs = {"input_ids": ids * present}
    return inputs if padding == "none" else {**inputs, "attention_mask": present.long()}


def _captions(padding: str, generator: torch.Generator) -> dict[str, Tensor]:
    """Texts that end with the end-of-text token."""
    inputs, present = _texts(padding, generator), _present(padding)
    inputs["input_ids"][torch.arange(4), present.sum(1) - 1] = TEXT["eos_token_id"]
    if padding == "none":
        inputs["input_ids"][1, 6] = TEXT["eos_token_id"]  # it may come before the end
    return inputs


def _patches(padding: str, generator: torch.Generator) -> dict[str, Tensor]:
    shapes = torch.tensor([[4, 4]] * 4 if padding == "none" else [[4, 4], [2, 3], [3, 4], [2, 2]])
    present = _present(padding if padding == "right" else "none", tuple(shapes.prod(1).tolist()))
    pixels = torch.randn(4, 16, 48, generator=generator)
    return {"pixel_values": pixels, "pixel_attention_mask": present.long(), "spatial_shapes": shapes}


def _waves(padding: str, generator: torch.Generator) -> dict[str, Tensor]:
    waves = torch.randn(4, 150, generator=generator)
    if padding == "none":
        return {"input_values": waves}
    present = torch.arange(150) < torch.tensor([150, 80, 110, 60])[:, None]
    return {"input_values": waves * present, "attention_mask": present.long()}


INPUTS: dict[str, Callable[[str, torch.Generator], dict[str, Tensor]]] = {
    "images": lambda _, generator: {"pixel_values": torch.randn(4, 3, 16, 16, generator=generator)},
    "masked images": lambda _, generator: {
        "pixel_values": torch.randn(4, 3, 24, 24, generator=generator),
        "noise": torch.rand(4, 36, generator=generator),
    },
    "videos": lambda _, generator: {"pixel_values": torch.randn(4, 4, 3, 16, 16, generator=generator)},
    "patches": _patches,
    "spectrograms": lambda _, generator: {"input_values": torch.randn(4, 16, 16, generator=generator)},
    "mel": lambda _, generator: {"input_features": torch.randn(4, 8, 40, generator=generator)},
    "waves": _waves,
    "texts": _texts,
    "captions": _captions,
}
"""Batches by kind; called with the side of the padding and a generator."""
