"""Calibration is what the reduced model does, and tells the weight for a budget or a drop."""

import copy
from dataclasses import replace
from statistics import mean

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    PreTrainedModel,
)

import rltr
from rltr.backbone import Backbone
from rltr.errors import RltrError
from rltr.export import (
    Operating,
    Policy,
    calibrate,
    weight_for_budget,
    weight_for_drop,
)
from rltr.export.calibration import monotone
from rltr.reduction import Reduction
from rltr.selectors.learned import Learned
from rltr.tasks import Task
from tests.conftest import IMAGE, build
from tests.export.conftest import LAYERS, policy_for


def test_calibration_is_what_the_reduced_model_does(policy: Policy, tiny_vit: PreTrainedModel, tiny_task: Task) -> None:
    backbone, examples = Backbone(tiny_vit), tiny_task.validation
    weights = [0.1, 1.0, 10.0]
    table = calibrate(backbone, policy.network, policy.pricing, "merge", examples, weights, batch_size=5)
    inputs = examples.batch(range(len(examples)))
    dense_right = (tiny_vit(**inputs).logits.argmax(-1) == examples.labels).float().mean()
    for point, weight in zip(table, weights, strict=True):
        with backbone.attached(), torch.no_grad():
            output, trace = Reduction(backbone, Learned(policy.network, policy.pricing, weight), LAYERS)(inputs)
        counts = [torch.tensor(stage.counts) for stage in trace.stages]
        assert point.cost_weight == weight and point.dense_quality == pytest.approx(float(dense_right))
        paid, dense = policy.pricing.total(counts).sum(), policy.pricing.dense(counts[0]).sum()
        assert point.cost == pytest.approx(float(paid / dense), rel=1e-4)
        right = (output["logits"].argmax(-1) == examples.labels).float().mean()
        assert point.quality == pytest.approx(float(right))


def test_a_model_in_half_precision_is_calibrated_as_well(tiny_task: Task) -> None:
    beit, weights = build(BeitForImageClassification, BeitConfig(**IMAGE)), [0.1, 10.0]
    policy = policy_for(beit)
    tables = [
        calibrate(Backbone(model), policy.network, policy.pricing, "merge", tiny_task.validation, weights)
        for model in (beit, copy.deepcopy(beit).to(torch.bfloat16))
    ]
    for single, half in zip(*tables, strict=True):
        assert half.cost == pytest.approx(single.cost, abs=0.1) and 0 <= half.quality <= 1


@st.composite
def tables(draw: st.DrawFn) -> list[Operating]:
    """Calibrations with costs that mostly fall, as measured ones do."""
    count = draw(st.integers(1, 8))
    weights = sorted(draw(st.lists(st.floats(0.01, 10), min_size=count, max_size=count, unique=True)))
    costs = draw(st.lists(st.floats(0.1, 1.2), min_size=count, max_size=count))
    accuracies = draw(st.lists(st.floats(0, 1), min_size=count, max_size=count))
    return [Operating(w, c, a, 0.9) for w, c, a in zip(weights, costs, accuracies, strict=True)]


@given(tables(), st.floats(0.1, 1.2), st.floats(0.1, 1.2))
def test_weights_for_budgets_fall_as_budgets_rise(table: list[Operating], low: float, high: float) -> None:
    low, high = sorted((low, high))
    assume(low >= min(point.cost for point in table))
    dear, cheap = weight_for_budget(table, low), weight_for_budget(table, high)
    assert dear >= cheap * (1 - 1e-9)
    weights = [point.cost_weight for point in table]
    for weight in (dear, cheap):
        assert min(weights) * (1 - 1e-9) <= weight <= max(weights) * (1 + 1e-9)


@given(tables())
def test_every_kept_point_of_a_calibration_is_found_again(table: list[Operating]) -> None:
    for point in monotone(table):
        found = weight_for_budget(table, point.cost)
        assert found == pytest.approx(point.cost_weight, rel=1e-6)
    with pytest.raises(RltrError, match="cost_weight="):
        weight_for_budget(table, min(point.cost for point in table) - 0.01)


@given(tables(), st.floats(0, 1))
def test_the_cheapest_point_within_a_drop_is_chosen(table: list[Operating], drop: float) -> None:
    rising = sorted(table, key=lambda point: point.cost_weight)
    # The same smoothing in another way: the largest of all least means of runs that end here or later.
    drops = [point.dense_quality - point.quality for point in rising]
    smooth = [
        max(min(mean(drops[start : end + 1]) for end in range(i, len(drops))) for start in range(i + 1))
        for i in range(len(drops))
    ]
    allowed = [point for point, lost in zip(rising, smooth, strict=True) if lost <= drop + 1e-9]
    if allowed:
        chosen = weight_for_drop(table, drop)
        point = next(point for point in table if point.cost_weight == chosen)
        assert point.cost == min(other.cost for other in allowed)
    else:
        with pytest.raises(RltrError, match="smallest drop"):
            weight_for_drop(table, drop)


def test_one_lucky_number_is_not_believed() -> None:
    drops = [0.0, 0.02, 0.0, 0.03, 0.04]
    table = [Operating(2.0**i, 1 - 0.1 * i, 0.9 - drop, 0.9) for i, drop in enumerate(drops)]
    assert weight_for_drop(table, 0.005) == 1 and weight_for_drop(table, 0.01) == 4
    with pytest.raises(RltrError, match="Accept more, or pass a cost_weight= below 2 "):
        weight_for_drop(table[1:], 0.005)


def test_an_uncalibrated_policy_says_so(policy: Policy, tiny_vit: PreTrainedModel) -> None:
    for options in ({"budget": 0.5}, {"max_drop": 0.1}):
        with pytest.raises(RltrError, match="without calibration"):
            rltr.attach(tiny_vit, replace(policy, calibration=[]), **options)
