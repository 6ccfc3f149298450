"""The model is restored after use; the fixture ``case`` checks weights, hooks and attention after every test."""

import copy
import threading
from functools import partial

import pytest
import torch
import transformers as hf

from rltr.errors import RltrError
from rltr.runtime.attention import current
from rltr.runtime.backbone import Backbone
from rltr.selectors import KeepAll
from rltr.selectors.reduced_model import ReducedModel
from tests.backbone.conftest import (
    DEPTH,
    LAYERS,
    MODES,
    Boom,
    Replay,
    close,
    modes,
    native,
    random_masks,
    reduced,
    selector,
)
from tests.conftest import build


def test_detach_restores_everything_bit_for_bit(case):
    before, _ = native(case)
    backbone = Backbone(case.model)
    state = dict(case.model.config.to_dict())
    with backbone.attached(), torch.no_grad():
        assert torch.equal(case.model(**case.inputs).logits, before)
        for mode in MODES:
            ReducedModel(backbone, selector("norm"), LAYERS, mode)(case.inputs)
        assert torch.equal(case.model(**case.inputs).logits, before)
    assert torch.equal(native(case)[0], before)
    assert case.model.config.to_dict() == state


def test_an_eager_model_gets_its_eager_attention_back(tiny_vit, image_inputs):
    model = copy.deepcopy(tiny_vit)
    model.set_attn_implementation("eager")
    before = model(**image_inputs).logits
    backbone = Backbone(model)
    with backbone.attached():
        ReducedModel(backbone, selector("norm"), LAYERS)(image_inputs)
    assert model.config._attn_implementation == "eager"
    assert torch.equal(model(**image_inputs).logits, before)


def test_nested_attaching_is_counted(tiny_vit):
    backbone = Backbone(tiny_vit)
    with backbone.attached():
        with backbone.attached():
            pass
        assert tiny_vit.config._attn_implementation == "rltr"
        assert sum("forward" in vars(layer) for layer in backbone.layers) == DEPTH
    assert tiny_vit.config._attn_implementation == "sdpa"
    assert not any("forward" in vars(module) for module in tiny_vit.modules())
    with pytest.raises(RltrError, match="not attached"):
        backbone.detach()


def test_a_failing_selector_leaves_nothing_behind(case):
    before, _ = native(case)
    backbone = Backbone(case.model)
    with backbone.attached():
        with pytest.raises(ZeroDivisionError, match="boom"):
            ReducedModel(backbone, Boom(), LAYERS)(case.inputs)
        assert current.get() is None
        assert torch.equal(case.model(**case.inputs).logits, before)
        out, _ = ReducedModel(backbone, KeepAll(), LAYERS)(case.inputs)
        close(out["logits"], before, 1e-6)
    assert torch.equal(native(case)[0], before)


def test_a_failing_model_leaves_nothing_behind(case):
    before, _ = native(case)
    backbone = Backbone(case.model)

    def fail(module, args):
        raise ZeroDivisionError("boom")

    with pytest.raises(ZeroDivisionError), backbone.attached():
        handle = backbone.layers[2].register_forward_pre_hook(fail)
        try:
            ReducedModel(backbone, selector("uniform"), LAYERS)(case.inputs)
        finally:
            handle.remove()
    assert current.get() is None
    assert torch.equal(native(case)[0], before)


@modes
def test_a_selector_may_run_the_same_model(case, mode):
    """Both natively and reduced, inside its own decision."""
    before, _ = native(case)
    masks = random_masks(case)
    backbone = Backbone(case.model)
    inner_masks = random_masks(case, seed=1)

    class Curious(Replay):
        def __call__(self, decision):
            assert torch.equal(case.model(**case.inputs).logits, before)
            inner, _ = ReducedModel(backbone, Replay(inner_masks), LAYERS, mode)(case.inputs)
            assert torch.equal(inner["logits"], expected_inner)
            return super().__call__(decision)

    with backbone.attached(), torch.no_grad():
        expected_inner = ReducedModel(backbone, Replay(inner_masks), LAYERS, mode)(case.inputs)[0]["logits"]
        expected = ReducedModel(backbone, Replay(masks), LAYERS, mode)(case.inputs)[0]["logits"]
        out, _ = ReducedModel(backbone, Curious(masks), LAYERS, mode)(case.inputs)
    assert torch.equal(out["logits"], expected)


def test_concurrent_passes_do_not_affect_each_other(case):
    """Concurrent native and reduced runs of one model, each waiting in its first decision for the others."""
    before, _ = native(case)
    backbone = Backbone(case.model)
    results, gate = {}, threading.Barrier(3, timeout=60)

    class Wait(Replay):
        def __call__(self, decision):
            gate.wait()
            return super().__call__(decision)

    def run(name, work):
        with torch.no_grad():
            results[name] = work().logits

    def plain():
        gate.wait()
        output = case.model(**case.inputs)
        gate.wait()
        return output

    work = {"native": plain}
    expected = {"native": before}
    for seed in (0, 1):
        masks = random_masks(case, seed)
        work[f"reduced {seed}"] = partial(
            lambda chosen: ReducedModel(backbone, chosen, LAYERS)(case.inputs)[0], Wait(masks)
        )
        expected[f"reduced {seed}"] = reduced(case, Replay(masks))[0]
    with backbone.attached():
        threads = [threading.Thread(target=run, args=item) for item in work.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert results.keys() == expected.keys()
    assert all(torch.equal(results[name], expected[name]) for name in expected)


def test_the_fingerprint_depends_on_settings_that_change_the_computation():
    small = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
        "intermediate_size": 16, "vocab_size": 20, "pad_token_id": 0,
    }  # fmt: skip

    def fingerprint(**changes):
        return Backbone(build(hf.Gemma2Model, hf.Gemma2Config(**small | changes))).fingerprint

    same = fingerprint()
    assert fingerprint() == same
    for changes in (
        {"attn_logit_softcapping": 7.0},
        {"query_pre_attn_scalar": 9},
        {"layer_types": ["full_attention"] * 2},
    ):
        assert fingerprint(**changes) != same


def test_the_fingerprint_depends_on_weights_and_not_on_their_precision(tiny_vit, tiny_deit):
    other = copy.deepcopy(tiny_vit)
    assert Backbone(other).fingerprint == Backbone(tiny_vit).fingerprint
    with torch.no_grad():
        other.classifier.bias[0] += 1e-3
    assert Backbone(other).fingerprint != Backbone(tiny_vit).fingerprint
    assert Backbone(tiny_deit).fingerprint != Backbone(tiny_vit).fingerprint
    heads = copy.deepcopy(tiny_vit)
    heads.config.num_attention_heads = 4
    assert Backbone(heads).fingerprint != Backbone(tiny_vit).fingerprint
    half = copy.deepcopy(tiny_vit).to(torch.bfloat16)
    assert Backbone(half).fingerprint == Backbone(tiny_vit).fingerprint
