"""The token policy: what its logits depend on, and its probabilities."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli
from torch.distributions import kl_divergence as reference_kl
from torch.utils.flop_counter import FlopCounterMode

from rltr.envs.spaces import action_space, observation_space
from rltr.policies import Observation, PolicyConfig, TokenPolicy
from rltr.policies.network import decision_flops
from rltr.policies.observation import TOKEN_FEATURES, low_discrepancy
from rltr.runtime import merging
from rltr.runtime import tokens as ragged
from rltr.runtime.redundancy import redundancy
from rltr.runtime.tokens import Tokens
from rltr.train import TokenActor
from rltr.train.actor import entropy, kl_divergence, log_probability

WIDTH, DEPTH, GRID = 12, 6, 10
CONFIG = PolicyConfig(WIDTH, DEPTH, GRID, width=8)
FEW_COUNTS = st.lists(st.integers(1, GRID), min_size=1, max_size=4)


def lively_policy(seed: int = 0) -> TokenPolicy:
    """A policy with random parameters, since a new one has learned logits of 0."""
    torch.manual_seed(seed)
    policy = TokenPolicy(CONFIG)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return policy.eval()


def observation(counts: list[int], seed: int = 0) -> Observation:
    """Random tokens at random positions, ``counts`` in each row, of which the first is protected."""
    generator = torch.Generator().manual_seed(seed)
    present = torch.zeros(len(counts), GRID, dtype=torch.bool)
    for row, count in enumerate(counts):
        places = torch.randperm(GRID - 1, generator=generator)[: count - 1] + 1
        present[row, 0] = True
        present[row, places] = True
    tokens = ragged.pack(present)
    unit = merging.unit_length(torch.randn(tokens.total, WIDTH, generator=generator))
    protected = tokens.slot == 0
    rows = len(counts)
    return Observation(
        unit,
        torch.rand(tokens.total, TOKEN_FEATURES, generator=generator),
        tokens,
        protected,
        torch.randint(0, DEPTH, (rows,), generator=generator),
        0.001 + torch.rand(rows, generator=generator),
        torch.rand(rows, generator=generator),
    )


def rows_of(seen: Observation, rows: list[int]) -> Observation:
    """Some rows of an observation, as a batch of their own."""
    index = torch.cat([(seen.tokens.row == row).nonzero()[:, 0] for row in rows])
    counts = [seen.tokens.counts[row] for row in rows]
    row = torch.arange(len(rows)).repeat_interleave(torch.tensor(counts))
    tokens = Tokens(row, seen.tokens.position[index], tuple(counts), GRID)
    return Observation(
        seen.hidden[index],
        seen.token_features[index],
        tokens,
        seen.protected[index],
        seen.layer[rows],
        seen.price[rows],
        seen.kept[rows],
    )


# Observations


@given(counts=FEW_COUNTS, seed=st.integers(0, 99))
def test_the_grid_holds_everything_that_was_packed(counts: list[int], seed: int) -> None:
    seen = observation(counts, seed)
    grid = seen.to_grid()
    again = Observation.of_grid(grid)
    for name in ("hidden", "token_features", "protected", "layer", "price", "kept"):
        assert torch.equal(getattr(again, name), getattr(seen, name)), name
    assert again.tokens.counts == seen.tokens.counts
    assert torch.equal(again.tokens.grid_index, seen.tokens.grid_index)
    assert not grid["tokens"][~grid["present"]].any()


# The network


@given(seed=st.integers(0, 99))
def test_the_order_of_tokens_matters_only_through_place_and_features(seed: int) -> None:
    policy, seen = lively_policy(), observation([7, 4, 5], seed)
    generator = torch.Generator().manual_seed(seed)
    order = torch.cat(
        [
            torch.cat([start[None], start + 1 + torch.randperm(count - 1, generator=generator)])
            for start, count in zip(seen.tokens.start, seen.tokens.counts, strict=True)
        ]
    )
    shuffled = replace(
        seen,
        hidden=seen.hidden[order],
        token_features=seen.token_features[order],
        tokens=replace(seen.tokens, position=seen.tokens.position[order]),
    )
    for before, after in zip(policy.with_baseline(seen), policy.with_baseline(shuffled), strict=True):
        torch.testing.assert_close(after, before[order], rtol=1e-4, atol=1e-5)
    moved = replace(seen, hidden=seen.hidden[order])
    if not torch.equal(order, order.sort().values):
        assert not torch.allclose(policy(moved), policy(seen))


@given(counts=st.lists(st.integers(1, GRID), min_size=2, max_size=4), seed=st.integers(0, 99))
def test_rows_do_not_see_each_other(counts: list[int], seed: int) -> None:
    policy, seen = lively_policy(), observation(counts, seed)
    together = policy.with_baseline(seen)
    alone = [policy.with_baseline(rows_of(seen, [row])) for row in range(len(counts))]
    for whole, parts in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-4, atol=1e-5)
    order = list(range(len(counts)))[::-1]
    backwards = policy(rows_of(seen, order))
    torch.testing.assert_close(backwards, torch.cat([alone[row][0] for row in order]), rtol=1e-4, atol=1e-5)


@given(FEW_COUNTS, st.integers(1, 5))
def test_padding_at_the_start_changes_nothing(counts: list[int], shift: int) -> None:
    policy, seen = lively_policy(), observation(counts)
    tokens = replace(seen.tokens, position=seen.tokens.position + shift, grid=GRID + shift)
    tokens = replace(tokens, first=torch.full((len(counts),), shift))
    assert torch.equal(tokens.place, seen.tokens.place)
    assert torch.equal(policy(replace(seen, tokens=tokens)), policy(seen))


def test_gradients_of_a_batch_are_the_sum_over_its_rows() -> None:
    policy, seen = lively_policy(), observation([9, 1, 4, 4, 7, 10, 2, 3])

    def gradients(part: Observation) -> list[Tensor]:
        policy.zero_grad()
        logit, baseline = policy.with_baseline(part)
        (logit.square().sum() + baseline.square().sum()).backward()
        return [parameter.grad.clone() for parameter in policy.parameters() if parameter.grad is not None]

    together = gradients(seen)
    one_by_one = [gradients(rows_of(seen, [row])) for row in range(8)]
    for whole, parts in zip(together, zip(*one_by_one, strict=True), strict=True):
        torch.testing.assert_close(whole, torch.stack(parts).sum(0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["hidden", "token_features", "price", "kept", "layer"])
def test_its_logits_depend_on_every_part_of_the_observation(name: str) -> None:
    policy, seen = lively_policy(), observation([7, 4])
    value = getattr(seen, name)
    changed = (value + 1) % DEPTH if name == "layer" else torch.rand_like(value)
    assert not torch.allclose(policy(replace(seen, **{name: changed})), policy(seen))


def test_a_new_policy_is_its_prior() -> None:
    """Keep logits before training, computed from the priors, the price and the threshold."""
    seen = observation([9, 6])
    priors = {"redundancy_prior": 3.0, "attention_prior": 5.0, "spread_prior": 7.0}
    policy = TokenPolicy(replace(CONFIG, **priors, initial_logit=1.0, price_slope=2.0))
    whole = seen.price * torch.tensor([9.0, 6.0]) / seen.kept
    _, _, rank, attention, order = seen.token_features.unbind(1)
    expected = 1.0 + 3.0 * (0.5 - rank) + 5.0 * attention + 7.0 * (order - 0.5)
    expected = expected - (2.0 * (whole * 10).log10())[seen.tokens.row]
    torch.testing.assert_close(policy(seen), expected)
    torch.testing.assert_close(policy.with_baseline(seen)[1], torch.zeros(15))
    blank = TokenPolicy(replace(CONFIG, redundancy_prior=0.0, attention_prior=0.0, initial_logit=2.0, price_slope=0.0))
    torch.testing.assert_close(blank(seen), torch.full((15,), 2.0))


@given(count=st.integers(3, 300), rate=st.floats(0.05, 0.95))
@settings(max_examples=30)
def test_low_discrepancy_order_thins_a_row_evenly(count: int, rate: float) -> None:
    """Tokens above any threshold are spread evenly over the row and over both sets."""
    order = low_discrepancy(torch.arange(count))
    chosen = order > 1 - rate
    so_far = chosen.float().cumsum(0) - rate * torch.arange(1, count + 1)
    assert so_far.max() - so_far.min() < 4
    assert abs(int(chosen[::2].sum()) - int(chosen[1::2].sum())) <= 4
    assert ((order >= 0) & (order < 1)).all() and torch.equal(low_discrepancy(torch.tensor([count - 1])), order[-1:])


def test_long_rows_keep_a_smaller_share_at_the_same_price_of_a_token() -> None:
    """The threshold depends on the price of the whole row: at the same price of a row it is the same."""
    policy = TokenPolicy(replace(CONFIG, spread_prior=8.0))
    seen = observation([9, 3])
    seen = replace(seen, price=torch.full((2,), 0.02), kept=torch.ones(2))
    long, short = policy.features(seen)[1].tolist()
    assert long < short
    scaled = policy.features(replace(seen, price=torch.tensor([0.02, 0.06])))[1]
    torch.testing.assert_close(scaled[0], scaled[1])


def test_the_baseline_sends_no_gradient_into_the_actor() -> None:
    policy = lively_policy()
    policy.with_baseline(observation([7, 4]))[1].sum().backward()
    touched = {name for name, parameter in policy.named_parameters() if parameter.grad is not None}
    assert touched == {"cost.weight", "cost.bias"}


def test_positions_beyond_the_grid_share_the_last_embedding() -> None:
    policy, seen = lively_policy(), observation([4])
    far = [
        policy(replace(seen, tokens=replace(seen.tokens, position=torch.tensor([0, 3, 5, last]), grid=501)))
        for last in (GRID - 1, GRID, 500)
    ]
    assert torch.equal(far[0], far[1]) and torch.equal(far[1], far[2])


IN_PLACE = {torch.ops.aten.addmm_: lambda added, left, right, **_: 2 * left[0] * left[1] * right[1]}
"""FLOPs of an operation that torch's counter does not know."""


def test_its_flops_are_counted() -> None:
    """Per token, the linear layers for tokens; work per row is not counted."""
    counted = {}
    for count in (20, 40):
        tokens = ragged.full_batch(3, count)
        unit = merging.unit_length(torch.randn(tokens.total, WIDTH))
        protected = tokens.slot == 0
        similar = torch.rand(tokens.total, TOKEN_FEATURES)
        ones = torch.ones(3)
        seen = Observation(unit, similar, tokens, protected, torch.zeros(3, dtype=torch.long), ones, ones)
        with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter, torch.no_grad():
            lively_policy()(seen)
        counted[count] = counter.get_total_flops()
    per_token, per_pair = decision_flops(CONFIG)
    assert isinstance(per_token, int) and isinstance(per_pair, int)
    attention = 2 * WIDTH  # of the pooled token, which is not part of the network
    assert counted[40] - counted[20] == pytest.approx(3 * 20 * (per_token - attention), rel=0.02)
    with FlopCounterMode(display=False) as counter:
        assert len(redundancy(unit, tokens, protected).features) == tokens.total
    assert counter.get_total_flops() == pytest.approx(3 * 40**2 * per_pair, rel=0.02)


# Probabilities


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


# Its face towards stable-baselines3


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


def test_nothing_random_happens_in_the_network_while_training(actor: TokenActor) -> None:
    """Dropout or batch statistics would make the ratio of new to old probabilities differ from 1 at once."""
    seen = observation([7, 4])
    results = []
    for training in (True, False):
        actor.set_training_mode(training)
        results.append(actor.network(seen))
    assert torch.equal(results[0], results[1])


def test_its_constructor_arguments_can_be_stored(actor: TokenActor) -> None:
    arguments: dict[str, Any] = actor._get_constructor_parameters()
    assert arguments["config"] == CONFIG
    assert isinstance(arguments["action_space"], spaces.MultiBinary)
    assert PolicyConfig(**CONFIG.to_dict()) == CONFIG
