"""Values of a policy folder are checked field by field, before anything is used."""

import copy
import hashlib
import json
import shutil
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
from rltr.deploy import Policy, load_policy, save_policy
from rltr.deploy.folder import CARD, CONFIG, WEIGHTS
from rltr.deploy.prices import check_prices
from rltr.deploy.schema import digest_of_settings
from rltr.errors import RltrError
from rltr.policies import PolicyConfig
from tests.deploy.conftest import LAYERS


@pytest.fixture(params=["flops", "latency"])
def folder(request: pytest.FixtureRequest, policy: Policy, tmp_path: Path) -> Path:
    """A sound policy with prices of one kind."""
    if request.param == "latency":
        table = Table((1, 17), (1e-5, 1e-4))
        machine = Machine("cpu", "a processor", None, "2", "float32", 1)
        policy = replace(policy, cost=LatencyCost(machine, 8, "today", ("layer",) * 4, {"layer": table}, table))
    save_policy(policy, tmp_path / "policy")
    return tmp_path / "policy"


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
        (lambda config: config["calibration"][1].update(dense_quality=0.5), "several qualities"),
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


def test_mixed_files_of_two_policies_are_refused(policy: Policy, tmp_path: Path) -> None:
    save_policy(policy, tmp_path / "first")
    with torch.no_grad():
        policy.network.keep.bias.add_(1)
    save_policy(policy, tmp_path / "second")
    (tmp_path / "first" / WEIGHTS).write_bytes((tmp_path / "second" / WEIGHTS).read_bytes())
    refused(tmp_path / "first", "one is of another policy")


def test_edited_settings_are_refused_unless_they_do_not_affect_decisions(policy: Policy, tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    save_policy(policy, folder)
    edit(folder, lambda config: config["recipe"].update(data={"source": "where my photos are now"}), seal=False)
    (folder / CARD).write_text("something better")
    assert load_policy(folder).recipe["data"] == {"source": "where my photos are now"}
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(dict(reversed(config.items())), indent=7))
    load_policy(folder)  # order and layout of the JSON do not matter
    edit(folder, lambda config: config.update(layers=[2]), seal=False)
    refused(folder, "was changed after it was written")


def test_digests_are_required_from_format_3_on(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(Path(__file__).parent / "written_before" / "format_3", tmp_path / "policy"))

    def as_it_was(config: dict[str, Any]) -> None:
        config.pop("weights_sha256")
        config.pop("settings_sha256")

    edit(folder, lambda config: config.update(format=2), seal=False)
    refused(folder, "format 2 has no digests")
    edit(folder, as_it_was, seal=False)
    assert load_policy(folder).layers == (1, 2)
    edit(folder, lambda config: config.update(typical_tokens=0), seal=False)
    refused(folder, "typical_tokens")
    edit(folder, lambda config: config.update(typical_tokens=17, format=3), seal=False)
    refused(folder, "format 3 has both digests")


def test_no_memory_is_allocated_for_weights_that_the_file_lacks(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A config may ask for a policy of gigabytes, while its weights file has kilobytes."""
    save_policy(policy, tmp_path / "policy")
    edit(tmp_path / "policy", lambda config: config["policy"].update(width=1024, grid=2**20))
    made: list[PolicyConfig] = []
    from rltr.deploy import weights

    network = weights.TokenPolicy

    def make(config: PolicyConfig) -> Any:
        found = network(config)
        made.extend([config] * (not found.keep.weight.is_meta))
        return found

    monkeypatch.setattr(weights, "TokenPolicy", make)
    refused(tmp_path / "policy", "weights are of another policy")
    assert not made


def test_a_long_grid_with_many_decisions_takes_little_memory(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables of prices over all counts, one per decision, would take gigabytes for a file of megabytes."""
    depth, grid = 4096, 2**20
    network = type(policy.network)(PolicyConfig(1, depth, grid, width=1))
    cost = FlopsCost((5,) * depth, (5,) * depth)
    backbone = {**policy.backbone, "depth": depth, "width": 1}
    large = replace(
        policy, network=network, cost=cost, backbone=backbone, layers=tuple(range(depth)), typical_tokens=grid
    )
    made: list[int] = []
    arange = torch.arange

    def counted(*args: Any, **named: Any) -> torch.Tensor:
        found: torch.Tensor = arange(*args, **named)
        made.append(found.numel())
        return found

    monkeypatch.setattr(torch, "arange", counted)
    save_policy(large, tmp_path / "policy")
    load_policy(tmp_path / "policy")
    assert not made or max(made) < 1000


def test_loading_draws_no_random_numbers(policy: Policy, tmp_path: Path) -> None:
    save_policy(policy, tmp_path / "policy")
    before = torch.get_rng_state()
    load_policy(tmp_path / "policy")
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_are_in_single_precision_whatever_the_default(policy: Policy, tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        save_policy(policy, tmp_path / "policy")
        loaded = load_policy(tmp_path / "policy")
    finally:
        torch.set_default_dtype(torch.float32)
    assert {value.dtype for value in loaded.network.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("name", ["a: b", "# x", "a\n---\nevil: true", "a|b", "\udcff", "naïve 文", "[x]"])
def test_a_card_is_written_for_any_model_name(policy: Policy, name: str, tmp_path: Path) -> None:
    import yaml

    facts = {"table": [{"a|b": "c|d\ne"}], "environment": "x\ny"}
    policy = replace(policy, backbone={**policy.backbone, "name": name}, facts=facts, quality_name="F|1")
    save_policy(policy, tmp_path / "policy")
    card = (tmp_path / "policy" / CARD).read_text(encoding="utf-8")
    head = yaml.safe_load(card.split("---\n")[1] if "\n---\n" not in name else card[4 : card.index("tags:")])
    assert head["base_model"] == name.replace("\udcff", "?") and "evil" not in head
    assert "| a\\|b |" in card and "| c\\|d e |" in card and "dense F\\|1 |" in card
    assert load_policy(tmp_path / "policy").backbone["name"] == name.replace("\udcff", "?")


@pytest.mark.parametrize("width", [16, 64])
def test_a_policy_for_another_shape_is_refused(policy: Policy, tiny_vit: PreTrainedModel, width: int) -> None:
    policy = replace(policy, network=type(policy.network)(PolicyConfig(width, 4, 17)))
    with pytest.raises(RltrError, match=f"network is for .*'width': {width}.*model has .*'width': 32"):
        rltr.attach(tiny_vit, policy, cost_weight=1.0)
