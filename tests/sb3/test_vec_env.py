"""The environment's VecEnv API."""

from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize
from torch import Tensor

from rltr.envs import TokenSelectionVectorEnv, make_episodes
from rltr.errors import RltrError
from tests.sb3.conftest import GRID, LAYERS, bits


def test_reset_returns_observations_only(env: Any) -> None:
    shown = env.reset()
    assert isinstance(shown, dict) and set(shown) == set(env.observation_space)
    assert all(isinstance(value, np.ndarray) and len(value) == 4 for value in shown.values())
    assert env.reset_infos == [{}, {}, {}, {}]
    assert env.num_envs == 4 and env.action_space.shape == (GRID,)
    for i in range(4):
        assert env.observation_space.contains({name: value[i] for name, value in shown.items()})


def test_observations_can_stay_tensors(env: Any) -> None:
    env.seed(0)
    arrays = env.reset()
    env.tensors = True
    env.seed(0)
    tensors = env.reset()
    assert all(isinstance(value, Tensor) for value in tensors.values())
    assert all(np.array_equal(arrays[name], tensors[name].numpy()) for name in arrays)
    assert all(isinstance(value, Tensor) for value in env.step(bits(0))[0].values())


def test_infos_are_filled_only_when_episodes_end(env: Any) -> None:
    env.reset()
    for step in range(3 * len(LAYERS)):
        shown, rewards, dones, infos = env.step(bits(step))
        last = step % len(LAYERS) == len(LAYERS) - 1
        assert isinstance(infos, list) and len(infos) == 4
        assert dones.tolist() == [last] * 4 and dones.dtype == bool
        assert rewards.dtype == np.float32 and rewards.shape == (4,) and rewards.flags.writeable
        for info in infos:
            assert bool(info) == last and "TimeLimit.truncated" not in info
        if last:
            assert (shown["layer"] == LAYERS[0]).all()
            for info in infos:
                assert set(info) == {
                    *("episode", "terminal_observation", "example", "score", "quality", "dense_quality", "cost")
                }
                assert env.observation_space.contains(info["terminal_observation"])


def test_rewards_and_observations_are_never_reused(env: Any) -> None:
    handed: list[tuple[np.ndarray, np.ndarray]] = []
    shown = env.reset()
    for step in range(3 * len(LAYERS)):
        handed += [(value, value.copy()) for value in shown.values()]
        shown, rewards, _, infos = env.step(bits(step))
        handed.append((rewards, rewards.copy()))
        for info in infos:
            handed += [(value, value.copy()) for value in info.get("terminal_observation", {}).values()]
    assert all(np.array_equal(array, copy) for array, copy in handed)


def test_episode_statistics_are_the_sum_of_rewards(env: Any) -> None:
    env.reset()
    total = np.zeros(4)
    for step in range(len(LAYERS)):
        _, rewards, _, infos = env.step(bits(step))
        total += rewards
    assert [info["episode"]["l"] for info in infos] == [len(LAYERS)] * 4
    np.testing.assert_allclose([info["episode"]["r"] for info in infos], total, rtol=1e-5)
    assert all(info["episode"]["t"] >= 0 for info in infos)


def test_seeds_are_used_by_the_next_reset_and_once(env: Any) -> None:
    env.seed(3)
    first = env.reset()
    second = env.reset()
    assert not np.array_equal(first["cost_weight"], second["cost_weight"])
    env.seed(3)
    again = env.reset()
    assert all(np.array_equal(first[name], again[name]) for name in first)


def test_neighbouring_seeds_draw_other_inputs(env: Any) -> None:
    assert not set(env.seed(0)) & set(env.seed(1))


def test_steps_equal_those_of_the_vector_environment(env: Any, options: dict[str, Any]) -> None:
    seeds = env.seed(9)
    shown = env.reset()
    seen, results = [shown], []
    for step in range(2 * len(LAYERS)):
        shown, *result = env.step(bits(step))
        seen.append(shown)
        results.append(result)
    env.close()
    vector = TokenSelectionVectorEnv(4, **options)
    array, _ = vector.reset(seed=list(seeds))
    for step, (rewards, dones, infos) in enumerate(results):
        assert all(np.array_equal(seen[step][name], array[name]) for name in array)
        array, paid, terminated, _, facts = vector.step(bits(step))
        assert np.array_equal(rewards, paid) and np.array_equal(dones, terminated)
        for i, info in enumerate(infos):
            for name, value in info.get("terminal_observation", {}).items():
                assert np.array_equal(value, facts["final_obs"][name][i])
    vector.close()


def test_attributes_are_those_of_the_batch(env: Any) -> None:
    assert env.get_attr("render_mode") == [None] * 4 and env.render_mode is None
    assert env.get_attr("steps", [0, 2]) == [2, 2] and env.get_attr("grid", 1) == [GRID]
    assert env.has_attr("cost_weight") and not env.has_attr("nothing")
    assert env.env_is_wrapped(VecMonitor) == [False] * 4 and env.env_is_wrapped(VecMonitor, 0) == [False]
    with pytest.raises(AttributeError, match="episodes"):
        env.set_attr("scoring", "quality")
    with pytest.raises(AttributeError, match="episodes"):
        env.env_method("close")


def test_a_step_needs_actions_first(env: Any) -> None:
    env.reset()
    with pytest.raises(ValueError, match=rf"expected \(4, {GRID}\)"):
        env.step(np.ones((GRID, 4)))


def test_vec_monitor_counts_episodes(env: Any) -> None:
    monitor = VecMonitor(env)
    monitor.reset()
    totals = np.zeros(4)
    for step in range(len(LAYERS)):
        _, rewards, _, infos = monitor.step(bits(step))
        totals += rewards
    assert [info["episode"]["l"] for info in infos] == [len(LAYERS)] * 4
    np.testing.assert_allclose([info["episode"]["r"] for info in infos], totals, rtol=1e-5)
    assert monitor.episode_count == 4


def test_vec_normalize_may_wrap_it(env: Any) -> None:
    normalized = VecNormalize(env, norm_obs=False)
    normalized.reset()
    _, rewards, _, _ = normalized.step(bits(0))
    assert rewards.shape == (4,) and np.isfinite(rewards).all()


def test_episodes_refuse_rows_without_whole_groups(options: dict[str, Any]) -> None:
    with pytest.raises(RltrError, match="whole groups"):
        make_episodes(**options, rows=4, group_size=3)
