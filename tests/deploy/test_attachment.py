"""Attached models are reduced in place, and restored bit for bit."""

import copy
import gc
import math
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    pipeline,
)

import rltr
from rltr.deploy import (
    Policy,
    save_policy,
)
from rltr.errors import RltrError
from rltr.runtime.backbone import Backbone
from tests.deploy.conftest import LAYERS, expected, policy_for


@pytest.mark.parametrize("family", ["vit", "bert"])
@pytest.mark.parametrize("removal", ["merge", "drop"])
def test_an_attached_model_answers_like_the_reduced_model(
    family: str, removal: Any, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(f"tiny_{family}")
    inputs = request.getfixturevalue("image_inputs" if family == "vit" else "text_inputs")
    policy = replace(policy_for(model), removal=removal)
    native = model(**inputs).logits
    wanted = expected(model, policy, inputs, 3.0)
    attachment = rltr.attach(model, policy, cost_weight=3.0)
    assert attachment.cost_weight == 3.0
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, wanted)
        assert torch.equal(model(*inputs.values()).logits, wanted)
    assert not torch.equal(wanted, native)
    rltr.detach(model)
    assert torch.equal(model(**inputs).logits, native)


def test_an_attachment_is_a_context_manager(
    policy: Policy, tiny_vit: PreTrainedModel, image_inputs: dict[str, Tensor]
) -> None:
    native = tiny_vit(**image_inputs).logits
    with rltr.attach(tiny_vit, policy, cost_weight=1.0) as attachment:
        assert attachment.reduced_model.layers == LAYERS
        assert not torch.equal(tiny_vit(**image_inputs).logits, native)
    assert torch.equal(tiny_vit(**image_inputs).logits, native)
    with pytest.raises(ZeroDivisionError), rltr.attach(tiny_vit, policy, cost_weight=1.0):
        raise ZeroDivisionError
    assert torch.equal(tiny_vit(**image_inputs).logits, native)
    with pytest.raises(RltrError, match="nothing to detach"):
        rltr.detach(tiny_vit)


def test_a_block_may_detach_early(policy: Policy, tiny_vit: PreTrainedModel, image_inputs: dict[str, Tensor]) -> None:
    native = tiny_vit(**image_inputs).logits
    with rltr.attach(tiny_vit, policy, cost_weight=1.0):
        rltr.detach(tiny_vit)
    with pytest.raises(ZeroDivisionError), rltr.attach(tiny_vit, policy, cost_weight=1.0):
        rltr.detach(tiny_vit)
        raise ZeroDivisionError
    first = rltr.attach(tiny_vit, policy, cost_weight=1.0)
    rltr.detach(tiny_vit)
    with rltr.attach(tiny_vit, policy, cost_weight=1.0):
        first.detach()  # detaches its own policy only
        assert not torch.equal(tiny_vit(**image_inputs).logits, native)
    assert torch.equal(tiny_vit(**image_inputs).logits, native)


def test_a_forward_that_raises_leaves_nothing_behind(
    policy: Policy, tiny_vit: PreTrainedModel, image_inputs: dict[str, Tensor]
) -> None:
    native = tiny_vit(**image_inputs).logits
    wanted = expected(tiny_vit, policy, image_inputs, 1.0)
    layers: Any = [m for m in tiny_vit.modules() if type(m).__name__ == "ViTLayer"]
    with rltr.attach(tiny_vit, policy, cost_weight=1.0):

        def fail(*_: Any) -> None:
            raise ZeroDivisionError

        handle = layers[2].register_forward_pre_hook(fail)
        with pytest.raises(ZeroDivisionError):
            tiny_vit(**image_inputs)
        handle.remove()
        with torch.no_grad():
            assert torch.equal(tiny_vit(**image_inputs).logits, wanted)
        tiny_vit.train()
        with pytest.raises(RltrError, match="training mode"):
            tiny_vit(**image_inputs)
        tiny_vit.eval()
        with pytest.raises(RltrError, match="output_attentions"):
            tiny_vit(**image_inputs, output_attentions=True)
        with torch.no_grad():
            assert torch.equal(tiny_vit(**image_inputs).logits, wanted)
    assert torch.equal(tiny_vit(**image_inputs).logits, native)


def test_concurrent_calls_get_their_own_answers(policy: Policy, tiny_vit: PreTrainedModel) -> None:
    batches = [{"pixel_values": torch.randn(3, 3, 16, 16)} for _ in range(8)]
    wanted = [expected(tiny_vit, policy, inputs, 1.0) for inputs in batches]

    def run(inputs: dict[str, Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return [tiny_vit(**inputs).logits for _ in range(3)]

    with rltr.attach(tiny_vit, policy, cost_weight=1.0), ThreadPoolExecutor(2) as pool:
        for found, right in zip(pool.map(run, batches), wanted, strict=True):
            assert all(torch.equal(logits, right) for logits in found)


def test_a_folder_can_be_attached_by_budget(policy: Policy, tiny_vit: PreTrainedModel, tmp_path: Path) -> None:
    save_policy(policy, tmp_path / "policy")
    for options, weight in (
        ({"budget": 0.7}, 0.2),
        ({"budget": 1.0}, 0.02),
        ({"max_drop": 0.02}, 0.2),
        ({"max_drop": 0.5}, 2.0),
        ({"cost_weight": 7.0}, 7.0),
    ):
        with rltr.attach(tiny_vit, tmp_path / "policy", **options) as attachment:
            assert attachment.cost_weight == pytest.approx(weight)


def test_the_attention_backend_can_be_chosen(
    policy: Policy, tiny_vit: PreTrainedModel, image_inputs: dict[str, Tensor]
) -> None:
    answers = []
    for attention in ("sdpa-per-row", "sdpa-padded"):
        with rltr.attach(tiny_vit, policy, cost_weight=1.0, attention=attention) as attachment:
            assert attachment.reduced_model.backbone.attention == attention
            answers.append(tiny_vit(**image_inputs).logits)
    torch.testing.assert_close(*answers)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "exactly one.*none"),
        ({"budget": 0.5, "cost_weight": 1.0}, "exactly one.*budget, cost_weight"),
        ({"budget": 0.1}, "choose 0.40 to 0.95"),
        ({"max_drop": -0.5}, "at least 0 and below 1"),
        ({"max_drop": 1.0}, "0.01 means one point"),
        ({"budget": 60.0}, "0.6 means 60 %"),
        ({"cost_weight": 0.0}, "above 0"),
        ({"cost_weight": -1.0}, "above 0"),
        ({"cost_weight": math.nan}, "above 0"),
        ({"cost_weight": math.inf}, "finite; this policy was calibrated for 0.02 to 2"),
        ({"budget": math.nan}, "budget"),
    ],
)
def test_an_impossible_operating_point_is_refused(
    policy: Policy, tiny_vit: PreTrainedModel, options: dict[str, float], said: str
) -> None:
    with pytest.raises(RltrError, match=said):
        rltr.attach(tiny_vit, policy, **options)


def test_another_backbone_is_refused_with_both_fingerprints(policy: Policy, tiny_deit: PreTrainedModel) -> None:
    with pytest.raises(RltrError) as refused:
        rltr.attach(tiny_deit, policy, cost_weight=1.0)
    for fingerprint in (policy.backbone["fingerprint"], Backbone(tiny_deit).fingerprint):
        assert fingerprint[:16] in str(refused.value)
    assert tiny_deit.config._attn_implementation == "sdpa"


def test_a_model_with_other_weights_is_refused() -> None:
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4
    )
    model = ViTForImageClassification(config).eval()
    policy = policy_for(model, 5)
    with torch.no_grad():
        model.classifier.bias[0] += 1e-3
    with pytest.raises(RltrError, match="fingerprint"):
        rltr.attach(model, policy, cost_weight=1.0)


def test_attaching_twice_is_refused(policy: Policy, tiny_vit: PreTrainedModel) -> None:
    with rltr.attach(tiny_vit, policy, cost_weight=1.0), pytest.raises(RltrError, match="rltr.detach"):
        rltr.attach(tiny_vit, policy, cost_weight=1.0)
    rltr.attach(tiny_vit, policy, cost_weight=1.0)
    rltr.detach(tiny_vit)


def test_a_backbone_in_use_elsewhere_is_refused(policy: Policy, tiny_vit: PreTrainedModel) -> None:
    with Backbone(tiny_vit).attached(), pytest.raises(RltrError, match="another rltr.Backbone"):
        rltr.attach(tiny_vit, policy, cost_weight=1.0)
    with pytest.raises(RltrError, match="no policy is attached"):
        rltr.detach(tiny_vit)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_a_deep_copy_of_an_attached_model_is_native(attention: str, image_inputs: dict[str, Tensor]) -> None:
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=4
    )
    torch.manual_seed(0)
    model = ViTForImageClassification._from_config(config, attn_implementation=attention).eval()
    policy, called = policy_for(model), []
    model.base_model.register_forward_hook(lambda *_: called.append(1))
    kept, native, before = set(vars(model)), hooks_of(model), model(**image_inputs).logits
    rltr.attach(model, policy, cost_weight=1.0)
    reduced = model(**image_inputs).logits
    assert not torch.equal(reduced, before)
    inside = nn.Sequential(model)
    copies: tuple[Any, ...] = (copy.deepcopy(model), copy.deepcopy(inside)[0])
    for other in copies:
        assert set(vars(other)) == kept and hooks_of(other) == native
        assert other.config._attn_implementation == attention
        assert all(theirs is not ours for theirs, ours in zip(other.parameters(), model.parameters(), strict=True))
        assert torch.equal(other(**image_inputs).logits, before)
        with pytest.raises(RltrError, match="no policy is attached"):
            rltr.detach(other)
        with rltr.attach(other, policy, cost_weight=1.0):
            assert torch.equal(other(**image_inputs).logits, reduced)
        assert torch.equal(model(**image_inputs).logits, reduced)
    calls = len(called)
    rltr.detach(model)
    assert set(vars(model)) == kept and hooks_of(model) == native
    assert torch.equal(model(**image_inputs).logits, before) and len(called) == calls + 1


def hooks_of(model: PreTrainedModel) -> list[dict[str, list[int]]]:
    """Ids of the forward hooks of every module, of every kind."""
    return [
        {name: list(hooks) for name, hooks in vars(module).items() if "forward" in name and isinstance(hooks, dict)}
        for module in model.modules()
    ]


def test_an_attached_model_can_be_garbage_collected() -> None:
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4
    )
    model = ViTForImageClassification(config).eval()
    rltr.attach(model, policy_for(model, 5), cost_weight=1.0)
    forgotten = weakref.ref(model)
    del model
    gc.collect()
    assert forgotten() is None


def test_image_pipelines_run_on_an_attached_model(policy: Policy, tiny_vit: PreTrainedModel) -> None:
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    classify: Any = pipeline("image-classification", model=tiny_vit, image_processor=processor, device="cpu")
    picture = Image.effect_noise((20, 20), 90).convert("RGB")
    native = classify(picture)
    wanted = expected(tiny_vit, policy, dict(processor(picture, return_tensors="pt")), 1.0).softmax(-1)[0]
    with rltr.attach(tiny_vit, policy, cost_weight=1.0):
        found = classify(picture)
    assert [answer["score"] for answer in found] == pytest.approx(wanted.sort(descending=True).values.tolist())
    assert found != native and classify(picture) == native


def test_text_pipelines_run_on_an_attached_model() -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertForSequenceClassification(BertConfig(**shape, vocab_size=len(words), initializer_range=0.5)).eval()
    policy = policy_for(model, 16)
    texts = ["a b c d e f g h", "c a", "h h h a b"]
    inputs = dict(tokenizer(texts, padding=True, return_tensors="pt"))
    wanted = expected(model, policy, inputs, 1.0).softmax(-1).max(-1).values
    classify: Any = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    with rltr.attach(model, policy, cost_weight=1.0):
        found = classify(texts, batch_size=3)
        one_by_one = classify(texts)
    for answers in (found, one_by_one):
        assert [answer["score"] for answer in answers] == pytest.approx(wanted.tolist(), rel=1e-4)
