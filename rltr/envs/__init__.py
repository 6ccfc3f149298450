"""Reinforcement learning environments over a frozen transformer; importing registers ``rltr/TokenSelection-v0``."""

import gymnasium

from rltr.envs.build import default_layers, make_episodes
from rltr.envs.episodes import Episodes, Outcome
from rltr.envs.sb3 import TokenSelectionVecEnv
from rltr.envs.single import TokenSelectionEnv
from rltr.envs.vector import TokenSelectionVectorEnv

ENVIRONMENT = "rltr/TokenSelection-v0"
"""Name for ``gymnasium.make`` and ``gymnasium.make_vec``."""

gymnasium.register(
    ENVIRONMENT,
    entry_point="rltr.envs.single:TokenSelectionEnv",
    vector_entry_point="rltr.envs.vector:TokenSelectionVectorEnv",
)

__all__ = [
    "ENVIRONMENT",
    "Episodes",
    "Outcome",
    "TokenSelectionEnv",
    "TokenSelectionVecEnv",
    "TokenSelectionVectorEnv",
    "default_layers",
    "make_episodes",
]
