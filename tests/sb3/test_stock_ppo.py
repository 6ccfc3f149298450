"""Stock PPO of stable-baselines3 learns in the environment."""

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor

from tests.sb3.conftest import GRID, LAYERS


@pytest.mark.parametrize("monitored", [False, True])
def test_stock_ppo_learns_in_the_environment(env: Any, monitored: bool) -> None:
    backbone = env.episodes.backbone
    frozen = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    ppo = PPO(
        "MultiInputPolicy",
        VecMonitor(env) if monitored else env,
        n_steps=2 * len(LAYERS),
        batch_size=8,
        n_epochs=2,
        gamma=0.9,
        gae_lambda=1.0,
        seed=0,
        policy_kwargs={"net_arch": [16]},
        device="cpu",
    )
    before = {name: value.clone() for name, value in ppo.policy.state_dict().items()}
    ppo.learn(3 * ppo.n_steps * 4)
    assert ppo.num_timesteps == 48 and ppo._n_updates == 6
    after = ppo.policy.state_dict()
    assert all(bool(value.isfinite().all()) for value in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in before)
    ended = list(ppo.ep_info_buffer or [])
    assert len(ended) == 24
    # Rewards belong to their own step: returns in the buffer are the sums of an episode's later rewards.
    buffer: Any = ppo.rollout_buffer
    assert np.array_equal(buffer.episode_starts, np.tile([[1.0], [0.0]], (2, 4)))
    earned = buffer.rewards.reshape(2, len(LAYERS), 4)  # episodes, decisions, environments
    np.testing.assert_allclose([info["r"] for info in ended[-8:]], earned.sum(1).ravel(), atol=1e-5)
    expected = np.stack([earned[:, 0] + 0.9 * earned[:, 1], earned[:, 1]], 1).reshape(4, 4)
    returns = buffer.returns.reshape(4, 4).T if buffer.generator_ready else buffer.returns  # flattened: rows first
    np.testing.assert_allclose(returns, expected, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, frozen[name]) for name, value in backbone.model.state_dict().items())
    assert all(parameter.grad is None for parameter in backbone.model.parameters())


def test_stock_ppo_is_evaluated_and_predicts(env: Any) -> None:
    ppo = PPO("MultiInputPolicy", env, n_steps=2, batch_size=8, seed=0, policy_kwargs={"net_arch": [8]}, device="cpu")
    rewards, lengths = evaluate_policy(ppo, env, n_eval_episodes=8, return_episode_rewards=True, warn=False)
    assert len(rewards) == 8 and lengths == [len(LAYERS)] * 8
    actions, _ = ppo.predict(env.reset(), deterministic=True)
    assert actions.shape == (4, GRID)


def test_stock_buffers_hold_the_observations(env: Any) -> None:
    """Stable-baselines3 copies tensors into arrays of the spaces' types; nothing is rounded or shared."""
    ppo = PPO("MultiInputPolicy", env, n_steps=2, batch_size=8, seed=4, policy_kwargs={"net_arch": [8]}, device="cpu")
    ppo.learn(8)
    stored: Any = ppo.rollout_buffer
    actions = stored.actions
    env.seed(4)
    shown = env.reset()
    assert stored.observations["present"].dtype == np.int8
    if stored.generator_ready:  # flattened: environments first
        stored_first = {
            name: value.reshape(4, 2, *value.shape[1:])[:, 0] for name, value in stored.observations.items()
        }
        actions = actions.reshape(4, 2, -1).swapaxes(0, 1)
    else:
        stored_first = {name: value[0] for name, value in stored.observations.items()}
    assert all(np.array_equal(stored_first[name], shown[name]) for name in shown)
    second, *_ = env.step(actions[0])
    assert not np.array_equal(second["present"], shown["present"])
