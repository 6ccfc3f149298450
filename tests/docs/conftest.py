"""What the code in the pages finds where it runs: a model and photos of the reader's, and policies."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedModel, ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from rltr import Backbone, Policy
from rltr.cost import FlopsCost
from rltr.deploy import CalibrationPoint, describe, save_policy
from rltr.embedded import load_model
from rltr.jobs import api
from rltr.jobs.run import Run
from rltr.jobs.training import run_train
from rltr.policies import PolicyConfig, TokenPolicy
from rltr.policies.network import decision_flops
from rltr.recipe import Recipe, load_recipe
from tests.conftest import IMAGE, build

CLASSES: dict[str, Any] = {"num_labels": 2, "id2label": {0: "cat", 1: "dog"}, "label2id": {"cat": 0, "dog": 1}}
CALIBRATION = [
    CalibrationPoint(weight, share, 0.8, 0.8, drop_bound=0.005, confidence=0.9, inputs=512, time=share)
    for weight, share in zip(np.geomspace(0.0025, 8, 14).tolist(), np.linspace(0.95, 0.2, 14).tolist(), strict=True)
]
"""Made up, so that any budget and any bound can be chosen."""
SMALL = {
    "data.fractions": (0.5, 0.25, 0.25), "data.train_limit": 16, "data.validation_limit": 8, "data.test_limit": 8,
    "learner.rollouts": 16, "learner.batch": 8, "cost.kind": "flops", "evaluation.cost_weights": [0.1, 1.0],
    "evaluation.keep_rates": [0.5], "evaluation.examples": 8, "evaluation.batch_size": 4, "evaluation.gallery": 1,
    "threads": 1,
}  # fmt: skip
"""What is trained and measured in place of what a page's code says."""


def untrained(model: PreTrainedModel, grid: int) -> Policy:
    """A policy as it is before training."""
    backbone = Backbone(model)
    config = PolicyConfig(backbone.width, backbone.depth, grid)
    cost = FlopsCost.count(backbone.layers, *decision_flops(config))
    network = TokenPolicy(config).eval().requires_grad_(False)
    return Policy(network, (0, 2), "merge", cost, grid, describe(backbone), CALIBRATION)


@pytest.fixture(scope="session")
def readers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``my-vit`` and ``photos`` with a policy ``my-policy``; ``rltr-demo/policy`` for the embedded model."""
    made = tmp_path_factory.mktemp("reader")
    vit = build(ViTForImageClassification, ViTConfig(**{**IMAGE, **CLASSES}))
    vit.save_pretrained(made / "my-vit")
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(made / "my-vit")
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (made / "photos" / name).mkdir(parents=True)
        for i in range(16):
            pixels = generator.integers(0, 255, (16, 16, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(made / "photos" / name / f"{i}.png")
    save_policy(untrained(vit, 17), made / "my-policy")
    save_policy(untrained(load_model(), 197), made / "rltr-demo" / "policy")
    return made


@pytest.fixture
def in_readers_folder(readers_folder: Path, tmp_path: Path) -> Iterator[None]:
    """Be in a copy of it."""
    before = Path.cwd()
    os.chdir(shutil.copytree(readers_folder, tmp_path / "reader"))
    yield
    os.chdir(before)


@pytest.fixture
def small_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """``rltr.train`` and ``rltr.evaluate`` check what they are given, and then do far less of it."""

    def less(recipe: Recipe) -> Recipe:
        given = recipe.model_dump(mode="json", exclude_unset=True)
        return load_recipe(given, (), {**SMALL, "out": recipe.out})

    def train(recipe: Recipe, *args: Any, **options: Any) -> Run:
        run = run_train(less(recipe), *args, **options)
        policy = replace(run.policy, calibration=CALIBRATION)
        save_policy(policy, run.policy_folder)
        return replace(run, policy=policy)

    monkeypatch.setattr(api, "run_train", train)
    for name in ("run_evaluate", "measure_policy"):
        whole = getattr(api, name)
        monkeypatch.setattr(
            api, name, lambda policy, recipe, whole=whole, **given: whole(policy, less(recipe), **given)
        )


@pytest.fixture
def images() -> torch.Tensor:
    """A batch for ``my-vit``."""
    return torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
