"""Policy folders are complete, readable, replaced as a whole, and refused in one line if damaged."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rltr.deploy import (
    CalibrationPoint,
    Policy,
    load_policy,
    save_policy,
)
from rltr.deploy.folder import CARD, CONFIG, WEIGHTS
from rltr.errors import RltrError
from rltr.policies import PolicyConfig
from rltr.system.files import recover_folder
from tests.deploy.conftest import LAYERS


def test_a_saved_policy_is_loaded_unchanged(policy: Policy, tmp_path: Path) -> None:
    save_policy(policy, tmp_path / "policy")
    again = load_policy(str(tmp_path / "policy"))
    assert (again.layers, again.removal, again.cost) == (policy.layers, policy.removal, policy.cost)
    assert (again.backbone, again.calibration, again.recipe) == (policy.backbone, policy.calibration, policy.recipe)
    assert again.network.config == policy.network.config and not again.network.training
    weights = policy.network.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in again.network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in again.network.parameters())


def test_a_policy_folder_holds_its_three_files_only(policy: Policy, tmp_path: Path) -> None:
    save_policy(policy, tmp_path / "policy")
    assert sorted(path.name for path in (tmp_path / "policy").iterdir()) == [CARD, CONFIG, WEIGHTS]
    json.loads((tmp_path / "policy" / CONFIG).read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_the_card_describes_the_policy(policy: Policy, tmp_path: Path) -> None:
    facts = {"table": [{"accuracy": "80.00%", "time": "0.50×"}], "environment": "torch 1"}
    save_policy(replace(policy, facts=facts), tmp_path / "first")
    save_policy(load_policy(tmp_path / "first"), tmp_path / "policy")  # results are kept in the folder
    card = (tmp_path / "policy" / CARD).read_text()
    for said in (
        "rltr.attach(",
        "| 0.2 | 0.700 | 89.00% | 90.00% | 1.60%, 90% sure |",
        "| 80.00% | 0.50× |",
        "torch 1",
        "64 rollouts",
    ):
        assert said in card, said
    assert policy.backbone["fingerprint"][:16] in card


def test_saving_again_replaces_the_policy_and_nothing_else(policy: Policy, tmp_path: Path) -> None:
    save_policy(policy, tmp_path / "policy")
    (tmp_path / "policy" / "notes.md").write_text("mine")
    save_policy(replace(policy, layers=(2,)), tmp_path / "policy")
    assert load_policy(tmp_path / "policy").layers == (2,)
    assert (tmp_path / "policy" / "notes.md").read_text() == "mine"


def test_a_calibration_of_format_2_with_accuracies_is_read(tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parent / "written_before" / "format_3", tmp_path / "policy")
    old = {"cost_weight": 0.2, "cost": 0.7, "accuracy": 0.89, "dense_accuracy": 0.9}
    rewrite(tmp_path / "policy", calibration=[old], format=2, weights_sha256=None, settings_sha256=None)
    assert load_policy(tmp_path / "policy").calibration == [CalibrationPoint(0.2, 0.7, 0.89, 0.9)]


def test_the_working_folder_is_not_replaced(policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_policy(policy, tmp_path / "policy")
    monkeypatch.chdir(tmp_path / "policy")
    for folder in (Path("."), Path(".."), tmp_path / "policy"):
        with pytest.raises(RltrError, match="while you are in it; name a folder below"):
            save_policy(policy, folder)
    assert load_policy(tmp_path / "policy").layers == LAYERS
    save_policy(policy, Path("below"))


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_folder_has_the_permissions_of_any_other(policy: Policy, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        save_policy(policy, tmp_path / "policy")
    finally:
        os.umask(before)
    assert (tmp_path / "policy").stat().st_mode & 0o777 == 0o777 & ~umask


def test_an_old_folder_is_recovered_after_a_kill(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a kill between the two renames, the next writer finds the old folder and leaves no files behind."""
    save_policy(policy, tmp_path / "policy")
    (tmp_path / "policy").rename(tmp_path / ".policy.old")
    recover_folder(tmp_path / "policy")
    assert load_policy(tmp_path / "policy").layers == LAYERS
    shutil.copytree(tmp_path / "policy", tmp_path / ".policy.old")  # killed after both renames
    save_policy(replace(policy, layers=(2,)), tmp_path / "policy")
    assert load_policy(tmp_path / "policy").layers == (2,)
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def rewrite(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))


def drop_key(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    del config["layers"]
    (folder / CONFIG).write_text(json.dumps(config))


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "newer": (lambda folder: rewrite(folder, format=99, rltr="9.9"), "9.9.*update rltr"),
    "too old": (lambda folder: rewrite(folder, format=1, rltr="0.0"), "older rltr 0.0.*Train it again"),
    "no json": (lambda folder: (folder / CONFIG).write_text("{"), "damaged"),
    "no text": (lambda folder: (folder / CONFIG).write_bytes(b"\xff\xfe\xfa"), "damaged"),
    "a list": (lambda folder: (folder / CONFIG).write_text("[]"), "damaged"),
    "a key less": (drop_key, "damaged"),
    "another shape": (lambda folder: rewrite(folder, policy=PolicyConfig(32, 4, 17, width=4).to_dict()), "damaged"),
    "no cost model": (lambda folder: rewrite(folder, cost={"name": "hope"}), "hope"),
    "cut short": (lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9]), "damaged"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "not a policy folder"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_damaged_folder_is_refused_in_one_line(policy: Policy, tmp_path: Path, case: str) -> None:
    spoil, said = SPOILED[case]
    save_policy(policy, tmp_path / "policy")
    spoil(tmp_path / "policy")
    with pytest.raises(RltrError, match=said) as refused:
        load_policy(tmp_path / "policy")
    assert "\n" not in str(refused.value)
