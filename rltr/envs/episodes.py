"""Batched episodes in a frozen transformer: an episode is one forward pass of one input, a step is one decision.

All rows of a batch step together. The Gymnasium environments and the stable-baselines3 ``VecEnv`` are thin wrappers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import finalize

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rltr.cost.pricing import Pricing
from rltr.dense.answers import DenseAnswers
from rltr.envs.actions import keep_mask
from rltr.errors import RltrError
from rltr.policies.observation import Observation
from rltr.recipe.learning import COST_WEIGHT
from rltr.runtime.backbone import Backbone
from rltr.runtime.decision import Choice, Decision, Removal, Trace
from rltr.runtime.pause import PausedForward
from rltr.selectors.none import KeepAll
from rltr.system.device import move_inputs
from rltr.tasks import SCORES, Examples, score

ON_CPU: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
"""Dtype and device of prices and rewards, independent of torch's global defaults."""


@dataclass(frozen=True)
class Outcome:
    """How a batch of episodes ended.

    Attributes:
        index: index of the example of each row.
        cost_weight: cost weight of each row.
        score: task score.
        quality: metric value of the reduced model's answer; for classification 1 if right, 0 if wrong.
        dense_quality: metric value of the dense model's answer.
        cost: cost of the whole pass, including the policy, in dense passes of a typical input.
        reward: sum of the rewards of the episode.
        trace: which tokens were kept.
    """

    index: Int[Tensor, " rows"]
    cost_weight: Float[Tensor, " rows"]
    score: Float[Tensor, " rows"]
    quality: Float[Tensor, " rows"]
    dense_quality: Float[Tensor, " rows"]
    cost: Float[Tensor, " rows"]
    reward: Float[Tensor, " rows"]
    trace: Trace


class Episodes:
    """A batch of inputs in the frozen model, run from decision to decision.

    The reward of a step is minus the cost of the kept tokens until the next decision, times ``cost_weight``. The last
    step adds the task score. Costs are in dense passes of a typical input. The weight is drawn log-uniformly per
    episode.

    Args:
        dense: the dense model's answers to the examples to draw from.
        pricing: prices, and the decision layers.
        rows: inputs per batch, a multiple of ``group_size``.
        cost_weight: lowest and highest weight; equal for a fixed one.
        scoring: ``quality`` (or ``accuracy``, the same), ``fidelity`` or ``both`` (see :mod:`rltr.tasks.goals.scores`).
        removal: whether removed tokens are merged or dropped.
        group_size: number of consecutive rows that share an input and a cost weight.

    Attributes:
        cost_weight: cost weight of each row of the current batch.
        step_cost: cost of each row in the last step, in dense passes of a typical input.
        outcome: outcome of the last finished batch; None before the first.
    """

    def __init__(
        self,
        dense: DenseAnswers,
        pricing: Pricing,
        rows: int,
        cost_weight: tuple[float, float] = COST_WEIGHT,
        scoring: str = "both",
        removal: Removal = "merge",
        group_size: int = 1,
    ) -> None:
        low, high = cost_weight
        if not 0 < low <= high < math.inf:
            raise RltrError(f"cost_weight={cost_weight} is not a range: give two numbers above 0, the lower one first")
        if group_size < 1 or rows < 1 or rows % group_size:
            raise RltrError(
                f"{rows} rows are not whole groups of group_size={group_size}: make rows a multiple of group_size"
            )
        if scoring not in SCORES:
            raise RltrError(f"unknown score {scoring!r}; choose one of {', '.join(SCORES)}")
        dense.backbone.forward(KeepAll(), pricing.layers, removal)  # raises now for impossible layers and modes
        self.dense = dense
        self.examples = dense.examples
        self.backbone: Backbone = dense.backbone
        self.pricing = pricing
        self.rows = rows
        self.weights = (low, high)
        self.scoring = scoring
        self.removal: Removal = removal
        self.group_size = group_size
        self.grid = longest_row(self.backbone, self.examples)
        self.cost_weight = torch.full((rows,), low, **ON_CPU)
        self.step_cost = torch.zeros(rows, **ON_CPU)
        self.outcome: Outcome | None = None
        self._state: list[dict[str, object]] = []
        self._generators = [np.random.default_rng() for _ in range(rows // group_size)]
        self._pass: PausedForward | None = None
        self.backbone.attach()
        # Detaches on garbage collection too, for environments that were never closed.
        self._detach = finalize(self, self.backbone.detach)
        self._detach.atexit = False

    @property
    def steps(self) -> int:
        """Decisions per episode."""
        return len(self.pricing.layers)

    def seed(self, seeds: Sequence[int | None]) -> None:
        """Seed the random generator of each group of rows; None leaves a generator unchanged."""
        for i, seed in enumerate(seeds):
            if seed is not None:
                self._generators[i] = np.random.default_rng(seed)

    def random_state(self) -> list[dict[str, object]]:
        """State of every group's generator before it drew the current episode, as JSON types."""
        return self._state

    def set_random_state(self, state: list[dict[str, object]]) -> None:
        """Restore generator states, so that the coming episodes are those drawn after ``state`` was taken."""
        for generator, saved in zip(self._generators, state, strict=True):
            generator.bit_generator.state = saved

    def reset(self) -> Observation:
        """Discard the current batch, draw a new one and run it to its first decision."""
        if self._pass is not None:
            self._pass.close()
        self._state = [dict(generator.bit_generator.state) for generator in self._generators]
        low, high = (math.log(weight) for weight in self.weights)
        drawn = [(g.integers(len(self.examples)), math.exp(g.uniform(low, high))) for g in self._generators]
        once = torch.tensor([index for index, _ in drawn], device="cpu")
        self.index = once.repeat_interleave(self.group_size)
        self.cost_weight = torch.tensor([weight for _, weight in drawn], **ON_CPU).repeat_interleave(self.group_size)
        self._dense_answers = self.dense(self.index)
        rows = {name: value.repeat_interleave(self.group_size, 0) for name, value in self.examples.batch(once).items()}
        self._inputs = move_inputs(rows, self.backbone.device, self.backbone.dtype)
        self._pass = PausedForward(self.backbone, self._inputs, self.pricing.layers, self.removal)
        decision = self._pass.start()
        self._begun = decision.tokens.count.cpu()
        self.spent = self.pricing.before_first(self._begun) / self.pricing.typical_cost
        self._rewards = torch.zeros(self.rows, **ON_CPU)
        return self._observe(decision)

    def step(self, keep: Tensor) -> tuple[Observation, Float[Tensor, " rows"], bool]:
        """Keep some tokens and run to the next decision, or to the end and the next batch's first decision.

        Args:
            keep: mask ``(rows, grid)`` of the original tokens to keep; entries of protected and absent tokens are
                ignored.

        Returns:
            The next observation, the reward of each row, and whether the batch ended (see ``outcome``).

        Raises:
            RltrError: if ``keep`` is not a mask of that shape. The episode stays at this decision.
            RuntimeError: before :meth:`reset`.
        """
        if self._pass is None or self._pass.decision is None:
            raise RuntimeError("call reset() before step()")
        decision = self._pass.decision
        tokens = decision.tokens
        keep = keep_mask(keep, self.rows, self.grid)
        choice = Choice(keep.to(tokens.row.device)[tokens.row, tokens.position])
        following = self._pass.resume(choice)
        counts = torch.tensor(self._pass.trace.stages[-1].counts, device="cpu")
        self.step_cost = self.pricing.until_next(decision.index, counts) / self.pricing.typical_cost
        self.spent = self.spent + self.step_cost
        reward = -self.cost_weight * self.step_cost
        if following is not None:
            self._rewards = self._rewards + reward
            return self._observe(following), reward, False
        assert self._pass.output is not None
        goal, dense, labels = self.examples.goal, self._dense_answers, self.examples.labels[self.index]
        answers = goal.read(self._pass.output, self._inputs).float().cpu()
        scored = score(self.scoring, goal, dense, answers, labels)
        reward = reward + scored
        self.outcome = Outcome(
            self.index,
            self.cost_weight,
            scored,
            goal.quality(dense, answers, labels),
            goal.quality(dense, dense, labels),
            self.spent,
            self._rewards + reward,
            self._pass.trace,
        )
        self._pass = None
        return self.reset(), reward, True

    def close(self) -> None:
        """Discard the current batch and detach from the model; calling it again does nothing."""
        if self._pass is not None:
            self._pass.close()
            self._pass = None
        self._detach()

    def _observe(self, decision: Decision) -> Observation:
        count = decision.tokens.count.cpu()
        per_token = self.pricing.per_token(decision.index, count)
        device = decision.hidden.device
        seen = Observation.of_decision(
            decision, (self.cost_weight * per_token).to(device), (count.float() / self._begun).to(device)
        )
        return replace(seen, tokens=replace(seen.tokens, grid=self.grid))


def longest_row(backbone: Backbone, examples: Examples) -> int:
    """Number of tokens of the longest example, special tokens included."""
    return row_length(backbone, longest_inputs(examples))


def typical_row(backbone: Backbone, examples: Examples) -> int:
    """Number of tokens of an example of median length, special tokens included and padding excluded."""
    return _row(backbone, examples.batch([examples.typical()])).stages[0].counts[0]


def longest_inputs(examples: Examples) -> dict[str, Tensor]:
    """Model inputs of the longest example, as a batch of one row."""
    return examples.batch([examples.longest()])


def row_length(backbone: Backbone, inputs: Mapping[str, Tensor]) -> int:
    """Number of tokens per row that a model makes of ``inputs``, padding and special tokens included."""
    return _row(backbone, inputs).grid


def _row(backbone: Backbone, inputs: Mapping[str, Tensor]) -> Trace:
    with backbone.attached(), torch.no_grad():
        forward = backbone.forward(KeepAll(), [0])
        return backbone.run(forward, move_inputs(inputs, backbone.device, backbone.dtype))[1]
