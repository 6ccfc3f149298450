"""FLOPs equal torch's own count."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rltr.cost import FlopsCost, dense, span
from rltr.errors import RltrError
from tests.cost.conftest import MODELS


def layers_of(model):
    """The model's repeated blocks."""
    return next(list(module) for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == 3)


@pytest.mark.parametrize("size", [2, 5, 9])
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_flops_equal_torchs_own_count_on_the_real_model(build, size):
    model, inputs, tokens = build(size)
    layers = layers_of(model)
    names = {module: name for name, module in model.named_modules()}
    # torch counts no FLOPs for the CPU's fused attention, so it gets the unfused one to count.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(**inputs)
    counted = counter.get_flop_counts()

    cost = FlopsCost.count(layers)
    counts = torch.full((2,), tokens, dtype=torch.float64)
    for index, layer in enumerate(layers):
        expected = sum(counted[f"{type(model).__name__}.{names[layer]}"].values())
        assert cost.layer(index, counts).sum().item() == expected
    assert span(cost, 0, 3, counts).tolist() == [dense(cost, 3, tokens)] * 2


def test_flops_of_a_decision_are_those_of_the_selector():
    cost = FlopsCost.count(layers_of(MODELS["vit"](2)[0]), per_token=100, per_pair=7)
    assert cost.decision(torch.tensor([1.0, 10.0])).tolist() == [107.0, 1700.0]
    assert FlopsCost.count([]).decision(torch.tensor([9.0])).item() == 0


class Convolutional(nn.Module):
    """A layer with a matrix product that FLOPs cannot price."""

    def __init__(self):
        super().__init__()
        self.q_proj = nn.Linear(4, 4)
        self.mix = nn.Conv1d(4, 4, 3)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Convolutional(), "mix \\(Conv1d\\)"),
        (nn.MultiheadAttention(4, 2), "MultiheadAttention"),
        (nn.Sequential(nn.Linear(4, 4)), "0 query projections"),
        (nn.ModuleDict({key: nn.ModuleDict({"query": nn.Linear(4, 4)}) for key in "ab"}), "2 query projections"),
    ],
)
def test_flops_refuse_layers_they_cannot_price(layer, reason):
    with pytest.raises(RltrError, match=reason):
        FlopsCost.count([layer])
