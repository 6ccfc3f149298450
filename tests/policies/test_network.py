"""The policy network: what its logits and its baseline depend on."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rltr.policies import Observation, TokenPolicy
from rltr.policies.network import decision_flops
from rltr.policies.observation import TOKEN_FEATURES
from rltr.runtime import merging
from rltr.runtime import tokens as ragged
from rltr.runtime.redundancy import redundancy
from tests.policies.conftest import CONFIG, DEPTH, FEW_COUNTS, GRID, WIDTH, lively_policy, observation, rows_of


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
def test_rows_do_not_affect_each_other(counts: list[int], seed: int) -> None:
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
def test_logits_depend_on_every_part_of_the_observation(name: str) -> None:
    policy, seen = lively_policy(), observation([7, 4])
    value = getattr(seen, name)
    changed = (value + 1) % DEPTH if name == "layer" else torch.rand_like(value)
    assert not torch.allclose(policy(replace(seen, **{name: changed})), policy(seen))


def test_logits_of_a_new_policy_follow_its_priors() -> None:
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


def test_flops_of_a_decision_equal_torchs_count() -> None:
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
