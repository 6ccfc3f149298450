"""What runs on a GPU, on a device that only says it is one: nothing stays on the CPU, and the host seldom waits."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from rltr.cost import FlopsCost
from rltr.cost.pricing import Pricing
from rltr.embedded import load_model, load_task
from rltr.envs import make_episodes
from rltr.policies.network import PolicyConfig, TokenPolicy
from rltr.runtime.backbone import Backbone
from rltr.selectors.learned import Learned
from rltr.selectors.reduction import Reduction
from tests.pretended_gpu import DEVICE, Elsewhere, pretended_gpu
from tests.test_attention import as_on_a_gpu


def reduction(backbone: Backbone, layers: tuple[int, ...] = (0, 2)) -> Reduction:
    """A policy with random weights, so that rows keep different numbers of tokens."""
    torch.manual_seed(0)
    network = TokenPolicy(PolicyConfig(backbone.width, backbone.depth, 17))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    pricing = Pricing(FlopsCost.count(backbone.layers), layers, backbone.depth, 17)
    return Reduction(backbone, Learned(network, pricing, 0.5), layers)


def test_two_devices_in_one_operation_are_refused() -> None:
    with pretended_gpu():
        there = torch.ones(3, device=DEVICE)
        assert isinstance(there, Elsewhere) and there.device == DEVICE and (there + 1).device == DEVICE
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError, match="same device"):
            torch.arange(3)[there.long() - 1]
        assert (there + torch.tensor(1.0, device="cpu")).tolist() == [2.0, 2.0, 2.0]
    assert not torch.accelerator.is_available(), "it is gone"


@pytest.mark.parametrize("there", [(), ("varlen",)])
def test_a_reduced_pass_is_the_same_on_another_device(tiny_vit, image_inputs, there) -> None:
    backbone = Backbone(tiny_vit)
    reduce = reduction(backbone)
    with torch.no_grad(), backbone.attached():
        expected, trace = reduce(image_inputs)
    assert len(set(trace.stages[-1].counts)) > 1, "rows are uneven"
