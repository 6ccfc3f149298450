"""Loading a policy folder takes little memory, and does not depend on the state of the program."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import rltr
from rltr.cost import FlopsCost
from rltr.deploy import Policy, load_policy, save_policy
from rltr.deploy.folder import CARD
from rltr.errors import RltrError
from rltr.policies import PolicyConfig
from tests.deploy.conftest import edit, refused


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
