"""A policy with random weights for a tiny model, and its expected answers."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
)

from rltr.cost import FlopsCost
from rltr.deploy import (
    CalibrationPoint,
    Policy,
    describe,
    load_policy,
)
from rltr.deploy.folder import CONFIG, WEIGHTS
from rltr.deploy.schema import digest_of_settings
from rltr.errors import RltrError
from rltr.policies import PolicyConfig, TokenPolicy
from rltr.policies.network import decision_flops
from rltr.runtime.backbone import Backbone
from rltr.selectors.learned import Learned
from rltr.selectors.reduced_model import ReducedModel

LAYERS = (1, 2)
TABLE = [
    CalibrationPoint(0.02, 0.95, 0.90, 0.90, 0.005, 0.9, 500),
    CalibrationPoint(0.2, 0.70, 0.89, 0.90, 0.016, 0.9, 500),
    CalibrationPoint(2.0, 0.40, 0.80, 0.90, 0.12, 0.9, 500),
]


def policy_for(model: PreTrainedModel, grid: int = 17) -> Policy:
    """A policy with random weights, so that the kept tokens depend on the input."""
    torch.manual_seed(3)
    backbone = Backbone(model)
    config = PolicyConfig(backbone.width, backbone.depth, grid, backbone.family.pooled, width=8)
    network = TokenPolicy(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    cost = FlopsCost.count(backbone.layers, *decision_flops(config))
    recipe = {"learner": {"rollouts": 64, "seed": 0}}
    network = network.eval().requires_grad_(False)
    return Policy(network, LAYERS, "merge", cost, grid, describe(backbone), list(TABLE), recipe)


def expected(model: PreTrainedModel, policy: Policy, inputs: dict[str, Tensor], weight: float) -> Tensor:
    """Logits of the reduced model without ``attach``."""
    backbone = Backbone(model)
    with backbone.attached(), torch.no_grad():
        reduce = ReducedModel(backbone, Learned(policy.network, policy.pricing, weight), policy.layers, policy.removal)
        output, trace = reduce(inputs)
    assert trace.stages[-1].total < trace.stages[0].total, "no token was removed, so the test shows nothing"
    return output["logits"]


@pytest.fixture
def policy(tiny_vit: PreTrainedModel) -> Iterator[Policy]:
    """A policy for ``tiny_vit``, which is checked to be unchanged at the end."""
    before = {name: value.clone() for name, value in tiny_vit.state_dict().items()}
    yield policy_for(tiny_vit)
    assert all(torch.equal(value, before[name]) for name, value in tiny_vit.state_dict().items())
    assert tiny_vit.config._attn_implementation == "sdpa"
    assert not any(
        "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks for module in tiny_vit.modules()
    )


def edit(folder: Path, change: Callable[[dict[str, Any]], object], seal: bool = True) -> None:
    """Change a config; store matching digests unless ``seal`` is false."""
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    if seal:
        config["weights_sha256"] = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        config["settings_sha256"] = digest_of_settings(config)
    (folder / CONFIG).write_text(json.dumps(config))


def refused(folder: Path, said: str = "cannot be used|is damaged") -> str:
    with pytest.raises(RltrError, match=said) as error:
        load_policy(folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000
    return str(error.value)
