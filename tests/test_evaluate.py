"""Evaluation: fair timing, sound statistics, Pareto geometry, and a report that says what was measured."""

import csv
import importlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.special import xlogy
from scipy.stats import bootstrap, ttest_1samp
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import ViTConfig, ViTForImageClassification
from transformers.utils.generic import ModelOutput

from rltr.backbone import Backbone
from rltr.cost import CostModel, FlopsCost, LatencyCost
from rltr.errors import RltrError
from rltr.evaluate.gallery import FADE, TINT, Patches, dim, panels, stage_titles, text_panels
from rltr.evaluate.measure import measure
from rltr.evaluate.pareto import compare, hypervolume, pareto_front, quality_at, read_off
from rltr.evaluate.plots import curve, foretold, kept_per_layer, spread, training_curves
from rltr.evaluate.points import Measurement, OperatingPoint, Shown, View
from rltr.evaluate.report import render, summary, write_report
from rltr.evaluate.resampling import pack, resampled_qualities, unpack
from rltr.evaluate.results import Evaluation, read_history, read_json, write_csv, write_json
from rltr.evaluate.statistics import (
    accuracy_interval,
    mean_interval,
    median_ratio,
    paired_change_interval,
    quality_change_interval,
    quality_interval,
    seeds_interval,
)
from rltr.evaluate.style import write_png
from rltr.evaluate.sweep import a_few, baseline_points, fresh, policy_points
from rltr.evaluate.tally import reduced_cost
from rltr.evaluate.timing import native_beside, schedule, torch_threads
from rltr.evaluate.wording import colour, percent, percentage_points, verdict
from rltr.export.folder import Policy, describe
from rltr.folders import REPORT_FILES
from rltr.forward import Trace
from rltr.policies.network import PolicyConfig, TokenPolicy
from rltr.reduction import Reduction
from rltr.selectors import RANKINGS, ClsAttention
from rltr.selectors.norm import Norm
from rltr.tasks import TensorExamples

# --- a tiny model, and data for it -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=16,
        patch_size=4,
        num_channels=1,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=3,
    )
    return Backbone(ViTForImageClassification(config).eval())


@pytest.fixture(scope="module")
def examples() -> TensorExamples:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(10, 1, 16, 16, generator=generator)
    pictures = (pixels[:, 0] * 255).to(torch.uint8).numpy()
    names = [f"test/{i}" for i in range(10)]
    return TensorExamples(torch.arange(10) % 3, names, ["a", "b", "c"], {"pixel_values": pixels}, pictures)


@pytest.fixture
def flops(backbone: Backbone) -> FlopsCost:
    return FlopsCost.count(backbone.layers)


def operating_point(backbone: Backbone, keep: float = 0.5, method: str = "norm") -> OperatingPoint:
    reduction = Reduction(backbone, Norm(keep), layers=[1, 2])
    return OperatingPoint(method, "merge", keep, reduction, attached=backbone.attached)


# --- timing ----------------------------------------------------------------------------------------------------------


@given(points=st.integers(1, 20), batch=st.integers(0, 50), every=st.integers(1, 7))
def test_schedule_runs_every_point_once_between_native_passes(points: int, batch: int, every: int) -> None:
    order = schedule(points, batch, every)
    assert sorted(point for point in order if point is not None) == list(range(points))
    assert order[0] is None and order[-1] is None
    natives = [place for place, point in enumerate(order) if point is None]
    assert all(1 < after - before <= every + 1 for before, after in zip(natives, natives[1:], strict=False))


def test_each_point_takes_each_place_in_turn() -> None:
    first = [schedule(5, batch, 2)[1] for batch in range(5)]
    assert sorted(point for point in first if point is not None) == list(range(5))


def test_a_point_is_compared_with_the_native_passes_around_it() -> None:
    assert native_beside([None, 1, 0, None, 2, None], [1.0, 9.0, 9.0, 3.0, 9.0, 5.0]) == {1: 2.0, 0: 2.0, 2: 4.0}


class Clock:
    """Time passes only when someone works, and each kind of work takes its own time, growing with drift."""

    def __init__(self, drift: float = 0.0) -> None:
        self.now = 0.0
        self.drift = drift

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds * (1 + self.drift * self.now)


def test_time_and_accuracy_come_from_the_same_alternating_passes(
    backbone: Backbone, examples: TensorExamples, flops: FlopsCost, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(drift=0.01)
    log: list[str] = []
    hooked: list[str] = []
    native_forward = backbone.model.forward

    def slow_native(*args: object, **inputs: object) -> ModelOutput:
        if not hooked:
            log.append("native")
            clock.work(1.0)
        return native_forward(*args, **inputs)

    monkeypatch.setattr(backbone.model, "forward", slow_native)

    def point(name: str, share: float) -> OperatingPoint:
        real = operating_point(backbone, 0.5, name)

        @contextmanager
        def attached() -> Iterator[None]:
            clock.work(100.0)  # must not be timed
            with real.attached():
                hooked.append(name)
                yield
                hooked.remove(name)
            clock.work(100.0)

        def reduce(inputs: Mapping[str, Tensor]) -> tuple[ModelOutput, Trace]:
            assert hooked == [name]
            log.append(name)
            clock.work(share)
            return real.reduce(inputs)

        return OperatingPoint(name, "merge", 0.5, reduce, attached=attached)

    points = [point("half", 0.5), point("quarter", 0.25), point("double", 2.0)]
    clock.drift = 0.0
    found = measure(backbone, points, examples, flops, batch_size=4, native_every=2, progress=False, clock=clock)

    warm_up, passes = log[:4], log[4:]
    assert warm_up == ["native", "half", "quarter", "double"]
    names = ["half", "quarter", "double"]
    expected = []
    for batch in range(3):
        expected += ["native" if which is None else names[which] for which in schedule(3, batch, 2)]
    assert passes == expected
    assert [p.latency for p in found.points] == pytest.approx([0.5, 0.25, 2.0])
    assert [p.slower for p in found.points] == [False, False, True]
    assert found.timed_batches == 2  # the third has two inputs only
    assert found.native_milliseconds == pytest.approx(250)
    assert found.points[0].throughput == pytest.approx(8)
    with torch.inference_mode():
        logits = native_forward(examples.inputs["pixel_values"]).logits
    assert found.dense_quality == pytest.approx((logits.argmax(-1) == examples.labels).float().mean().item())


def test_drift_hits_point_and_reference_alike(backbone: Backbone, examples: TensorExamples, flops: FlopsCost) -> None:
    ticks = iter(np.cumsum(np.arange(1, 1001) * 0.01))
    point = operating_point(backbone)
    # Every reading of this clock comes later than the last by a little more: native, point, native take t, t+d, t+2d.
    found = measure(
        backbone, [point], examples, flops, batch_size=5, repeats=3, progress=False, clock=lambda: float(next(ticks))
    )
    assert found.timed_batches == 6
    assert found.points[0].latency == pytest.approx(1.0)
    assert found.points[0].latency_interval == pytest.approx((1.0, 1.0))


def test_tokens_flops_and_gallery_are_those_of_the_real_runs(
    backbone: Backbone, examples: TensorExamples, flops: FlopsCost
) -> None:
    points = [replace(operating_point(backbone, 0.5, "policy"), latency=flops), operating_point(backbone, 1.0)]
    found = measure(backbone, points, examples, flops, batch_size=4, gallery=3, progress=False)
    half, whole = found.points
    assert found.tokens == 17
    assert half.kept == [17, 9, 5]  # CLS stays, half of 16, then half of 8
    assert whole.kept == [17, 17, 17]
    assert (whole.agreement, whole.quality_change) == (1, 0)
    assert whole.flops == pytest.approx(1) and half.flops < 0.7
    assert half.predicted == pytest.approx(half.flops) and whole.predicted is None
    assert half.layers == [1, 2]
    assert [shown.example for shown in found.gallery] == [0, 4, 9]
    for shown in found.gallery:
        (view,) = shown.views
        assert view.layers == [1, 2]
        assert [stage.count("1") for stage in view.present] == [17, 9, 5]
        assert len(view.present[0]) == 17 and all(stage[0] == "1" for stage in view.present)


def test_the_selectors_own_cost_counts(backbone: Backbone, examples: TensorExamples) -> None:
    free, dear = FlopsCost.count(backbone.layers), FlopsCost.count(backbone.layers, per_token=1000)
    with backbone.attached(), torch.inference_mode():
        _, trace = operating_point(backbone).reduce(examples.batch(range(2)))
    difference = reduced_cost(dear, trace, 3) - reduced_cost(free, trace, 3)
    assert difference.tolist() == [1000 * (17 + 9)] * 2


# --- which points ----------------------------------------------------------------------------------------------------


def trained(backbone: Backbone, cost: CostModel | None = None, layers: tuple[int, ...] = (0, 1)) -> Policy:
    """A policy that has moved away from where it started."""
    network = TokenPolicy(PolicyConfig(backbone.width, backbone.depth, grid=17, width=8))
    torch.nn.init.normal_(network.keep.weight, std=3.0, generator=torch.Generator().manual_seed(3))
    cost = cost or FlopsCost.count(backbone.layers)
    return Policy(network.eval().requires_grad_(False), layers, "merge", cost, describe(backbone))


def decides_at(point: OperatingPoint) -> tuple[int, ...]:
    assert isinstance(point.reduce, Reduction)
    return point.reduce.layers


def test_a_baseline_decides_where_it_can(backbone: Backbone, examples: TensorExamples, flops: FlopsCost) -> None:
    points = baseline_points(backbone, list(RANKINGS), [0.5], (0, 2))
    where = {point.series: decides_at(point) for point in points}
    assert where.pop("none") == (0, 2)
    assert where.pop("cls_attention (merge)") == where.pop("cls_attention (drop)") == (1, 2)
    assert where.pop("tome (merge)") == (1, 2)
    assert set(where.values()) == {(0, 2)} and len(where) == 2 * (len(RANKINGS) - 2)
    found = measure(backbone, points, examples, flops, batch_size=5, progress=False)
    assert [tuple(point.layers) for point in found.points] == [decides_at(point) for point in points]


def test_a_baseline_without_a_layer_is_left_out_with_the_reason(
    backbone: Backbone, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: ClsAttention, backbone: Backbone, layers: Sequence[int]) -> None:
        raise RltrError("it cannot see")

    monkeypatch.setattr(ClsAttention, "check", refuse)
    points = baseline_points(backbone, ["cls_attention", "norm"], [0.5], (0,))
    assert {point.method for point in points} == {"none", "norm"}
    assert "cls_attention is left out at layers 0: it cannot see" in caplog.text


def test_names_tell_schedules_apart_where_a_baseline_has_two(backbone: Backbone) -> None:
    points = baseline_points(backbone, ["norm", "cls_attention", "tome"], [0.5], (0, 1), (1,))
    assert {point.series: decides_at(point) for point in points} == {
        "none": (0, 1),
        "norm (merge), layers 0 1": (0, 1),
        "norm (drop), layers 0 1": (0, 1),
        "norm (merge), layers 1": (1,),
        "norm (drop), layers 1": (1,),
        "cls_attention (merge)": (1,),  # without layer 0 both are the same
        "cls_attention (drop)": (1,),
        "tome (merge)": (1, 2),
    }


@pytest.fixture(scope="module")
def even() -> tuple[Backbone, dict[str, Tensor]]:
    """A model with an even number of tokens, and images: the two halves that are compared are exactly as large."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = ViTConfig(image_size=(12, 20), patch_size=4, num_channels=1, **shape)
    return Backbone(ViTForImageClassification(config).eval()), {"pixel_values": torch.rand(3, 1, 12, 20)}


@pytest.mark.parametrize("method", RANKINGS)
def test_a_baselines_own_cost_is_what_torch_counts(even: tuple[Backbone, dict[str, Tensor]], method: str) -> None:
    backbone, inputs = even

    def decision(point: OperatingPoint) -> tuple[int, float]:
        """FLOPs of all but the model, counted, and as they are reported."""
        assert point.flops is not None
        # torch counts no FLOPs for the CPU's fused attention, so it gets the unfused one to count.
        math, counter = sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False)
        with torch.inference_mode(), point.attached(), math, counter:
            _, trace = point.reduce(inputs)
        model = sum(
            FlopsCost.count(backbone.layers).layer(i, c.double()).sum() for i, c in enumerate(trace.counts_per_layer(2))
        )
        return counter.get_total_flops() - int(model), float(reduced_cost(point.flops, trace, 2).sum() - model)

    points = baseline_points(backbone, [method], [0.5], (1,))
    outside, nothing = decision(points[0])  # keeping everything costs nothing; what is left are embedding and head
    assert nothing == 0
    for point in points[1:]:
        counted, reported = decision(point)
        if method == "cls_attention":
            counted += 3 * 16 * 2 * 16  # a product of vectors and matrices, but written so that torch does not see it
        # ToMe's two halves have 7 and 8 tokens: the first token is on neither.
        assert counted - outside == pytest.approx(reported, rel=0.13 if method == "tome" else 0)


def test_the_untrained_policy_is_the_prior_and_nothing_else(backbone: Backbone, examples: TensorExamples) -> None:
    policy = trained(backbone)
    before = torch.get_rng_state()
    points = policy_points(backbone, policy, [0.1, 2.0], untrained=[2.0])
    assert torch.equal(torch.get_rng_state(), before)
    assert [(point.series, point.setting) for point in points] == [
        ("policy (merge)", 0.1),
        ("policy (merge)", 2.0),
        ("untrained policy (merge)", 2.0),
    ]
    learned, prior = points[1:]
    assert decides_at(learned) == decides_at(prior) == (0, 1)
    inputs = examples.batch(range(10))
    with backbone.attached(), torch.inference_mode():
        kept = [point.reduce(inputs)[1].present for point in (learned, prior)]
        again = policy_points(backbone, policy, (), untrained=[2.0])[0].reduce(inputs)[1].present
    assert torch.equal(kept[1], again) and not torch.equal(kept[0], kept[1])
    network = fresh(policy)
    assert network.config == policy.network.config
    assert not network.keep.weight.any() and policy.network.keep.weight.any()


@pytest.mark.parametrize(
    ("weights", "few"),
    [([3.0], [3.0]), ([2.0, 1.0], [1.0, 2.0]), ([float(i) for i in range(8)], [0.0, 2.0, 5.0, 7.0])],
)
def test_a_few_weights_span_all(weights: list[float], few: list[float]) -> None:
    assert a_few(weights) == few


def test_only_what_the_table_was_measured_for_is_foretold(backbone: Backbone, caplog: pytest.LogCaptureFixture) -> None:
    table = LatencyCost.measure(backbone, tokens=17, rows=2, points=2, passes=1)
    policy = trained(backbone, table)
    points = policy_points(backbone, policy, [0.1], untrained=[0.1]) + baseline_points(backbone, ["norm"], [0.5], (1,))
    assert {point.method for point in points if point.latency is table} == {"policy", "untrained policy"}
    assert {point.method for point in points if point.latency is None} == {"none", "norm"}
    assert policy_points(backbone, trained(backbone), [0.1])[0].latency is None  # FLOPs foretell no time
    assert not caplog.text
    moved = replace(table, machine=replace(table.machine, processor="another"))
    assert policy_points(backbone, trained(backbone, moved), [0.1])[0].latency is None
    assert "no latency is foretold" in caplog.text and "'another' there" in caplog.text


def test_measuring_leaves_the_model_as_it_was(backbone: Backbone, examples: TensorExamples, flops: FlopsCost) -> None:
    attention = backbone.config._attn_implementation
    threads = torch.get_num_threads()
    backbone.model.train()
    measure(backbone, [operating_point(backbone)], examples, flops, batch_size=5, threads=1, progress=False)
    assert backbone.model.training
    backbone.model.eval()
    assert backbone.config._attn_implementation == attention
    assert not any(layer._forward_pre_hooks for layer in backbone.layers)
    assert torch.get_num_threads() == threads


def test_threads_are_restored_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), torch_threads(before + 1) as used:
        assert used == torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before


def test_nothing_to_measure_is_refused(backbone: Backbone, examples: TensorExamples, flops: FlopsCost) -> None:
    with pytest.raises(RltrError, match="no operating point"):
        measure(backbone, [], examples, flops)
    with pytest.raises(RltrError, match="repeats"):
        measure(backbone, [operating_point(backbone)], examples, flops, repeats=0)
    one = TensorExamples(examples.labels[:1], ["x"], ["a", "b", "c"], {"pixel_values": torch.zeros(1, 1, 16, 16)})
    with pytest.raises(RltrError, match="at least 2"):
        measure(backbone, [operating_point(backbone)], one, flops)


# --- statistics ------------------------------------------------------------------------------------------------------


def test_accuracy_interval_is_the_analytic_one() -> None:
    right = np.arange(2000) < 1600
    low, high = accuracy_interval(right) or (0, 0)
    margin = 1.96 * np.sqrt(0.8 * 0.2 / 2000)
    assert (low, high) == pytest.approx((0.8 - margin, 0.8 + margin), abs=0.002)
    assert accuracy_interval(right) == (low, high)


def test_qualities_between_right_and_wrong_have_t_intervals() -> None:
    generator = np.random.default_rng(0)
    before, after = generator.normal(0.8, 0.1, 200), generator.normal(0.7, 0.1, 200)
    expected = ttest_1samp(before, 0).confidence_interval()
    assert quality_interval(before) == pytest.approx((expected.low, expected.high))
    expected = ttest_1samp(after - before, 0).confidence_interval()
    assert quality_change_interval(after, before) == pytest.approx((expected.low, expected.high))
    right = before > 0.8
    assert quality_interval(right.astype(float), seed=3) == accuracy_interval(right, seed=3)
    assert quality_change_interval(right.astype(float), ~right) == paired_change_interval(right, ~right)
    assert quality_interval([0.5]) is None and quality_change_interval([0.5], [0.25]) is None


def test_mean_interval_is_the_bootstrap_of_scipy() -> None:
    change = np.repeat([-1.0, 0.0, 1.0], [30, 250, 20])
    theirs = bootstrap((change,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    assert mean_interval(change) == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_perfect_answers_are_not_certain() -> None:
    low, high = accuracy_interval(np.ones(100, bool)) or (0, 0)
    assert high == 1 and low == pytest.approx(0.025 ** (1 / 100))  # Clopper-Pearson: the p with p**n = 2.5 %
    low, high = accuracy_interval(np.zeros(100, bool)) or (0, 0)
    assert low == 0 and high == pytest.approx(1 - 0.025 ** (1 / 100))


def test_degenerate_samples() -> None:
    assert mean_interval([3.0, 3.0, 3.0]) == (3.0, 3.0)
    assert mean_interval([3.0]) is None
    assert median_ratio([3.0], [2.0]) == (1.5, None)
    assert accuracy_interval([True]) is None


def pairs(won: int, lost: int, same: int) -> tuple[np.ndarray, np.ndarray]:
    """Answers after and before, of which so many became right, wrong, and stayed."""
    return np.repeat([True, False, True], [won, lost, same]), np.repeat([False, True, True], [won, lost, same])


def test_equal_answers_are_not_certain() -> None:
    low, high = paired_change_interval(*pairs(0, 0, 300)) or (0, 0)
    z = 1.959964**2
    assert (-low, high) == pytest.approx((z / (300 + z), z / (300 + z)))
    low, high = paired_change_interval(*pairs(3, 0, 297)) or (0, 0)
    assert low < 0 < 3 / 300 < high
    assert paired_change_interval([True], [False]) is None


@pytest.mark.parametrize(("won", "lost", "same"), [(12, 2, 36), (5, 9, 300), (1, 0, 1), (0, 7, 60), (4, 0, 0)])
def test_change_interval_is_the_score_interval(won: int, lost: int, same: int) -> None:
    """At its ends, the score test rejects at exactly 5 %; the likeliest share of losses is found by trying all."""
    n = won + lost + same
    low, high = paired_change_interval(*pairs(won, lost, same)) or (0, 0)
    assert low <= (won - lost) / n <= high
    for change in (end for end in (low, high) if abs(end) < 1):
        share = np.linspace(max(0.0, -change), (1 - change) / 2, 400_001)
        likelihood = sum(xlogy(k, p) for k, p in ((lost, share), (won, share + change), (same, 1 - 2 * share - change)))
        best = share[np.nanargmax(likelihood)]  # rounding may put an end of the range below 0
        score = (won - lost - n * change) ** 2 / (n * (2 * best + change * (1 - change)))
        assert score == pytest.approx(1.959964**2, rel=1e-3)


def test_change_interval_holds_the_truth_as_often_as_it_says() -> None:
    shares, n = (0.03, 0.05, 0.92), 320
    draws = np.random.default_rng(0).multinomial(n, shares, size=500)
    intervals = [paired_change_interval(*pairs(*map(int, draw))) or (0, 0) for draw in draws]
    assert np.mean([low <= -0.02 <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.025)


def test_seeds_interval_covers_seeds_and_examples() -> None:
    draws = np.random.default_rng(0).normal(0.02, 0.01, 100_000)
    # One policy: the examples alone, two standard errors.
    assert seeds_interval([0.02], draws) == pytest.approx((0.02 - 0.0196, 0.02 + 0.0196), abs=2e-4)
    assert seeds_interval([0.02, 0.02, 0.02], draws) == pytest.approx(seeds_interval([0.02], draws))
    # Three seeds and no doubt about the examples: a t interval with two degrees of freedom.
    seeds = [0.01, 0.02, 0.03]
    exact = ttest_1samp(seeds, 0).confidence_interval(0.95)
    assert seeds_interval(seeds, np.full(100, 0.02)) == pytest.approx((exact.low, exact.high))
    # With both, wider than by the examples alone; more degrees of freedom than the seeds alone have.
    one, both = seeds_interval([0.02], draws), seeds_interval(seeds, draws)
    assert one[1] < both[1] < exact.high and both[0] < 0 < one[0]


def test_median_ratio_shrugs_off_an_interruption() -> None:
    reference = np.linspace(1, 2, 41)
    times = 0.5 * reference
    times[7] *= 100
    ratio, interval = median_ratio(times, reference)
    assert ratio == pytest.approx(0.5)
    assert interval == pytest.approx((0.5, 0.5))


# --- Pareto ----------------------------------------------------------------------------------------------------------

number = st.floats(0, 1, width=16)
clouds = st.lists(st.tuples(number, number), min_size=1, max_size=30)


def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] <= b[0] and a[1] >= b[1] and a != b


@given(clouds)
def test_front_is_what_nothing_dominates(points: list[tuple[float, float]]) -> None:
    front = [points[index] for index in pareto_front(points)]
    assert front == sorted(front)
    assert set(front) == {point for point in points if not any(dominates(other, point) for other in points)}
    assert len(set(front)) == len(front)


@given(clouds, number, number)
def test_hypervolume_grows_with_points(points: list[tuple[float, float]], cost: float, accuracy: float) -> None:
    before = hypervolume(points)
    assert 0 <= before <= 1
    assert hypervolume([*points, (cost, accuracy)]) >= before - 1e-12
    assert hypervolume(points) == pytest.approx(hypervolume([points[index] for index in pareto_front(points)]))


def test_hypervolume_by_hand() -> None:
    assert hypervolume([(0.5, 0.8)]) == pytest.approx(0.4)
    assert hypervolume([(0.5, 0.8), (0.25, 0.6), (0.6, 0.7)]) == pytest.approx(0.5 * 0.8 + 0.25 * 0.6)
    assert hypervolume([(0.5, 0.8)], quality=0.3) == pytest.approx(0.25)
    assert hypervolume([(1.2, 0.9), (0.1, 0.05)], quality=0.1) == 0
    assert hypervolume([]) == 0


def test_accuracy_between_points_and_nothing_beyond() -> None:
    points = [(0.4, 0.7), (0.6, 0.8), (0.5, 0.6), (0.9, 0.75)]
    assert quality_at([0.3, 0.4, 0.5, 0.6, 0.8, 0.9, 1.0], points) == [
        None,
        pytest.approx(0.7),
        pytest.approx(0.75),
        pytest.approx(0.8),
        pytest.approx(0.8),  # whoever may spend 0.8 may spend 0.6
        pytest.approx(0.8),
        None,
    ]
    assert quality_at([0.5], []) == [None]


@given(clouds, number)
def test_interpolation_stays_among_the_measured(points: list[tuple[float, float]], cost: float) -> None:
    (value,) = quality_at([cost], points)
    accuracies = [accuracy for _, accuracy in points]
    assert value is None or min(accuracies) - 1e-9 <= value <= max(accuracies) + 1e-9


@given(clouds, st.lists(number, min_size=1, max_size=5), st.integers(0, 99))
def test_many_curves_are_read_off_at_once(points: list[tuple[float, float]], costs: list[float], seed: int) -> None:
    """As each curve for itself: its Pareto front, and straight lines between its members."""
    measured = [cost for cost, _ in points]
    draws = np.random.default_rng(seed).integers(0, 4, (3, len(points))) / 4  # many ties
    found = read_off(measured, draws, costs)
    for accuracies, values in zip(draws.tolist(), found, strict=True):
        curve = list(zip(measured, accuracies, strict=True))
        front = [curve[index] for index in pareto_front(curve)]
        known_costs, known = zip(*front, strict=True)
        for cost, value in zip(costs, values, strict=True):
            if front[0][0] <= cost <= max(measured):
                assert value == pytest.approx(np.interp(cost, known_costs, known))
            else:
                assert np.isnan(value)


answers = st.lists(st.booleans(), min_size=1, max_size=70)


@given(answers)
def test_answers_survive_packing(right: list[bool]) -> None:
    assert unpack(pack(right), len(right)).tolist() == right
    with pytest.raises(RltrError, match="damaged"):
        unpack(pack(right), len(right) + 8)
    with pytest.raises(RltrError, match="damaged"):
        unpack("no base64!", len(right))


@given(st.lists(st.floats(-5, 1, width=32), min_size=1, max_size=70))
def test_qualities_survive_packing(qualities: list[float]) -> None:
    assert unpack(pack(qualities), len(qualities)).tolist() == qualities
    with pytest.raises(RltrError, match="damaged"):
        unpack(pack([0.5] * 9), 10)


def test_all_points_are_drawn_the_same_examples() -> None:
    right = np.random.default_rng(0).random((3, 500)) < 0.8
    right[1] = ~right[0]
    drawn = resampled_qualities(right, resamples=4000)
    assert drawn[:, 0] + drawn[:, 1] == pytest.approx(np.ones(4000))
    assert drawn.mean(0) == pytest.approx(right.mean(1), abs=0.002)
    accuracy = right[2].mean()
    assert drawn[:, 2].std() == pytest.approx(np.sqrt(accuracy * (1 - accuracy) / 500), rel=0.05)
    assert (resampled_qualities(right, resamples=10) == resampled_qualities(right, resamples=10)).all()


def test_the_interval_of_a_difference_is_that_of_paired_answers() -> None:
    after, before = pairs(40, 20, 940)
    resampled = dict(
        zip(
            ("policy", "a", "b"),
            resampled_qualities(np.stack([after, before, ~after]))[:, :, None].transpose(1, 0, 2),
            strict=True,
        )
    )
    series = {"policy": [(0.5, after.mean())], "a": [(0.5, before.mean())], "b": [(0.5, 1 - after.mean())]}
    (found,) = compare(series, "policy", [0.5], resampled)
    spread = 1.96 * np.sqrt((60 / 1000 - 0.02**2) / 1000)
    assert found.best == "a" and found.difference == pytest.approx(0.02)
    assert found.interval == pytest.approx((0.02 - spread, 0.02 + spread), abs=0.002)
    assert compare(series, "policy", [0.5])[0].interval is None
    assert compare(series, "policy", [0.4], resampled)[0].interval is None  # nobody was measured there


def test_comparison_names_the_best_other() -> None:
    series = {"policy": [(0.4, 0.8), (0.8, 0.9)], "a": [(0.5, 0.7), (0.9, 0.9)], "b": [(0.5, 0.75), (0.7, 0.76)]}
    low, middle, high = compare(series, "policy", [0.4, 0.6, 0.9])
    assert (low.quality, low.best, low.difference) == (pytest.approx(0.8), None, None)
    assert middle.best == "b" and middle.difference == pytest.approx(0.85 - 0.755)
    assert high.best == "a" and high.quality is None and high.difference is None


# --- results ---------------------------------------------------------------------------------------------------------


def point(
    method: str, latency: float, accuracy: float, dropped: str = "merge", knob: str = "keep rate", setting: float = 0.5
) -> Measurement:
    return Measurement(
        method=method,
        dropped=dropped,
        setting=setting,
        knob=knob,
        quality=accuracy,
        quality_interval=(accuracy - 0.01, accuracy + 0.01),
        quality_change=accuracy - 0.82,
        quality_change_interval=None,
        agreement=0.95,
        flops=0.9 * latency,
        latency=latency,
        latency_interval=(latency - 0.01, latency + 0.01),
        milliseconds=2 * latency,
        throughput=500 / latency,
        kept=[17.0, 12.5, 8.25],
        predicted=1.1 * latency,
    )


@pytest.fixture
def evaluation() -> Evaluation:
    view = View("policy", "merge", 0.2, "b & co", 0.0, [1, 2], ["1" * 17, "1" * 9 + "0" * 8, "1" * 5 + "0" * 12])
    return Evaluation(
        environment={"torch": "2.0", "processor": "<script>alert('cpu')</script>"},
        model="tiny <b>model</b>",
        examples=10,
        classes=["a", "b & co", "c"],
        dense_quality=0.82,
        dense_quality_interval=(0.80, 0.84),
        native_milliseconds=2.0,
        native_throughput=500.0,
        tokens=17.0,
        batch_size=4,
        timed_batches=2,
        native_every=4,
        seed=0,
        points=[
            point("random", 0.52, 0.7612),
            point("random", 0.81, 0.8034, setting=0.8),
            point("random", 0.41, 0.6123, dropped="drop"),
            point("tome", 1.07, 0.8111),
            point("policy", 0.53, 0.8123, knob="cost weight", setting=0.2),
            point("policy", 0.34, 0.7765, knob="cost weight", setting=0.8),
            point("none", 1.013, 0.82, dropped="none", setting=1.0),
        ],
        gallery=[Shown(0, "test/<0>", "a", "a", 1.0, [view])],
        chance=1 / 3,
    )


def test_json_round_trip_with_what_a_later_version_may_add(evaluation: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    write_json(evaluation, path)
    data = json.loads(path.read_text())
    assert data["hypervolumes"]["latency"]["policy (merge)"] == pytest.approx(
        hypervolume([(0.53, 0.8123), (0.34, 0.7765)], quality=1 / 3)
    )
    assert data["fronts"]["latency"]["policy (merge)"] == [[0.34, 0.7765], [0.53, 0.8123]]
    data["from_the_future"] = data["points"][0]["also"] = {"x": 1}
    path.write_text(json.dumps(data))
    assert read_json(path) == evaluation
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_results_without_right_answers_are_read_and_claim_nothing(evaluation: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_json(evaluation, path)
    data = json.loads(path.read_text())
    for old in data["points"]:
        for name in ("per_input", "layers", "schedule"):
            old.pop(name)
    path.write_text(json.dumps(data))
    found = read_json(path)
    assert found.resampled() == {} and found.curves() == evaluation.curves()
    assert 'class="good"' not in render(found) and 'class="bad"' not in render(found)


def test_results_of_when_all_tasks_were_classifications_are_read(evaluation: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_json(replace(evaluation, gallery=[]), path)
    data = json.loads(path.read_text())
    for name in ("quality_name", "chance"):
        data.pop(name)
    old = {"dense_quality": "dense_accuracy", "dense_quality_interval": "dense_accuracy_interval", "per_input": "right"}
    for part in (data, *data["points"]):
        for name in list(part):
            if name in old or name.startswith("quality"):
                part[old.get(name, name.replace("quality", "accuracy"))] = part.pop(name)
    assert "accuracy_change" in data["points"][0]
    data["gallery"] = [{"example": 0, "name": "x", "label": 0, "dense_prediction": 0, "views": []}]
    path.write_text(json.dumps(data))
    assert read_json(path) == replace(evaluation, gallery=[])


def test_answers_that_are_neither_right_nor_wrong_are_shown_with_their_quality(
    evaluation: Evaluation, examples: TensorExamples
) -> None:
    (shown,) = evaluation.gallery
    view = replace(shown.views[0], answer=None, quality=0.625)
    numbers = replace(shown, label=None, dense_answer=None, dense_quality=0.75, views=[view])
    found = replace(evaluation, quality_name="D²", classes=[], gallery=[numbers])
    page = render(found, examples=examples, patches=Patches(4, 4))
    assert "D² 62.5\u00a0% (native: 75.0\u00a0%)" in page and "<th>D²</th>" in page and "accuracy" not in summary(found)
    assert "81.2\u00a0% (the native model has 82.0\u00a0% D²)" in summary(found)


def answered(evaluation: Evaluation, examples: int, difference: int) -> Evaluation:
    """The same with two points at one latency: the policy has so many more right answers than the baseline."""
    base = np.arange(examples) < 0.8 * examples
    own = np.arange(examples) < 0.8 * examples + difference
    points = [
        replace(point(method, latency, float(right.mean())), per_input=pack(right))
        for method, right in (("policy", own), ("norm", base))
        for latency in (0.45, 0.55)
    ]
    return replace(evaluation, examples=examples, points=points, gallery=[])


@pytest.mark.parametrize(
    ("difference", "said", "mark"),
    [(1, "level", ""), (30, "above", "good"), (-30, "below", "bad"), (-1, "level", ""), (0, "level", "")],
)
def test_a_difference_has_colour_only_if_the_inputs_can_tell(
    evaluation: Evaluation, difference: int, said: str, mark: str
) -> None:
    found = answered(evaluation, 320, difference)
    (beside,) = compare(found.curves(), "policy (merge)", [0.5], found.resampled())
    assert beside.difference == pytest.approx(difference / 320)
    assert (verdict(beside.interval), colour(beside.interval)) == (said, mark)
    page = render(found)
    assert [mark for mark in ("good", "bad") if f'<td class="{mark}">' in page] == ([mark] if mark else [])
    assert f", {said}</small>" in page
    assert ("cannot tell them apart" in summary(found)) == (said == "level")


def test_the_benchmark_judges_the_mean_over_seeds(evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    learning = importlib.import_module("benchmarks.learning")

    def judged(*more: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """One policy per number of answers more than the better baseline, at 0.5 and at 0.85."""
        right = {f"policy seed {seed}": 0.8 * 2000 + extra for seed, extra in enumerate(more)}
        right |= {"norm": 0.8 * 2000, "random": 0.7 * 2000}
        points = [
            replace(point(method, latency, count / 2000), per_input=pack(np.arange(2000) < count))
            for method, count in right.items()
            for latency in (0.4, 0.9)
        ]
        found = replace(evaluation, examples=2000, points=points, gallery=[])
        (low, high), each = learning.at_equal_latency(found, list(right)[: len(more)], [0.5, 0.85])
        assert [row["policy"] for row in each] == [name for name in right for _ in "ab" if name.startswith("policy")]
        return low, high

    low, high = judged(60, 64, 68)
    assert low["best baseline"] == "norm (merge)" and low["its accuracy"] == pytest.approx(0.8)
    assert [low[key] for key in ("lowest", "policy", "highest")] == pytest.approx([0.83, 0.832, 0.834])
    assert low["difference"] == pytest.approx(0.032) and 0 < low["95 % interval"][0] < 0.032 < low["95 % interval"][1]
    assert (low["verdict"], low["met"], high["verdict"], high["met"]) == ("above", True, "above", True)
    # Seeds that differ as much as they are better on average say little; a mean above 0 meets the goal all the same.
    low, high = judged(0, 64, 128)
    assert (low["verdict"], low["met"]) == ("level", True) and low["95 % interval"][0] < 0
    low, high = judged(-30, 5, 20)
    assert (low["verdict"], low["met"], high["verdict"], high["met"]) == ("level", False, "level", True)
    low, high = judged(-60, -64, -68)
    assert (low["verdict"], low["met"], high["verdict"], high["met"]) == ("below", False, "below", False)
    low, _ = judged(60)
    assert low["verdict"] == "above"


def test_many_intervals_take_no_time(evaluation: Evaluation) -> None:
    generator = np.random.default_rng(0)
    points = [
        replace(
            point("policy" if i < 10 else f"baseline {i // 8}", 0.2 + 0.008 * i, 0.8),
            per_input=pack(generator.random(5000) < 0.8),
        )
        for i in range(100)
    ]
    found = replace(evaluation, examples=5000, points=points, gallery=[])
    began = time.perf_counter()
    compare(found.curves(), "policy (merge)", resampled=found.resampled())
    assert time.perf_counter() - began < 10


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not valid JSON"), ("[1]", "does not hold"), ('{"model": 3}', "does not hold")]
)
def test_wrong_results_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(RltrError, match=message):
        read_json(path)
    with pytest.raises(RltrError, match="rltr evaluate"):
        read_json(tmp_path / "missing.json")


def test_csv_has_every_point(evaluation: Evaluation, tmp_path: Path) -> None:
    write_csv(evaluation, tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(evaluation.points)
    for row, measured in zip(rows, evaluation.points, strict=True):
        assert row["method"] == measured.method
        assert float(row["accuracy"]) == measured.quality
        assert float(row["latency_low"]) == pytest.approx(measured.latency - 0.01)
        assert row["accuracy_change_low"] == ""
        assert float(row["prediction_error"]) == pytest.approx(0.1)
        assert [float(tokens) for tokens in row["kept"].split()] == measured.kept


def test_history_skips_what_was_not_logged(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("rollouts,accuracy,kl\n512,,0.1\n1024,0.8,0.2\n")
    assert read_history(path) == [{"rollouts": 512, "kl": 0.1}, {"rollouts": 1024, "accuracy": 0.8, "kl": 0.2}]
    path.write_text("rollouts\nmany\n")
    with pytest.raises(RltrError, match="many"):
        read_history(path)


# --- plots -----------------------------------------------------------------------------------------------------------

HISTORY = [
    {"rollouts": 512.0 * step, "accuracy": 0.8, "keep_rate/1": 0.9, "keep_rate/3": 0.8, "kl": 0.01}
    for step in range(1, 5)
] + [{"rollouts": 3000.0, "kl": 0.02}]


@pytest.mark.parametrize("figure", [curve, lambda e: curve(e, "flops"), kept_per_layer, foretold])
def test_figures_are_pictures(figure: Callable[..., object], evaluation: Evaluation, tmp_path: Path) -> None:
    write_png(figure(evaluation), tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.format == "PNG"
        colours = picture.convert("RGB").getcolors(1 << 20)
        assert colours is not None and len(colours) > 20


def test_numbered_scalars_share_a_panel() -> None:
    figure = training_curves(HISTORY)
    panels_drawn = {axes.get_title(loc="left"): len(axes.lines) for axes in figure.axes}
    assert panels_drawn == {"accuracy": 1, "keep rate per layer": 2, "KL per token": 1}


@given(st.lists(st.floats(0, 100), min_size=1, max_size=10))
def test_labels_never_overlap(values: list[float]) -> None:
    placed = sorted(spread(values, 5.0))
    assert all(above - below >= 5 - 1e-9 for below, above in zip(placed, placed[1:], strict=False))


# --- gallery ---------------------------------------------------------------------------------------------------------


def test_exactly_the_dropped_patches_are_dimmed() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8))
    present = "11" + "101" + "011" + "0"  # CLS and another, two rows of three patches, one token beyond them
    dimmed = np.asarray(dim(picture, present, Patches(2, 3, leading=2)))
    before = np.asarray(picture)
    for row, column in np.ndindex(2, 3):
        here = np.s_[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        if (row, column) in ((0, 1), (1, 0)):
            expected = np.round((1 - FADE) * before[here].astype(np.float64) + FADE * np.array(TINT))
            assert np.abs(dimmed[here] - expected).max() <= 1
        else:
            assert (dimmed[here] == before[here]).all()


def test_too_few_tokens_for_the_geometry() -> None:
    with pytest.raises(ValueError, match="takes 17"):
        dim(Image.new("L", (8, 8)), "1" * 16, Patches(4, 4, 1))


@pytest.mark.parametrize(
    ("image", "patch", "grid", "expected"),
    [
        (224, 16, 197, Patches(14, 14, 1)),
        (224, 16, 198, Patches(14, 14, 2)),  # DeiT with its distillation token
        (518, 14, 257, Patches(16, 16, 1)),  # DINOv2 used at 224 pixels
        (518, 14, 261, Patches(16, 16, 5)),  # the same with four registers
        ((32, 64), 16, 9, Patches(2, 4, 1)),
    ],
)
def test_geometry_follows_config_or_the_largest_square(
    image: int | tuple[int, int], patch: int, grid: int, expected: Patches
) -> None:
    assert Patches.of(ViTConfig(image_size=image, patch_size=patch), grid) == expected


def test_one_panel_per_stage_with_its_share(evaluation: Evaluation) -> None:
    (view,) = evaluation.gallery[0].views
    assert stage_titles(view) == ["all tokens", "layer 1: 53 %", "layer 2: 29 %"]
    assert len(panels(Image.new("L", (16, 16)), view, Patches(4, 4, 1))) == 3


def test_dropped_words_fade_and_are_escaped() -> None:
    view = View("policy", "merge", 0.2, None, 0.0, [1], ["011110", "010110"])  # padding on both sides
    whole, reduced = text_panels(["a", "<b>", "play", "##ing"], view)
    assert whole == "<span>a</span> <span>&lt;b&gt;</span> <span>play</span><span>ing</span>"
    assert reduced == '<span>a</span> <span class="gone">&lt;b&gt;</span> <span>play</span><span>ing</span>'
    with pytest.raises(ValueError, match="do not fit"):
        text_panels(["a"], view)


def test_words_of_other_tokenizers() -> None:
    view = View("policy", "merge", 0.2, None, 0.0, [], ["111"])
    assert text_panels(["Ġto", "ken", "Ġs"], view) == ["<span>to</span><span>ken</span> <span>s</span>"]


# --- report ----------------------------------------------------------------------------------------------------------


class Balance(HTMLParser):
    """Checks that every element is closed where it should be; collects text and what would be loaded."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.ids: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key in ("src", "href", "xlink:href") and value:
                self.loaded.append(value)
            if key == "id" and value:
                self.ids.append(value)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text += data


def test_report_is_whole_and_self_contained(evaluation: Evaluation, examples: TensorExamples, tmp_path: Path) -> None:
    path = write_report(evaluation, tmp_path, examples=examples, patches=Patches(4, 4, 1), history=HISTORY)
    text = path.read_text()
    page = Balance()
    page.feed(text)
    page.close()
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)
    assert all(address.startswith(("#", "data:image/")) for address in page.loaded)
    assert not re.search(r"url\((?!#)|@import|<script|<link", text)
    assert 'name="viewport"' in text and "prefers-color-scheme" in text
    for measured in evaluation.points:
        assert percent(measured.quality) in page.text
        assert f"{measured.milliseconds:.3f}" in page.text
    assert page.text.count("slower than no pruning") >= 3  # tome, none, and the explanation
    assert "<b>model</b>" not in text and "alert('cpu')</script>" not in text
    assert "b & co" in page.text and "test/<0>" in page.text
    assert sum(address.startswith("data:image/png") for address in page.loaded) == 3
    names = {file.name for file in tmp_path.iterdir()}
    assert names == set(REPORT_FILES)  # what a fresh start clears is all that a report leaves


def test_report_needs_neither_policy_nor_extras(evaluation: Evaluation) -> None:
    baselines = [measured for measured in evaluation.points if measured.method != "policy"]
    bare = Evaluation(**{**vars(evaluation), "points": baselines, "gallery": []})
    text = render(bare)
    assert "No policy was measured" in text
    assert 'id="gallery"' not in text and 'id="training"' not in text


def test_summary_tells_the_truth(evaluation: Evaluation) -> None:
    told = summary(evaluation).replace("\u00a0", " ")
    assert told.startswith("At 0.53× the measured latency the policy keeps 81.2 % (the native model has 82.0 %).")
    assert "random (merge), has 76.3 %" in told
    slow = Evaluation(**{**vars(evaluation), "points": [point("policy", 1.2, 0.8)]})
    assert "No setting of the policy is faster than no pruning" in summary(slow)
    assert "1.20×" in summary(slow)


def test_differences_are_signed_and_zero_is_not() -> None:
    assert [percentage_points(value) for value in (0.012, -0.0051, 0.0001, -0.0001, None)] == [
        "+1.2",
        "−0.5",
        "0.0",
        "0.0",
        "–",
    ]
