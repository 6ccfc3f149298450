"""Every way to call a model protects the same tokens, keeps the same tokens and gives the same answer."""

import copy
import functools
from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn

import rltr
from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from rltr.runtime.layers import find_base
from rltr.runtime.wrapped import refuse_wrapped
from rltr.selectors import KeepAll
from rltr.selectors.learned import Learned
from rltr.selectors.reduced_model import ReducedModel
from tests.backbone.conftest import LAYERS, selector
from tests.conftest import TEXT, build
from tests.deploy.conftest import policy_for

SMALL = {"num_key_value_heads": 1, "head_dim": 8}
DECODERS = {
    "llama": (hf.LlamaForSequenceClassification, hf.LlamaConfig(**TEXT, num_key_value_heads=1)),
    "qwen2": (hf.Qwen2ForSequenceClassification, hf.Qwen2Config(**TEXT, num_key_value_heads=1)),
    "gemma2": (hf.Gemma2ForSequenceClassification, hf.Gemma2Config(**TEXT, **SMALL, sliding_window=5)),
    "opt": (
        hf.OPTForSequenceClassification,
        hf.OPTConfig(**{k: v for k, v in TEXT.items() if k != "intermediate_size"}, ffn_dim=64, word_embed_proj_dim=32),
    ),
    "gpt_neox": (hf.GPTNeoXForSequenceClassification, hf.GPTNeoXConfig(**TEXT)),
}


class Wrapper(nn.Module):
    """A user's module around a model."""

    def __init__(self, inner, how):
        super().__init__()
        self.inner, self.how = inner, how

    def forward(self, **inputs):
        return self.how(self.inner, inputs)


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
def test_the_token_that_a_decoders_head_reads_stays_however_it_is_called(name, padding):
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
def test_images_are_reduced_however_the_model_is_called(tiny_vit, image_inputs, how):
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


def test_the_signature_of_an_attached_model_is_its_own(tiny_bert):
    """Trainers and pipelines inspect it."""
    import inspect

    wanted = [inspect.signature(part.forward) for part in tiny_bert.modules()]
    with Backbone(tiny_bert).attached():
        assert [inspect.signature(part.forward) for part in tiny_bert.modules()] == wanted


def test_the_base_is_the_innermost_part_that_takes_the_input(tiny_vit, tiny_bert):
    for model, base in ((tiny_vit, tiny_vit.vit), (tiny_bert, tiny_bert.bert), (tiny_vit.vit, tiny_vit.vit)):
        assert find_base(model, Backbone(model).layers) is base


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
        model.bert.encoder.layer[2].output.LayerNorm.train()  # as a new module is, which computes the same
        ReducedModel(backbone, KeepAll(), LAYERS)(text_inputs)


def test_attention_that_was_set_while_attached_is_refused_and_kept(tiny_vit, image_inputs):
    model = copy.deepcopy(tiny_vit)
    backbone = Backbone(model)
    with backbone.attached():
        model.set_attn_implementation("eager")
        with pytest.raises(RltrError, match="set to 'eager' while rltr was attached"):
            ReducedModel(backbone, KeepAll(), LAYERS)(image_inputs)
    assert model.config._attn_implementation == "eager", "what the user set last stays"


def replaced(model):
    """Wrap the forward as accelerate does: keep the old one, and call it from the new one."""
    for layer in model.vit.layers:
        before = layer.forward
        layer.forward = functools.partial(lambda inner, *args, **kwargs: inner(*args, **kwargs), before)


def bypassed(model):
    """Set the class's own forward as an attribute, as tools do to remove wrappers."""
    layer = model.vit.layers[2]
    layer.forward = type(layer).forward.__get__(layer)


def test_a_wrapper_from_before_attaching_is_called_and_restored(tiny_vit, image_inputs):
    model = copy.deepcopy(tiny_vit)
    calls = []

    def counting(inner, *args, **kwargs):
        calls.append(1)
        return inner(*args, **kwargs)

    fronts = []
    for layer in model.vit.layers:
        layer.forward = functools.partial(counting, layer.forward)
        fronts.append(layer.forward)
    native = model(**image_inputs).logits
    with Backbone(model).attached() as backbone:
        output, _ = ReducedModel(backbone, selector("norm"), LAYERS)(image_inputs)
    assert len(calls) == 8 and not torch.equal(output["logits"], native)
    assert [layer.forward for layer in model.vit.layers] == fronts


def test_a_wrapper_from_after_attaching_stays_and_is_called(tiny_vit, image_inputs):
    model = copy.deepcopy(tiny_vit)
    with torch.no_grad():
        native = model(**image_inputs).logits
        with Backbone(model).attached() as backbone:
            wanted, _ = ReducedModel(backbone, selector("norm"), LAYERS)(image_inputs)
            replaced(model)
            found, _ = ReducedModel(backbone, selector("norm"), LAYERS)(image_inputs)
            assert torch.equal(found["logits"], wanted["logits"])
        assert torch.equal(model(**image_inputs).logits, native)
        with Backbone(model).attached() as backbone:
            found, _ = ReducedModel(backbone, selector("norm"), LAYERS)(image_inputs)
            assert torch.equal(found["logits"], wanted["logits"])
        assert torch.equal(model(**image_inputs).logits, native)


def test_a_layer_that_passes_rltr_by_is_refused(tiny_vit, image_inputs):
    model = copy.deepcopy(tiny_vit)
    with Backbone(model).attached() as backbone:
        bypassed(model)
        with pytest.raises(RltrError, match="in the order|bypasses rltr"):
            ReducedModel(backbone, selector("norm"), LAYERS)(image_inputs)


def test_a_last_layer_that_passes_rltr_by_is_refused(tiny_vit, image_inputs):
    model = copy.deepcopy(tiny_vit)
    with Backbone(model).attached() as backbone:
        last = model.vit.layers[-1]
        last.forward = type(last).forward.__get__(last)
        with pytest.raises(RltrError, match="only 3 of 4 layers"):
            ReducedModel(backbone, selector("norm"), LAYERS)(image_inputs)


def test_attention_that_was_patched_in_a_layer_is_refused(tiny_vit, image_inputs):
    """A fused kernel in place of a layer's attention would mix rows."""
    model = copy.deepcopy(tiny_vit)
    attention = model.vit.layers[2].attention
    attention.forward = lambda hidden, *args, **kwargs: (hidden, None)
    with Backbone(model).attached() as backbone, pytest.raises(RltrError, match="without transformers' attention"):
        ReducedModel(backbone, selector("norm"), LAYERS)(image_inputs)


def test_a_mask_of_a_layers_own_making_is_refused():
    """Doge's layers make a mask from their own states."""
    shape = {key: value for key, value in TEXT.items() if key != "num_labels"}
    model = build(hf.DogeModel, hf.DogeConfig(**shape, **SMALL))
    backbone = Backbone(model, family=rltr.Family(trailing=1, causal=True, cached=True))
    with backbone.attached(), pytest.raises(RltrError, match="a bias of its own"):
        ReducedModel(backbone, KeepAll(), LAYERS)({"input_ids": torch.randint(3, 50, (2, 12))})


def test_tracing_and_exporting_are_refused(tiny_vit, image_inputs):
    pixels = image_inputs["pixel_values"]
    with (
        rltr.attach(tiny_vit, policy_for(tiny_vit), cost_weight=3.0),
        pytest.raises(RltrError, match=r"torch\.jit\.trace or torch\.export"),
    ):
        torch.export.export(tiny_vit, (pixels,))


@pytest.mark.filterwarnings("ignore")  # of torch.jit, of which everything is deprecated
def test_jit_traces_are_refused(tiny_vit, image_inputs):
    pixels = image_inputs["pixel_values"]
    with rltr.attach(tiny_vit, policy_for(tiny_vit), cost_weight=3.0), pytest.raises(RltrError, match="trace"):
        torch.jit.trace(tiny_vit, pixels, strict=False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", ["around", "in place", "base", "layers", "after"])
def test_compiled_models_run_reduced_and_compiled_again(tiny_vit, image_inputs, what):
    """The attached part runs uncompiled; a model compiled before is compiled again after detaching."""
    model = copy.deepcopy(tiny_vit)
    policy = policy_for(model)
    with torch.no_grad():
        native = model(**image_inputs).logits
        with rltr.attach(model, policy, cost_weight=3.0):
            wanted = model(**image_inputs).logits
        called = model
        if what == "around":
            called = torch.compile(model, backend="aot_eager")
        elif what == "in place":
            model.compile(backend="aot_eager")
        elif what == "base":
            model.vit.compile(backend="aot_eager")
        elif what == "layers":
            for layer in model.vit.layers:
                layer.compile(backend="aot_eager")
        torch.testing.assert_close(called(**image_inputs).logits, native, atol=1e-5, rtol=1e-5)
        with rltr.attach(model, policy, cost_weight=3.0):
            if what == "after":
                called = torch.compile(model, backend="aot_eager")
            assert torch.equal(called(**image_inputs).logits, wanted)
        torch.testing.assert_close(called(**image_inputs).logits, native, atol=1e-5, rtol=1e-5)
    torch._dynamo.reset()


WRAPPED = {
    "torch.compile": (lambda model: torch.compile(model, backend="eager"), r"pass its part \._orig_mod"),
    "DataParallel": (lambda model: nn.DataParallel(model), r"pass its part \.module"),
    "a model of one's own": (lambda model: Wrapper(model, None), r"pass its part \.inner"),
    "two": (lambda model: nn.ModuleList([model, model.base_model]), r"pass its part \.0"),
    "none": (lambda model: nn.Linear(2, 2), "holds none"),
    "no model": (lambda model: "a model", "not on a str"),
}


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch.compile imports it
@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_models_are_refused_with_where_the_model_is(tiny_vit, name):
    wrap, said = WRAPPED[name]
    with pytest.raises(RltrError, match=said):
        refuse_wrapped(wrap(tiny_vit))


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


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("how", ["embeddings", "another padding token"])
def test_a_mask_that_hides_what_the_head_reads_is_refused(name, how):
    """Transformers' classifiers find the last token by input_ids or take the last position, without the mask."""
    model = build(*DECODERS[name])
    ids = torch.randint(5, 50, (3, 12))
    inputs = {"attention_mask": (torch.arange(12) < torch.tensor([[12], [7], [3]])).long()}
    inputs |= (
        {"input_ids": ids} if how != "embeddings" else {"inputs_embeds": model.get_input_embeddings()(ids).detach()}
    )
    left = inputs | {"attention_mask": inputs["attention_mask"].flip(1)}
    with torch.no_grad():
        native = model(**left, use_cache=False).logits
        with rltr.attach(model, policy_for(model, 12), cost_weight=1e-9):
            with pytest.raises(RltrError, match="hides a token that the model's head reads"):
                model(**inputs)
            torch.testing.assert_close(model(**left).logits, native, atol=1e-5, rtol=1e-5)
    with torch.no_grad(), Backbone(model.base_model).attached() as backbone:  # without a head nobody reads it
        ReducedModel(backbone, KeepAll(), LAYERS)(inputs)


def test_splinters_question_tokens_stay():
    config = hf.SplinterConfig(**TEXT, question_token_id=4)
    model = build(hf.SplinterForQuestionAnswering, config)
    ids = torch.randint(5, 50, (2, 12))
    ids[0, 6], ids[1, 3] = 4, 4
    with torch.no_grad(), rltr.attach(model, policy_for(model, 12), cost_weight=100.0) as attached:
        model(input_ids=ids)
        kept = attached.kept
    assert kept is not None and kept.total < 24 and kept.present[[0, 1], [6, 3]].all()


def test_a_head_whose_tokens_are_named_outside_is_refused():
    model = build(hf.GPT2DoubleHeadsModel, hf.GPT2Config(n_embd=32, n_layer=4, n_head=2, vocab_size=50, n_positions=64))
    with pytest.raises(RltrError, match="mc_token_ids"):
        Backbone(model)


def test_dropout_that_is_added_later_is_refused(tiny_bert, text_inputs):
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


def test_models_that_share_a_config_are_attached_to_one_by_one(tiny_vit, image_inputs):
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
