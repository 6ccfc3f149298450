"""Fixtures: a tiny model with data, and the results of an evaluation."""

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from rltr.cost import FlopsCost
from rltr.evaluate.points import Measurement, OperatingPoint, Shown, View
from rltr.evaluate.results import Evaluation
from rltr.runtime.backbone import Backbone
from rltr.selectors.norm import Norm
from rltr.selectors.reduced_model import ReducedModel
from rltr.tasks import TensorExamples

HISTORY = [
    {"rollouts": 512.0 * step, "accuracy": 0.8, "keep_rate/1": 0.9, "keep_rate/3": 0.8, "kl": 0.01}
    for step in range(1, 5)
] + [{"rollouts": 3000.0, "kl": 0.02}]
"""Logged scalars of a training."""


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
    reduced_model = ReducedModel(backbone, Norm(keep), layers=[1, 2])
    return OperatingPoint(method, "merge", keep, reduced_model, attached=backbone.attached)


def pairs(won: int, lost: int, same: int) -> tuple[np.ndarray, np.ndarray]:
    """Answers after and before: ``won`` became right, ``lost`` became wrong, ``same`` stayed right."""
    return np.repeat([True, False, True], [won, lost, same]), np.repeat([False, True, True], [won, lost, same])


def measurement(
    method: str,
    latency: float,
    accuracy: float,
    removal: str = "merge",
    parameter: str = "keep rate",
    setting: float = 0.5,
) -> Measurement:
    return Measurement(
        method=method,
        removal=removal,
        setting=setting,
        parameter=parameter,
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
            measurement("random", 0.52, 0.7612),
            measurement("random", 0.81, 0.8034, setting=0.8),
            measurement("random", 0.41, 0.6123, removal="drop"),
            measurement("tome", 1.07, 0.8111),
            measurement("policy", 0.53, 0.8123, parameter="cost weight", setting=0.2),
            measurement("policy", 0.34, 0.7765, parameter="cost weight", setting=0.8),
            measurement("none", 1.013, 0.82, removal="none", setting=1.0),
        ],
        gallery=[Shown(0, "test/<0>", "a", "a", 1.0, [view])],
        chance=1 / 3,
    )
