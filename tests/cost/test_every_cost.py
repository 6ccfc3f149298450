"""What holds for every cost model."""

import dataclasses
import json

import pytest
import torch

from rltr.cost import COST_MODELS, FlopsCost, LatencyCost, dense, from_dict, span
from rltr.errors import RltrError


@pytest.fixture(params=sorted(COST_MODELS))
def cost(request, backbone, measured):
    """Every cost model in turn; a new one is added here."""
    return {"flops": FlopsCost.count(backbone.layers, 10, 2), "latency": measured}[request.param]


def test_every_cost_is_positive_finite_and_never_falls_with_tokens(cost):
    counts = torch.arange(1.0, 18.0)
    for values in [*(cost.layer(layer, counts) for layer in range(3)), cost.decision(counts)]:
        assert values.shape == counts.shape and values.dtype == counts.dtype
        assert values.isfinite().all() and (values > 0).all()
        assert (values.diff() >= -1e-6 * values[1:]).all()


def test_a_native_pass_costs_its_layers_and_the_rest_of_the_model(cost):
    assert cost.native_pass(17) == pytest.approx(dense(cost, 3, 17) + cost.outside(17))
    if isinstance(cost, LatencyCost):
        dearer = dataclasses.replace(cost, outside_per_token=0.5, native=1.2)
        assert dearer.native_pass(4) == pytest.approx(1.2 * dense(cost, 3, 4) + 2)


def test_spans_add_up(cost):
    counts = torch.tensor([1.0, 5.0, 17.0])
    torch.testing.assert_close(span(cost, 0, 1, counts) + span(cost, 1, 3, counts), span(cost, 0, 3, counts))
    assert span(cost, 2, 2, counts).tolist() == [0, 0, 0]


def test_every_cost_is_restored_from_json_by_name(cost):
    text = json.dumps(cost.to_dict())
    assert from_dict(json.loads(text)) == cost


def test_from_dict_refuses_unknown_names_and_broken_content(cost):
    with pytest.raises(RltrError, match="'joules'.*flops, latency"):
        from_dict({"name": "joules"})
    with pytest.raises(RltrError, match="extra"):
        from_dict({**cost.to_dict(), "extra": 1})
    with pytest.raises(RltrError):
        from_dict({"name": cost.name})
