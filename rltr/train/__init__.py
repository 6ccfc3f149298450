"""Learning a policy: PPO over tokens, its buffer, checkpoints and logs."""

from rltr.train.actor import TokenActor
from rltr.train.checkpoint import restore_checkpoint, save_checkpoint
from rltr.train.run import train_policy
from rltr.train.token_ppo import TokenPPO

__all__ = ["TokenActor", "TokenPPO", "restore_checkpoint", "save_checkpoint", "train_policy"]
