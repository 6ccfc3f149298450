"""However a model is called, the same tokens are protected and kept, and the answer is the same."""

from typing import Any

import pytest
import torch
import transformers as hf

import rltr
from rltr.runtime.backbone import Backbone
from rltr.runtime.layers import find_base
from rltr.selectors.learned import Learned
from rltr.selectors.reduced_model import ReducedModel
from tests.backbone.conftest import DECODERS, Wrapper
from tests.conftest import TEXT, build
from tests.deploy.conftest import policy_for

CALLS: dict[str, Any] = {
    "by name": lambda model, inputs: model(**inputs),
    "in order": lambda model, inputs: model(*inputs.values()),
    "forward by name": lambda model, inputs: model.forward(**inputs),
    "forward in order": lambda model, inputs: model.forward(*inputs.values()),
    "first in order": lambda model, inputs: model(next(iter(inputs.values())), **dict(list(inputs.items())[1:])),
    "in a larger model": lambda model, inputs: Wrapper(model, CALLS["by name"])(**inputs),
    "its forward in a larger model": lambda model, inputs: Wrapper(model, CALLS["forward by name"])(**inputs),
    "as a tuple": lambda model, inputs: model(**inputs, return_dict=False),
}


def logits(output):
    return output[0] if isinstance(output, tuple) else output["logits"]


def texts(padding):
    """Texts whose end token is also the padding token; the attention mask follows ``padding``."""
    ids = torch.randint(5, 50, (4, 12), generator=torch.Generator().manual_seed(3))
    length = torch.tensor([[12], [9], [7], [5]])
    real = torch.arange(12) < length - 1
    ids = ids.where(real, 0)
    masks = {
        "unmasked": {},
        "all masked as real": {"attention_mask": torch.ones_like(ids)},
        "end of text not masked": {"attention_mask": (torch.arange(12) < length).long()},
        "left": {"attention_mask": (torch.arange(12) >= 12 - length).long()},
    }
    if padding == "left":
        ids = torch.stack([row.roll(12 - int(n)) for row, n in zip(ids, length, strict=True)])
    return {"input_ids": ids} | masks[padding]


@pytest.mark.parametrize("padding", ["unmasked", "all masked as real", "end of text not masked", "left"])
@pytest.mark.parametrize("name", DECODERS)
def test_the_token_that_a_decoders_head_reads_is_kept_for_every_kind_of_call(name, padding):
    model = build(*DECODERS[name])
    inputs, policy = texts(padding), policy_for(model, 12)
    ids = inputs["input_ids"]
    reads = (torch.arange(12) * (ids != 0)).argmax(1)
    backbone = Backbone(model)
    with torch.no_grad(), backbone.attached():
        reduce = ReducedModel(backbone, Learned(policy.network, policy.pricing, 100.0), policy.layers)
        measured, trace = reduce(inputs)
    assert trace.stages[-1].total < trace.stages[0].total
    with torch.no_grad(), rltr.attach(model, policy, cost_weight=100.0) as attached:
        for how, call in CALLS.items():
            served = logits(call(model, inputs))
            assert torch.equal(served, measured["logits"]), how
            kept = attached.kept
            assert kept is not None and kept.present[torch.arange(4), reads].all(), how
            assert torch.equal(kept.present, trace.stages[-1].present), how


@pytest.mark.parametrize("how", CALLS)
def test_images_are_reduced_for_every_kind_of_call(tiny_vit, image_inputs, how):
    policy = policy_for(tiny_vit)
    with torch.no_grad(), rltr.attach(tiny_vit, policy, cost_weight=3.0):
        assert torch.equal(logits(CALLS[how](tiny_vit, image_inputs)), tiny_vit(**image_inputs).logits)


@pytest.mark.parametrize("outer", [hf.BertModel, hf.BertForSequenceClassification, hf.BertForTokenClassification])
def test_forward_of_the_model_itself_is_reduced(outer, text_inputs):
    """Sentence-transformers calls ``model.forward(...)``."""
    model = build(outer, hf.BertConfig(**TEXT))
    with torch.no_grad():
        native = model(**text_inputs)[0]
        with rltr.attach(model, policy_for(model, 12), cost_weight=30.0) as attached:
            called = model.forward(**text_inputs)[0]
            assert attached.kept is not None and attached.kept.total < int(text_inputs["attention_mask"].sum())
    assert not torch.equal(called, native)


def test_attaching_keeps_the_signature_of_every_forward(tiny_bert):
    """Trainers and pipelines inspect it."""
    import inspect

    wanted = [inspect.signature(part.forward) for part in tiny_bert.modules()]
    with Backbone(tiny_bert).attached():
        assert [inspect.signature(part.forward) for part in tiny_bert.modules()] == wanted


def test_the_base_is_the_innermost_part_that_takes_the_input(tiny_vit, tiny_bert):
    for model, base in ((tiny_vit, tiny_vit.vit), (tiny_bert, tiny_bert.bert), (tiny_vit.vit, tiny_vit.vit)):
        assert find_base(model, Backbone(model).layers) is base


def test_the_vision_tower_of_a_llava_is_reduced():
    """LLaVA reads the hidden states before the last layer only."""
    vision = hf.CLIPVisionConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64, image_size=16, patch_size=4
    )
    text = hf.LlamaConfig(**TEXT, num_key_value_heads=1)
    config = hf.LlavaConfig(vision_config=vision, text_config=text, image_token_index=3, vision_feature_layer=-2)
    model = build(hf.LlavaForConditionalGeneration, config)
    pixels = torch.randn(2, 3, 16, 16)
    tower = Backbone(model, tower="vision_tower")
    policy = policy_for(tower.root)
    with torch.no_grad():
        native = model.model.get_image_features(pixel_values=pixels, vision_feature_layer=-2)
        native = torch.stack(list(getattr(native, "pooler_output", native)))
        with rltr.attach(tower.root, policy, cost_weight=3.0) as attached:
            found = model.model.get_image_features(pixel_values=pixels, vision_feature_layer=-2)
            assert attached.kept is not None and attached.kept.total < 2 * 17
        found = torch.stack(list(getattr(found, "pooler_output", found)))
    assert found.shape == native.shape and not torch.equal(found, native) and found.isfinite().all()
