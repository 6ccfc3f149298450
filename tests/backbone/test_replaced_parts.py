"""Models whose forward, attention or mask is replaced, traced, compiled or wrapped."""

import copy
import functools

import pytest
import torch
import transformers as hf
from torch import nn

import rltr
from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from rltr.runtime.wrapped import refuse_wrapped
from rltr.selectors import KeepAll
from rltr.selectors.reduced_model import ReducedModel
from tests.backbone.conftest import LAYERS, SMALL, Wrapper, selector
from tests.conftest import TEXT, build
from tests.deploy.conftest import policy_for


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


def test_a_layer_that_bypasses_rltr_is_refused(tiny_vit, image_inputs):
    model = copy.deepcopy(tiny_vit)
    with Backbone(model).attached() as backbone:
        bypassed(model)
        with pytest.raises(RltrError, match="in the order|bypasses rltr"):
            ReducedModel(backbone, selector("norm"), LAYERS)(image_inputs)


def test_a_last_layer_that_bypasses_rltr_is_refused(tiny_vit, image_inputs):
    model = copy.deepcopy(tiny_vit)
    with Backbone(model).attached() as backbone:
        last = model.vit.layers[-1]
        last.forward = type(last).forward.__get__(last)
        with pytest.raises(RltrError, match="only 3 of 4 layers"):
            ReducedModel(backbone, selector("norm"), LAYERS)(image_inputs)


def test_patched_attention_of_a_layer_is_refused(tiny_vit, image_inputs):
    """A fused kernel in place of a layer's attention would mix rows."""
    model = copy.deepcopy(tiny_vit)
    attention = model.vit.layers[2].attention
    attention.forward = lambda hidden, *args, **kwargs: (hidden, None)
    with Backbone(model).attached() as backbone, pytest.raises(RltrError, match="without transformers' attention"):
        ReducedModel(backbone, selector("norm"), LAYERS)(image_inputs)


def test_a_layer_that_makes_its_own_mask_is_refused():
    """Layers of Doge compute a mask from their hidden states."""
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


@pytest.mark.filterwarnings("ignore")  # all of torch.jit is deprecated
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
def test_wrapped_models_are_refused_with_the_path_of_the_model(tiny_vit, name):
    wrap, said = WRAPPED[name]
    with pytest.raises(RltrError, match=said):
        refuse_wrapped(wrap(tiny_vit))
