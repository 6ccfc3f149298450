"""Single Gymnasium environment: a batch of one input."""

from typing import Any

import gymnasium
import numpy as np

from rltr.envs.build import as_keep, make_episodes
from rltr.envs.episodes import Episodes
from rltr.envs.spaces import action_space, final_grid, observation_space, to_grid
from rltr.envs.vector import final_info, to_numpy


class TokenSelectionEnv(gymnasium.Env[dict[str, np.ndarray], np.ndarray]):
    """Gymnasium environment for one input at a time; one step is one decision layer.

    It is meant for exploration. The vector environment is far faster, since it shares each model call between inputs.

    Args:
        options: keyword arguments of :func:`rltr.envs.build.make_episodes`, ``model`` and ``examples`` among them.
    """

    metadata = {"render_modes": []}

    def __init__(self, render_mode: None = None, **options: Any) -> None:
        self.render_mode = render_mode
        self.episodes: Episodes = make_episodes(rows=1, **options)
        backbone = self.episodes.backbone
        # Typed as Any because Gymnasium declares Dict as a space of dicts of Any, not of arrays.
        space: Any = observation_space(self.episodes.grid, backbone.width, backbone.depth)
        self.observation_space = space
        self.action_space = action_space(self.episodes.grid)
        self._following: dict[str, np.ndarray] | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin an episode with a new input."""
        super().reset(seed=seed)
        if seed is not None:
            self.episodes.seed([seed])
            self._following = None
        # Episodes already began the next input when the last one ended.
        shown, self._following = self._following, None
        return shown if shown is not None else self._show(self.episodes.reset()), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Keep the tokens marked 1 in ``action (grid,)`` and run to the next decision layer."""
        if self._following is not None:
            raise RuntimeError("this episode has ended: call reset() before step()")
        seen, reward, ended = self.episodes.step(as_keep(np.asarray(action)[None], self.episodes))
        shown, info = self._show(seen), {}
        if ended:
            self._following = shown
            backbone = self.episodes.backbone
            final = to_numpy(final_grid(self.episodes, backbone.width, backbone.depth))
            shown = {name: value[0] for name, value in final.items()}
            info = {name: value[0] for name, value in final_info(self.episodes).items()}
        return shown, float(reward[0]), ended, False, info

    def close(self) -> None:
        """Detach from the model."""
        self.episodes.close()

    def _show(self, seen: Any) -> dict[str, np.ndarray]:
        return {name: value[0] for name, value in to_numpy(to_grid(seen, self.episodes)).items()}
