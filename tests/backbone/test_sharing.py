"""Several uses of one model: backbones that are shared, and uses that an attached policy excludes."""

import copy

import pytest
import torch
import transformers as hf

import rltr
from rltr.dense import DenseAnswers
from rltr.envs import TokenSelectionEnv, TokenSelectionVecEnv, make_episodes
from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from rltr.tasks.zero_shot import vision_tower
from tests.backbone.conftest import PIXELS, examples, untouched
from tests.conftest import build
from tests.deploy.conftest import policy_for


@pytest.mark.parametrize(
    "use",
    [
        lambda model: make_episodes(model, examples(), rows=2),
        lambda model: TokenSelectionEnv(model=model, examples=examples()),
        lambda model: TokenSelectionVecEnv(make_episodes(model, examples(), rows=2)),
        lambda model: Backbone.shared(model),
        lambda model: Backbone(model).attach(),
        lambda model: rltr.check_backbone(model),
        lambda model: DenseAnswers(Backbone.shared(model), examples()),
        lambda model: rltr.attach(model, policy_for(copy.deepcopy(model)), cost_weight=1.0),
    ],
    ids=["episodes", "env", "vec env", "shared", "backbone", "check", "dense", "attach"],
)
@pytest.mark.parametrize("inner", [False, True], ids=["whole", "base"])
def test_uses_that_need_native_answers_refuse_an_attached_policy(model, use, inner):
    rltr.attach(model, policy_for(model), cost_weight=3.0)
    with pytest.raises(RltrError, match=r"rltr\.detach\(model\)"):
        use(model.base_model if inner else model)
    rltr.detach(model)
    assert untouched(model)


def test_a_backbone_is_shared_for_the_same_part_and_attention(model):
    with Backbone(model).attached() as backbone:
        assert Backbone.shared(model) is backbone
        with pytest.raises(RltrError, match="attention='auto' is attached"):
            Backbone.shared(model, attention="sdpa-padded")
    assert Backbone.shared(model) is not backbone


def test_towers_of_one_model_are_not_shared():
    clip = small_clip()
    with Backbone(clip, tower="vision_model").attached() as images:
        texts = Backbone.shared(clip, tower="text_model")
        assert texts is not images and texts.root is clip.text_model
        assert Backbone.shared(clip, tower="vision_model") is images
        with texts.attached():
            assert Backbone.shared(clip, tower="text_model") is texts
    assert untouched(clip)


def small_clip():
    shape = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    text = {**shape, "vocab_size": 50, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2}
    vision = {**shape, "image_size": 16, "patch_size": 4, "projection_dim": 8}
    config = hf.CLIPConfig(text_config={**text, "projection_dim": 8}, vision_config=vision, projection_dim=8)
    return build(hf.CLIPModel, config)


@pytest.mark.parametrize("by", ["the same tower", "a new tower", "the whole", "the part"])
def test_a_policy_is_detached_through_any_model_that_shares_its_part(by):
    clip = small_clip()
    with torch.no_grad():
        native = clip.get_image_features(pixel_values=PIXELS)
    tower = vision_tower(clip)
    rltr.attach(tower, policy_for(tower), cost_weight=10.0)
    with torch.no_grad():
        assert not torch.equal(embedding(clip.get_image_features(pixel_values=PIXELS)), embedding(native))
    models = {
        "the same tower": tower,
        "a new tower": vision_tower(clip),
        "the whole": clip,
        "the part": clip.vision_model,
    }
    rltr.detach(models[by])
    with torch.no_grad():
        assert torch.equal(embedding(clip.get_image_features(pixel_values=PIXELS)), embedding(native))
    assert untouched(clip)


def embedding(output):
    return output if isinstance(output, torch.Tensor) else output.pooler_output
