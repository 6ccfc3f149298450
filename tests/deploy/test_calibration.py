"""Calibration measures the reduced model, and gives the cost weight for a budget or a drop."""

import copy
from dataclasses import replace

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
from rltr.cost import LatencyCost
from rltr.deploy import (
    CalibrationPoint,
    Policy,
    weight_for_budget,
    weight_for_drop,
)
from rltr.deploy.calibration import monotone
from rltr.deploy.drop_bound import paired_bound
from rltr.errors import RltrError
from rltr.evaluate.sweep import calibrate
from rltr.runtime.backbone import Backbone
from rltr.selectors.learned import Learned
from rltr.selectors.reduced_model import ReducedModel
from rltr.tasks import Task, TensorExamples
from tests.clocks import Machine, clock_of
from tests.conftest import IMAGE, build
from tests.deploy.conftest import LAYERS, policy_for


def test_a_calibration_equals_results_of_the_reduced_model(
    policy: Policy, tiny_vit: PreTrainedModel, tiny_task: Task
) -> None:
    backbone, examples = Backbone(tiny_vit), tiny_task.validation
    weights = [0.1, 1.0, 10.0]
    table = calibrate(
        backbone, policy.network, policy.pricing, "merge", examples, weights, batch_size=5, confidence=0.95
    )
    assert [point.time for point in table] == [None] * 3  # FLOPs give no time
    inputs = examples.batch(range(len(examples)))
    dense_right = tiny_vit(**inputs).logits.argmax(-1) == examples.labels
    for point, weight in zip(table, weights, strict=True):
        with backbone.attached(), torch.no_grad():
            output, trace = ReducedModel(backbone, Learned(policy.network, policy.pricing, weight), LAYERS)(inputs)
        counts = [torch.tensor(stage.counts) for stage in trace.stages]
        assert point.cost_weight == weight and point.dense_quality == pytest.approx(float(dense_right.float().mean()))
        paid, dense = policy.pricing.total(counts).sum(), policy.pricing.dense(counts[0]).sum()
        assert point.cost == pytest.approx(float(paid / dense), rel=1e-4)
        right = output["logits"].argmax(-1) == examples.labels
        assert point.quality == pytest.approx(float(right.float().mean()))
        lost, won = int((dense_right & ~right).sum()), int((right & ~dense_right).sum())
        assert point.drop_bound == paired_bound(len(examples), lost, won, 0.95)
        assert (point.confidence, point.inputs) == (0.95, len(examples))


def test_the_bound_is_on_losses_and_not_on_gains(policy: Policy, tiny_vit: PreTrainedModel) -> None:
    """If the native model is always right, the reduced one can only lose."""
    pixels = torch.randn(60, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        labels = tiny_vit(pixels).logits.argmax(-1)
    examples = TensorExamples(labels, [str(i) for i in range(60)], ["a", "b", "c"], {"pixel_values": pixels})
    (point,) = calibrate(Backbone(tiny_vit), policy.network, policy.pricing, "merge", examples, [10.0])
    lost = round(60 * (1 - point.quality))
    assert point.dense_quality == 1 and lost > 3
    assert point.drop_bound == paired_bound(60, lost, 0, 0.9) and point.drop_bound > lost / 60


@pytest.mark.parametrize("shift", [0, 1])
def test_labels_in_another_order_give_a_warning(
    policy: Policy, tiny_vit: PreTrainedModel, shift: int, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = torch.randn(120, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        labels = (tiny_vit(pixels).logits.argmax(-1) + shift) % 3
    examples = TensorExamples(labels, [str(i) for i in range(120)], ["a", "b", "c"], {"pixel_values": pixels})
    calibrate(Backbone(tiny_vit), policy.network, policy.pricing, "merge", examples, [1.0])
    assert ("of validation inputs, the whole model is right in 0.0%, and in 100.0% if" in caplog.text) == (shift == 1)


def test_a_model_in_half_precision_is_calibrated(tiny_task: Task) -> None:
    beit, weights = build(BeitForImageClassification, BeitConfig(**IMAGE)), [0.1, 10.0]
    policy = policy_for(beit)
    tables = [
        calibrate(Backbone(model), policy.network, policy.pricing, "merge", tiny_task.validation, weights)
        for model in (beit, copy.deepcopy(beit).to(torch.bfloat16))
    ]
    for single, half in zip(*tables, strict=True):
        assert half.cost == pytest.approx(single.cost, abs=0.1) and 0 <= half.quality <= 1


@st.composite
def tables(draw: st.DrawFn) -> list[CalibrationPoint]:
    """Random calibrations; their costs need not fall as the weight rises."""
    count = draw(st.integers(1, 8))
    weights = sorted(draw(st.lists(st.floats(0.01, 10), min_size=count, max_size=count, unique=True)))
    costs = draw(st.lists(st.floats(0.1, 1.2), min_size=count, max_size=count))
    accuracies = draw(st.lists(st.floats(0, 1), min_size=count, max_size=count))
    bounds = draw(st.lists(st.floats(-0.5, 1), min_size=count, max_size=count))
    return [
        CalibrationPoint(w, c, a, 0.9, b, 0.9, 500)
        for w, c, a, b in zip(weights, costs, accuracies, bounds, strict=True)
    ]


@given(tables(), st.floats(0.1, 1.2), st.floats(0.1, 1.2))
def test_cost_weights_fall_as_budgets_rise(table: list[CalibrationPoint], low: float, high: float) -> None:
    low, high = sorted((low, high))
    assume(low >= min(point.cost for point in table))
    dear, cheap = weight_for_budget(table, low), weight_for_budget(table, high)
    assert dear >= cheap * (1 - 1e-9)
    weights = [point.cost_weight for point in table]
    for weight in (dear, cheap):
        assert min(weights) * (1 - 1e-9) <= weight <= max(weights) * (1 + 1e-9)


@given(tables())
def test_the_cost_of_every_monotone_point_gives_its_weight(table: list[CalibrationPoint]) -> None:
    for point in monotone(table):
        found = weight_for_budget(table, point.cost)
        assert found == pytest.approx(point.cost_weight, rel=1e-6)
    with pytest.raises(RltrError, match="cost_weight="):
        weight_for_budget(table, min(point.cost for point in table) - 0.01)


@given(tables(), st.floats(0, 1, exclude_max=True))
def test_the_cheapest_weight_before_the_first_unsafe_one_is_chosen(table: list[CalibrationPoint], drop: float) -> None:
    rising = sorted(table, key=lambda point: point.cost_weight)
    unsafe = [place for place, point in enumerate(rising) if (point.drop_bound or 0) > drop + 1e-9]
    allowed = rising[: unsafe[0]] if unsafe else rising
    if allowed:
        chosen = weight_for_drop(table, drop)
        point = next(point for point in table if point.cost_weight == chosen)
        assert point.cost == min(other.cost for other in allowed)
    else:
        with pytest.raises(RltrError, match="cannot be guaranteed"):
            weight_for_drop(table, drop)


def test_weights_above_the_first_unsafe_one_are_not_used() -> None:
    bounds = [0.004, 0.008, 0.02, 0.008, 0.03]
    table = [CalibrationPoint(2.0**i, 1 - 0.1 * i, 0.9, 0.9, bound, 0.9, 500) for i, bound in enumerate(bounds)]
    assert (
        weight_for_drop(table, 0.005) == 1 and weight_for_drop(table, 0.01) == 2 and weight_for_drop(table, 0.1) == 16
    )


@pytest.mark.parametrize(
    ("inputs", "lost", "said"),
    [
        (
            100,
            0,
            "0.0000 was lost on 100 validation inputs, which means at most 0.0229 with 90% conf.*about 2.. inputs",
        ),
        (300, 1, "at most 0.0129.*about 6.. inputs.*below 0.25"),
        # More inputs would not help.
        (300, 9, r"0.0300 was lost[^;]*Accept that much; or pass a cost_weight= below 0.25"),
    ],
)
def test_an_impossible_promise_is_refused_with_what_it_needs(inputs: int, lost: int, said: str) -> None:
    bound = paired_bound(inputs, lost, 0, 0.9)
    table = [CalibrationPoint(weight, 0.5, 0.9 - lost / inputs, 0.9, bound, 0.9, inputs) for weight in (0.25, 1.0)]
    with pytest.raises(RltrError, match=said):
        weight_for_drop(table, 0.01)


def test_a_drop_of_zero_is_never_promised() -> None:
    table = [CalibrationPoint(0.25, 0.5, 0.91, 0.9, 0.001, 0.9, 500)]
    with pytest.raises(RltrError, match="max_drop=0.0 cannot be guaranteed.*at most 0.0010.*Accept that much; or pass"):
        weight_for_drop(table, 0.0)


def test_a_calibration_without_bounds_gives_no_promise() -> None:
    with pytest.raises(RltrError, match="older rltr.*rltr calibrate.*budget="):
        weight_for_drop([CalibrationPoint(0.25, 0.9, 0.9, 0.9)], 0.01)


def test_a_policy_without_calibration_refuses_budget_and_max_drop(policy: Policy, tiny_vit: PreTrainedModel) -> None:
    for options in ({"budget": 0.5}, {"max_drop": 0.1}):
        with pytest.raises(RltrError, match="without calibration"):
            rltr.attach(tiny_vit, replace(policy, calibration=[]), **options)


def timed_policy(policy: Policy, machine: Machine, model: PreTrainedModel) -> Policy:
    """The policy with prices measured on a simulated machine."""
    with machine:
        cost = LatencyCost.measure(Backbone(model), 17, rows=4, points=4, passes=1, clock=clock_of(machine))
    return replace(policy, cost=cost)


def test_with_measured_prices_whole_passes_are_timed(
    policy: Policy, tiny_vit: PreTrainedModel, tiny_task: Task
) -> None:
    policy, examples = timed_policy(policy, Machine(), tiny_vit), tiny_task.validation
    backbone, weights = Backbone(tiny_vit), [0.1, 10.0]
    table = []
    for slowness in (lambda now: 1.0, lambda now: 1.0 + now / 100):  # a machine that slows down slows both
        with Machine(slowness) as machine:
            table += calibrate(backbone, policy.network, policy.pricing, "merge", examples, weights, 12, clock=machine)
    steady, slowed = table[:2], table[2:]
    inputs = examples.batch(range(12))
    for point, late in zip(steady, slowed, strict=True):
        reduce = ReducedModel(backbone, Learned(policy.network, policy.pricing, point.cost_weight), LAYERS)
        with torch.no_grad(), Machine() as machine:
            begun = machine()
            tiny_vit(**inputs)
            native = machine() - begun
            with backbone.attached():
                begun = machine()
                reduce(inputs)
                reduced = machine() - begun
        assert point.time == pytest.approx(reduced / native, rel=0.05)
        assert late.time == pytest.approx(point.time, rel=0.02)
    assert not tiny_vit._forward_hooks


def test_the_native_cost_includes_padding(tiny_bert: PreTrainedModel, text_inputs: dict[str, torch.Tensor]) -> None:
    policy = policy_for(tiny_bert, grid=12)
    examples = TensorExamples(torch.arange(4) % 3, list("abcd"), ["x", "y", "z"], text_inputs)
    backbone, priced = Backbone(tiny_bert), policy.pricing
    (point,) = calibrate(backbone, policy.network, priced, "merge", examples, [0.1])
    with backbone.attached(), torch.no_grad():
        _, trace = ReducedModel(backbone, Learned(policy.network, priced, 0.1), LAYERS)(text_inputs)
    assert list(trace.stages[0].counts) == [12, 7, 3, 1]
    paid = priced.total([torch.tensor(stage.counts) for stage in trace.stages]).sum()
    assert point.cost == pytest.approx(float(paid / (4 * priced.dense(torch.tensor([12]))[0])), rel=1e-4)


def test_the_lowest_budget_that_an_error_names_is_not_refused_itself() -> None:
    table = [CalibrationPoint(0.1, 0.9, 0.9, 0.9), CalibrationPoint(1.0, 0.514, 0.8, 0.9)]
    with pytest.raises(RltrError, match="choose 0.52 to 0.90 of the dense cost"):
        weight_for_budget(table, 0.51)
    assert 0.1 < weight_for_budget(table, 0.52) < 1.0


def test_a_budget_is_a_share_of_measured_time_if_there_is_one() -> None:
    weights, times, costs = [0.1, 1.0, 10.0], [1.05, 0.8, 0.6], [0.9, 0.5, 0.2]
    table = [CalibrationPoint(w, c, 0.8, 0.8, time=t) for w, c, t in zip(weights, costs, times, strict=True)]
    assert weight_for_budget(table, 0.8) == pytest.approx(1.0)
    assert weight_for_budget(table, 0.7) == pytest.approx(10**0.5)
    with pytest.raises(RltrError, match="choose 0.60 to 1.05 of the native time"):
        weight_for_budget(table, 0.5)
    counted = [replace(point, time=None) for point in table]
    assert weight_for_budget(counted, 0.5) == pytest.approx(1.0)
    with pytest.raises(RltrError, match="choose 0.20 to 0.90 of the dense cost"):
        weight_for_budget(counted, 0.1)
    with pytest.raises(RltrError, match="above 0 and at most 2 .a share of the native time"):
        weight_for_budget(table, 60.0)


def test_one_time_that_is_too_low_is_smoothed() -> None:
    """Otherwise one time that is too low by chance makes all lower weights look too expensive."""
    times = [1.0, 0.9, 0.62, 0.75, 0.6, 0.5]
    table = [CalibrationPoint(2.0**i, 0.5, 0.8, 0.8, time=time) for i, time in enumerate(times)]
    smooth = monotone(table)
    assert [point.share for point in smooth] == pytest.approx([1.0, 0.9, (0.62 + 0.75) / 2, 0.6, 0.5])
    assert 2**2 <= weight_for_budget(table, 0.65) <= 2**4
