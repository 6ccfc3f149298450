"""TokenPPO and its environment: what it refuses, what one batch of rollouts holds, and how a learner is saved."""

from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecCheckNan, VecMonitor
from torch import Tensor

from rltr.envs import TokenSelectionVecEnv, make_episodes
from rltr.errors import RltrError
from rltr.policies import PolicyConfig
from rltr.runtime.backbone import Backbone
from rltr.tasks import TensorExamples
from rltr.train import restore_checkpoint, save_checkpoint
from rltr.train.advantages import leave_one_out
from rltr.train.token_ppo import TokenPPO
from tests.train.conftest import GRID, LAYERS, collect, train, weights


def test_groups_of_one_are_refused(build: Any) -> None:
    """Without another rollout of the same input there is no leave-one-out baseline."""
    with pytest.raises(RltrError, match=r"group_size=1.*at least 2"):
        build(env_options={"group_size": 1})


@pytest.mark.parametrize("wrapper", [VecMonitor, VecCheckNan])
def test_a_wrapped_environment_is_refused(build: Any, wrapper: Any) -> None:
    ppo = build()
    ppo.env.tensors = False
    with pytest.raises(RltrError, match=rf"TokenSelectionVecEnv.*not in a {wrapper.__name__}"):
        TokenPPO(wrapper(ppo.env), ppo.policy.token_config)
    assert not ppo.env.tensors


def test_collecting_is_stable_baselines3s_own(build: Any) -> None:
    assert TokenPPO.collect_rollouts is PPO.collect_rollouts and TokenPPO.learn is PPO.learn
    collect(ppo := build())
    assert len(ppo.rollout_buffer.steps) == len(LAYERS)


def test_the_buffer_holds_what_happened(build: Any) -> None:
    collect(ppo := build(batches=3))
    buffer, outcome = ppo.rollout_buffer, ppo.episodes.outcome
    assert len(buffer.steps) == 3 * len(LAYERS)
    last = buffer.steps[-len(LAYERS) :]
    torch.testing.assert_close(buffer.scores[-1], outcome.score, rtol=1e-5, atol=1e-5)
    for step, before, after in zip(last, outcome.trace.stages[:-1], outcome.trace.stages[1:], strict=True):
        assert torch.equal(step.seen.tokens.present, before.present)
        kept = torch.zeros_like(before.present)
        kept[step.seen.tokens.row, step.seen.tokens.position] = step.keep
        assert torch.equal(kept, after.present)
        torch.testing.assert_close(step.score_advantage, leave_one_out(outcome.score, 4), rtol=1e-4, atol=1e-5)
    # Token costs at the first decision add up to the cost of the rows from there on.
    start = ppo.episodes.pricing
    before_first = start.before_first(outcome.trace.stages[0].count) / start.typical_cost
    own = torch.zeros(8).index_add_(0, last[0].seen.tokens.row, last[0].cost)
    torch.testing.assert_close(own, outcome.cost - before_first, rtol=1e-4, atol=1e-5)


def test_rollouts_of_a_group_share_input_and_weight_but_not_choices(build: Any) -> None:
    collect(ppo := build())
    first = ppo.rollout_buffer.steps[0]
    assert first.cost_weight.view(2, 4).unique(dim=1).shape == (2, 1)
    hidden = first.seen.hidden.view(2, 4, GRID, -1)
    assert torch.equal(hidden, hidden[:, :1].expand_as(hidden))
    assert len(first.keep.view(8, GRID).unique(dim=0)) > 2


def test_unfinished_episodes_are_refused(build: Any) -> None:
    ppo = build()
    ppo.n_steps = 3
    ppo.rollout_buffer.buffer_size = 3
    with pytest.raises(ValueError, match="multiple of the 2 decisions"):
        collect(ppo)


def test_saving_as_a_zip_is_refused_before_anything_is_written(build: Any, tmp_path: Path) -> None:
    ppo = build()
    for refused in (lambda: ppo.save(tmp_path / "model"), lambda: TokenPPO.load(tmp_path / "model", ppo.env)):
        with pytest.raises(RltrError, match=r"pickles.*rltr\.train\.save_checkpoint.*restore_checkpoint"):
            refused()
    assert not list(tmp_path.iterdir())


def test_what_saving_names_instead_gives_the_same_learner_back(build: Any, tmp_path: Path) -> None:
    ppo = build()
    with pytest.raises(RltrError, match="not been trained yet.*call learn"):
        save_checkpoint(tmp_path / "learner", ppo)
    assert not list(tmp_path.iterdir())
    train(ppo, 2)
    save_checkpoint(tmp_path / "learner", ppo)
    again = build(seed=9)
    restore_checkpoint(tmp_path / "learner", again)
    assert again.num_timesteps == ppo.num_timesteps
    both = []
    for learner in (ppo, again):
        torch.manual_seed(4)
        learner.learn(2 * learner.n_steps * learner.n_envs, reset_num_timesteps=False)
        both.append(weights(learner))
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])


@pytest.mark.parametrize(("rollouts", "updates"), [(1, 1), (8, 1), (9, 2), (20, 3), (24, 3), (31, 4)])
def test_the_last_step_is_never_uphill(build: Any, rollouts: int, updates: int) -> None:
    """``learn`` runs whole batches, and the remaining progress falls to 0 over all of them."""
    ppo = build(learning_rate=lambda remaining: 0.01 * remaining)
    train, seen = ppo.train, []

    def watched() -> None:
        train()
        seen.append((ppo._current_progress_remaining, ppo.policy.optimizer.param_groups[0]["lr"]))

    ppo.train = watched
    ppo.learn(rollouts * len(LAYERS))
    expected = [1 - (i + 1) / updates for i in range(updates)]
    assert [remaining for remaining, _ in seen] == pytest.approx(expected)
    assert [rate for _, rate in seen] == pytest.approx([0.01 * remaining for remaining in expected])
    assert min(rate for _, rate in seen) >= 0
    ppo.learn(3, reset_num_timesteps=False)
    assert ppo.num_timesteps == (updates + 1) * 8 * len(LAYERS) and seen[-1] == (0, 0)


@pytest.mark.parametrize("options", [{"n_epochs": 0}, {"batches": 0}, {"n_epochs": -1}])
def test_an_update_of_nothing_is_refused(build: Any, options: dict[str, int]) -> None:
    with pytest.raises(RltrError, match="must both be at least 1"):
        build(**options)


def texts(tokens: list[int]) -> TensorExamples:
    mask = (torch.arange(max(tokens)) < torch.tensor(tokens)[:, None]).long()
    words = torch.randint(5, 50, mask.shape) * mask
    names = [str(i) for i in range(len(tokens))]
    return TensorExamples(
        torch.arange(len(tokens)) % 3, names, list("abc"), {"input_ids": words, "attention_mask": mask}
    )


@pytest.mark.parametrize("group_size", [2, 4])
def test_texts_of_one_token_teach_nothing(
    tiny_bert: Any, group_size: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone in a batch they move nothing; beside longer ones they have no part in what advantages are divided by."""
    backbone = Backbone(tiny_bert)
    data = texts([1, 1, 1, 6, 6, 6])
    env = TokenSelectionVecEnv(make_episodes(backbone, data, rows=4, layers=LAYERS, group_size=group_size))
    ppo = TokenPPO(env, PolicyConfig(backbone.width, backbone.depth, 6, width=8), seed=0)
    train, update = ppo.train, ppo.deviation.update
    measured: list[Tensor] = []
    decided: list[int] = []

    def measure(values: Tensor) -> float:
        measured.append(values)
        return update(values)

    def watched() -> None:
        before, updates = weights(ppo), ppo._n_updates
        measured.clear()
        train()
        decided.append(int(ppo.rollout_buffer.steps[0].decided.sum()))
        after = weights(ppo)
        if decided[-1]:
            open_to = [step for step in ppo.rollout_buffer.steps if not bool(step.seen.protected.all())]
            assert len(measured[0]) == decided[-1] * len(open_to)
            assert any(not torch.equal(before[name], after[name]) for name in before)
            assert all(bool(value.isfinite().all()) for value in after.values())
        else:
            assert not measured and ppo._n_updates == updates
            assert all(torch.equal(before[name], after[name]) for name in before)

    monkeypatch.setattr(ppo.deviation, "update", measure)
    monkeypatch.setattr(ppo, "train", watched)
    ppo.learn(24 * 4 * len(LAYERS))
    env.close()
    assert set(decided) == set(range(0, 5, group_size))  # none, all and, in groups of two, half of the rows
    levels = [record.levelname for record in caplog.records if "nothing is learned" in record.message]
    assert levels.count("WARNING") == 1
