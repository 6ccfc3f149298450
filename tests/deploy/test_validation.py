"""Values of a policy folder are checked field by field, before anything is used."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from transformers import PreTrainedModel

import rltr
from rltr.cost import FlopsCost, LatencyCost, Machine
from rltr.cost.table import Table
from rltr.deploy import Policy, save_policy
from rltr.deploy.folder import CONFIG, WEIGHTS
from rltr.deploy.prices import check_prices
from rltr.deploy.schema import digest_of_settings
from rltr.errors import RltrError
from tests.deploy.conftest import LAYERS, edit, refused


@pytest.fixture(params=["flops", "latency"])
def folder(request: pytest.FixtureRequest, policy: Policy, tmp_path: Path) -> Path:
    """A sound policy with prices of one kind."""
    if request.param == "latency":
        table = Table((1, 17), (1e-5, 1e-4))
        machine = Machine("cpu", "a processor", None, "2", "float32", 1)
        policy = replace(policy, cost=LatencyCost(machine, 8, "today", ("layer",) * 4, {"layer": table}, table))
    save_policy(policy, tmp_path / "policy")
    return tmp_path / "policy"


FIELDS = [
    *("backbone", "backbone.depth", "backbone.width", "backbone.fingerprint", "backbone.name", "layers", "layers.0"),
    *("removal", "policy", "policy.pooled", "policy.width", "policy.grid", "policy.depth", "policy.price_slope"),
    *("cost", "cost.name", "typical_tokens", "calibration", "calibration.0", "calibration.0.cost_weight"),
    *("calibration.0.quality", "calibration.0.cost", "recipe", "recipe.learner", "facts", "quality_name", "format"),
]
COSTS = {
    "flops": ["cost.per_token", "cost.per_token.0", "cost.per_pair.0", "cost.decision_per_token"],
    "latency": ["cost.machine", "cost.rows", "cost.layers", "cost.tables", "cost.overhead.counts.0"],
}


@pytest.mark.parametrize("value", [None, "x", [], {}, True, 10**400, -1, 1e30, 0.5], ids=str)
def test_no_field_accepts_an_invalid_value(folder: Path, value: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    for field in FIELDS + COSTS[config["cost"]["name"]]:
        *parents, key = [int(part) if part.isdigit() else part for part in field.split(".")]
        changed = copy.deepcopy(config)
        inside: Any = changed
        for parent in parents:
            inside = inside[parent]
        # Values that are valid: empty for optional fields, a fraction for numbers, a text for texts.
        allowed = (
            (value in ([], {}) and type(value) is type(inside[key]) and field in ("calibration", "recipe", "facts"))
            or (value in ([], {}) and type(value) is type(inside[key]) and field == "recipe.learner")
            or (value == "x" and field in ("backbone.name", "quality_name"))
            or (isinstance(value, float) and field == "policy.price_slope")
            or (value == -1 and field in ("policy.price_slope", "calibration.0.quality"))
            or (value == 0.5 and field.startswith("calibration.0."))
        )
        inside[key] = value
        changed["settings_sha256"] = digest_of_settings(changed)
        (folder / CONFIG).write_text(json.dumps(changed))
        if not allowed:
            refused(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda config: config.update(layers=[2, 1]), "layers .* must be in ascending order, each from 0 to 3"),
        (lambda config: config.update(layers=[1, 1]), "ascending order"),
        (lambda config: config.update(layers=[1, 4]), "each from 0 to 3"),
        (lambda config: config.update(layers=[]), "layers"),
        (lambda config: config.update(typical_tokens=18), "at most policy.grid, 17"),
        (lambda config: config.update(hope=1), "hope"),
        (lambda config: config["policy"].update(hope=1), "policy.hope"),
        (lambda config: config["backbone"].update(hope=1), "backbone.hope"),
        (lambda config: config["calibration"][0].update(hope=1), "calibration.0.hope"),
        (lambda config: config["backbone"].update(tower="../.."), "backbone.tower"),
        (lambda config: config["policy"].update(pooled="middle"), "'first' or 'last'"),
        (lambda config: config["policy"].update(depth=5), "policy is for 5 layers"),
        (lambda config: config["policy"].update(backbone_width=31), "of width 31"),
        (lambda config: config["policy"].update(width=9), "weights are of another policy"),
        (lambda config: config["policy"].update(width=1025), "less than or equal to 1024"),
        (lambda config: config["calibration"][1].update(cost_weight=0.02), "a cost weight twice"),
        (lambda config: config["calibration"][1].update(dense_quality=0.5), "different values of dense_quality"),
        (lambda config: config["calibration"][1].update(cost=0.0), "calibration.1.cost"),
        (lambda config: config["calibration"][1].update(cost_weight=1e-300), "calibration.1.cost_weight"),
        (lambda config: config["facts"].update(table=[{"a": 1}, {"b": 2}]), "same columns"),
        (lambda config: config.pop("quality_name"), "quality_name: field required"),
        (lambda config: config["cost"].update(name="hope"), "no cost model 'hope'"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_errors_name_the_field_and_the_reason(
    folder: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    edit(folder, change)
    refused(folder, said)


@pytest.mark.parametrize(
    ("cost", "said"),
    [
        (FlopsCost((5,) * 3, (5,) * 3), "prices for 3 layers, but the backbone has 4"),
        (FlopsCost((5,) * 5, (5,) * 5), "prices for 5 layers, but the backbone has 4"),
        (FlopsCost((0,) * 4, (0,) * 4), "price of a token"),
        (FlopsCost((50, -50, 99, 99), (5,) * 4), "layer 1 must be finite, at least 0"),
        (FlopsCost((5,) * 4, (5,) * 4, -100), "a decision must be finite, at least 0"),
        (FlopsCost((10**17,) * 4, (5,) * 4, 0, 10**17), None),
    ],
    ids=str,
)
def test_prices_that_would_drop_everything_are_refused(
    policy: Policy, cost: FlopsCost, said: str | None, tmp_path: Path
) -> None:
    if said is None:
        save_policy(replace(policy, cost=cost), tmp_path / "policy")
        return
    with pytest.raises(RltrError, match=f"would ruin the model: .*{said}"):
        save_policy(replace(policy, cost=cost), tmp_path / "policy")
    assert not (tmp_path / "policy").exists()


@dataclass(frozen=True)
class Falling(FlopsCost):
    """A cost model by which tokens beyond the tenth make one layer cheaper."""

    falls_at: int = 0

    def layer(self, layer: int, counts: torch.Tensor) -> torch.Tensor:
        return super().layer(layer, 10 - (counts - 10).abs() if layer == self.falls_at else counts)


def test_prices_that_fall_as_tokens_are_added_are_refused() -> None:
    sound = Falling((5,) * 4, (5,) * 4, falls_at=9)
    check_prices(sound, LAYERS, 4, 17, 17)
    for falls_at in range(4):
        with pytest.raises(ValueError, match=f"layer {falls_at} must be .* never fall as tokens are added"):
            check_prices(replace(sound, falls_at=falls_at), LAYERS, 4, 17, 17)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e7])
def test_weights_that_would_drop_everything_are_refused(
    policy: Policy, tiny_vit: PreTrainedModel, value: float, tmp_path: Path
) -> None:
    save_policy(policy, tmp_path / "policy")
    for name in sorted(policy.network.state_dict()):
        tensors = load((tmp_path / "policy" / WEIGHTS).read_bytes())
        tensors[name].view(-1)[-1] = value
        spoiled = tmp_path / "spoiled"
        spoiled.mkdir(exist_ok=True)
        (spoiled / WEIGHTS).write_bytes(save(tensors))
        (spoiled / CONFIG).write_text((tmp_path / "policy" / CONFIG).read_text())
        edit(spoiled, lambda config: None)
        refused(spoiled, f"{name} have numbers that are not finite")
    with torch.no_grad():
        policy.network.keep.bias.fill_(value)
    with pytest.raises(RltrError, match="would ruin the model"):
        save_policy(policy, tmp_path / "new")
    with pytest.raises(RltrError, match="would ruin the model"):
        rltr.attach(tiny_vit, policy, cost_weight=1.0)
