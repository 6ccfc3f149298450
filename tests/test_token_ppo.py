"""TokenPPO: advantages and ratios per token, updates, saving, and that it learns."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecCheckNan, VecMonitor
from torch import Tensor

from rltr.envs import TokenSelectionVecEnv, make_episodes
from rltr.errors import RltrError
from rltr.policies import PolicyConfig
from rltr.runtime.backbone import Backbone
from rltr.tasks import TensorExamples
from rltr.train import restore_checkpoint, save_checkpoint
from rltr.train.actor import log_probability
from rltr.train.advantages import RunningDeviation, leave_one_out, token_advantage, token_costs
from rltr.train.token_ppo import LEAST_DEVIATION, TokenPPO

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


# Advantages


@given(st.lists(st.lists(st.floats(-4, 1, width=32), min_size=3, max_size=3), min_size=1, max_size=4))
def test_leave_one_out_by_hand(groups: list[list[float]]) -> None:
    expected = [group[i] - sum(group[j] for j in range(3) if j != i) / 2 for group in groups for i in range(3)]
    result = leave_one_out(torch.tensor(groups).flatten(), 3)
    torch.testing.assert_close(result, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result.view(-1, 3).sum(1), torch.zeros(len(groups)), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("rows", "group"), [(4, 1), (4, 3), (3, 2)])
def test_leave_one_out_needs_whole_groups(rows: int, group: int) -> None:
    with pytest.raises(ValueError, match="group_size"):
        leave_one_out(torch.zeros(rows), group)


@st.composite
def selections(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens are kept ``(decisions, rows, grid)``, the first always, and prices ``(decisions, rows)``."""
    decisions, rows, grid = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 6))
    generator = np.random.default_rng(draw(st.integers(0, 1000)))
    kept = generator.random((decisions, rows, grid)) < draw(st.sampled_from([0.0, 0.5, 0.9, 1.0]))
    kept[:, :, 0] = True
    return kept, generator.random((decisions, rows)).astype(np.float32)


@given(selections())
def test_a_token_pays_for_itself_until_it_leaves(case: tuple[np.ndarray, np.ndarray]) -> None:
    wanted, prices = case
    decisions, rows, grid = wanted.shape
    alive = np.concatenate([np.ones((1, rows, grid), bool), np.logical_and.accumulate(wanted)])
    brute = np.zeros((decisions, rows, grid), np.float32)
    for start in range(decisions):
        for row in range(rows):
            for token in range(grid):
                for decision in range(start, decisions):
                    if not (alive[decision, row, token] and wanted[decision, row, token]):
                        break
                    brute[start, row, token] += prices[decision, row]
    seen = [torch.from_numpy(alive[decision]) for decision in range(decisions)]
    index = [stage.flatten().nonzero()[:, 0] for stage in seen]
    kept = [torch.from_numpy(wanted[decision])[seen[decision]] for decision in range(decisions)]
    paid = [torch.from_numpy(prices[decision])[stage.nonzero()[:, 0]] for decision, stage in enumerate(seen)]
    for decision, cost in enumerate(token_costs(index, kept, paid)):
        torch.testing.assert_close(cost, torch.from_numpy(brute[decision])[seen[decision]])


@given(total=st.integers(1, 6), rows=st.integers(1, 6), seed=st.integers(0, 99))
def test_token_advantages_by_hand(total: int, rows: int, seed: int) -> None:
    """Also where there are as many rows as tokens, in which case broadcasting would go unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    row = torch.randint(0, rows, (total,), generator=generator)
    shared, weight = torch.randn(rows, generator=generator), torch.rand(rows, generator=generator)
    cost, baseline = torch.rand(total, generator=generator), torch.rand(total, generator=generator)
    expected = [shared[row[i]] - weight[row[i]] * (cost[i] - baseline[i]) for i in range(total)]
    torch.testing.assert_close(token_advantage(shared, weight, row, cost, baseline), torch.stack(expected))


def test_one_deviation_serves_batches_with_and_without_a_changed_answer() -> None:
    deviation, batches = (
        RunningDeviation(decay=0.5),
        [torch.tensor([0.0, 2.0]), torch.zeros(4), torch.tensor([1.0, 2.0])],
    )
    found = [deviation.update(batch) for batch in batches]
    # Variances 2, 0 and 0.5; the newest has weight 1, the one before 1/2, and so on.
    expected = [2.0, (0 + 2.0 / 2) / 1.5, (0.5 + 0 / 2 + 2.0 / 4) / 1.75]
    assert found == pytest.approx([variance**0.5 for variance in expected])
    assert RunningDeviation().update(torch.zeros(8)) == 0


# Environments


def test_groups_of_one_are_refused(build: Any) -> None:
    """Without another rollout of the same input there is no leave-one-out baseline."""
    with pytest.raises(RltrError, match=r"group_size=1.*at least 2"):
        build(env_options={"group_size": 1})


@pytest.mark.parametrize("wrapper", [VecMonitor, VecCheckNan])
def test_a_wrapped_environment_is_refused(build: Any, wrapper: Any) -> None:
    ppo = build()
    ppo.env.tensors = False
    with pytest.raises(RltrError, match=rf"TokenSelectionVecEnv.*not in a {wrapper.__name__}"):
        TokenPPO(wrapper(ppo.env), ppo.policy.token_config)
    assert not ppo.env.tensors


# Rollouts


def test_collecting_is_stable_baselines3s_own(build: Any) -> None:
    assert TokenPPO.collect_rollouts is PPO.collect_rollouts and TokenPPO.learn is PPO.learn
    collect(ppo := build())
    assert len(ppo.rollout_buffer.steps) == len(LAYERS)


def test_the_buffer_holds_what_happened(build: Any) -> None:
    collect(ppo := build(batches=3))
    buffer, outcome = ppo.rollout_buffer, ppo.episodes.outcome
    assert len(buffer.steps) == 3 * len(LAYERS)
    last = buffer.steps[-len(LAYERS) :]
    torch.testing.assert_close(buffer.scores[-1], outcome.score, rtol=1e-5, atol=1e-5)
    for step, before, after in zip(last, outcome.trace.stages[:-1], outcome.trace.stages[1:], strict=True):
        assert torch.equal(step.seen.tokens.present, before.present)
        kept = torch.zeros_like(before.present)
        kept[step.seen.tokens.row, step.seen.tokens.position] = step.keep
        assert torch.equal(kept, after.present)
        torch.testing.assert_close(step.score_advantage, leave_one_out(outcome.score, 4), rtol=1e-4, atol=1e-5)
    # Token costs at the first decision add up to the cost of the rows from there on.
    start = ppo.episodes.pricing
    before_first = start.before_first(outcome.trace.stages[0].count) / start.typical_cost
    own = torch.zeros(8).index_add_(0, last[0].seen.tokens.row, last[0].cost)
    torch.testing.assert_close(own, outcome.cost - before_first, rtol=1e-4, atol=1e-5)


def test_rollouts_of_a_group_share_input_and_weight_but_not_choices(build: Any) -> None:
    collect(ppo := build())
    first = ppo.rollout_buffer.steps[0]
    assert first.cost_weight.view(2, 4).unique(dim=1).shape == (2, 1)
    hidden = first.seen.hidden.view(2, 4, GRID, -1)
    assert torch.equal(hidden, hidden[:, :1].expand_as(hidden))
    assert len(first.keep.view(8, GRID).unique(dim=0)) > 2


def test_unfinished_episodes_are_refused(build: Any) -> None:
    ppo = build()
    ppo.n_steps = 3
    ppo.rollout_buffer.buffer_size = 3
    with pytest.raises(ValueError, match="multiple of the 2 decisions"):
        collect(ppo)


# Saving


def test_saving_as_a_zip_is_refused_before_anything_is_written(build: Any, tmp_path: Path) -> None:
    ppo = build()
    for refused in (lambda: ppo.save(tmp_path / "model"), lambda: TokenPPO.load(tmp_path / "model", ppo.env)):
        with pytest.raises(RltrError, match=r"pickles.*rltr\.train\.save_checkpoint.*restore_checkpoint"):
            refused()
    assert not list(tmp_path.iterdir())


def test_what_saving_names_instead_gives_the_same_learner_back(build: Any, tmp_path: Path) -> None:
    ppo = build()
    with pytest.raises(RltrError, match="not been trained yet.*call learn"):
        save_checkpoint(tmp_path / "learner", ppo)
    assert not list(tmp_path.iterdir())
    train(ppo, 2)
    save_checkpoint(tmp_path / "learner", ppo)
    again = build(seed=9)
    restore_checkpoint(tmp_path / "learner", again)
    assert again.num_timesteps == ppo.num_timesteps
    both = []
    for learner in (ppo, again):
        torch.manual_seed(4)
        learner.learn(2 * learner.n_steps * learner.n_envs, reset_num_timesteps=False)
        both.append(weights(learner))
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])


# Unfinished batches, and batches without droppable tokens


@pytest.mark.parametrize(("rollouts", "updates"), [(1, 1), (8, 1), (9, 2), (20, 3), (24, 3), (31, 4)])
def test_the_last_step_is_never_uphill(build: Any, rollouts: int, updates: int) -> None:
    """``learn`` runs whole batches, and the remaining progress falls to 0 over all of them."""
    ppo = build(learning_rate=lambda remaining: 0.01 * remaining)
    train, seen = ppo.train, []

    def watched() -> None:
        train()
        seen.append((ppo._current_progress_remaining, ppo.policy.optimizer.param_groups[0]["lr"]))

    ppo.train = watched
    ppo.learn(rollouts * len(LAYERS))
    expected = [1 - (i + 1) / updates for i in range(updates)]
    assert [remaining for remaining, _ in seen] == pytest.approx(expected)
    assert [rate for _, rate in seen] == pytest.approx([0.01 * remaining for remaining in expected])
    assert min(rate for _, rate in seen) >= 0
    ppo.learn(3, reset_num_timesteps=False)
    assert ppo.num_timesteps == (updates + 1) * 8 * len(LAYERS) and seen[-1] == (0, 0)


@pytest.mark.parametrize("options", [{"n_epochs": 0}, {"batches": 0}, {"n_epochs": -1}])
def test_an_update_of_nothing_is_refused(build: Any, options: dict[str, int]) -> None:
    with pytest.raises(RltrError, match="must both be at least 1"):
        build(**options)


def texts(tokens: list[int]) -> TensorExamples:
    mask = (torch.arange(max(tokens)) < torch.tensor(tokens)[:, None]).long()
    words = torch.randint(5, 50, mask.shape) * mask
    names = [str(i) for i in range(len(tokens))]
    return TensorExamples(
        torch.arange(len(tokens)) % 3, names, list("abc"), {"input_ids": words, "attention_mask": mask}
    )


@pytest.mark.parametrize("group_size", [2, 4])
def test_texts_of_one_token_teach_nothing(
    tiny_bert: Any, group_size: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone in a batch they move nothing; beside longer ones they have no part in what advantages are divided by."""
    backbone = Backbone(tiny_bert)
    data = texts([1, 1, 1, 6, 6, 6])
    env = TokenSelectionVecEnv(make_episodes(backbone, data, rows=4, layers=LAYERS, group_size=group_size))
    ppo = TokenPPO(env, PolicyConfig(backbone.width, backbone.depth, 6, width=8), seed=0)
    train, update = ppo.train, ppo.deviation.update
    measured: list[Tensor] = []
    decided: list[int] = []

    def measure(values: Tensor) -> float:
        measured.append(values)
        return update(values)

    def watched() -> None:
        before, updates = weights(ppo), ppo._n_updates
        measured.clear()
        train()
        decided.append(int(ppo.rollout_buffer.steps[0].decided.sum()))
        after = weights(ppo)
        if decided[-1]:
            open_to = [step for step in ppo.rollout_buffer.steps if not bool(step.seen.protected.all())]
            assert len(measured[0]) == decided[-1] * len(open_to)
            assert any(not torch.equal(before[name], after[name]) for name in before)
            assert all(bool(value.isfinite().all()) for value in after.values())
        else:
            assert not measured and ppo._n_updates == updates
            assert all(torch.equal(before[name], after[name]) for name in before)

    monkeypatch.setattr(ppo.deviation, "update", measure)
    monkeypatch.setattr(ppo, "train", watched)
    ppo.learn(24 * 4 * len(LAYERS))
    env.close()
    assert set(decided) == set(range(0, 5, group_size))  # none, all and, in groups of two, half of the rows
    levels = [record.levelname for record in caplog.records if "nothing is learned" in record.message]
    assert levels.count("WARNING") == 1


# Updates


def test_ratios_are_one_before_the_first_update(build: Any) -> None:
    collect(ppo := build(rows=12, batches=2))
    ppo.policy.set_training_mode(True)
    for step in ppo.rollout_buffer.steps:
        free = ~step.seen.protected
        again = log_probability(ppo.policy.network(step.seen), step.keep)
        assert torch.equal((again - step.log_prob)[free].exp(), torch.ones(int(free.sum())))


def test_nothing_is_clipped_in_the_first_step(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    collect(ppo := build())
    improve, seen = ppo._improve, []

    def watched(*args: Any) -> dict[str, float]:
        seen.append(improve(*args))
        return seen[-1]

    monkeypatch.setattr(ppo, "_improve", watched)
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
    ppo._improve(step, advantage, droppable)
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
    logged = ppo._improve(step, advantage, torch.tensor(100.0))
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
        ppo._improve(step, torch.ones(step.seen.tokens.total), torch.tensor(100.0))
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
    ppo._improve(step, torch.zeros(step.seen.tokens.total), droppable)
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
    steps, improve, found = ppo.rollout_buffer.steps, ppo._improve, []
    scores = spread * torch.tensor([-1.0, 0.0, 2.0, 3.0] * 2)
    for step in steps:
        step.score_advantage = leave_one_out(scores, 4)
    with torch.no_grad():
        baselines = [ppo.policy.network.with_baseline(step.seen)[1] for step in steps]

    def watched(step: Any, advantage: Tensor, droppable: Tensor) -> dict[str, float]:
        found.append((step, advantage))
        return improve(step, advantage, droppable)

    monkeypatch.setattr(ppo, "_improve", watched)
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


# Learning


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
