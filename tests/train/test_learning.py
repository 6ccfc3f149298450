"""TokenPPO learns: it removes tokens where they cost more than they help."""

from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback

from tests.train.conftest import collect, train


@pytest.mark.parametrize(("weight", "fewer"), [(30.0, True), (1e-4, False)])
def test_it_drops_tokens_when_they_are_dear_only(build: Any, weight: float, fewer: bool) -> None:
    """At a very high price all tokens must be dropped; at almost none the dense model's answer is best."""
    ppo = build(
        rows=32,
        env_options={"cost_weight": (weight, weight), "scoring": "fidelity"},
        learning_rate=0.003,
        width=16,
    )
    rates: list[float] = []

    class KeepRates(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            rates.append(float(ppo.episodes.outcome.trace.present[-1].float().mean()))

    ppo.learn(25 * ppo.n_steps * ppo.n_envs, KeepRates())
    late = np.mean(rates[-3:])
    assert 0.5 < rates[0] < 0.9
    assert late < 0.2 if fewer else late > 0.95


def test_one_policy_serves_every_price(build: Any) -> None:
    """Trained over a range of cost weights, it keeps fewer tokens at higher weights."""
    options = {"cost_weight": (1e-4, 1.0), "scoring": "fidelity"}
    ppo = train(build(rows=64, env_options=options, learning_rate=0.003, width=16), 25)
    collect(ppo)
    outcome = ppo.episodes.outcome
    assert outcome is not None
    kept = outcome.trace.present[-1].float().mean(1)
    dear = outcome.cost_weight > outcome.cost_weight.median()
    assert kept[dear].mean() < kept[~dear].mean() - 0.2
