"""The environments follow Gymnasium's API: spaces, termination, autoreset, and arrays that are never reused."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from rltr.envs import ENVIRONMENT, TokenSelectionEnv, TokenSelectionVectorEnv
from tests.envs.conftest import LAYERS, bits, episode


def test_the_single_environment_passes_gymnasiums_check(options: dict[str, Any]) -> None:
    env = gymnasium.make(ENVIRONMENT, **options, disable_env_checker=True).unwrapped
    assert isinstance(env, TokenSelectionEnv)
    check_env(env)  # warnings are errors here
    env.close()


def test_make_gives_the_single_environment(options: dict[str, Any], grid: int) -> None:
    env = gymnasium.make(ENVIRONMENT, **options)
    shown, info = env.reset(seed=3)
    assert info == {} and shown["tokens"].shape == (grid, 16)
    for step in range(len(LAYERS)):
        shown, reward, terminated, truncated, info = env.step(np.ones(grid, np.int8))
        assert isinstance(reward, float) and not truncated
        assert terminated == (step == len(LAYERS) - 1)
    assert set(info) == {"example", "score", "quality", "dense_quality", "cost"}
    env.close()


def test_make_vec_picks_the_native_batch(options: dict[str, Any], grid: int) -> None:
    env = gymnasium.make_vec(ENVIRONMENT, num_envs=4, **options)
    assert isinstance(env.unwrapped, TokenSelectionVectorEnv)
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert env.single_action_space.shape == (grid,) and env.action_space.shape == (4, grid)
    assert env.single_observation_space["tokens"].shape == (grid, 16)  # type: ignore[index]
    env.close()


def test_every_observation_lies_in_its_space(batched: TokenSelectionVectorEnv) -> None:
    shown, _ = batched.reset(seed=0)
    generator = np.random.default_rng(0)
    for rate in (1.0, 0.7, 0.3, 0.0, 0.5, 0.5):
        assert batched.observation_space.contains(shown)
        assert {name: array.dtype for name, array in shown.items()} == {
            name: space.dtype
            for name, space in batched.observation_space.items()  # type: ignore[attr-defined]
        }
        shown, _, _, _, infos = batched.step(bits(batched, generator, rate))
        if infos:
            assert batched.observation_space.contains(infos["final_obs"])


def test_the_last_layer_terminates_and_never_truncates(batched: TokenSelectionVectorEnv) -> None:
    batched.reset(seed=0)
    for step in range(3 * len(LAYERS)):
        *_, terminated, truncated, infos = batched.step(bits(batched, np.random.default_rng(step)))
        last = step % len(LAYERS) == len(LAYERS) - 1
        assert terminated.tolist() == [last] * 4 and terminated.dtype == bool
        assert truncated.tolist() == [False] * 4 and truncated.dtype == bool
        assert set(infos) == ({"final_obs", "final_info", "_final_obs", "_final_info"} if last else set())


def test_the_next_episode_begins_in_the_step_that_ends_one(batched: TokenSelectionVectorEnv, grid: int) -> None:
    batched.reset(seed=0)
    actions = [bits(batched, np.random.default_rng(i)) for i in range(2)]
    shown, _, _, _, infos = episode(batched, actions)[-1]
    final = infos["final_obs"]
    assert (shown["layer"] == LAYERS[0]).all() and (final["layer"] == 4).all()
    assert (shown["kept"] == 1).all() and (final["kept"] < 1).any()
    assert infos["_final_obs"].all() and infos["_final_info"].all()
    assert not final["alive"].any() and not final["tokens"].any()


def test_what_was_handed_out_is_never_written_to_again(batched: TokenSelectionVectorEnv) -> None:
    shown, _ = batched.reset(seed=0)
    handed: list[tuple[Any, Any]] = []
    infos: dict[str, Any] = {}
    for step in range(3 * len(LAYERS)):
        for given_out in (shown, infos.get("final_obs", {}), infos.get("final_info", {})):
            handed += [(array, array.copy()) for array in given_out.values()]
        shown, reward, _, _, infos = batched.step(bits(batched, np.random.default_rng(step)))
        handed.append((reward, reward.copy()))
    assert all(np.array_equal(array, copy) for array, copy in handed)


def test_writing_to_what_was_handed_out_changes_nothing(options: dict[str, Any]) -> None:
    def rewards(spoil: bool) -> list[list[float]]:
        env = TokenSelectionVectorEnv(4, **options)
        shown, _ = env.reset(seed=0)
        collected = []
        for step in range(2 * len(LAYERS)):
            if spoil:
                for array in shown.values():
                    array[:] = 0
            shown, reward, *_ = env.step(bits(env, np.random.default_rng(step)))
            collected.append(reward.tolist())
            if spoil:
                reward += 1
        env.close()
        return collected

    assert rewards(spoil=True) == rewards(spoil=False)


def test_rewards_are_arrays_of_their_own(batched: TokenSelectionVectorEnv) -> None:
    batched.reset(seed=0)
    _, first, *_ = batched.step(bits(batched, np.random.default_rng(0)))
    _, second, *_ = batched.step(bits(batched, np.random.default_rng(1)))
    assert first.dtype == second.dtype == np.float64 and first.shape == (4,)
    assert first.flags.writeable and not np.shares_memory(first, second)
