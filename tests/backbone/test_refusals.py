"""Models and inputs that cannot be reduced exactly are refused, with the reason."""

import copy

import pytest
import transformers as hf

from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from rltr.selectors import KeepAll
from rltr.selectors.reduced_model import ReducedModel
from tests.backbone.conftest import (
    LAYERS,
    selector,
)

SMALL = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}
REFUSED = {
    "decoder": (lambda: hf.BertForSequenceClassification(hf.BertConfig(**SMALL, is_decoder=True)), "causally"),
    "cross attention": (
        lambda: hf.BertForSequenceClassification(hf.BertConfig(**SMALL, is_decoder=True, add_cross_attention=True)),
        "another model's output",
    ),
    "chunked": (
        lambda: hf.BertForSequenceClassification(hf.BertConfig(**SMALL, chunk_size_feed_forward=2)),
        "chunk_size_feed_forward splits",
    ),
    "one layer": (
        lambda: hf.BertForSequenceClassification(hf.BertConfig(**SMALL | {"num_hidden_layers": 1})),
        "it has 1 layers",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_models_are_refused_with_the_reason(name):
    make, reason = REFUSED[name]
    model = make().eval()
    with pytest.raises(RltrError, match=reason) as error:
        Backbone(model)
    assert type(model).__name__ in str(error.value)


def test_a_model_that_declares_no_layers_is_refused(tiny_vit, monkeypatch):
    monkeypatch.setattr(hf.ViTPreTrainedModel, "_can_record_outputs", None)
    with pytest.raises(RltrError, match="does not declare its layers"):
        Backbone(tiny_vit)


@pytest.mark.parametrize("layers", [[], [2, 1], [1, 1], [-1, 2], [1, 4]])
def test_impossible_decision_layers_are_refused(tiny_vit, layers):
    with pytest.raises(RltrError, match="from 0 to 3"):
        ReducedModel(Backbone(tiny_vit), KeepAll(), layers)


def test_running_without_attaching_is_refused(tiny_vit, image_inputs):
    with pytest.raises(RltrError, match="not attached"):
        ReducedModel(Backbone(tiny_vit), KeepAll(), LAYERS)(image_inputs)


def test_training_mode_is_refused(tiny_vit, image_inputs):
    model = copy.deepcopy(tiny_vit).train()
    backbone = Backbone(model)
    with backbone.attached(), pytest.raises(RltrError, match="training mode"):
        ReducedModel(backbone, KeepAll(), LAYERS)(image_inputs)


@pytest.mark.parametrize("through", ["inputs", "config"])
def test_recording_attention_is_refused(tiny_vit, image_inputs, through):
    model, record = copy.deepcopy(tiny_vit), "output_attentions"
    backbone = Backbone(model)
    inputs = image_inputs | ({record: True} if through == "inputs" else {})
    if through == "config":
        # transformers refuses this setting for attention without weights, so it is set directly.
        model.config.__dict__[record if record in model.config.__dict__ else f"_{record}"] = True
    with backbone.attached(), pytest.raises(RltrError, match=f"{record}=True"):
        backbone.run(backbone.forward(KeepAll(), LAYERS), inputs)


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_roberta", "tiny_distilbert"])
def test_a_mask_that_is_not_padding_is_refused(request, text_inputs, model):
    backbone = Backbone(request.getfixturevalue(model))
    square = text_inputs["attention_mask"].bool()[:, None, None].expand(-1, 1, 12, -1)
    with backbone.attached(), pytest.raises(RltrError, match="4 dimensions"):
        ReducedModel(backbone, KeepAll(), LAYERS)(text_inputs | {"attention_mask": square})


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_roberta", "tiny_distilbert"])
@pytest.mark.parametrize("hidden", [slice(None), slice(0, 2)], ids=["a whole row", "padding at the start"])
def test_a_row_without_its_first_token_is_refused(request, text_inputs, model, hidden):
    text_inputs["attention_mask"][1, hidden] = 0
    backbone = Backbone(request.getfixturevalue(model))
    with backbone.attached(), pytest.raises(RltrError, match="padding at the end"):
        ReducedModel(backbone, KeepAll(), LAYERS)(text_inputs)


def test_two_backbones_cannot_be_attached_to_one_model(tiny_vit):
    with Backbone(tiny_vit).attached(), pytest.raises(RltrError, match="another rltr.Backbone is attached"):
        Backbone(tiny_vit).attach()
    assert tiny_vit.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", ["tome", "cls_attention"])
def test_selectors_that_need_the_previous_layer_refuse_layer_0(tiny_vit, name):
    with pytest.raises(RltrError, match="from 1 on"):
        ReducedModel(Backbone(tiny_vit), selector(name), (0, 2))
