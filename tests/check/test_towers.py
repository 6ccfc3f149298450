"""Towers of larger models are checked, and reduced, alone."""

import pytest
import torch
import transformers as hf

import rltr
from rltr.check.proof import prove
from rltr.check.sample import random_inputs
from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from rltr.selectors import baseline
from tests.conftest import build
from tests.zoo import ZOO, batch


@pytest.mark.parametrize("tower", ["vision_model", "text_model"])
def test_either_tower_of_a_clip_can_be_reduced(tower):
    small = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    text = {**small, "vocab_size": 50, "max_position_embeddings": 64, "eos_token_id": 2, "bos_token_id": 1}
    config = hf.CLIPConfig(
        text_config=text, vision_config={**small, "image_size": 16, "patch_size": 4}, projection_dim=16
    )
    torch.manual_seed(0)
    model = hf.CLIPModel(config).eval()
    with pytest.raises(RltrError, match="vision_model"):
        Backbone(model)
    inputs = batch(ZOO["clip_vision_model"]) | batch(ZOO["clip_text_model"], "right")
    backbone = Backbone(model, tower=tower)
    assert prove(backbone, inputs, (1, 3)).holds
    report = rltr.check_backbone(model, tower=tower)  # without inputs=, because the whole model takes two kinds of them
    assert report.proof.holds and report.model_type == backbone.config.model_type
    before = model(**inputs).logits_per_image
    with backbone.attached():
        output, trace = rltr.ReducedModel(backbone, baseline("norm", 0.5), [1])(inputs)
    assert len(trace.stages[-1].counts) == 4 and trace.stages[-1].total < trace.stages[0].total
    assert output["logits_per_image"].shape == before.shape and not torch.equal(output["logits_per_image"], before)
    assert torch.equal(model(**inputs).logits_per_image, before)


def test_an_encoder_beside_a_decoder_is_checked_alone():
    config = hf.WhisperConfig(
        d_model=32, encoder_layers=4, encoder_attention_heads=2, encoder_ffn_dim=64, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=64, vocab_size=60, num_mel_bins=8, max_source_positions=20,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    report = rltr.check_backbone(build(hf.WhisperForConditionalGeneration, config))
    assert report.proof.holds and report.name == "WhisperForConditionalGeneration"


SMALL = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 16,
    "patch_size": 4, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}  # fmt: skip
PRETRAINING = {
    "vit": lambda: build(hf.ViTMAEForPreTraining, hf.ViTMAEConfig(**SMALL, mask_ratio=0.5)),
    "videomae": lambda: build(hf.VideoMAEForPreTraining, hf.VideoMAEConfig(**SMALL, num_frames=4, tubelet_size=2)),
}


@pytest.mark.parametrize("tower", PRETRAINING)
def test_the_encoder_of_a_model_with_two_stacks_can_be_reduced(tower):
    model = PRETRAINING[tower]()
    with pytest.raises(RltrError, match=f"2 stacks of layers.*decoder_layers.*tower=: {tower}$"):
        Backbone(model)
    backbone = Backbone(model, tower=tower)
    assert backbone.depth == 4
    if tower == "vit":
        inputs = random_inputs(backbone, rows=3)
    else:
        with pytest.raises(RltrError, match="takes bool_masked_pos, which rltr cannot generate"):
            random_inputs(backbone, rows=3)
        hidden = torch.arange(32).expand(3, -1) % 2 == 1
        inputs = {"pixel_values": torch.randn(3, 4, 3, 16, 16), "bool_masked_pos": hidden}
    assert prove(backbone, inputs, (1, 3)).holds
    before = model(**inputs).logits
    with backbone.attached(), torch.no_grad():
        output, trace = rltr.ReducedModel(backbone, baseline("norm", 0.5), [1])(inputs)
    assert trace.stages[-1].total < trace.stages[0].total
    assert output["logits"].shape == before.shape and not torch.equal(output["logits"], before)
    assert torch.equal(model(**inputs).logits, before)
