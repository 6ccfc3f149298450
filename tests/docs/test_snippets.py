"""Python in the pages runs: every block of a page, one after the other, in a folder with what the pages speak of.

The model is the embedded one under the pages' names (``my-vit``), and so are policies: an untrained one with a
calibration that is made up, so that any budget and any bound can be chosen.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from rltr import Backbone
from rltr.cost import FlopsCost
from rltr.deploy import CalibrationPoint, Policy, describe, save_policy
from rltr.embedded import load_model, load_task
from rltr.policies import PolicyConfig, TokenPolicy
from rltr.policies.network import decision_flops
from tests.docs.pages import blocks, name_of, pages

SLOW = {"docs/guide/python.md"}
"""Pages whose code trains."""
WITH_CODE = [page for page in pages() if list(blocks(page, "python"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages' code finds where it runs."""
    made = tmp_path_factory.mktemp("pages")
    model = load_model()
    model.save_pretrained(made / "my-vit")
    backbone = Backbone(model)
    config = PolicyConfig(backbone.width, backbone.depth, 197)
    cost = FlopsCost.count(backbone.layers, *decision_flops(config))
    weights = np.geomspace(0.0025, 8, 14).tolist()
    calibration = [
        CalibrationPoint(weight, cost=share, time=share, quality=0.8, dense_quality=0.8, drop_bound=0.005,
                         confidence=0.9, inputs=512)
        for weight, share in zip(weights, np.linspace(0.95, 0.2, 14).tolist(), strict=True)
    ]  # fmt: skip
    network = TokenPolicy(config).eval().requires_grad_(False)
    policy = Policy(network, (0, 2), "merge", cost, 197, describe(backbone), calibration)
    for name in ("my-policy", "rltr-demo/policy"):
        save_policy(policy, made / name)
    return made


@pytest.fixture
def there(folder: Path) -> Iterator[None]:
    """Be in that folder."""
    before = Path.cwd()
    os.chdir(folder)
    yield
    os.chdir(before)


def test_pages_have_code() -> None:
    assert {"README.md", "docs/start.md", "docs/extend/selector.md"} <= {name_of(page) for page in WITH_CODE}


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=name_of(page), marks=[pytest.mark.slow] if name_of(page) in SLOW else [])
        for page in WITH_CODE
    ],
)
def test_code_in_pages_runs(page: Path, there: None) -> None:
    # Pages that are about a program of the reader's speak of its images.
    known = {"images": load_task(test=8).test.batch(range(8))["pixel_values"]}
    for number, text in enumerate(blocks(page, "python"), 1):
        with torch.no_grad():
            exec(compile(text, f"{name_of(page)}, block {number}", "exec"), known)
