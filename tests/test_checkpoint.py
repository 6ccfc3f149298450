"""Checkpoints: a resumed training equals an uninterrupted one, and a damaged checkpoint gives a clear error."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from stable_baselines3.common.logger import Logger
from torch import Tensor

from rltr.envs import TokenSelectionVecEnv, make_episodes
from rltr.errors import RltrError
from rltr.policies import PolicyConfig
from rltr.runtime.backbone import Backbone
from rltr.train.checkpoint import FACTS, TENSORS, read_facts, restore_checkpoint, save_checkpoint
from rltr.train.run import falling
from rltr.train.token_ppo import TokenPPO
from rltr.train.watch import Checkpoints

LAYERS = (1, 2)
ROWS = 8
STEPS = len(LAYERS) * ROWS
"""Timesteps per update."""


@pytest.fixture
def learner(tiny_vit: Any, tiny_task: Any) -> Iterator[Any]:
    """Factory of learners that share only the model's weights; their environments are closed at the end."""
    made: list[TokenSelectionVecEnv] = []

    def make(seed: int = 0, width: int = 8) -> TokenPPO:
        backbone = Backbone(tiny_vit)
        env = TokenSelectionVecEnv(make_episodes(backbone, tiny_task.train, rows=ROWS, layers=LAYERS, group_size=4))
        made.append(env)
        config = PolicyConfig(backbone.width, backbone.depth, 17, width=width)
        ppo = TokenPPO(env, config, learning_rate=falling(0.01, 0.1), seed=seed)
        ppo.set_logger(Logger(None, []))
        return ppo

    yield make
    for env in made:
        env.close()


def state(ppo: TokenPPO) -> dict[str, Tensor]:
    """All weights and the optimiser state."""
    found = {name: value.clone() for name, value in ppo.policy.state_dict().items()}
    for index, values in ppo.policy.optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{index}.{name}": value.clone() for name, value in values.items()}
    return found


def run(ppo: TokenPPO, until: int, folder: Path | None = None, every: int = 100) -> dict[str, Tensor]:
    """Train up to update ``until`` of 4 planned ones."""

    class Stop(Checkpoints):
        """Stops the training abruptly, as an interruption would."""

        def _on_rollout_start(self) -> None:
            super()._on_rollout_start()
            if ppo.num_timesteps == until * STEPS < 4 * STEPS:
                raise KeyboardInterrupt

    def save() -> None:
        if folder is not None:
            save_checkpoint(folder, ppo, {"kept": [1, 2.5, "x"]})

    try:
        ppo.learn(4 * STEPS - ppo.num_timesteps, Stop(save, every), reset_num_timesteps=False)
    except KeyboardInterrupt:
        assert until < 4
    result = state(ppo)
    ppo.get_env().close()  # type: ignore[union-attr]
    return result


def test_a_resumed_training_equals_an_uninterrupted_one(learner: Any, tmp_path: Path) -> None:
    whole = run(learner(), 4)
    half = run(learner(), 2, tmp_path / "checkpoint", every=2)
    assert any(not torch.equal(whole[name], half[name]) for name in whole)
    torch.manual_seed(12345)  # another process has another random state
    again = learner(seed=99)
    restore_checkpoint(tmp_path / "checkpoint", again)
    assert again.num_timesteps == 2 * STEPS
    restored = state(again)
    assert all(torch.equal(half[name], restored[name]) for name in half)
    resumed = run(again, 4)
    assert set(whole) == set(resumed)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_updates_after_the_last_checkpoint_are_repeated_exactly(learner: Any, tmp_path: Path) -> None:
    whole = run(learner(), 4)
    run(learner(), 3, tmp_path / "checkpoint", every=2)  # the last checkpoint is one update older
    again = learner()
    restore_checkpoint(tmp_path / "checkpoint", again)
    assert again.num_timesteps == 2 * STEPS
    resumed = run(again, 4)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_dense_answers_are_not_computed_again(learner: Any, tmp_path: Path) -> None:
    """Their last bits depend on the batch, and the training depends on them."""
    ppo = learner()
    run(ppo, 2, tmp_path / "checkpoint", every=2)
    again = learner()
    restore_checkpoint(tmp_path / "checkpoint", again)
    before, after = ppo.episodes.dense, again.episodes.dense
    assert after.known.any() and torch.equal(before.answers[after.known], after.answers[after.known])
    again.get_env().close()


def test_saving_does_not_change_the_training(learner: Any, tmp_path: Path) -> None:
    plain, saved = run(learner(), 4), run(learner(), 4, tmp_path / "checkpoint", every=1)
    assert all(torch.equal(plain[name], saved[name]) for name in plain)


def test_a_finished_training_is_saved(learner: Any, tmp_path: Path) -> None:
    result = run(learner(), 4, tmp_path / "checkpoint")
    assert read_facts(tmp_path / "checkpoint")["timesteps"] == 4 * STEPS
    again = learner()
    restore_checkpoint(tmp_path / "checkpoint", again)
    restored = state(again)
    assert all(torch.equal(result[name], restored[name]) for name in result)
    again.get_env().close()


def test_a_checkpoint_holds_json_and_safetensors_only(learner: Any, tmp_path: Path) -> None:
    run(learner(), 2, tmp_path / "checkpoint", every=1)
    files = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert files == [FACTS, TENSORS]
    facts = json.loads((tmp_path / "checkpoint" / FACTS).read_text())
    assert facts["extra"] == {"kept": [1, 2.5, "x"]}
    assert load_file(tmp_path / "checkpoint" / TENSORS)


def no_json(folder: Path) -> None:
    (folder / FACTS).write_text("{")


def other_json(folder: Path) -> None:
    (folder / FACTS).write_text("[1]")


def fact_missing(folder: Path) -> None:
    facts = json.loads((folder / FACTS).read_text())
    del facts["sampler"]
    (folder / FACTS).write_text(json.dumps(facts))


def cut_short(folder: Path) -> None:
    (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:-50])


def tensor_missing(folder: Path) -> None:
    tensors = load_file(folder / TENSORS)
    del tensors["random.cpu"]
    save_file(tensors, folder / TENSORS)


def dense_missing(folder: Path) -> None:
    tensors = load_file(folder / TENSORS)
    del tensors["dense.answers"]
    save_file(tensors, folder / TENSORS)


def fact(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        facts = json.loads((folder / FACTS).read_text())
        (folder / FACTS).write_text(json.dumps({**facts, name: change(facts[name])}))

    return spoil


def file_missing(folder: Path) -> None:
    (folder / TENSORS).unlink()


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


SPOILED = {
    "no json": no_json,
    "other json": other_json,
    "fact missing": fact_missing,
    "cut short": cut_short,
    "tensor missing": tensor_missing,
    "dense missing": dense_missing,
    "other batch": fact("sampler", lambda states: states[:1]),
    "no list of samplers": fact("sampler", lambda states: "PCG64"),
    "no sampler": fact("sampler", lambda states: [3 for _ in states]),
    "other generator": fact("sampler", lambda states: [{**state, "bit_generator": "MT19937"} for state in states]),
    "half a sampler": fact("sampler", lambda states: [{"bit_generator": "PCG64"} for _ in states]),
    "half a deviation": fact("deviation", lambda numbers: {"decay": 0.5}),
    "no deviation": fact("deviation", lambda numbers: {**numbers, "variance": None}),
    "file missing": file_missing,
    "gone": gone,
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_a_damaged_checkpoint_is_refused_in_one_line(
    learner: Any, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    run(learner(), 1, tmp_path / "checkpoint", every=1)
    spoil(tmp_path / "checkpoint")
    ppo = learner()
    before = state(ppo)
    with pytest.raises(RltrError, match="checkpoint") as refused:
        restore_checkpoint(tmp_path / "checkpoint", ppo)
    assert "\n" not in str(refused.value)
    after = state(ppo)
    assert all(torch.equal(before[name], after[name]) for name in before)
    ppo.get_env().close()


def test_a_checkpoint_of_another_batch_or_other_data_is_refused(learner: Any, tmp_path: Path) -> None:
    run(learner(), 1, tmp_path / "checkpoint", every=1)
    ppo = learner()
    ppo.episodes.dense.known = torch.zeros(25, dtype=torch.bool)
    with pytest.raises(RltrError, match="24 training examples, but now there are 25"):
        restore_checkpoint(tmp_path / "checkpoint", ppo)
    fact("sampler", lambda states: [*states, states[0]])(tmp_path / "checkpoint")
    with pytest.raises(RltrError, match="3 groups of rollouts per update, but this training has 2: .*learner.batch"):
        ppo.episodes.dense.known = torch.zeros(24, dtype=torch.bool)
        restore_checkpoint(tmp_path / "checkpoint", ppo)
    ppo.get_env().close()


def test_a_checkpoint_of_another_policy_is_refused(learner: Any, tmp_path: Path) -> None:
    run(learner(), 1, tmp_path / "checkpoint", every=1)
    ppo = learner(width=16)
    with pytest.raises(RltrError, match="another policy") as refused:
        restore_checkpoint(tmp_path / "checkpoint", ppo)
    assert "\n" not in str(refused.value)
    ppo.get_env().close()


def test_a_crash_while_saving_leaves_the_last_checkpoint(
    learner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ppo, folder = learner(), tmp_path / "checkpoint"
    ppo.get_env().reset()
    save_checkpoint(folder, ppo, {"first": True})

    def full(*args: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("rltr.train.checkpoint.save_file", full)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(folder, ppo, {"first": False})
    assert read_facts(folder)["extra"] == {"first": True}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    ppo.get_env().close()


def test_the_learning_rate_falls_linearly() -> None:
    rate = falling(0.01, 0.1)
    assert [rate(1.0), rate(0.5), rate(0.0)] == pytest.approx([0.01, 0.0055, 0.001])
    assert rate(-0.5) == rate(0.0)  # beyond the planned end
