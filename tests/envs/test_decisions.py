"""Observations, the effect of actions, and rewards."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rltr.envs import TokenSelectionVectorEnv, make_episodes
from rltr.errors import RltrError
from rltr.policies import Observation, PolicyConfig, TokenPolicy
from rltr.selectors.learned import Learned
from rltr.selectors.reduced_model import ReducedModel
from tests.envs.conftest import LAYERS, bits, episode, text_model, texts


def test_actions_may_be_floats_or_bits_and_must_fit(batched: TokenSelectionVectorEnv, grid: int) -> None:
    rewards = []
    for kind in (np.float32, np.int8, bool, np.int64):
        batched.reset(seed=0)
        rewards.append(batched.step(bits(batched, np.random.default_rng(0)).astype(kind))[1].tolist())
    assert all(reward == rewards[0] for reward in rewards)
    with pytest.raises(ValueError, match=rf"expected \(4, {grid}\)"):
        batched.step(np.ones((4, grid + 1)))


def test_protected_and_absent_tokens_ignore_their_actions(options: dict[str, Any]) -> None:
    env = TokenSelectionVectorEnv(4, **options)
    outcomes = []
    for flipped in (False, True):
        shown, _ = env.reset(seed=0)
        for step in range(len(LAYERS)):
            action = bits(env, np.random.default_rng(step))
            ignored = shown["alive"] == 0
            assert ignored[:, 0].all() and shown["present"][:, 0].all()
            action[ignored] = flipped
            shown, reward, *_ = env.step(action)
        outcomes.append(reward.tolist())
    assert outcomes[0] == outcomes[1]
    env.close()


def test_absent_tokens_show_nothing(batched: TokenSelectionVectorEnv) -> None:
    shown, _ = batched.reset(seed=0)
    counts = batched.episodes.examples.batch(batched.episodes.index).get("attention_mask")
    if counts is not None:
        np.testing.assert_array_equal(shown["present"], counts.numpy())
    action = bits(batched, np.random.default_rng(0))
    expected = (shown["present"] == 1) & ((action == 1) | (shown["alive"] == 0))
    shown, *_ = batched.step(action)
    np.testing.assert_array_equal(shown["present"] == 1, expected)
    gone = shown["present"] == 0
    assert (
        not shown["tokens"][gone].any() and not shown["token_features"][gone].any() and not shown["alive"][gone].any()
    )
    assert shown["tokens"][~gone].any(-1).all()


def test_the_price_shown_is_paid_if_everything_is_kept(batched: TokenSelectionVectorEnv, grid: int) -> None:
    shown, _ = batched.reset(seed=0)
    for step in range(2 * len(LAYERS)):
        due = shown["price"][:, 0] * shown["present"].sum(1)
        shown, reward, _, _, infos = batched.step(np.ones((4, grid)))
        scored = infos["final_info"]["score"] if infos else 0
        np.testing.assert_allclose(scored - reward, due, rtol=1e-4, atol=1e-6)
        if step == 0:
            np.testing.assert_allclose(shown["spent"][:, 0] - due / shown["cost_weight"][:, 0] > 0, True)


@settings(max_examples=15)
@given(seed=st.integers(0, 50), rate=st.sampled_from([0.0, 0.3, 0.7, 1.0]))
def test_prices_add_up_to_the_cost_reported(seed: int, rate: float) -> None:
    env = shared_text_environment()
    shown, _ = env.reset(seed=seed)
    before, weight = shown["spent"][:, 0], shown["cost_weight"][:, 0]
    total = np.zeros(4)
    for _ in LAYERS:
        _, reward, _, _, infos = env.step(bits(env, np.random.default_rng(seed), rate))
        total += reward
    outcome = env.episodes.outcome
    assert outcome is not None
    paid = infos["final_info"]["score"] - total
    np.testing.assert_allclose(paid, weight * (infos["final_info"]["cost"] - before), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outcome.reward.numpy(), total, rtol=1e-4, atol=1e-5)
    counts = [torch.tensor(stage.counts) for stage in outcome.trace.stages]
    torch.testing.assert_close(outcome.cost, env.episodes.pricing.total(counts) / env.episodes.pricing.typical_cost)


_shared: list[TokenSelectionVectorEnv] = []


def shared_text_environment() -> TokenSelectionVectorEnv:
    """One environment for all of hypothesis's examples."""
    if not _shared:
        _shared.append(TokenSelectionVectorEnv(4, model=text_model(), examples=texts(), layers=LAYERS))
    return _shared[0]


class Watched(TokenPolicy):
    """A policy with random weights that records its observations."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__(config)
        self.shown: list[Observation] = []
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))

    @torch.no_grad()
    def forward(self, seen: Observation) -> torch.Tensor:
        self.shown.append(seen)
        return super().forward(seen)


@pytest.mark.parametrize("weight", [3.0, 10.0])
def test_a_deployed_policy_gets_the_observations_of_training(options: dict[str, Any], weight: float) -> None:
    """The observations are equal, and a token is kept if its keep logit is positive."""
    episodes = make_episodes(**options, rows=4, cost_weight=(weight, weight))
    backbone = episodes.backbone
    policy = Watched(PolicyConfig(backbone.width, backbone.depth, episodes.grid, width=8))
    episodes.seed([0, 1, 2, 3])
    seen, ended = episodes.reset(), False
    index = episodes.index
    while not ended:
        keep = torch.zeros(4, episodes.grid, dtype=torch.bool)
        keep[seen.tokens.row, seen.tokens.position] = policy(seen) > 0
        seen, _, ended = episodes.step(keep)
    in_training, policy.shown = policy.shown, []
    with backbone.attached(), torch.no_grad():
        reduced = ReducedModel(backbone, Learned(policy, episodes.pricing, weight), LAYERS)
        _, trace = reduced(episodes.examples.batch(index))
    assert episodes.outcome is not None
    assert torch.equal(trace.present, episodes.outcome.trace.present)
    assert len(in_training) == len(policy.shown) == len(LAYERS)
    for before, now in zip(in_training, policy.shown, strict=True):
        assert torch.equal(now.tokens.grid_index, before.tokens.grid_index)
        for name in (field.name for field in fields(Observation) if field.name != "tokens"):
            torch.testing.assert_close(getattr(now, name), getattr(before, name))
    assert (
        bool((policy.shown[1].kept < 1).any()) and trace.stages[-1].total > 4
    )  # some tokens were dropped, but not all
    episodes.close()


def test_the_score_is_the_tasks_score(options: dict[str, Any]) -> None:
    env = TokenSelectionVectorEnv(4, **options, scoring="fidelity")
    env.reset(seed=0)
    index = env.episodes.index
    *_, infos = episode(env, [np.ones((4, env.episodes.grid))] * 2)[-1]
    np.testing.assert_allclose(infos["final_info"]["score"], 0, atol=1e-5)  # everything kept: the dense answer
    assert infos["final_info"]["example"].tolist() == index.tolist()
    np.testing.assert_array_equal(infos["final_info"]["quality"], infos["final_info"]["dense_quality"])
    env.close()


def test_a_score_that_is_not_finite_raises(options: dict[str, Any]) -> None:
    env = TokenSelectionVectorEnv(4, **options)
    env.reset(seed=0)
    model: Any = env.episodes.backbone.model
    with torch.no_grad():
        model.classifier.bias.fill_(torch.nan)
    with pytest.raises(RltrError, match="NaN or infinite"):
        episode(env, [np.ones((4, env.episodes.grid))] * 2)
    env.close()


def test_weights_are_drawn_from_the_whole_range(options: dict[str, Any]) -> None:
    episodes = make_episodes(**options, rows=200, cost_weight=(0.01, 100.0))
    episodes.reset()
    logarithm = episodes.cost_weight.log10()
    assert -2 <= logarithm.min() < -1.8 and 1.8 < logarithm.max() <= 2
    assert abs(logarithm.mean()) < 0.3
    episodes.close()
    fixed = make_episodes(**options, rows=4, cost_weight=(0.5, 0.5))
    fixed.reset()
    torch.testing.assert_close(fixed.cost_weight, torch.full((4,), 0.5))
    fixed.close()
