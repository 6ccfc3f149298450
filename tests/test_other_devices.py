"""Reduced passes on a simulated GPU: nothing is left on the CPU, and the host seldom waits for the device."""

import copy
from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rltr.cost import FlopsCost
from rltr.cost.pricing import Pricing
from rltr.policies.network import PolicyConfig, TokenPolicy
from rltr.runtime.backbone import Backbone
from rltr.runtime.kernels import packed
from rltr.selectors.learned import Learned
from rltr.selectors.reduced_model import ReducedModel
from rltr.system.device import move_inputs
from tests.attention.gpu_kernels import as_on_a_gpu
from tests.pretended_gpu import DEVICE, Elsewhere, pretended_gpu


def uneven(backbone: Backbone, layers: tuple[int, ...] = (0, 2)) -> ReducedModel:
    """A reduced model that keeps different numbers of tokens in different rows."""
    torch.manual_seed(0)
    network = TokenPolicy(PolicyConfig(backbone.width, backbone.depth, 17, attention_prior=1.0, redundancy_prior=0.5))
    nn.init.normal_(network.keep.weight, std=0.5)
    pricing = Pricing(FlopsCost.count(backbone.layers), layers, backbone.depth, 17)
    return ReducedModel(backbone, Learned(network, pricing, 0.5), layers)


def test_two_devices_in_one_operation_are_refused() -> None:
    with pretended_gpu():
        there = torch.ones(3, device=DEVICE)
        assert isinstance(there, Elsewhere) and there.device == DEVICE and (there + 1).device == DEVICE
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError, match="same device"):
            torch.arange(3)[there.long() - 1]
        assert (there + torch.tensor(1.0, device="cpu")).tolist() == [2.0, 2.0, 2.0], "one number may come from the CPU"
    assert not torch.accelerator.is_available(), "it is gone"


@pytest.mark.parametrize("kernels", [(), ("varlen",)])
@pytest.mark.parametrize("family", ["vit", "bert"])
def test_a_reduced_pass_is_the_same_on_another_device(
    family: str, kernels: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(f"tiny_{family}")
    inputs = request.getfixturevalue("image_inputs" if family == "vit" else "text_inputs")
    reduce = uneven(Backbone(model))
    with torch.no_grad(), reduce.backbone.attached():
        expected, trace = reduce(inputs)
    assert len(set(trace.stages[-1].counts)) > 1, "rows are uneven"
    with pretended_gpu(), as_on_a_gpu(*kernels) as called:
        there = uneven(Backbone(copy.deepcopy(model)))
        nn.Module.to(there.backbone.model, DEVICE)
        with torch.no_grad(), there.backbone.attached():
            found, again = there(move_inputs(inputs, DEVICE, torch.float32))
        assert [stage.counts for stage in again.stages] == [stage.counts for stage in trace.stages]
        torch.testing.assert_close(found["logits"].held, expected["logits"], atol=1e-5, rtol=1e-5)
    assert set(called) == set(kernels)


def test_the_host_waits_in_decisions_and_not_in_layers(
    tiny_vit: PreTrainedModel, image_inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every wait drains the queue of the device, which costs a GPU as much as one or two small kernels."""
    with pretended_gpu() as pretended, as_on_a_gpu("varlen"):
        monkeypatch.setattr(packed, "varlen", lambda query, key, value, *more: value)  # the stand-in itself waits
        backbone = Backbone(copy.deepcopy(tiny_vit))
        nn.Module.to(backbone.model, DEVICE)
        reduce, images = uneven(backbone, layers=(1,)), move_inputs(image_inputs, DEVICE, torch.float32)
        with torch.no_grad(), backbone.attached():
            reduce(images)  # prices are looked up in tables that are made once
            pretended.waits.clear()
            _, trace = reduce(images)
    assert trace.stages[1].total < trace.stages[0].total and trace.stages[1].uniform is None
    assert Counter(wait.split(":")[0] for wait in pretended.waits) == {
        "nonzero runtime/tokens.py": 1,  # which tokens are kept
        "_to_copy runtime/tokens.py": 1,  # how many tokens of each row
        "nonzero runtime/redundancy.py": 2,  # which tokens are not kept, in set A and in set B
        "_local_scalar_dense runtime/redundancy.py": 1,  # whether each of them has a partner
    }
