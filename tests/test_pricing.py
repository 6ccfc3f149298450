"""Prices: one unit for all rows, and totals that add up."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rltr.cost import FlopsCost
from rltr.cost.pricing import Pricing

DEPTH, LAYERS, TYPICAL = 6, (1, 3), 20


@pytest.fixture(scope="session")
def pricing() -> Pricing:
    """Layers of 100 FLOPs per token and 7 per pair; a decision takes 50 per token."""
    return Pricing(FlopsCost((100,) * DEPTH, (7,) * DEPTH, decision_per_token=50), LAYERS, DEPTH, TYPICAL)


def test_the_unit_is_a_dense_pass_of_a_typical_input(pricing: Pricing) -> None:
    assert pricing.typical_cost == DEPTH * (100 * TYPICAL + 7 * TYPICAL**2)
    assert pricing.dense(torch.tensor([TYPICAL])).item() == pricing.typical_cost


def test_a_total_is_the_cost_of_layers_and_decisions(pricing: Pricing) -> None:
    def layer(n: int) -> int:
        return 100 * n + 7 * n**2

    expected = layer(30) + 50 * 30 + 2 * layer(12) + 50 * 12 + 3 * layer(5)
    assert pricing.total([torch.tensor([n]) for n in (30, 12, 5)]).item() == expected


@given(counts=st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_prices_of_the_tokens_of_a_row_add_up_to_its_cost(pricing: Pricing, counts: list[int]) -> None:
    rows = torch.tensor(counts)
    for decision in range(len(LAYERS)):
        paid = pricing.per_token(decision, rows) * rows
        torch.testing.assert_close(paid, pricing.until_next(decision, rows) / pricing.typical_cost)


def test_a_token_has_a_similar_price_in_short_and_in_long_rows(pricing: Pricing) -> None:
    """A token of a long row costs a little more, because of its pairs, and never less."""
    short, long = pricing.per_token(0, torch.tensor([5, 50])).tolist()
    assert short < long < 5 * short
