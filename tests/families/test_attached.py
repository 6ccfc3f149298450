"""Attached models of every family give the answers that training and evaluation measured, with the same kept tokens.

The attached model has its own head, and is called as users call it: by keyword, by position, or inside another module.
It is compared with the reduced pass that evaluation runs.
"""

import inspect

import pytest
import torch
from torch import nn

import rltr
from rltr.cost import FlopsCost
from rltr.deploy import Policy, describe
from rltr.policies import PolicyConfig, TokenPolicy
from rltr.runtime.backbone import Backbone
from rltr.selectors.learned import Learned
from rltr.selectors.reduced_model import ReducedModel
from tests.families.conftest import answers, real
from tests.zoo import ZOO, batch

LAYERS, WEIGHT = (1, 2), 3.0
CASES = [(name, padding) for name, entry in ZOO.items() for padding in entry.paddings]
PAD = 0


class Wrapper(nn.Module):
    """A user's module around a model."""

    def __init__(self, model):
        super().__init__()
        self.inner = model

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


def policy_for(backbone, grid=64):
    """An untrained policy with random weights, so that its decisions depend on the input."""
    torch.manual_seed(3)
    config = PolicyConfig(backbone.width, backbone.depth, grid, backbone.family.pooled, width=8)
    network = TokenPolicy(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    cost = FlopsCost((1000,) * backbone.depth, (10,) * backbone.depth, 10, 1)
    return Policy(network.eval().requires_grad_(False), LAYERS, "merge", cost, grid, describe(backbone))


def positional(model, inputs):
    """The inputs as positional arguments, and as keyword arguments where that is impossible."""
    names = list(inspect.signature(model.forward).parameters)
    places = [names.index(name) for name in inputs if name in names]
    upto = names[: max(places) + 1] if places else []
    by_name = {name: value for name, value in inputs.items() if name not in upto}
    return [inputs.get(name) for name in upto], by_name


def measured(model, policy, inputs):
    """Answers and trace of the reduced pass that evaluation runs."""
    backbone = Backbone(model)
    with backbone.attached(), torch.no_grad():
        output, trace = ReducedModel(backbone, Learned(policy.network, policy.pricing, WEIGHT), LAYERS)(inputs)
    return answers(output), trace


def assert_served(model, policy, inputs):
    """Every way to call the attached model gives the measured answers."""
    wanted, trace = measured(model, policy, inputs)
    last = trace.stages[-1]
    args, kwargs = positional(model, inputs)
    calls = [lambda: model(**inputs), lambda: Wrapper(model)(*args, **kwargs)]
    with rltr.attach(model, policy, cost_weight=WEIGHT) as attached, torch.no_grad():
        for call in calls:
            served = answers(call())
            kept = attached.kept
            assert kept is not None and torch.equal(kept.present, last.present), (
                "other tokens are kept than in evaluation"
            )
            assert served.keys() == wanted.keys()
            for key, value in served.items():
                expected = real(wanted[key], trace)
                scale = max(1.0, float(expected.abs().max()))
                torch.testing.assert_close(real(value, trace), expected, atol=1e-5 * scale, rtol=1e-5)
    return trace


@pytest.mark.parametrize(("name", "padding"), CASES)
def test_an_attached_model_gives_the_measured_answers(model, name, padding):
    trace = assert_served(model, policy_for(Backbone(model)), batch(ZOO[name], padding))
    assert trace.stages[-1].total < trace.stages[0].total, "no token was removed, so the test shows nothing"


READERS = [name for name, entry in ZOO.items() if entry.family.causal and entry.inputs == "texts"]


@pytest.mark.parametrize("name", READERS)
def test_unmasked_padding_does_not_remove_the_token_that_the_head_reads(model, name):
    """The head of a decoder reads the last token that is not padding, with any mask and with none.

    As with pad_token equal to eos_token: the mask then includes the last position, which the head does not read.
    """
    inputs = {"input_ids": batch(ZOO[name], "right")["input_ids"]}
    inputs["input_ids"][0, -1] = PAD
    policy = policy_for(Backbone(model))
    for masks in ({}, {"attention_mask": torch.ones_like(inputs["input_ids"])}):
        assert_head_token_is_kept(assert_served(model, policy, inputs | masks), inputs["input_ids"])


def assert_head_token_is_kept(trace, ids):
    place = torch.arange(ids.shape[1])
    read = (place * (ids != PAD)).argmax(1)
    assert trace.present[-1][torch.arange(len(ids)), read].all(), "the token that the head reads was removed"
