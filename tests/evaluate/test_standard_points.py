"""Standard operating points: decision layers, FLOPs and predicted latency of each method."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import ViTConfig, ViTForImageClassification

from rltr.cost import CostModel, FlopsCost, LatencyCost
from rltr.deploy.folder import Policy, describe
from rltr.errors import RltrError
from rltr.evaluate.measure import measure
from rltr.evaluate.points import OperatingPoint
from rltr.evaluate.standard_points import baseline_points, evenly_spaced, fresh, policy_points
from rltr.evaluate.tally import reduced_cost
from rltr.policies.network import PolicyConfig, TokenPolicy
from rltr.runtime.backbone import Backbone
from rltr.selectors import BASELINES, ClsAttention
from rltr.selectors.reduced_model import ReducedModel
from rltr.tasks import TensorExamples


def trained(backbone: Backbone, cost: CostModel | None = None, layers: tuple[int, ...] = (0, 1)) -> Policy:
    """A policy whose weights differ from their initial values."""
    network = TokenPolicy(PolicyConfig(backbone.width, backbone.depth, grid=17, width=8))
    torch.nn.init.normal_(network.keep.weight, std=3.0, generator=torch.Generator().manual_seed(3))
    cost = cost or FlopsCost.count(backbone.layers)
    return Policy(network.eval().requires_grad_(False), layers, "merge", cost, network.config.grid, describe(backbone))


def decides_at(point: OperatingPoint) -> tuple[int, ...]:
    assert isinstance(point.reduce, ReducedModel)
    return point.reduce.layers


def test_a_baseline_decides_where_it_can(backbone: Backbone, examples: TensorExamples, flops: FlopsCost) -> None:
    points = baseline_points(backbone, list(BASELINES), [0.5], (0, 2))
    where = {point.series: decides_at(point) for point in points}
    assert where.pop("none") == (0, 2)
    assert where.pop("cls_attention (merge)") == where.pop("cls_attention (drop)") == (1, 2)
    assert where.pop("tome (merge)") == (1, 2)
    assert set(where.values()) == {(0, 2)} and len(where) == 2 * (len(BASELINES) - 2)
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
    """A model with an even number of tokens, so that sets A and B of the redundancy search are equally large."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = ViTConfig(image_size=(12, 20), patch_size=4, num_channels=1, **shape)
    return Backbone(ViTForImageClassification(config).eval()), {"pixel_values": torch.rand(3, 1, 12, 20)}


@pytest.mark.parametrize("method", BASELINES)
def test_a_baselines_own_cost_is_what_torch_counts(even: tuple[Backbone, dict[str, Tensor]], method: str) -> None:
    backbone, inputs = even

    def decision(point: OperatingPoint) -> tuple[int, float]:
        """FLOPs of everything but the model: counted by torch, and as reported."""
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
    outside, nothing = decision(points[0])  # keeping everything is free; embedding and head remain
    assert nothing == 0
    for point in points[1:]:
        counted, reported = decision(point)
        if method == "cls_attention":
            counted += 3 * 16 * 2 * 16  # matrix-vector products that torch's counter misses
        # ToMe's sets A and B have 7 and 8 tokens: the first token is in neither.
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
    assert evenly_spaced(weights) == few


def test_only_what_the_table_was_measured_for_is_predicted(
    backbone: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    table = LatencyCost.measure(backbone, tokens=17, rows=2, points=2, passes=1, limit=0.0)
    policy = trained(backbone, table)
    points = policy_points(backbone, policy, [0.1], untrained=[0.1]) + baseline_points(backbone, ["norm"], [0.5], (1,))
    assert {point.method for point in points if point.latency is table} == {"policy", "untrained policy"}
    assert {point.method for point in points if point.latency is None} == {"none", "norm"}
    assert policy_points(backbone, trained(backbone), [0.1])[0].latency is None  # FLOPs predict no time
    assert not caplog.text
    moved = replace(table, machine=replace(table.machine, processor="another"))
    assert policy_points(backbone, trained(backbone, moved), [0.1])[0].latency is None
    assert "no latency is predicted" in caplog.text and "'another' there" in caplog.text
