"""The models that are timed: the embedded one, and well-known architectures with random weights; and their inputs."""

import argparse
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    PreTrainedConfig,
    ViTConfig,
)

from benchmarks.results import console
from rltr.embedded import load_model, load_task
from rltr.runtime.backbone import Backbone

TINY: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}


def vit_small(layers: int = 12, dtype: torch.dtype = torch.float32) -> Backbone:
    """ViT-S/16 for 224 pixels (Touvron et al. 2021, DeiT-S): width 384, 6 heads, 197 tokens; random weights."""
    config = ViTConfig(hidden_size=384, num_hidden_layers=layers, num_attention_heads=6, intermediate_size=1536)
    return _frozen(AutoModelForImageClassification, config, dtype)


def minilm() -> Backbone:
    """MiniLM-L6 (Wang et al. 2020): a BERT of 6 layers, width 384, 12 heads; random weights."""
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    return _frozen(AutoModelForSequenceClassification, config, torch.float32)


def vit_base(dtype: torch.dtype) -> Backbone:
    """ViT-B/16 for 224 pixels (Dosovitskiy et al. 2021): 12 layers, width 768, 12 heads, 197 tokens; random weights."""
    return _frozen(AutoModelForImageClassification, ViTConfig(), dtype)


def bert_base(dtype: torch.dtype) -> Backbone:
    """BERT-base (Devlin et al. 2019): 12 layers, width 768, 12 heads, at most 512 tokens; random weights."""
    return _frozen(AutoModelForSequenceClassification, BertConfig(), dtype)


def tiny_vit(dtype: torch.dtype) -> Backbone:
    """A ViT of 4 layers and 17 tokens, for trying a benchmark."""
    return _frozen(AutoModelForImageClassification, ViTConfig(**TINY, image_size=64), dtype)


def tiny_bert(dtype: torch.dtype) -> Backbone:
    """A BERT of 4 layers and at most 64 tokens, for trying a benchmark."""
    return _frozen(AutoModelForSequenceClassification, BertConfig(**TINY, max_position_embeddings=64), dtype)


def _frozen(auto: Any, config: PreTrainedConfig, dtype: torch.dtype) -> Backbone:
    model = auto.from_config(config, attn_implementation="sdpa")
    return Backbone(model.to(dtype).eval().requires_grad_(False))


def words(backbone: Backbone, rows: int, length: int) -> dict[str, Tensor]:
    """Random token ids ``(rows, length)``, without padding."""
    return {"input_ids": torch.randint(1000, backbone.config.vocab_size, (rows, length))}


def tokens_per_row(backbone: Backbone) -> int:
    """Number of tokens of an image: patches and CLS."""
    return int((backbone.config.image_size // backbone.config.patch_size) ** 2 + 1)


def noise(backbone: Backbone, rows: int) -> dict[str, Tensor]:
    """Random images ``(rows, channels, height, width)`` of the model's size and precision."""
    side, channels = backbone.config.image_size, backbone.config.num_channels
    return {"pixel_values": torch.randn(rows, channels, side, side, dtype=backbone.dtype)}


def texts(backbone: Backbone, rows: int, shortest: int = 128, longest: int = 512) -> dict[str, Tensor]:
    """Random texts ``(rows, longest)`` with evenly spaced lengths, padded on the right."""
    counts = torch.linspace(longest, shortest, rows).round().long()
    mask = (torch.arange(longest) < counts[:, None]).long()
    ids = torch.randint(1000, backbone.config.vocab_size, (rows, longest)) * mask
    return {"input_ids": ids, "attention_mask": mask}


def embedded() -> Backbone:
    """The model that comes with rltr."""
    return Backbone(load_model())


def test_images(rows: int) -> dict[str, Tensor]:
    """The first test images of the embedded data."""
    return load_task(train=1, validation=1, test=rows).test.batch(range(rows))


def add_size_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--dtype``, ``--batch`` and ``--layers`` for a ViT-S."""
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--batch", type=int, nargs="+", help="inputs per pass (default: 16 and 64; bfloat16: 2)")
    parser.add_argument("--layers", type=int, help="layers of the model (default: 12; bfloat16: 4)")


def sized(args: argparse.Namespace) -> Backbone:
    """Build the ViT-S for the options of :func:`add_size_options`; fill in those that were not given.

    A processor without bfloat16 arithmetic needs seconds for one image, so the default is a small model in that
    precision. With AMX or a GPU, pass the full size: ``--dtype bfloat16 --batch 16 64 --layers 12``.
    """
    small = args.dtype == "bfloat16"
    args.batch = args.batch or ([2] if small else [16, 64])
    args.layers = args.layers or (4 if small else 12)
    if args.layers != 12:
        console.print(f"smaller model: {args.layers} of 12 layers, batch {args.batch}")
    return vit_small(args.layers, getattr(torch, args.dtype))
