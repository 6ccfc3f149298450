"""The environment in stable-baselines3: the VecEnv API, and stock PPO."""

import ast
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification

import rltr
from rltr.envs import TokenSelectionVecEnv, TokenSelectionVectorEnv, make_episodes
from rltr.errors import RltrError
from rltr.tasks import TensorExamples

LAYERS = (1, 2)
GRID = 17


@pytest.fixture(scope="module")
def options() -> dict[str, Any]:
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=16,
        patch_size=4,
        num_channels=1,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=3,
        initializer_range=0.5,
    )
    pixels = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    names = [str(i) for i in range(8)]
    examples = TensorExamples(torch.arange(8) % 3, names, ["a", "b", "c"], {"pixel_values": pixels})
    return {"model": ViTForImageClassification(config).eval(), "examples": examples, "layers": LAYERS}


@pytest.fixture
def env(options: dict[str, Any]) -> Iterator[Any]:  # a TokenSelectionVecEnv; VecEnv's own types allow too much
    env = TokenSelectionVecEnv(make_episodes(**options, rows=4))
    yield env
    env.close()


def bits(seed: int, rate: float = 0.6) -> np.ndarray:
    """Floats, as stable-baselines3 hands them over."""
    return (np.random.default_rng(seed).random((4, GRID)) < rate).astype(np.float32)


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


def test_it_is_the_vector_environment(env: Any, options: dict[str, Any]) -> None:
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


# Private names of stable-baselines3 that rltr uses

PRIVATE = {
    PPO: {"_current_progress_remaining", "_n_updates", "_setup_learn", "_update_learning_rate"},
    VecEnv: {"_get_indices", "_reset_options", "_reset_seeds", "_seeds"},
    ActorCriticPolicy: {"_build", "_get_constructor_parameters", "_predict"},
    BaseCallback: {"_on_rollout_end", "_on_rollout_start", "_on_step", "_on_training_end"},
}


def private_names(*packages: Path) -> set[str]:
    """Every attribute and method with an underscore in front that the sources name."""
    found: set[str] = set()
    for file in (file for package in packages for file in sorted(package.rglob("*.py"))):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = getattr(node, "attr", None) or (node.name if isinstance(node, ast.FunctionDef) else "")
            if name.startswith("_") and not name.startswith("__"):
                found.add(name)
    return found


def test_private_names_of_stable_baselines3_are_those_that_are_listed(env: Any) -> None:
    """Another version may rename them, so the dependency has an upper bound. Check these when raising it."""
    root = Path(rltr.__file__).parent
    ours = private_names(root / "train", root / "envs", root / "policies")
    theirs = private_names(Path(stable_baselines3.__file__).parent)
    assert ours & theirs == set().union(*PRIVATE.values())
    ppo = PPO("MultiInputPolicy", env, n_steps=2, batch_size=8, policy_kwargs={"net_arch": [8]}, device="cpu")
    objects = {PPO: ppo, VecEnv: env, ActorCriticPolicy: ppo.policy, BaseCallback: CallbackList([])}
    missing = {name for kind, names in PRIVATE.items() for name in names if not hasattr(objects[kind], name)}
    assert not missing, f"stable-baselines3 {stable_baselines3.__version__} has no {missing}"
    (given,) = [name for name in inspect.signature(PPO._setup_learn).parameters][1:2]
    assert given == "total_timesteps"


def test_the_bound_of_stable_baselines3_is_the_minor_version_that_was_tested() -> None:
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    (line,) = [line for line in project["project"]["dependencies"] if line.startswith("stable-baselines3")]
    pinned = re.search(r"^stable_baselines3==(\d+)\.(\d+)\.", (root / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert line.endswith(f",<{pinned[1]}.{int(pinned[2]) + 1}")


# Stock PPO


@pytest.mark.parametrize("monitored", [False, True])
def test_stock_ppo_learns_on_it_unchanged(env: Any, monitored: bool) -> None:
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


def test_stock_buffers_hold_what_was_seen(env: Any) -> None:
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


def test_vec_normalize_may_wrap_it(env: Any) -> None:
    normalized = VecNormalize(env, norm_obs=False)
    normalized.reset()
    _, rewards, _, _ = normalized.step(bits(0))
    assert rewards.shape == (4,) and np.isfinite(rewards).all()


def test_episodes_refuse_rows_without_whole_groups(options: dict[str, Any]) -> None:
    with pytest.raises(RltrError, match="whole groups"):
        make_episodes(**options, rows=4, group_size=3)
