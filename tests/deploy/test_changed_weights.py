"""Weights that change while a policy is attached: others are refused, equal ones accepted, and calls cost no more."""

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules
from torch.nn.utils import prune
from transformers import PreTrainedModel, ViTConfig, ViTForImageClassification

import rltr
from rltr.deploy import Policy
from rltr.errors import RltrError
from rltr.runtime.fingerprint import fingerprint
from tests.conftest import build
from tests.deploy.conftest import expected, policy_for


@pytest.fixture
def model(tiny_vit: PreTrainedModel) -> PreTrainedModel:
    """A copy of ``tiny_vit`` that a test may change."""
    return copy.deepcopy(tiny_vit)


@pytest.fixture
def policy(model: PreTrainedModel) -> Policy:
    return policy_for(model)


def others(model: nn.Module) -> dict[str, Tensor]:
    return {name: value + 0.1 for name, value in model.state_dict().items()}


def optimise(model: Any) -> None:
    with torch.enable_grad():
        loss = model.classifier.weight.square().sum()
        loss.backward()
    torch.optim.SGD(model.classifier.parameters(), lr=0.1).step()


class Adapted(nn.Module):
    """A linear layer with an adapter, as peft adds it."""

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.lora = nn.Linear(base_layer.in_features, base_layer.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora(x)


def adapt(model: Any) -> None:
    model.classifier = Adapted(model.classifier).eval()


def adapt_and_merge(model: Any) -> None:
    """Merge an adapter as peft does, in place through ``data``, and remove it."""
    linear = model.classifier
    model.classifier = adapted = Adapted(linear).eval()
    linear.weight.data += adapted.lora.weight.data
    model.classifier = linear


def replace_data(model: Any) -> None:
    model.classifier.weight.data = model.classifier.weight.data + 1


def replace_weight(model: Any) -> None:
    model.classifier.weight = nn.Parameter(model.classifier.weight.detach() + 1)


CHANGES: dict[str, Callable[[Any], object]] = {
    "load_state_dict": lambda model: model.load_state_dict(others(model)),
    "assigned": lambda model: model.load_state_dict(others(model), assign=True),
    "a part's load_state_dict": lambda model: model.classifier.load_state_dict(others(model.classifier)),
    "a larger one's load_state_dict": lambda model: nn.Sequential(model).load_state_dict(others(nn.Sequential(model))),
    "an optimiser": optimise,
    "in place": lambda model: model.classifier.bias.add_(1),
    "other data": replace_data,
    "another weight": replace_weight,
    "an adapter": adapt,
    "a merged adapter": adapt_and_merge,
    "pruning": lambda model: prune.random_unstructured(model.classifier, "weight", 0.5),
}


@pytest.mark.parametrize("how", CHANGES)
@torch.no_grad()
def test_other_weights_are_refused_and_restored_ones_accepted(
    how: str, model: PreTrainedModel, policy: Policy, image_inputs: dict[str, Tensor]
) -> None:
    native = model(**image_inputs).logits
    kept = copy.deepcopy(model)
    attachment = rltr.attach(model, policy, cost_weight=3.0)
    wanted = model(**image_inputs).logits
    CHANGES[how](model)
    for call in (model, model.base_model, model):
        with pytest.raises(RltrError, match=r"weights were changed while .* was trained for .*rltr\.detach\(model\)"):
            call(**image_inputs)
    if isinstance(model.classifier, nn.Linear) and "weight" in model.classifier._parameters:
        model.load_state_dict(kept.state_dict())
        assert torch.equal(model(**image_inputs).logits, wanted)
        rltr.detach(model)
        assert torch.equal(model(**image_inputs).logits, native)
    else:
        rltr.detach(model)
        with pytest.raises(RltrError, match="fingerprint"):
            rltr.attach(model, policy, cost_weight=3.0)
    assert attachment.kept is not None


SAME: dict[str, Callable[[Any], object]] = {
    "load_state_dict": lambda model: model.load_state_dict(copy.deepcopy(model.state_dict())),
    "assigned": lambda model: model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True),
    "other memory": lambda model: model.share_memory(),
    "tied again": lambda model: model.tie_weights(),
    "frozen": lambda model: model.requires_grad_(False),
    "the same part again": lambda model: setattr(model, "classifier", model.classifier),
}


@pytest.mark.parametrize("how", SAME)
@torch.no_grad()
def test_equal_weights_are_accepted(how: str, model: Any, policy: Policy, image_inputs: dict[str, Tensor]) -> None:
    with rltr.attach(model, policy, cost_weight=3.0):
        wanted = model(**image_inputs).logits
        SAME[how](model)
        for _ in range(2):
            assert torch.equal(model(**image_inputs).logits, wanted)
        model.classifier.bias.add_(1)  # later changes are still detected
        with pytest.raises(RltrError, match="weights were changed"):
            model(**image_inputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@torch.no_grad()
def test_a_change_of_precision_is_accepted(
    dtype: torch.dtype, model: PreTrainedModel, policy: Policy, image_inputs: dict[str, Tensor]
) -> None:
    inputs = {name: value.to(dtype) for name, value in image_inputs.items()}
    wanted = expected(copy.deepcopy(model).to(dtype), policy, inputs, 3.0)
    with rltr.attach(model, policy, cost_weight=3.0):
        model(**image_inputs)
        model.to(dtype)
        assert torch.equal(model(**inputs).logits, wanted)


def test_weights_are_read_only_if_they_were_changed(
    model: Any, policy: Policy, image_inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def counted(*args: Any) -> str:
        read.append(1)
        return fingerprint(*args)

    monkeypatch.setattr("rltr.runtime.backbone.fingerprint", counted)
    with torch.no_grad(), rltr.attach(model, policy, cost_weight=3.0):
        attached = len(read)
        for _ in range(3):
            model(**image_inputs)
            build(ViTForImageClassification, ViTConfig(**TINY))  # building another model does not count
        assert len(read) == attached
        model.load_state_dict(copy.deepcopy(model.state_dict()))
        for _ in range(3):
            model(**image_inputs)
        assert len(read) == attached + 1
        model.classifier.bias.add_(1)
        for _ in range(3):
            with pytest.raises(RltrError, match="weights were changed"):
                model(**image_inputs)
        assert len(read) <= attached + 3


TINY = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 16}


class Packed(nn.Module):
    """A linear layer that stores its weight in another form, like quantised ones; it computes the same."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight", linear.weight.detach().to_sparse())
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.weight, Tensor)
        return nn.functional.linear(x, self.weight.to_dense(), self.bias)


@pytest.mark.parametrize("quietly", [False, True], ids=["set", "behind torch's back"])
@torch.no_grad()
def test_a_layer_packed_while_attached_is_accepted_and_its_weight_freed(
    quietly: bool, model: Any, policy: Policy, image_inputs: dict[str, Tensor]
) -> None:
    with rltr.attach(model, policy, cost_weight=3.0):
        wanted = model(**image_inputs).logits
        weight = weakref.ref(model.classifier.weight)
        packed = Packed(model.classifier).eval()
        if quietly:
            model._modules["classifier"] = packed  # as bitsandbytes does
        else:
            model.classifier = packed
        gc.collect()
        assert weight() is None
        for _ in range(2):
            torch.testing.assert_close(model(**image_inputs).logits, wanted)


def test_gradients_by_weights_can_be_computed(
    model: PreTrainedModel, policy: Policy, image_inputs: dict[str, Tensor]
) -> None:
    weights = {name: value.detach() for name, value in model.named_parameters()}

    def loss(given: dict[str, Tensor]) -> Tensor:
        found: Tensor = torch.func.functional_call(model, given, (image_inputs["pixel_values"],)).logits.sum()
        return found

    with rltr.attach(model, policy, cost_weight=3.0):
        found = torch.func.grad(loss)(weights)
        assert found["classifier.bias"].tolist() == pytest.approx([len(image_inputs["pixel_values"])] * 3)
        model(**image_inputs)


def test_a_model_made_in_inference_mode_can_be_attached(image_inputs: dict[str, Tensor]) -> None:
    """Its weights have no version counter, and cannot be changed outside of that mode."""
    with torch.inference_mode():
        model = build(ViTForImageClassification, ViTConfig(**TINY, patch_size=4, num_labels=3))
    policy = policy_for(model)
    with rltr.attach(model, policy, cost_weight=3.0), torch.no_grad():
        model(**image_inputs)
        model.classifier.bias = nn.Parameter(torch.ones(3))
        with pytest.raises(RltrError, match="weights were changed"):
            model(**image_inputs)


def test_global_hooks_of_torch_are_removed(
    tiny_vit: PreTrainedModel, policy: Policy, image_inputs: dict[str, Tensor]
) -> None:
    def hooks() -> list[int]:
        found = [value for name, value in vars(torch_modules).items() if name.startswith("_global_")]
        return [len(value) for value in found if isinstance(value, dict)]

    before, model = hooks(), copy.deepcopy(tiny_vit)
    rltr.attach(model, policy, cost_weight=3.0)
    assert sum(hooks()) > sum(before)
    model(**image_inputs)
    rltr.detach(model)
    assert hooks() == before
    rltr.attach(model, policy, cost_weight=3.0)
    del model
    gc.collect()
    assert hooks() == before
