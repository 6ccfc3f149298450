"""The token policy as a stable-baselines3 policy: one action bit and one log-probability per token."""

from typing import Any

import torch
import torch.nn.functional as F
from gymnasium import spaces
from jaxtyping import Bool, Float
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor

from rltr.policies.network import PolicyConfig, TokenPolicy
from rltr.policies.observation import Observation
from rltr.runtime import tokens as ragged


class TokenActor(ActorCriticPolicy):
    """Actor that samples one independent keep-or-drop bit per token, given the observation.

    There is no value network. The baseline of the task score is the mean of the other rollouts of the same input, and
    a learned baseline predicts the cost of each token (see :mod:`rltr.train.advantages`).

    Args:
        config: shape of the token policy.
    """

    network: TokenPolicy
    """The token policy that is trained."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        config: PolicyConfig,
        **kwargs: Any,
    ) -> None:
        self.token_config = config
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        self.network = TokenPolicy(self.token_config)
        options: dict[str, Any] = {"lr": lr_schedule(1), **self.optimizer_kwargs}
        self.optimizer = self.optimizer_class(self.network.parameters(), **options)

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Sample an action for every token, or take the more likely one if ``deterministic``.

        Returns:
            Actions ``(rows, grid)``, values ``(rows, 1)``, which are zeros, and log-probabilities ``(rows, grid)``, 0
            for absent and protected tokens.
        """
        seen = self._seen(obs)
        logit = self.network(seen)
        keep = logit > 0 if deterministic else torch.rand_like(logit) < logit.sigmoid()
        keep = keep | seen.protected
        log_prob = log_probability(logit, keep).masked_fill(seen.protected, 0)
        actions = ragged.scatter_to_grid(seen.tokens, keep)
        return actions, self.predict_values(obs), ragged.scatter_to_grid(seen.tokens, log_prob)

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """Return zeros ``(rows, 1)``: there is no value network, and returns are not bootstrapped."""
        assert isinstance(obs, dict)
        return torch.zeros_like(obs["price"])

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self.forward(observation, deterministic)[0]

    def _seen(self, obs: PyTorchObs) -> Observation:
        assert isinstance(obs, dict)
        return Observation.of_grid(obs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "config": self.token_config}


def log_probability(logit: Float[Tensor, " total"], keep: Bool[Tensor, " total"]) -> Float[Tensor, " total"]:
    """Log-probability of each token's keep (True) or drop (False) bit, from its keep logit."""
    return F.logsigmoid(torch.where(keep, logit, -logit))


def kl_divergence(old: Float[Tensor, " total"], new: Float[Tensor, " total"]) -> Float[Tensor, " total"]:
    """Exact KL(old || new) between the keep-or-drop distributions of each token in nats, from the keep logits."""
    keep = old.sigmoid()
    return keep * (F.logsigmoid(old) - F.logsigmoid(new)) + (1 - keep) * (F.logsigmoid(-old) - F.logsigmoid(-new))


def entropy(logit: Float[Tensor, " total"]) -> Float[Tensor, " total"]:
    """Entropy of each token's keep-or-drop distribution in nats, 0 to log 2, from its keep logit."""
    return F.softplus(logit) - logit * logit.sigmoid()
