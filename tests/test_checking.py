"""A check fails only if a policy loses significantly more than its calibration allows."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rltr.cost import FlopsCost
from rltr.deploy import CalibrationPoint, Policy, describe, save_policy
from rltr.evaluate.statistics import quality_change_interval
from rltr.jobs import check as checking
from rltr.jobs.check import breaks_promise, run_check
from rltr.policies import PolicyConfig, TokenPolicy
from rltr.recipe import load_recipe
from rltr.runtime.backbone import Backbone
from rltr.tasks.models import load_model


@pytest.mark.parametrize(
    ("inputs", "lost", "promised", "bound", "broken"),
    [
        (64, 40, 0.0, None, True),  # a ruined model
        (64, 0, 0.0, None, False),
        (64, 6, 0.0, None, False),  # 9 points, which may be chance
        (1000, 90, 0.0, None, True),  # not chance on so many inputs
        (1000, 90, 0.07, None, False),  # a little more than promised
        (1000, 90, 0.0, 0.1, False),  # within the bound
        (1000, 180, 0.0, 0.1, True),
        (64, 40, 0.6, None, False),  # as much as promised
        (1, 1, 0.0, None, False),  # one input is not significant
    ],
)
def test_a_promise_is_broken_only_by_a_significant_loss(
    inputs: int, lost: int, promised: float, bound: float | None, broken: bool
) -> None:
    native, reduced = [1] * inputs, [0] * lost + [1] * (inputs - lost)
    point = CalibrationPoint(1.0, 0.5, 0.9 - promised, 0.9, bound, None if bound is None else 0.9, 500)
    assert breaks_promise(quality_change_interval(reduced, native), point) is broken


@pytest.fixture(scope="module")
def embedded() -> Any:
    return load_model("embedded")


@pytest.fixture
def saved(embedded: Any, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that saves an untrained policy for the embedded model; ``bias`` is that of keep logits."""

    def save(bias: float, *table: CalibrationPoint) -> Path:
        backbone = Backbone(embedded)
        network = TokenPolicy(PolicyConfig(backbone.width, backbone.depth, 197, backbone.family.pooled, width=8))
        with torch.no_grad():
            network.keep.bias.fill_(bias)
        recipe = load_recipe(None, (), {"threads": 1, "data.validation_limit": 40}).model_dump(mode="json")
        cost = FlopsCost.count(backbone.layers)
        about = {**describe(backbone), "name": "embedded"}
        save_policy(Policy(network, (0, 2), "merge", cost, 197, about, list(table), recipe), tmp_path / "policy")
        return tmp_path / "policy"

    return save


def test_a_policy_that_ruins_the_model_fails(saved: Callable[..., Path], new_log: Callable[[], str]) -> None:
    point = CalibrationPoint(0.01, 0.5, 0.82, 0.82, 0.03, 0.9, 256)
    assert run_check(saved(10.0, point))
    assert "this policy loses" not in new_log()
    assert not run_check(saved(-100.0, point))
    said = new_log()
    assert "at cost weight 0.01 this policy loses" in said and "of its calibration: this data differs" in said


def test_quality_is_not_checked_on_random_inputs(
    saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, new_log: Callable[[], str]
) -> None:
    folder = saved(-100.0, CalibrationPoint(0.01, 0.5, 0.82, 0.82))
    monkeypatch.setattr(checking, "CHECKED", 8)
    monkeypatch.setattr(checking, "EMBEDDED", "something else")  # so that the data is not at hand
    assert run_check(folder)
    said = new_log()
    assert "checking on random inputs" in said and "its accuracy is not checked" in said


def test_a_policy_without_calibration_is_measured(
    saved: Callable[..., Path], new_log: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_check(saved(10.0))
    said = new_log()
    assert "without calibration" in said and said.count("of the native time, accuracy") == checking.MEASURED
    assert "this policy loses" not in said and "by its calibration" not in said
    assert not run_check(saved(-100.0))
    assert "at every cost weight measured this policy loses" in new_log()
    monkeypatch.setattr(checking, "CHECKED", 8)
    monkeypatch.setattr(checking, "EMBEDDED", "something else")  # so that the data is not at hand
    assert run_check(saved(-100.0))
    said = new_log()
    assert "of its training, and its accuracy is not checked" in said and "this policy loses" not in said


def test_without_calibration_losses_at_high_cost_weights_are_allowed(
    saved: Callable[..., Path], new_log: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, found = saved(-100.0), checking.measure

    def gentle_at_first(*args: Any, **settings: Any) -> Any:
        evaluation = found(*args, **settings)
        first, *others = evaluation.points
        return replace(evaluation, points=[replace(first, quality_change_interval=(-0.04, 0.01)), *others])

    monkeypatch.setattr(checking, "measure", gentle_at_first)
    assert run_check(folder)
    assert "use another cost weight, and calibrate it first" in new_log()


def test_warnings_name_the_split_that_was_measured(
    saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Tested with labels in another order, about which evaluation and check warn alike."""
    prepared = checking.prepare_data

    def renamed(*args: Any) -> Any:
        task = prepared(*args)
        labels = (task.validation.labels + 1) % len(task.validation.classes)
        task.validation.labels = labels
        return task

    monkeypatch.setattr(checking, "prepare_data", renamed)
    caplog.clear()
    run_check(saved(10.0, CalibrationPoint(0.01, 0.5, 0.82, 0.82)))
    said = [record.getMessage() for record in caplog.records if "another order" in record.getMessage()]
    assert said and all(line.startswith("of validation inputs, ") for line in said)
