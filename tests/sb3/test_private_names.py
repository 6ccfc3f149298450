"""Private names of stable-baselines3 that rltr uses."""

import ast
import inspect
import re
import tomllib
from pathlib import Path
from typing import Any

import stable_baselines3
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

import rltr

PRIVATE = {
    PPO: {"_current_progress_remaining", "_n_updates", "_setup_learn", "_update_learning_rate"},
    VecEnv: {"_get_indices", "_reset_options", "_reset_seeds", "_seeds"},
    ActorCriticPolicy: {"_build", "_get_constructor_parameters", "_predict"},
    BaseCallback: {"_on_rollout_end", "_on_rollout_start", "_on_step", "_on_training_end"},
}


def private_names(*packages: Path) -> set[str]:
    """Every name with a leading underscore in the sources of a package."""
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
    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    (line,) = [line for line in project["project"]["dependencies"] if line.startswith("stable-baselines3")]
    pinned = re.search(r"^stable_baselines3==(\d+)\.(\d+)\.", (root / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert line.endswith(f",<{pinned[1]}.{int(pinned[2]) + 1}")
