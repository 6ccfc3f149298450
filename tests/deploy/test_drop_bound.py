"""Bounds on the drop hold with their stated confidence for every true drop, as does the weight chosen by them."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, multinomial

from rltr.deploy import CalibrationPoint, weight_for_drop
from rltr.deploy.drop_bound import LARGEST_LOSS, betting_bound, drop_bound, fewest_inputs, paired_bound
from rltr.errors import RltrError

bound_of = lru_cache(maxsize=None)(paired_bound)
Draw = Callable[[np.random.Generator], np.ndarray]


@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.99])
def test_the_exact_bound_holds_for_every_true_drop(confidence: float) -> None:
    """Sums the probabilities of all outcomes, so there is no sampling error."""
    n = 18
    outcomes = [(lost, won) for lost in range(n + 1) for won in range(n + 1 - lost)]
    bounds = np.array([bound_of(n, lost, won, confidence) for lost, won in outcomes])
    counts = [(lost, won, n - lost - won) for lost, won in outcomes]
    covered = [
        float(multinomial.pmf(counts, n, [lost, won, 1 - lost - won])[bounds >= lost - won].sum())
        for lost in np.linspace(0, 0.9, 46)
        for won in (0, 0.001, 0.01, 0.05, 0.1, 0.3, 0.5)
        if lost + won <= 1
    ]
    assert confidence - 1e-6 <= min(covered) < confidence + 0.03  # always holds, and is tight somewhere


@given(st.integers(1, 60), st.data())
def test_the_exact_bound_rises_with_losses_and_falls_with_gains(n: int, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, n - 1))
    won = data.draw(st.integers(0, n - 1 - lost))
    here = bound_of(n, lost, won, 0.9)
    assert (lost - won) / n <= here <= 1
    assert bound_of(n, lost, won + 1, 0.9) <= here + 1e-6 and here - 1e-6 <= bound_of(n, lost + 1, won, 0.9)
    assert here <= bound_of(n, lost, won, 0.99)


@pytest.mark.parametrize("lost", [0, 1, 3, 20])
def test_without_gains_the_bound_is_near_the_clopper_pearson_bound(lost: int) -> None:
    share = binomtest(lost, 512).proportion_ci(0.8).high  # one-sided: 90 %
    assert share <= paired_bound(512, lost, 0, 0.9) + 1e-6 and paired_bound(512, lost, 0, 0.9) < 1.02 * share


@pytest.mark.parametrize("drop", [0.005, 0.01, 0.1])
def test_fewest_inputs_is_the_smallest_sufficient_number(drop: float) -> None:
    enough = fewest_inputs(drop, 0.9)
    assert paired_bound(enough, 0, 0, 0.9) <= drop + 1e-6 and paired_bound(enough - 1, 0, 0, 0.9) > drop


DRAWS: dict[str, tuple[float, Draw]] = {
    "a little from everyone": (0.01, lambda generator: generator.normal(0.01, 0.02, 300)),
    "much from few": (0.01, lambda generator: (generator.random(300) < 0.01).astype(float)),
    "all or nothing": (0.0, lambda generator: generator.choice([-1.0, 1.0], 300)),
    "half from few, in order": (0.01, lambda generator: np.sort(np.where(generator.random(300) < 0.02, 0.5, 0.0))),
}


@pytest.mark.parametrize("case", DRAWS)
def test_the_betting_bound_holds_for_the_true_mean(case: str) -> None:
    truth, draw = DRAWS[case]
    generator = np.random.default_rng(0)
    bounds = np.array([betting_bound(draw(generator), 0.9) for _ in range(1000)])
    assert np.mean(bounds < truth) <= 0.1  # guaranteed by the theorem, so without a margin for chance


def wealth(losses: np.ndarray, mean: float, confidence: float) -> float:
    """Capital after betting on loss after loss that they are below ``mean``; stakes depend on the losses before."""
    total, seen, deviations, variance = 1.0, 0.0, 1.0, 1.0
    for count, loss in enumerate(losses, 1):
        stake = np.sqrt(2 * -np.log(1 - confidence) / (len(losses) * variance))
        total *= 1 + min(stake, 0.9 / (LARGEST_LOSS - mean)) * (mean - loss)
        seen += loss
        deviations += (loss - seen / (count + 1)) ** 2
        variance = deviations / (count + 1)
    return total


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_betting_bound_averages_the_capital_of_several_orders(confidence: float) -> None:
    """The best of eight orders would be wrong more often: the theorem is about one capital, or the mean of several."""
    losses = np.random.default_rng(1).choice([-0.5, 0.0, 0.25, 1.0], 60)
    bound, generator = betting_bound(losses, confidence), np.random.default_rng(0)
    gained = [wealth(generator.permutation(losses), bound, confidence) for _ in range(8)]
    assert np.mean(gained) == pytest.approx(1 / (1 - confidence), rel=1e-3)
    assert max(gained) > 1.2 * np.mean(gained)


def test_the_bound_of_equal_losses_is_above_their_value() -> None:
    for value in (-0.5, 0.0, 0.1, 0.9):
        assert value + 0.001 < betting_bound(np.full(300, value), 0.9) <= LARGEST_LOSS
    assert betting_bound(np.full(300, 1.0), 0.9) == betting_bound(np.full(300, 7.0), 0.9) == LARGEST_LOSS
    assert betting_bound(np.full(5000, 0.0), 0.9) < betting_bound(np.full(300, 0.0), 0.9) < 3 / 300


def test_the_goal_determines_the_kind_of_bound() -> None:
    losses = np.repeat([1.0, -1.0, 0.0], [3, 1, 296])
    assert drop_bound(losses, 0.9, True) == paired_bound(300, 3, 1, 0.9)
    assert drop_bound(losses, 0.9, False) == betting_bound(losses, 0.9)
    with pytest.raises(RltrError, match="right_or_wrong"):
        drop_bound(losses / 2, 0.9, True)


# Shares of answers that become wrong and that become right, from the lowest weight to the highest. A promise of one
# point is hardest to keep where many weights lose just a little more than that.
CURVES: dict[str, list[tuple[float, float]]] = {
    "just above, all along": [(0.0101, 0.0)] * 8,
    "just above, with many gains": [(0.0401, 0.03)] * 8,
    "good, then just above": [(0.0, 0.0), (0.002, 0.001), (0.0101, 0.0), (0.0101, 0.0), (0.02, 0.0099), (0.0101, 0.0)],
    "bad at first, then good": [(0.0101, 0.0), (0.002, 0.002), (0.0, 0.0), (0.03, 0.01)],
    "a usual one": [(0.001, 0.001), (0.004, 0.003), (0.01, 0.006), (0.02, 0.009), (0.05, 0.01), (0.2, 0.02)],
}


@pytest.mark.parametrize(("curve", "inputs"), [*((curve, 300) for curve in CURVES), ("just above, all along", 1000)])
def test_a_promise_is_broken_no_more_often_than_stated(curve: str, inputs: int) -> None:
    generator, weights = np.random.default_rng(0), CURVES[curve]
    broken, draws = 0, 1000
    # Answers at different weights are drawn together, as hard inputs are hard for all of them.
    for _ in range(draws):
        hard = generator.random(inputs)
        table = [row(hard, place, lost, won) for place, (lost, won) in enumerate(weights)]
        try:
            chosen = weight_for_drop(table, 0.01)
        except RltrError:
            continue  # nothing promised, nothing broken
        lost, won = weights[int(chosen) - 1]
        broken += lost - won > 0.01
    # Three standard errors of a share of 1,000 draws: what chance may add to a share of 0.1.
    assert broken / draws <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / draws)


def row(hard: np.ndarray, place: int, lost: float, won: float) -> CalibrationPoint:
    """Calibration point of one weight: the hardest inputs are lost, the next ones gained."""
    n, losses, gains = len(hard), int((hard < lost).sum()), int(((hard >= lost) & (hard < lost + won)).sum())
    seen = (losses - gains) / n
    bound = (
        seen if seen > 0.01 else bound_of(n, losses, gains, 0.9)
    )  # above 0.01 in any case, which is all that matters
    return CalibrationPoint(place + 1.0, 0.9**place, 0.8 - seen, 0.8, bound, 0.9, n)
