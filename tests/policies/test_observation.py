"""Observations of a policy, packed and as a grid."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rltr.policies import Observation
from rltr.policies.observation import low_discrepancy
from tests.policies.conftest import FEW_COUNTS, observation


@given(counts=FEW_COUNTS, seed=st.integers(0, 99))
def test_an_observation_is_restored_from_its_grid(counts: list[int], seed: int) -> None:
    seen = observation(counts, seed)
    grid = seen.to_grid()
    again = Observation.of_grid(grid)
    for name in ("hidden", "token_features", "protected", "layer", "price", "kept"):
        assert torch.equal(getattr(again, name), getattr(seen, name)), name
    assert again.tokens.counts == seen.tokens.counts
    assert torch.equal(again.tokens.grid_index, seen.tokens.grid_index)
    assert not grid["tokens"][~grid["present"]].any()


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
