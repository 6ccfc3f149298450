"""Adapter of the episodes to stable-baselines3: a ``VecEnv``."""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from rltr.envs.build import as_keep
from rltr.envs.episodes import Episodes
from rltr.envs.spaces import action_space, final_grid, observation_space, to_grid
from rltr.envs.vector import final_info, to_numpy
from rltr.policies.observation import Observation


class TokenSelectionVecEnv(VecEnv):
    """Episodes as a stable-baselines3 ``VecEnv``.

    Infos are empty until episodes end. Then each has ``episode``, ``terminal_observation`` and the entries of
    :func:`rltr.envs.vector.final_info`.

    Args:
        episodes: the batch of episodes; it is closed with this environment.

    Attributes:
        tensors: whether observations are dicts of tensors on the model's device instead of arrays.
            ``OnPolicyAlgorithm.collect_rollouts`` passes them on unchanged, and the buffers of stock algorithms copy
            them into arrays. ``TokenPPO`` sets this.
    """

    def __init__(self, episodes: Episodes) -> None:
        self.episodes = episodes
        backbone = episodes.backbone
        self.render_mode = None
        self.tensors = False
        self._began = time.monotonic()
        self._keep: Tensor | None = None
        super().__init__(
            episodes.rows,
            observation_space(episodes.grid, backbone.width, backbone.depth),
            action_space(episodes.grid),
        )

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Set the seed of every group for the next reset.

        Unlike stable-baselines3, not ``seed + i``: trainings with seeds 0 and 1 would draw nearly the same inputs.
        """
        state = np.random.SeedSequence(seed).generate_state(self.num_envs)
        self._seeds = [int(number) for number in state]
        return self._seeds

    def reset(self) -> dict[str, Any]:
        """Begin a new batch, with the seeds set by ``seed`` since the last reset."""
        if any(seed is not None for seed in self._seeds):
            self.episodes.seed(self._seeds[: self.num_envs // self.episodes.group_size])
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return self._show(self.episodes.reset())

    def step_async(self, actions: np.ndarray) -> None:
        """Store the actions ``(num_envs, grid)`` for :meth:`step_wait`; bits, also as floats."""
        self._keep = as_keep(actions, self.episodes)

    def step_wait(self) -> tuple[dict[str, Any], np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Run to the next decision layer, or to the first decision of the next batch."""
        assert self._keep is not None, "step_wait() without step_async()"
        seen, reward, ended = self.episodes.step(self._keep)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if ended:
            self._describe_end(infos)
        return self._show(seen), reward.numpy(), np.full(self.num_envs, ended), infos

    def close(self) -> None:
        """Detach from the model."""
        self.episodes.close()

    def get_attr(self, attr_name: str, indices: int | Iterable[int] | None = None) -> list[Any]:
        """Attribute of the episodes, repeated for every environment."""
        if attr_name == "render_mode":
            return [None for _ in self._get_indices(indices)]
        return [getattr(self.episodes, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: int | Iterable[int] | None = None) -> None:
        """Not supported: the environments of a batch share their attributes."""
        raise AttributeError(f"{attr_name} cannot be set for single environments of a batch: set it on .episodes")

    def env_method(
        self, method_name: str, *args: Any, indices: int | Iterable[int] | None = None, **kwargs: Any
    ) -> list[Any]:
        """Not supported: the environments of a batch cannot act separately."""
        raise AttributeError(f"{method_name} cannot be called on single environments of a batch: call it on .episodes")

    def env_is_wrapped(self, wrapper_class: type, indices: int | Iterable[int] | None = None) -> list[bool]:
        """Return False for every environment. No ``Monitor`` is needed: episode statistics are in the infos."""
        return [False for _ in self._get_indices(indices)]

    def _show(self, seen: Observation) -> dict[str, Any]:
        shown = to_grid(seen, self.episodes)
        return dict(shown) if self.tensors else dict(to_numpy(shown))

    def _describe_end(self, infos: list[dict[str, Any]]) -> None:
        outcome, backbone = self.episodes.outcome, self.episodes.backbone
        assert outcome is not None
        final = to_numpy(final_grid(self.episodes, backbone.width, backbone.depth))
        facts = final_info(self.episodes)
        seconds = time.monotonic() - self._began
        for i, reward in enumerate(outcome.reward.tolist()):
            infos[i] = {name: values[i] for name, values in facts.items()}
            infos[i]["episode"] = {"r": reward, "l": self.episodes.steps, "t": seconds}
            infos[i]["terminal_observation"] = {name: values[i] for name, values in final.items()}
