"""Updates of TokenPPO: ratios, clipping, entropy and KL per token, and their bounds."""

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor

from rltr.errors import RltrError
from rltr.train.actor import log_probability
from rltr.train.advantages import leave_one_out, token_advantage
from rltr.train.token_ppo import LEAST_DEVIATION, TokenPPO
from tests.train.conftest import GRID, LAYERS, collect, train, weights


def test_ratios_are_one_before_the_first_update(build: Any) -> None:
    collect(ppo := build(rows=12, batches=2))
    ppo.policy.set_training_mode(True)
    for step in ppo.rollout_buffer.steps:
        free = ~step.seen.protected
        again = log_probability(ppo.policy.network(step.seen), step.keep)
        assert torch.equal((again - step.log_prob)[free].exp(), torch.ones(int(free.sum())))


def test_nothing_is_clipped_in_the_first_step(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    collect(ppo := build())
    improve, seen = ppo._gradient_step, []

    def watched(*args: Any) -> dict[str, float]:
        seen.append(improve(*args))
        return seen[-1]

    monkeypatch.setattr(ppo, "_gradient_step", watched)
    ppo.set_logger(Logger(None, []))
    ppo.train()
    assert seen[0]["clip_fraction"] == 0 and len(seen) == len(LAYERS) * 4


def test_protected_tokens_get_no_gradient(build: Any) -> None:
    """The advantages of protected tokens do not affect the update."""
    results = []
    for worth in (0.0, 1000.0):
        collect(ppo := build(n_epochs=1, target_kl=None))
        for step in ppo.rollout_buffer.steps:
            step.cost[step.seen.protected] = worth
            step.log_prob[step.seen.protected] = -worth / 100
        ppo.set_logger(Logger(None, []))
        ppo.train()
        results.append(weights(ppo))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def watched_logits(ppo: TokenPPO, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Record the keep logits of the coming gradient steps, with their gradients."""
    logits: list[Tensor] = []
    inner = ppo.policy.network.with_baseline

    def watched(seen: Any) -> tuple[Tensor, Tensor]:
        logit, baseline = inner(seen)
        logit.retain_grad()
        logits.append(logit)
        return logit, baseline

    monkeypatch.setattr(ppo.policy.network, "with_baseline", watched)
    return logits


def test_tokens_are_pushed_by_their_own_advantage(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient with respect to each logit equals that of the policy gradient theorem for its token."""
    collect(ppo := build(n_epochs=1, max_grad_norm=1e9, ent_coef=0.0))
    step = ppo.rollout_buffer.steps[0]
    generator = torch.Generator().manual_seed(0)
    advantage = torch.randn(step.seen.tokens.total, generator=generator)
    logits = watched_logits(ppo, monkeypatch)
    droppable = torch.tensor(100.0)
    ppo._gradient_step(step, advantage, droppable)
    chosen = step.keep.float() - logits[0].detach().sigmoid()
    expected = -(advantage * chosen / droppable).masked_fill(step.seen.protected, 0)
    torch.testing.assert_close(logits[0].grad, expected, rtol=1e-3, atol=1e-6)


def test_a_token_beyond_the_clip_range_is_pushed_no_further(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by its own ratio; back into the range it may always be pushed (Schulman et al. 2017, equation 7)."""
    collect(ppo := build(n_epochs=1, max_grad_norm=1e9, clip_range=0.2))
    step, logits = ppo.rollout_buffer.steps[0], watched_logits(ppo, monkeypatch)
    ratio = torch.tensor([0.5, 0.9, 1.1, 2.0]).repeat(step.seen.tokens.total)[: step.seen.tokens.total]
    advantage = torch.tensor([-1.0, 1.0]).repeat_interleave(4).repeat(step.seen.tokens.total)[: step.seen.tokens.total]
    step.log_prob = step.log_prob - ratio.log()
    logged = ppo._gradient_step(step, advantage, torch.tensor(100.0))
    held = ((ratio > 1.2) & (advantage > 0)) | ((ratio < 0.8) & (advantage < 0))
    chosen = step.keep.float() - logits[0].detach().sigmoid()
    expected = -(ratio * advantage * chosen / 100).masked_fill(step.seen.protected | held, 0)
    torch.testing.assert_close(logits[0].grad, expected, rtol=1e-3, atol=1e-6)
    free = ~step.seen.protected
    assert logged["clip_fraction"] == pytest.approx(float(((ratio - 1).abs() > 0.2)[free].float().mean()))


def test_the_gradient_of_the_actor_alone_is_bounded(build: Any) -> None:
    """A large error of the cost baseline must not reduce the step of the actor."""
    norms = []
    for bound in (1e9, 1e-3):
        collect(ppo := build(n_epochs=1, max_grad_norm=bound))
        step, network = ppo.rollout_buffer.steps[0], ppo.policy.network
        ppo._gradient_step(step, torch.ones(step.seen.tokens.total), torch.tensor(100.0))
        apart: dict[bool, list[Any]] = {False: [], True: []}
        for name, parameter in network.named_parameters():
            if parameter.grad is not None:
                apart[name.startswith("cost.")].append(parameter.grad.norm())
        norms.append({baseline: float(torch.stack(own).norm()) for baseline, own in apart.items()})
    free, bounded = norms
    assert free[False] > 0.01 and bounded[False] == pytest.approx(1e-3, rel=1e-3)
    assert bounded[True] == pytest.approx(free[True]) and free[True] > 1e-3


@pytest.mark.parametrize("coefficient", [0.0, 0.5])
def test_entropy_is_rewarded(build: Any, monkeypatch: pytest.MonkeyPatch, coefficient: float) -> None:
    """With no other advantage every bit is drawn towards even odds: d entropy / d logit = -logit * p * (1 - p)."""
    collect(ppo := build(n_epochs=1, max_grad_norm=1e9, ent_coef=coefficient))
    step, logits = ppo.rollout_buffer.steps[0], watched_logits(ppo, monkeypatch)
    droppable = torch.tensor(100.0)
    ppo._gradient_step(step, torch.zeros(step.seen.tokens.total), droppable)
    logit = logits[0].detach()
    keep = logit.sigmoid()
    expected = (coefficient * logit * keep * (1 - keep) / droppable).masked_fill(step.seen.protected, 0)  # of a loss
    torch.testing.assert_close(logits[0].grad, expected, rtol=1e-4, atol=1e-7)
    assert bool(expected.any()) == (coefficient > 0)


@pytest.mark.parametrize(("spread", "divided_by"), [(1.0, None), (1e-5, LEAST_DEVIATION)])
def test_advantages_are_divided_by_the_deviation_of_scores(
    build: Any, monkeypatch: pytest.MonkeyPatch, spread: float, divided_by: float | None
) -> None:
    """But by no less than the lower bound, or prices alone would set the gradient while no answer changes."""
    collect(ppo := build(n_epochs=1, target_kl=None))
    steps, improve, found = ppo.rollout_buffer.steps, ppo._gradient_step, []
    scores = spread * torch.tensor([-1.0, 0.0, 2.0, 3.0] * 2)
    for step in steps:
        step.score_advantage = leave_one_out(scores, 4)
    with torch.no_grad():
        baselines = [ppo.policy.network.with_baseline(step.seen)[1] for step in steps]

    def watched(step: Any, advantage: Tensor, droppable: Tensor) -> dict[str, float]:
        found.append((step, advantage))
        return improve(step, advantage, droppable)

    monkeypatch.setattr(ppo, "_gradient_step", watched)
    ppo.set_logger(Logger(None, []))
    ppo.train()
    scale = float(torch.cat([step.score_advantage for step in steps]).std()) if divided_by is None else divided_by
    assert ppo.logger.name_to_value["train/score_deviation"] == pytest.approx(scale)
    assert len(found) == len(steps)
    for step, advantage in found:
        (place,) = [i for i, own in enumerate(steps) if own is step]
        row = step.seen.tokens.row
        expected = step.score_advantage[row] - step.cost_weight[row] * (step.cost - baselines[place])
        torch.testing.assert_close(advantage, expected / scale)


def test_as_many_rows_as_tokens_changes_nothing(build: Any) -> None:
    """With equal sizes a wrong broadcast raises no error. A row's score must affect only its own tokens."""
    collect(ppo := build(rows=GRID, env_options={"group_size": GRID}))
    step = ppo.rollout_buffer.steps[0]
    row = step.seen.tokens.row
    for one in range(GRID):
        shared = torch.zeros(GRID)
        shared[one] = 1.0
        advantage = token_advantage(shared, step.cost_weight, row, step.cost, step.cost)
        assert torch.equal(advantage, (row == one).float())
    ppo.set_logger(Logger(None, []))
    ppo.train()
    for step in ppo.rollout_buffer.steps:
        total = step.seen.tokens.total
        assert step.log_prob.shape == step.keep.shape == step.cost.shape == (total,)
        assert step.score_advantage.shape == step.cost_weight.shape == step.price.shape == (GRID,)


def test_every_parameter_moves_and_the_backbone_does_not(build: Any) -> None:
    ppo = build()
    backbone = ppo.episodes.backbone
    frozen = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    before = weights(ppo)
    train(ppo, 4)
    after = weights(ppo)
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert not still
    # Embeddings of layers without a decision have nothing to learn; those of decision layers do.
    moved = (before["network.layer.weight"] != after["network.layer.weight"]).any(1)
    assert moved.nonzero()[:, 0].tolist() == list(LAYERS)
    assert all(torch.equal(value, frozen[name]) for name, value in backbone.model.state_dict().items())
    assert all(parameter.grad is None for parameter in backbone.model.parameters())


def test_the_same_seed_gives_the_same_bits(build: Any) -> None:
    runs = [weights(train(build(seed=seed), 3)) for seed in (1, 1, 2)]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert any(not torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


def test_an_update_ends_early_at_the_target_kl(build: Any) -> None:
    def epochs(target: float | None) -> float:
        collect(ppo := build(target_kl=target, n_epochs=6, learning_rate=0.02))
        ppo.set_logger(Logger(None, []))
        ppo.train()
        return ppo.logger.name_to_value["train/epochs"]

    assert epochs(None) == 6 and epochs(1e-9) == 1


def test_the_divergence_is_the_mean_over_live_tokens(build: Any) -> None:
    collect(ppo := build())
    steps = ppo.rollout_buffer.steps
    with torch.no_grad():
        before = [ppo.policy.network(step.seen) for step in steps]
        assert ppo._divergence(steps, before) == pytest.approx(0, abs=1e-7)
        for parameter in ppo.policy.network.threshold[-1].parameters():
            parameter += 1.0
        terms = []
        for step, old in zip(steps, before, strict=True):
            new = ppo.policy.network(step.seen)
            pairs = [torch.distributions.Bernoulli(logits=logit[~step.seen.protected]) for logit in (old, new)]
            terms.append(torch.distributions.kl_divergence(*pairs))
    assert ppo._divergence(steps, before) == pytest.approx(float(torch.cat(terms).mean()), rel=1e-4)


def test_a_loss_that_is_no_number_is_a_clear_line(build: Any) -> None:
    collect(ppo := build())
    with torch.no_grad():
        ppo.policy.network.token.weight.fill_(torch.nan)
    with pytest.raises(RltrError, match=r"diverged in update \d+.*learning_rate") as refused:
        ppo.set_logger(Logger(None, []))
        ppo.train()
    assert "\n" not in str(refused.value)


def test_steps_without_a_free_token_are_nothing_to_learn_from(build: Any) -> None:
    """If a policy drops every droppable token, later decisions have none, which must not give NaN."""
    ppo = build()
    with torch.no_grad():
        ppo.policy.network.threshold[-1].bias.fill_(-50.0)
    collect(ppo)
    assert not (~ppo.rollout_buffer.steps[1].seen.protected).any()
    ppo.set_logger(Logger(None, []))
    ppo.train()
    assert all(bool(value.isfinite().all()) for value in weights(ppo).values())


def test_what_is_logged_is_per_token(build: Any) -> None:
    collect(ppo := build())
    ppo.set_logger(Logger(None, []))
    ppo.train()
    logged = ppo.logger.name_to_value
    assert 0 <= logged["train/entropy_per_token"] <= np.log(2) + 1e-6
    assert 0 <= logged["train/clip_fraction"] <= 1 and logged["train/kl_per_token"] >= 0
    assert logged["train/score_deviation"] > 0
