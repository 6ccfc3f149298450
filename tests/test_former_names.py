"""Files with former names of fields still load; a field under both names is refused."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from stable_baselines3.common.logger import Logger

from rltr.cost import from_dict
from rltr.cost.curve import Curve
from rltr.cost.latency import LatencyCost
from rltr.cost.passes import Fit
from rltr.deploy import load_policy, save_policy
from rltr.deploy.folder import CONFIG, WEIGHTS
from rltr.envs import TokenSelectionVecEnv, make_episodes
from rltr.errors import RltrError
from rltr.policies import PolicyConfig
from rltr.recipe import load_recipe, stored_recipe
from rltr.runtime.backbone import Backbone
from rltr.system.former_names import CHECKPOINT, POLICY_WEIGHTS, present_names
from rltr.system.machine import Machine
from rltr.train.checkpoint import restore_checkpoint, save_checkpoint
from rltr.train.checkpoint_facts import FACTS, TENSORS, facts_digest, file_digest
from rltr.train.token_ppo import TokenPPO

FORMER_FOLDER = Path(__file__).parent / "deploy" / "written_before" / "format_3"
"""A policy folder in format 3, written by rltr 0.1.0."""


def former(data: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    back = {new: old for old, new in names.items()}
    return {back.get(name, name): value for name, value in data.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FORMER_FOLDER, tmp_path / "policy"))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    (folder / CONFIG).write_text(json.dumps(config))


def test_a_policy_folder_of_format_3_is_read_exactly_and_saved_with_current_names(folder: Path, tmp_path: Path) -> None:
    policy = load_policy(folder)
    written, found = load_file(folder / WEIGHTS), policy.network.state_dict()
    assert "thrift" in written and "price_slope" in found and len(written) == len(found)
    assert all(torch.equal(value, found[POLICY_WEIGHTS.get(name, name)]) for name, value in written.items())
    assert (policy.removal, policy.layers, policy.network.config.pooled) == ("merge", (1, 2), "first")
    assert policy.network.config.price_slope == 2.0 and len(policy.calibration) == 3
    save_policy(policy, tmp_path / "again")
    config = json.loads((tmp_path / "again" / CONFIG).read_text())
    assert config["format"] == 4 and "dropped" not in config and "thrift" not in config["policy"]
    again = load_policy(tmp_path / "again")
    assert replace(again, network=policy.network) == policy
    assert all(torch.equal(value, found[name]) for name, value in again.network.state_dict().items())


def test_a_policy_folder_of_format_2_is_read(folder: Path) -> None:
    expected = load_policy(folder)
    edit(folder, lambda config: config.update(format=2, weights_sha256=None, settings_sha256=None))
    policy = load_policy(folder)
    assert replace(policy, network=expected.network) == expected


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda config: config.update(dropped="drop"), "changed after it was written"),
        (lambda config: config["policy"].update(thrift=1.0), "changed after it was written"),
        (lambda config: config.update(removal="merge"), "'removal' is still called 'dropped'"),
        (lambda config: config["policy"].update(pooled="first"), "'pooled' is still called 'reader'"),
        (lambda config: config["calibration"][0].update(accuracy=0.5), "calibration has both 'quality' and 'accuracy'"),
        (
            lambda config: config["recipe"].update(reduction={"dropped": "drop", "removal": "drop"}),
            "reduction in recipe .* has both 'removal' and 'dropped'",
        ),
        (lambda config: config.update(format=4), "removal"),
        (lambda config: config.update(format=5, rltr="0.9"), r"written by rltr 0\.9.*update rltr"),
    ],
)
def test_names_that_do_not_fit_the_format_are_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    edit(folder, change)
    with pytest.raises(RltrError, match=said):
        load_policy(folder)


def test_weights_with_former_and_current_names_are_refused(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    save_file({**weights, "price_slope": weights["thrift"].clone()}, folder / WEIGHTS)
    with pytest.raises(RltrError, match="weights are of another policy: 'price_slope'"):
        load_policy(folder)


def test_the_recipe_of_a_former_folder_gets_current_names(folder: Path) -> None:
    edit(folder, lambda config: config["recipe"].update(reduction={"dropped": "drop"}))
    assert load_policy(folder).recipe["reduction"] == {"removal": "drop"}


def test_a_recipe_with_a_former_name_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("reduction: {dropped: drop, layers: [1]}\n")
    assert load_recipe(path).reduction.removal == "drop"
    assert load_recipe(path, ["reduction.removal=merge"]).reduction.removal == "merge"
    assert load_recipe(None, ["reduction.dropped=drop"]).reduction.removal == "drop"
    assert stored_recipe({"reduction": {"dropped": "drop"}}, "a run").reduction.removal == "drop"
    path.write_text("reduction: {dropped: drop, removal: drop}\n")
    with pytest.raises(RltrError, match=r"old\.yaml.* has both 'removal' and 'dropped'"):
        load_recipe(path)


def test_a_latency_table_with_a_former_name_is_read() -> None:
    machine = Machine("cpu", "a processor", None, "2", "float32", 1)
    curve = Curve(1e-5, 1e-6, 1e-9, 17, 0.01)
    cost = LatencyCost(machine, 8, "2025-01-01T00:00:00+00:00", ("a",), {"a": curve}, fit=Fit((0.5,), (0.6,)))
    data = json.loads(json.dumps(cost.to_dict()))
    fit = {"measured": [0.5], "foretold": [0.6]}
    assert data["fit"] != fit and from_dict({**data, "fit": fit}) == cost
    with pytest.raises(RltrError, match="fit of the latency table has both 'predicted' and 'foretold'"):
        from_dict({**data, "fit": {**data["fit"], **fit}})


def test_renaming_keeps_the_order_of_fields() -> None:
    assert list(present_names({"a": 1, "thrift": 2, "b": 3}, {"thrift": "price_slope"}, "it")) == [
        "a",
        "price_slope",
        "b",
    ]


@pytest.fixture
def learner(tiny_vit: Any, tiny_task: Any) -> Iterator[TokenPPO]:
    backbone = Backbone(tiny_vit)
    env = TokenSelectionVecEnv(make_episodes(backbone, tiny_task.train, rows=8, layers=(1, 2), group_size=4))
    ppo = TokenPPO(env, PolicyConfig(backbone.width, backbone.depth, 17, width=8), seed=0)
    ppo.set_logger(Logger(None, []))
    yield ppo
    env.close()


def test_a_checkpoint_with_former_names_is_restored(learner: TokenPPO, tmp_path: Path) -> None:
    learner.learn(16)
    save_checkpoint(tmp_path, learner)
    expected = {name: value.clone() for name, value in learner.policy.state_dict().items()}
    answers = learner.episodes.dense.answers.clone()

    def write(tensors: Mapping[str, torch.Tensor]) -> None:
        save_file(dict(tensors), tmp_path / TENSORS)
        facts = json.loads((tmp_path / FACTS).read_text())
        facts |= {"format": 2, "tensors": file_digest(tmp_path / TENSORS)}
        (tmp_path / FACTS).write_text(json.dumps({**facts, "digest": facts_digest(facts)}))

    tensors = load_file(tmp_path / TENSORS)
    old = former(tensors, CHECKPOINT)
    assert "policy.network.thrift" in old and "dense.logits" in old
    write(old)
    for parameter in learner.policy.parameters():
        parameter.data.zero_()
    learner.episodes.dense.answers.zero_()
    restore_checkpoint(tmp_path, learner)
    found = learner.policy.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert torch.equal(learner.episodes.dense.answers, answers)
    write({**old, "dense.answers": tensors["dense.answers"].clone()})
    with pytest.raises(RltrError, match=r"'dense\.answers' is still called 'dense\.logits'"):
        restore_checkpoint(tmp_path, learner)
