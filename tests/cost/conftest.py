"""A tiny backbone, and a latency table measured on it."""

import pytest
import torch
import transformers as hf

from rltr.cost import LatencyCost
from rltr.runtime.backbone import Backbone
from tests.clocks import Machine as MadeUp
from tests.clocks import clock_of

SHAPE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
VISION = {**SHAPE, "patch_size": 4, "num_labels": 3}
WORDS = {**SHAPE, "vocab_size": 50, "intermediate_size": 48, "max_position_embeddings": 64}
DISTIL = {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "vocab_size": 50, "max_position_embeddings": 64}


def images(config_class, model_class, extra=1, **more):
    """A model builder for images of ``patches ** 2`` patches and ``extra`` further tokens."""

    def build(patches):
        model = model_class(config_class(**VISION, image_size=4 * patches, **more)).eval()
        return model, {"pixel_values": torch.randn(2, 3, 4 * patches, 4 * patches)}, patches**2 + extra

    return build


def texts(config_class, model_class, **config):
    """A model builder for texts of ``length`` tokens."""

    def build(length):
        model = model_class(config_class(**config)).eval()
        return model, {"input_ids": torch.randint(5, 50, (2, length))}, length

    return build


MODELS = {
    "vit": images(hf.ViTConfig, hf.ViTForImageClassification, intermediate_size=48),
    "deit": images(hf.DeiTConfig, hf.DeiTForImageClassification, extra=2, intermediate_size=48),
    "dinov2": images(hf.Dinov2Config, hf.Dinov2ForImageClassification),
    "dinov2-swiglu": images(hf.Dinov2Config, hf.Dinov2ForImageClassification, use_swiglu_ffn=True),
    "bert": texts(hf.BertConfig, hf.BertForSequenceClassification, **WORDS),
    "roberta": texts(hf.RobertaConfig, hf.RobertaForSequenceClassification, **WORDS, pad_token_id=1),
    "distilbert": texts(hf.DistilBertConfig, hf.DistilBertForSequenceClassification, **DISTIL),
}


@pytest.fixture(scope="module")
def backbone():
    """A tiny wrapped ViT of three equal layers."""
    return Backbone(MODELS["vit"](4)[0])


@pytest.fixture(scope="module")
def measured(backbone):
    """A latency table measured on ``backbone``, with decisions."""
    seen = []

    def decide(count):
        seen.append(count)
        torch.randn(4, count, 8).softmax(-1)

    with MadeUp() as machine:
        cost = LatencyCost.measure(backbone, 17, rows=4, decision=decide, points=4, passes=1, clock=clock_of(machine))
    assert set(seen) == {1, 6, 12, 17} and cost.busy is None
    return cost
