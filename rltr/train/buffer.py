"""Rollout buffer for stable-baselines3 that keeps packed tokens on the model's device."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor

from rltr.policies.observation import Observation
from rltr.train.advantages import leave_one_out, token_costs


@dataclass
class Step:
    """One decision of a batch of rollouts.

    Attributes:
        seen: observation of the policy.
        keep: which tokens were kept, protected ones included.
        log_prob: log-probability of each token's bit under the policy that sampled it.
        cost_weight: cost weight of each row.
        price: cost of one kept token of each row until the next decision, in dense passes of a typical input.
        cost: cost of each token from this decision to the end of the episode, in the same unit.
        score_advantage: leave-one-out advantage of each row in task score.
        decided: whether a row had droppable tokens when the episode began. The score advantages of other rows carry
            no information.
    """

    seen: Observation
    keep: Bool[Tensor, " total"]
    log_prob: Float[Tensor, " total"]
    cost_weight: Float[Tensor, " rows"]
    price: Float[Tensor, " rows"]
    cost: Float[Tensor, " total"]
    score_advantage: Float[Tensor, " rows"]
    decided: Bool[Tensor, " rows"]


class TokenRolloutBuffer(RolloutBuffer):
    """Rollout buffer of whole episodes: ``buffer_size`` is a multiple of the decisions per episode.

    Args:
        steps: decisions per episode.
        group_size: number of consecutive rows that share their input and cost weight.
        step_cost: returns the cost of each row in the latest step, in dense passes of a typical input.
        options: arguments that stable-baselines3 passes to every buffer.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        steps: int,
        group_size: int,
        step_cost: Callable[[], Tensor],
        **options: Any,
    ) -> None:
        self.steps_per_episode = steps
        self.group_size = group_size
        self.step_cost = step_cost
        self.steps: list[Step] = []
        self.scores: list[Tensor] = []
        super().__init__(buffer_size, observation_space, action_space, **options)

    def reset(self) -> None:
        """Discard all rollouts. The arrays of the stock buffer are never allocated."""
        self.steps = []
        self.scores = []
        self.pos = 0
        self.full = False

    def add(
        self,
        obs: dict[str, Tensor],  # type: ignore[override] # tensors in place of arrays, on purpose
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: Tensor,
        log_prob: Tensor,
    ) -> None:
        """Add one decision of all rows. After the last one of an episode, compute token costs and advantages."""
        seen = Observation.of_grid(obs)
        place = (seen.tokens.row, seen.tokens.position)
        keep = torch.as_tensor(action, device=seen.hidden.device)[place].bool()
        weight = obs["cost_weight"][:, 0]
        cost = self.step_cost().to(weight)
        # The cost of a row is divided equally among its kept tokens.
        count = torch.zeros_like(weight).index_add_(0, seen.tokens.row, keep.to(weight))
        # Placeholders: token costs and score advantages are known only when the episode ends.
        per_token = torch.zeros_like(seen.hidden[:, 0])
        per_row = torch.zeros_like(weight)
        self.steps.append(Step(seen, keep, log_prob[place], weight, cost / count, per_token, per_row, per_row.bool()))
        self.pos += 1
        self.full = self.pos == self.buffer_size
        if self.pos % self.steps_per_episode == 0:
            self._settle(torch.as_tensor(reward, device=weight.device) + weight * cost)

    def compute_returns_and_advantage(self, last_values: Tensor, dones: np.ndarray) -> None:
        """Check that all episodes are complete; :meth:`add` has computed costs and advantages already.

        Raises:
            ValueError: if the last episode is incomplete.
        """
        if self.pos % self.steps_per_episode:
            raise ValueError(f"n_steps must be a multiple of the {self.steps_per_episode} decisions of an episode")

    def _settle(self, score: Float[Tensor, " rows"]) -> None:
        episode = self.steps[-self.steps_per_episode :]
        score_advantage = leave_one_out(score, self.group_size)
        costs = token_costs(
            [step.seen.tokens.grid_index for step in episode],
            [step.keep for step in episode],
            [step.price[step.seen.tokens.row] for step in episode],
        )
        first = episode[0].seen
        decided = torch.zeros_like(score).index_add_(0, first.tokens.row, (~first.protected).to(score)) > 0
        for i, (step, cost) in enumerate(zip(episode, costs, strict=True)):
            self.steps[self.pos - len(episode) + i] = replace(
                step, cost=cost, score_advantage=score_advantage, decided=decided
            )
        self.scores.append(score)
