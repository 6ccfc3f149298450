"""Learning a policy: PPO over tokens, its buffer, checkpoints and logs.

``rltr.train(model, data)`` trains a policy: see :func:`rltr.jobs.api.train`.
"""

from rltr.callable_package import make_callable
from rltr.train.actor import TokenActor
from rltr.train.checkpoint import restore_checkpoint, save_checkpoint
from rltr.train.run import train_policy
from rltr.train.token_ppo import TokenPPO

__all__ = ["TokenActor", "TokenPPO", "restore_checkpoint", "save_checkpoint", "train_policy"]

make_callable(__name__)
