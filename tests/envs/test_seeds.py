"""The same seeds give the same episodes, in single environments and in a vector environment."""

from typing import Any

import numpy as np
import pytest

from rltr.envs import TokenSelectionEnv, TokenSelectionVectorEnv
from tests.envs.conftest import LAYERS


def trajectory(env: Any, grid: int, steps: int, row: slice = slice(None), rows: int = 4) -> list[Any]:
    """Everything seen in ``steps`` steps of fixed random actions; ``row`` picks the actions of some environments."""
    generator = np.random.default_rng(7)
    seen = []
    for _ in range(steps):
        action = (generator.random((rows, grid)) < 0.6).astype(np.int8)[row]
        shown, reward, *_ = env.step(action)
        seen.append((shown, reward))
    return seen


def same(one: list[Any], other: list[Any]) -> bool:
    return all(
        np.array_equal(reward, again) and all(np.array_equal(shown[name], seen[name]) for name in shown)
        for (shown, reward), (seen, again) in zip(one, other, strict=True)
    )


def test_the_same_seed_gives_the_same_episodes(batched: TokenSelectionVectorEnv, grid: int) -> None:
    runs = []
    for seed in (5, 5, 6):
        first, _ = batched.reset(seed=seed)
        runs.append([(first, np.zeros(4)), *trajectory(batched, grid, 6)])
    assert same(runs[0], runs[1]) and not same(runs[0], runs[2])


def test_a_reset_without_seed_goes_on_with_new_inputs(batched: TokenSelectionVectorEnv, grid: int) -> None:
    batched.reset(seed=5)
    weights = [batched.reset()[0]["cost_weight"].tolist() for _ in range(4)]
    assert len({str(weight) for weight in weights}) == 4


def test_environments_without_a_seed_differ(options: dict[str, Any]) -> None:
    weights = []
    for _ in range(3):
        env = TokenSelectionEnv(**options)
        weights.append(env.reset()[0]["cost_weight"].item())
        env.close()
    assert len(set(weights)) == 3


def test_a_native_batch_is_a_loop_of_single_environments(options: dict[str, Any], grid: int) -> None:
    batch = TokenSelectionVectorEnv(4, **options)
    first, _ = batch.reset(seed=11)
    together = trajectory(batch, grid, 3 * len(LAYERS))
    batch.close()
    for i in range(4):
        single = TokenSelectionEnv(**options)
        shown, _ = single.reset(seed=11 + i)
        generator = np.random.default_rng(7)
        alone: list[tuple[dict[str, np.ndarray], float | None]] = [(shown, None)]
        for seen, reward in [(first, None), *together]:
            shown, paid = alone[-1]
            for name in shown:
                np.testing.assert_allclose(shown[name], seen[name][i], rtol=1e-4, atol=1e-5, err_msg=name)
            assert paid is None or paid == pytest.approx(reward[i], rel=1e-4, abs=1e-5)
            action = (generator.random((4, grid)) < 0.6).astype(np.int8)[i]
            after, result, ended, _, _ = single.step(action)
            alone.append((single.reset()[0] if ended else after, result))
        single.close()


def test_seeds_are_for_groups(options: dict[str, Any]) -> None:
    env = TokenSelectionVectorEnv(4, **options, group_size=2)
    shown, _ = env.reset(seed=[1, 2])
    weight = shown["cost_weight"][:, 0].tolist()
    assert weight[0] == weight[1] != weight[2] == weight[3]
    assert env.episodes.index[0] == env.episodes.index[1]
    np.testing.assert_array_equal(shown["tokens"][0], shown["tokens"][1])
    with pytest.raises(ValueError, match="4 seeds for 2 groups"):
        env.reset(seed=[1, 2, 3, 4])
    env.close()
