"""stable-baselines3's PPO with probability ratio, clipping, entropy, KL and advantage per token."""

import logging
import math
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from jaxtyping import Float
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from rltr.envs.sb3 import TokenSelectionVecEnv
from rltr.errors import RltrError
from rltr.policies.network import PolicyConfig
from rltr.train.actor import TokenActor, entropy, kl_divergence, log_probability
from rltr.train.advantages import RunningDeviation, token_advantage
from rltr.train.buffer import Step, TokenRolloutBuffer

log = logging.getLogger(__name__)

LEAST_DEVIATION = 0.01
"""Lower bound of the divisor of advantages, the running standard deviation of the score advantages. While no answer
changes, that deviation is near 0, and without the bound prices alone would set the gradient."""
INSTEAD = (
    "to resume later, call rltr.train.save_checkpoint(folder, learner) after learn(), and "
    "rltr.train.restore_checkpoint(folder, learner) on a learner that was made in the same way; `rltr train` does that "
    "by itself (--resume resumes), and writes a policy for rltr.attach"
)
"""End of the errors of :meth:`TokenPPO.save` and :meth:`TokenPPO.load`: what to use instead."""


class TokenPPO(PPO):
    """PPO for token policies, on whole episodes; ``collect_rollouts`` is stable-baselines3's own.

    Stock PPO multiplies the probabilities of hundreds of bits into one ratio and gives all bits the same advantage.
    Here every token has its own ratio and its own cost. The task score is shared by the tokens of a row; its baseline
    is the mean of the other rollouts of the same input. The loss is summed over tokens and divided by
    the mean number of droppable tokens per decision, so that a token of a long row counts as much as one of a short
    row. A learned baseline predicts each token's cost. A minibatch is one decision of all rollouts. ``learn`` rounds
    ``total_timesteps`` up to whole batches.

    Args:
        env: the environment, a :class:`TokenSelectionVecEnv`; its ``group_size`` must be at least 2.
        config: shape of the policy.
        learning_rate: Adam's step size, or a schedule of the progress that remains (1 to 0).
        batches: batches of episodes per update.
        n_epochs: passes over the rollouts of an update.
        clip_range: how far a token's probability ratio may leave 1.
        target_kl: an update ends early once the mean KL per droppable token exceeds this, in nats; None for never.
        ent_coef: weight of the entropy bonus, per nat of entropy of a token's decision.
        max_grad_norm: largest norm of the actor's gradient; the cost baseline's is not clipped.
        options: further arguments of stable-baselines3's PPO (``seed``, ``tensorboard_log``, ``verbose`` …).

    Raises:
        RltrError: if ``env`` is not a :class:`TokenSelectionVecEnv` itself (a wrapper is not accepted), its
            ``group_size`` is 1, or ``batches`` or ``n_epochs`` is below 1.
    """

    policy: TokenActor
    """The actor that is trained."""
    rollout_buffer: TokenRolloutBuffer
    """The rollouts of one update."""

    def __init__(
        self,
        env: VecEnv,
        config: PolicyConfig,
        learning_rate: Any = 2e-3,
        batches: int = 1,
        n_epochs: int = 4,
        clip_range: float = 0.2,
        target_kl: float | None = 0.02,
        ent_coef: float = 0.0,
        max_grad_norm: float = 0.5,
        **options: Any,
    ) -> None:
        if not isinstance(env, TokenSelectionVecEnv):
            raise RltrError(
                f"TokenPPO learns in a TokenSelectionVecEnv itself, not in a {type(env).__name__}, even one around it: "
                "leave the wrapper out (episode statistics are in the infos already)"
            )
        if env.episodes.group_size < 2:
            raise RltrError(
                f"group_size={env.episodes.group_size} leaves TokenPPO no other rollout of an input to compare with: "
                "make the episodes with a group_size of at least 2, e.g. 4, and rows a multiple of it"
            )
        self.episodes = env.episodes
        if n_epochs < 1 or batches < 1:
            raise RltrError(f"n_epochs={n_epochs} and batches={batches} must both be at least 1")
        self.deviation = RunningDeviation()
        self._idle = False  # whether a batch without droppable tokens was already warned about
        env.tensors = True
        steps = env.episodes.steps
        super().__init__(
            TokenActor,
            env,
            learning_rate=learning_rate,
            n_steps=steps * batches,
            batch_size=env.num_envs * steps * batches,
            n_epochs=n_epochs,
            gamma=1.0,
            gae_lambda=1.0,
            clip_range=clip_range,
            ent_coef=ent_coef,
            max_grad_norm=max_grad_norm,
            target_kl=target_kl,
            rollout_buffer_class=TokenRolloutBuffer,
            rollout_buffer_kwargs={
                "steps": steps,
                "group_size": env.episodes.group_size,
                "step_cost": lambda: env.episodes.step_cost,
            },
            # SB3 sets eps=1e-5, which is no longer small beside the gradients of a loss averaged over tokens.
            policy_kwargs={"config": config, "optimizer_kwargs": {"eps": 1e-8}},
            device=env.episodes.backbone.device,
            **options,
        )

    def train(self) -> None:
        """Update the policy on the rollouts in the buffer. If they have no droppable token, do nothing."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        # Leave out decisions at which every row had only protected tokens left.
        steps = [step for step in self.rollout_buffer.steps if not bool(step.seen.protected.all())]
        if not steps:
            # For example a batch of one-token texts; the next batch may have longer ones.
            log.log(
                logging.DEBUG if self._idle else logging.WARNING,
                "a batch of %d rollouts has only protected tokens, because its inputs are too short: "
                "nothing is learned from it",
                len(self.rollout_buffer.steps[0].score_advantage),
            )
            self._idle = True
            return
        scale = max(
            self.deviation.update(torch.cat([step.score_advantage[step.decided] for step in steps])), LEAST_DEVIATION
        )
        with torch.no_grad():
            before = [self.policy.network.with_baseline(step.seen) for step in steps]
            advantages = [
                token_advantage(step.score_advantage, step.cost_weight, step.seen.tokens.row, step.cost, baseline)
                / scale
                for step, (_, baseline) in zip(steps, before, strict=True)
            ]
        droppable = torch.stack([(~step.seen.protected).sum() for step in steps]).float().mean()
        history: list[dict[str, float]] = []
        for _ in range(self.n_epochs):
            for i in torch.randperm(len(steps)).tolist():
                history.append(self._gradient_step(steps[i], advantages[i], droppable))
            self._n_updates += 1
            divergence = self._divergence(steps, [logit for logit, _ in before])
            if self.target_kl is not None and divergence > self.target_kl:
                break
        self._refuse_divergence(history, divergence)
        for name in history[0]:
            self.logger.record(f"train/{name}", sum(entry[name] for entry in history) / len(history))
        self.logger.record("train/kl_per_token", divergence)
        self.logger.record("train/epochs", len(history) / len(steps))
        self.logger.record("train/score_deviation", scale)

    def save(self, *args: Any, **options: Any) -> NoReturn:
        """Not supported: stable-baselines3's file holds pickles, and rltr never unpickles. Nothing is written.

        Raises:
            RltrError: always, with how to save a learner.
        """
        raise RltrError(f"TokenPPO is not saved as stable-baselines3's zip, which holds pickles: {INSTEAD}")

    @classmethod
    def load(cls, *args: Any, **options: Any) -> NoReturn:
        """Not supported: reading stable-baselines3's file would run any code pickled in it.

        Raises:
            RltrError: always, with how to restore a learner.
        """
        raise RltrError(f"TokenPPO is not loaded from stable-baselines3's zip, which holds pickles: {INSTEAD}")

    def _setup_learn(self, total_timesteps: int, *args: Any, **options: Any) -> tuple[int, BaseCallback]:
        """Round up to whole batches first, or the remaining progress would be negative at the end of the last one."""
        batch = self.n_steps * self.n_envs
        return super()._setup_learn(math.ceil(total_timesteps / batch) * batch, *args, **options)

    def _gradient_step(self, step: Step, advantage: Float[Tensor, " total"], droppable: Tensor) -> dict[str, float]:
        """Take one gradient step on one decision of all rollouts.

        ``droppable`` is the mean number of droppable tokens per decision, the divisor of the loss.
        """
        logit, baseline = self.policy.network.with_baseline(step.seen)
        free = ~step.seen.protected
        ratio = (log_probability(logit, step.keep) - step.log_prob).exp()
        clip = self.clip_range(self._current_progress_remaining)  # type: ignore[operator] # SB3 makes it a schedule
        clipped = ratio.clamp(1 - clip, 1 + clip)
        objective = torch.min(ratio * advantage, clipped * advantage)[free].sum() / droppable
        mean_entropy = entropy(logit)[free].sum() / droppable
        error = F.mse_loss(baseline[free], step.cost[free])
        network, optimizer = self.policy.network, self.policy.optimizer
        optimizer.zero_grad()
        # The baseline reads detached features, so the two losses share no parameter and need no weight between them.
        (-objective - self.ent_coef * mean_entropy + error).backward()
        baseline_only = set(network.cost.parameters())
        nn.utils.clip_grad_norm_([p for p in network.parameters() if p not in baseline_only], self.max_grad_norm)
        optimizer.step()
        return {
            "policy_loss": -objective.item(),
            "cost_baseline_error": error.item(),
            "clip_fraction": ((ratio - 1).abs() > clip)[free].float().mean().item(),
            "entropy_per_token": mean_entropy.item(),
        }

    def _refuse_divergence(self, history: list[dict[str, float]], divergence: float) -> None:
        if not all(math.isfinite(value) for entry in history for value in entry.values()):
            raise RltrError(
                f"training diverged in update {self._n_updates}: a loss is not a finite number. The last checkpoint "
                f"was written before; resume from it with a lower learner.learning_rate or learner.max_grad_norm"
            )
        if self.target_kl is not None and divergence > 10 * self.target_kl:
            log.warning(
                "the policy moved %.2g nats per token in one update, more than ten times target_kl=%.2g: "
                "lower learner.learning_rate if its accuracy falls",
                divergence,
                self.target_kl,
            )

    @torch.no_grad()
    def _divergence(self, steps: list[Step], before: list[Tensor]) -> float:
        """Mean KL(before || now) per droppable token in nats, from the keep logits ``before`` the update."""
        total, count = 0.0, 0
        for step, old in zip(steps, before, strict=True):
            free = ~step.seen.protected
            total += kl_divergence(old, self.policy.network(step.seen))[free].sum().item()
            count += int(free.sum())
        return total / count
