"""Unusual models and inputs get a result or an error with the reason, never a crash."""

import pytest
import torch
import transformers as hf

import rltr
from rltr.check.sample import random_inputs
from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from tests.check.conftest import TINY_TEXT


def test_inputs_that_cannot_be_generated_are_refused(tiny_vit, monkeypatch):
    backbone = Backbone(tiny_vit)
    monkeypatch.setattr(type(tiny_vit), "main_input_name", "tactile_values")
    with pytest.raises(RltrError, match="pass inputs="):
        random_inputs(backbone, 2)


TINY_IMAGE = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip
PIXELS = {"pixel_values": torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))}
WORDS = {"input_ids": torch.randint(3, 50, (3, 12), generator=torch.Generator().manual_seed(1))}
UNUSUAL = {
    "a mask passed by name": (lambda: hf.Blip2VisionModel(hf.Blip2VisionConfig(**TINY_IMAGE)), PIXELS, None),
    "layers that use the whole input": (
        lambda: hf.XmodModel(hf.XmodConfig(**TINY_TEXT, default_language="en_XX")), WORDS, "with fewer tokens ended in",
    ),
    "the native model fails": (
        lambda: hf.XmodModel(hf.XmodConfig(**TINY_TEXT)), WORDS, "native forward pass.*language unknown.*pass inputs=",
    ),
    "layers without hidden_states": (
        lambda: hf.CTRLModel(hf.CTRLConfig(n_embd=32, n_layer=4, n_head=4, dff=64, vocab_size=60, n_positions=64)),
        WORDS, "takes x, .*no hidden_states",
    ),
    "layers on a grid": (
        lambda: hf.SamVisionModel(
            hf.SamVisionConfig(**TINY_IMAGE, output_channels=8, mlp_dim=64, window_size=2, global_attn_indexes=[1, 3])
        ),
        PIXELS, "work on a 2-D grid",
    ),
    "attention of its own": (
        lambda: hf.BlipVisionModel(hf.BlipVisionConfig(**TINY_IMAGE)), None, "attention in its own code",
    ),
    "layers without attention": (
        lambda: hf.MiniMaxModel(hf.MiniMaxConfig(**TINY_TEXT, num_key_value_heads=2, head_dim=8, num_local_experts=2)),
        WORDS, "ran without transformers' attention interface",
    ),
    "widths that differ": (
        lambda: hf.ConvNextModel(hf.ConvNextConfig(hidden_sizes=[8, 8], depths=[1, 1], num_stages=2)),
        PIXELS, "no single hidden_size",
    ),
    "nothing declared": (
        lambda: hf.GPTNeoXJapaneseModel(hf.GPTNeoXJapaneseConfig(**TINY_TEXT)), WORDS, "does not declare its layers",
    ),
    "inputs that cannot be generated": (
        lambda: hf.BrosModel(hf.BrosConfig(**TINY_TEXT)), None, "attention in its own code",
    ),
    "more inputs are needed": (
        lambda: hf.LayoutLMv3Model(hf.LayoutLMv3Config(**TINY_TEXT)), None, "pass inputs=|its own code",
    ),
    "a random model": (
        lambda: hf.ViTMAEModel(hf.ViTMAEConfig(**TINY_IMAGE)), PIXELS, "different answers to the same inputs",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", UNUSUAL)
def test_an_unusual_model_gets_a_result_or_an_error_with_the_reason(what):
    make, inputs, reason = UNUSUAL[what]
    model = build_of(make)
    family = rltr.Family(trailing=1, causal=True, cached=True) if "MiniMax" in type(model).__name__ else rltr.Family()
    if reason is None:
        assert rltr.check_backbone(model, inputs, family=family).holds
        return
    with pytest.raises(RltrError, match=reason) as error:
        rltr.check_backbone(model, inputs, family=family)
    assert type(model).__name__ in str(error.value) or "layer" in str(error.value)


def build_of(make):
    torch.manual_seed(0)
    return make().eval()


def test_inputs_for_another_part_are_refused(tiny_bert):
    with pytest.raises(RltrError, match="native forward pass.*pass inputs="):
        rltr.check_backbone(tiny_bert, {"pixel_values": torch.randn(3, 3, 16, 16)})
