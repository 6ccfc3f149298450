"""Changes of an attached model: training mode, attention, dropout, layers and a shared config."""

import copy

import pytest
import torch
import transformers as hf
from torch import nn

import rltr
from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from rltr.selectors import KeepAll
from rltr.selectors.reduced_model import ReducedModel
from tests.backbone.conftest import LAYERS
from tests.deploy.conftest import policy_for


@pytest.mark.parametrize("position", ["whole", "part"])
def test_a_part_in_training_mode_is_refused(tiny_bert, text_inputs, position):
    model = copy.deepcopy(tiny_bert)
    part = model if position == "whole" else model.bert.encoder.layer[2].output.dropout
    backbone = Backbone(model)
    with backbone.attached():
        part.train()
        with pytest.raises(RltrError, match="training mode"):
            ReducedModel(backbone, KeepAll(), LAYERS)(text_inputs)
        model.eval()
        model.bert.encoder.layer[
            2
        ].output.LayerNorm.train()  # new modules are in training mode; LayerNorm computes the same in it
        ReducedModel(backbone, KeepAll(), LAYERS)(text_inputs)


def test_attention_set_while_attached_is_refused_and_kept_after_detaching(tiny_vit, image_inputs):
    model = copy.deepcopy(tiny_vit)
    backbone = Backbone(model)
    with backbone.attached():
        model.set_attn_implementation("eager")
        with pytest.raises(RltrError, match="set to 'eager' while rltr was attached"):
            ReducedModel(backbone, KeepAll(), LAYERS)(image_inputs)
    assert model.config._attn_implementation == "eager", "what the user set last stays"


def test_dropout_added_while_attached_is_refused(tiny_bert, text_inputs):
    model = copy.deepcopy(tiny_bert)
    with Backbone(model).attached() as backbone:
        ReducedModel(backbone, KeepAll(), LAYERS)(text_inputs)
        output = model.bert.encoder.layer[0].output
        output.dense = nn.Sequential(output.dense, nn.Dropout(0.5))  # as adapters do
        with pytest.raises(RltrError, match="training mode"):
            ReducedModel(backbone, KeepAll(), LAYERS)(text_inputs)
        output.dense.eval()
        ReducedModel(backbone, KeepAll(), LAYERS)(text_inputs)


@pytest.mark.parametrize("change", ["insert", "append", "pop", "replace"])
def test_layers_that_change_while_attached_are_refused(tiny_vit, image_inputs, change):
    model = copy.deepcopy(tiny_vit)
    layers, other = model.vit.layers, copy.deepcopy(tiny_vit.vit.layers[0])
    with Backbone(model).attached() as backbone:
        if change == "insert":
            layers.insert(2, other)
        elif change == "append":
            layers.append(other)
        elif change == "pop":
            layers.pop(1)
        else:
            layers[1] = other
        with pytest.raises(RltrError, match="attach again when the model is complete"):
            ReducedModel(backbone, KeepAll(), LAYERS)(image_inputs)


def test_models_that_share_a_config_are_attached_separately(tiny_vit, image_inputs):
    """``from_config(other.config)`` does not copy the config."""
    first = copy.deepcopy(tiny_vit)
    second = hf.ViTForImageClassification(first.config).eval()
    assert second.config is first.config
    one, two = (rltr.attach(model, policy_for(model), cost_weight=3.0) for model in (first, second))
    with torch.no_grad():
        wanted = second(**image_inputs).logits
        one.detach()
        assert torch.equal(second(**image_inputs).logits, wanted)
    two.detach()
    assert first.config._attn_implementation == "sdpa"
