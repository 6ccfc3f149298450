"""The policy as a stable-baselines3 policy: actions and their probabilities."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Bernoulli
from torch.distributions import kl_divergence as reference_kl

from rltr.envs.spaces import action_space, observation_space
from rltr.policies import PolicyConfig
from rltr.runtime import tokens as ragged
from rltr.train import TokenActor
from rltr.train.actor import entropy, kl_divergence, log_probability
from tests.policies.conftest import CONFIG, DEPTH, GRID, WIDTH, lively_policy, observation

LOGITS = st.lists(st.floats(-12, 12, width=32), min_size=1, max_size=20)


@given(logits=LOGITS, seed=st.integers(0, 99))
@settings(max_examples=30)
def test_probabilities_are_those_of_a_bernoulli(logits: list[float], seed: int) -> None:
    logit = torch.tensor(logits, dtype=torch.float64)
    keep = torch.rand(len(logits), generator=torch.Generator().manual_seed(seed)) < 0.5
    reference = Bernoulli(logits=logit)
    torch.testing.assert_close(log_probability(logit, keep), reference.log_prob(keep.double()), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(entropy(logit), reference.entropy(), rtol=1e-6, atol=1e-9)
    other = logit.flip(0)
    expected = reference_kl(reference, Bernoulli(logits=other))
    torch.testing.assert_close(kl_divergence(logit, other), expected, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(kl_divergence(logit, logit), torch.zeros_like(logit))


def test_extreme_logits_stay_finite() -> None:
    logit = torch.tensor([-200.0, 200.0, 0.0])
    for value in (
        log_probability(logit, torch.tensor([True, False, True])),
        entropy(logit),
        kl_divergence(logit, -logit),
    ):
        assert bool(value.isfinite().all())


@pytest.fixture
def actor() -> TokenActor:
    torch.manual_seed(0)
    actor = TokenActor(observation_space(GRID, WIDTH, DEPTH), action_space(GRID), lambda _: 1e-3, CONFIG)
    actor.network.load_state_dict(lively_policy().state_dict())
    return actor


def test_actions_are_drawn_token_by_token(actor: TokenActor) -> None:
    seen = observation([GRID] * 400)
    seen = replace(
        seen,
        hidden=seen.hidden[:GRID].repeat(400, 1),
        token_features=seen.token_features[:GRID].repeat(400, 1),
        **{name: getattr(seen, name)[:1].repeat(400) for name in ("layer", "price", "kept")},
    )
    torch.manual_seed(1)
    with torch.no_grad():
        actions, values, log_prob = actor(seen.to_grid())
        logit = actor.network(seen)[:GRID]
    assert actions.shape == log_prob.shape == (400, GRID) and values.shape == (400, 1) and not values.any()
    assert bool(actions[:, 0].all()) and not log_prob[:, 0].any()  # protected: no choice, no probability
    torch.testing.assert_close(actions[:, 1:].float().mean(0), logit[1:].sigmoid(), rtol=0, atol=0.1)
    expected = torch.stack([log_probability(logit, row) for row in actions.bool()])
    torch.testing.assert_close(log_prob[:, 1:], expected[:, 1:])


def test_the_deterministic_action_is_the_likelier_one(actor: TokenActor) -> None:
    seen = observation([7, 4])
    with torch.no_grad():
        actions, _, _ = actor(seen.to_grid(), deterministic=True)
        expected = ragged.scatter_to_grid(seen.tokens, (actor.network(seen) > 0) | seen.protected)
    assert torch.equal(actions.bool(), expected)
    predicted, _ = actor.predict({name: value.numpy() for name, value in seen.to_grid().items()}, deterministic=True)
    assert (torch.as_tensor(predicted).bool() == expected).all()


def test_absent_tokens_are_never_kept(actor: TokenActor) -> None:
    seen = observation([7, 4])
    with torch.no_grad():
        actions, _, log_prob = actor(seen.to_grid())
    absent = ~seen.tokens.present
    assert not actions[absent].any() and not log_prob[absent].any()


def test_the_network_is_deterministic_in_training_mode(actor: TokenActor) -> None:
    """Dropout or batch statistics would make the ratio of new to old probabilities differ from 1 at once."""
    seen = observation([7, 4])
    results = []
    for training in (True, False):
        actor.set_training_mode(training)
        results.append(actor.network(seen))
    assert torch.equal(results[0], results[1])


def test_constructor_arguments_can_be_stored(actor: TokenActor) -> None:
    arguments: dict[str, Any] = actor._get_constructor_parameters()
    assert arguments["config"] == CONFIG
    assert isinstance(arguments["action_space"], spaces.MultiBinary)
    assert PolicyConfig(**CONFIG.to_dict()) == CONFIG
