"""Learners on a tiny model, and how tests run them."""

from collections.abc import Iterator
from typing import Any

import pytest
from torch import Tensor

from rltr.envs import TokenSelectionVecEnv, make_episodes
from rltr.policies import PolicyConfig
from rltr.runtime.backbone import Backbone
from rltr.train.token_ppo import TokenPPO

LAYERS = (1, 2)
GRID = 17


@pytest.fixture
def build(tiny_vit: Any, tiny_task: Any) -> Iterator[Any]:
    """Factory of learners on ``tiny_vit``; their environments are closed at the end."""
    backbone, made = Backbone(tiny_vit), []

    def make(rows: int = 8, env_options: dict[str, Any] | None = None, width: int = 8, **options: Any) -> TokenPPO:
        env = TokenSelectionVecEnv(
            make_episodes(
                backbone, tiny_task.train, rows=rows, layers=LAYERS, **{"group_size": 4, **(env_options or {})}
            )
        )
        made.append(env)
        # Without price_slope the initial policy ignores prices, so its reaction to them must be learned.
        config = PolicyConfig(backbone.width, backbone.depth, GRID, width=width, price_slope=0.0)
        return TokenPPO(env, config, **{"seed": 0, **options})

    yield make
    for env in made:
        env.close()


def collect(ppo: TokenPPO) -> None:
    """Collect one batch of rollouts without an update."""
    _, callback = ppo._setup_learn(total_timesteps=1)
    assert ppo.env is not None
    ppo.collect_rollouts(ppo.env, callback, ppo.rollout_buffer, ppo.n_steps)


def weights(ppo: TokenPPO) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in ppo.policy.state_dict().items()}


def train(ppo: TokenPPO, updates: int) -> TokenPPO:
    return ppo.learn(updates * ppo.n_steps * ppo.n_envs)
