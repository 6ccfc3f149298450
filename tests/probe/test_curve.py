"""Trade-offs of a probe: reading a cost at a loss, a loss at a cost, and the scale on which they are compared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltr.probe.curve import TradeOff, levels, mean_cost

CURVE = TradeOff((0.8, 0.6, 0.4), (0.0, 0.1, 0.3))


def test_points_are_sorted_from_the_highest_cost() -> None:
    curve = TradeOff.of([(0.4, 0.3), (0.8, 0.0), (0.6, 0.1)], [4.0, 1.0, 2.0])
    assert (curve.costs, curve.losses, curve.weights) == (CURVE.costs, CURVE.losses, (1.0, 2.0, 4.0))


@pytest.mark.parametrize(("loss", "cost"), [(0.0, 0.8), (0.05, 0.7), (0.1, 0.6), (0.2, 0.5), (0.3, 0.4), (9.0, 0.4)])
def test_the_cost_at_a_loss_is_interpolated(loss: float, cost: float) -> None:
    assert CURVE.cost_at(loss) == pytest.approx(cost)


def test_a_lower_loss_at_a_lower_cost_is_taken_for_noise() -> None:
    noisy = TradeOff((0.8, 0.6, 0.4), (0.1, 0.02, 0.3))
    assert noisy.cost_at(0.05) == pytest.approx(0.9)


def test_a_gain_counts_as_no_loss() -> None:
    assert TradeOff((0.8, 0.4), (-0.2, 0.1)).cost_at(0.0) == 0.8


@pytest.mark.parametrize(("cost", "loss"), [(1.0, 0.0), (0.9, 0.0), (0.7, 0.05), (0.5, 0.2), (0.4, 0.3), (0.3, 0.4)])
def test_the_loss_at_a_cost_is_interpolated_and_extrapolated(cost: float, loss: float) -> None:
    assert CURVE.loss_at(cost) == pytest.approx(loss)


def test_levels_are_parts_of_what_random_choice_loses_at_half_of_the_cost() -> None:
    assert levels(CURVE, at=0.5, parts=(0.5, 1.0)) == pytest.approx((0.1, 0.2))
    assert all(level > 0 for level in levels(TradeOff((0.5,), (0.0,))))


@given(
    costs=st.lists(st.floats(0.05, 0.95), min_size=2, max_size=6, unique=True),
    losses=st.lists(st.floats(0.0, 3.0), min_size=6, max_size=6),
    factor=st.floats(0.01, 100.0),
)
def test_the_comparison_does_not_depend_on_the_scale_of_the_score(
    costs: list[float], losses: list[float], factor: float
) -> None:
    curve = TradeOff.of(list(zip(costs, losses, strict=False)))
    scaled = TradeOff(curve.costs, tuple(loss * factor for loss in curve.losses))
    at = [0.1, 0.3, 1.0]
    assert mean_cost(scaled, [loss * factor for loss in at]) == pytest.approx(mean_cost(curve, at), abs=1e-6)


@given(losses=st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3), better=st.floats(0.0, 1.0))
def test_a_curve_with_smaller_losses_never_has_a_higher_mean_cost(losses: list[float], better: float) -> None:
    worse, best = (TradeOff((0.8, 0.5, 0.3), tuple(part * loss for loss in losses)) for part in (1.0, better))
    assert mean_cost(best, (0.01, 0.1)) <= mean_cost(worse, (0.01, 0.1)) + 1e-9
