"""Learning a policy: PPO over tokens, its buffer, checkpoints and logs."""

from rltr.train.run import train_policy
from rltr.train.token_ppo import TokenPPO

__all__ = ["TokenPPO", "train_policy"]
