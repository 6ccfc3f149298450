"""Rollouts of tokens, packed and on the device, behind the interface that stable-baselines3 fills."""

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
        seen: what the policy saw.
        keep: what it did, protected tokens included.
        log_prob: log-probability of each token's bit when it acted.
        cost_weight: of each row.
        price: what one kept token of each row paid until the next decision, in typical dense passes.
        cost: what each token itself pays from here to the end, in typical dense passes.
        score_advantage: each row's leave-one-out advantage in task score.
        decided: in which rows somebody could leave when the episode began; the others' advantages say nothing.
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
    """Holds whole episodes: ``buffer_size`` is a multiple of the decisions per episode.

    Args:
        steps: decisions per episode.
        group_size: neighbouring rows that share input and weight.
        step_cost: what each row paid in the step just taken, in typical dense passes.
        options: what stable-baselines3 passes to every buffer.
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
        """Forget all rollouts; the arrays of the stock buffer are never made."""
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
        """Add one decision of all rows; the last of an episode settles what every token paid."""
        seen = Observation.of_grid(obs)
        place = (seen.tokens.row, seen.tokens.position)
        keep = torch.as_tensor(action, device=seen.hidden.device)[place].bool()
        weight = obs["cost_weight"][:, 0]
        cost = self.step_cost().to(weight)
        # Every kept token pays the same share, so the row's tokens together pay what the row cost.
        count = torch.zeros_like(weight).index_add_(0, seen.tokens.row, keep.to(weight))
        unsettled = torch.zeros_like(seen.hidden[:, 0])
        nobody = torch.zeros_like(weight)
        self.steps.append(Step(seen, keep, log_prob[place], weight, cost / count, unsettled, nobody, nobody.bool()))
        self.pos += 1
        self.full = self.pos == self.buffer_size
        if self.pos % self.steps_per_episode == 0:
            self._settle(torch.as_tensor(reward, device=weight.device) + weight * cost)

    def compute_returns_and_advantage(self, last_values: Tensor, dones: np.ndarray) -> None:
        """Nothing is left to do: whole episodes settle when they end.

        Raises:
            ValueError: if an episode is unfinished.
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
