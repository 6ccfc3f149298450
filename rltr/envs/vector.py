"""Natively batched Gymnasium environment: ``gymnasium.make_vec(ENVIRONMENT, 64, model=…, examples=…)``."""

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from rltr.envs.build import as_keep, make_episodes
from rltr.envs.episodes import Episodes
from rltr.envs.spaces import action_space, final_grid, observation_space, to_grid


class TokenSelectionVectorEnv(VectorEnv[dict[str, np.ndarray], np.ndarray, np.ndarray]):
    """Vector environment whose inputs share each forward pass; one step is one decision layer for all of them.

    All environments terminate at the same step, and the next batch begins in that step (``AutoresetMode.SAME_STEP``).
    ``infos["final_obs"]`` and ``infos["final_info"]`` then describe the finished episodes.

    Args:
        num_envs: inputs per batch.
        options: keyword arguments of :func:`rltr.envs.build.make_episodes`, ``model`` and ``examples`` among them.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}

    def __init__(self, num_envs: int = 1, render_mode: None = None, **options: Any) -> None:
        self.render_mode = render_mode
        self.num_envs = num_envs
        self.episodes: Episodes = make_episodes(rows=num_envs, **options)
        backbone = self.episodes.backbone
        self.single_observation_space = observation_space(self.episodes.grid, backbone.width, backbone.depth)
        self.single_action_space = action_space(self.episodes.grid)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin a new batch. One ``seed`` gives group ``i`` the seed ``seed + i``; a list has one seed per group."""
        groups = self.num_envs // self.episodes.group_size
        if isinstance(seed, int | np.integer):
            seed = [int(seed) + i for i in range(groups)]
        if seed is not None:
            if len(seed) != groups:
                raise ValueError(
                    f"{len(seed)} seeds for {groups} groups of environments: give one for each, or one number"
                )
            self.episodes.seed(seed)
        return to_numpy(to_grid(self.episodes.reset(), self.episodes)), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Keep the tokens marked 1 in ``actions (num_envs, grid)`` and run to the next decision layer."""
        seen, reward, ended = self.episodes.step(as_keep(actions, self.episodes))
        infos: dict[str, Any] = {}
        everyone = np.full(self.num_envs, ended)
        if ended:
            backbone = self.episodes.backbone
            infos["final_obs"] = to_numpy(final_grid(self.episodes, backbone.width, backbone.depth))
            infos["final_info"] = final_info(self.episodes)
            infos["_final_obs"] = infos["_final_info"] = everyone
        shown = to_numpy(to_grid(seen, self.episodes))
        return shown, reward.double().numpy(), everyone, np.zeros(self.num_envs, dtype=bool), infos

    def close_extras(self, **kwargs: Any) -> None:
        """Detach from the model."""
        self.episodes.close()


def final_info(episodes: Episodes) -> dict[str, np.ndarray]:
    """Results of the finished batch: one array ``(rows,)`` for example index, score, both qualities and cost."""
    outcome = episodes.outcome
    assert outcome is not None
    return {
        "example": outcome.index.numpy(),
        "score": outcome.score.numpy(),
        "quality": outcome.quality.numpy(),
        "dense_quality": outcome.dense_quality.numpy(),
        "cost": outcome.cost.numpy(),
    }


def to_numpy(shown: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Convert observations to arrays; those on the CPU are not copied."""
    return {name: value.cpu().numpy() for name, value in shown.items()}
