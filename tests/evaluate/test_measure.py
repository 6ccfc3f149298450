"""``measure``: quality, time, FLOPs and tokens come from the real passes, run in alternation."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from rltr.cost import FlopsCost
from rltr.errors import RltrError
from rltr.evaluate.measure import measure
from rltr.evaluate.points import OperatingPoint
from rltr.evaluate.tally import reduced_cost
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Trace
from rltr.system.timing import pass_order
from rltr.tasks import TensorExamples
from tests.evaluate.conftest import operating_point


class Clock:
    """Fake clock that advances only by ``work``, which takes longer over time if there is drift."""

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
        expected += ["native" if which is None else names[which] for which in pass_order(3, batch, 2)]
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


def test_measuring_leaves_the_model_as_it_was(backbone: Backbone, examples: TensorExamples, flops: FlopsCost) -> None:
    attention = backbone.config._attn_implementation
    threads = torch.get_num_threads()
    backbone.model.train()
    measure(backbone, [operating_point(backbone)], examples, flops, batch_size=5, threads=1, progress=False)
    assert backbone.model.training
    backbone.model.eval()
    assert backbone.config._attn_implementation == attention
    assert not any("forward" in vars(layer) for layer in backbone.layers)
    assert torch.get_num_threads() == threads


def test_nothing_to_measure_is_refused(backbone: Backbone, examples: TensorExamples, flops: FlopsCost) -> None:
    with pytest.raises(RltrError, match="no operating point"):
        measure(backbone, [], examples, flops)
    with pytest.raises(RltrError, match="repeats"):
        measure(backbone, [operating_point(backbone)], examples, flops, repeats=0)
    one = TensorExamples(examples.labels[:1], ["x"], ["a", "b", "c"], {"pixel_values": torch.zeros(1, 1, 16, 16)})
    with pytest.raises(RltrError, match="at least 2"):
        measure(backbone, [operating_point(backbone)], one, flops)


@pytest.mark.parametrize("shift", [0, 1])
def test_labels_in_another_order_are_said(
    tiny_vit: PreTrainedModel, shift: int, caplog: pytest.LogCaptureFixture
) -> None:
    pixels, backbone = torch.randn(60, 3, 16, 16, generator=torch.Generator().manual_seed(3)), Backbone(tiny_vit)
    with torch.no_grad():
        labels = (tiny_vit(pixels).logits.argmax(-1) + shift) % 3
    examples = TensorExamples(labels, [str(i) for i in range(60)], ["a", "b", "c"], {"pixel_values": pixels})
    flops = FlopsCost.count(backbone.layers)
    measure(backbone, [operating_point(backbone)], examples, flops, repeats=1, gallery=1, progress=False)
    assert ("of test inputs, the whole model is right in 0.0%, and in 100.0% if" in caplog.text) == (shift == 1)
