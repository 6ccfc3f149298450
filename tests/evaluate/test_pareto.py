"""Pareto fronts, hypervolumes, and curves that are interpolated and compared between their points."""

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltr.evaluate.pareto import compare, hypervolume, pareto_front, quality_at, read_off
from rltr.evaluate.resampling import pack, resampled_qualities
from rltr.evaluate.results import Evaluation
from tests.evaluate.conftest import measurement, pairs

number = st.floats(0, 1, width=16)
clouds = st.lists(st.tuples(number, number), min_size=1, max_size=30)


def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] <= b[0] and a[1] >= b[1] and a != b


@given(clouds)
def test_front_is_what_nothing_dominates(points: list[tuple[float, float]]) -> None:
    front = [points[index] for index in pareto_front(points)]
    assert front == sorted(front)
    assert set(front) == {point for point in points if not any(dominates(other, point) for other in points)}
    assert len(set(front)) == len(front)


@given(clouds, number, number)
def test_hypervolume_grows_with_points(points: list[tuple[float, float]], cost: float, accuracy: float) -> None:
    before = hypervolume(points)
    assert 0 <= before <= 1
    assert hypervolume([*points, (cost, accuracy)]) >= before - 1e-12
    assert hypervolume(points) == pytest.approx(hypervolume([points[index] for index in pareto_front(points)]))


def test_hypervolume_by_hand() -> None:
    assert hypervolume([(0.5, 0.8)]) == pytest.approx(0.4)
    assert hypervolume([(0.5, 0.8), (0.25, 0.6), (0.6, 0.7)]) == pytest.approx(0.5 * 0.8 + 0.25 * 0.6)
    assert hypervolume([(0.5, 0.8)], quality=0.3) == pytest.approx(0.25)
    assert hypervolume([(1.2, 0.9), (0.1, 0.05)], quality=0.1) == 0
    assert hypervolume([]) == 0


def test_accuracy_between_points_and_nothing_beyond() -> None:
    points = [(0.4, 0.7), (0.6, 0.8), (0.5, 0.6), (0.9, 0.75)]
    assert quality_at([0.3, 0.4, 0.5, 0.6, 0.8, 0.9, 1.0], points) == [
        None,
        pytest.approx(0.7),
        pytest.approx(0.75),
        pytest.approx(0.8),
        pytest.approx(0.8),  # a budget of 0.8 can use the point at 0.6
        pytest.approx(0.8),
        None,
    ]
    assert quality_at([0.5], []) == [None]


@given(clouds, number)
def test_interpolation_stays_among_the_measured(points: list[tuple[float, float]], cost: float) -> None:
    (value,) = quality_at([cost], points)
    accuracies = [accuracy for _, accuracy in points]
    assert value is None or min(accuracies) - 1e-9 <= value <= max(accuracies) + 1e-9


@given(clouds, st.lists(number, min_size=1, max_size=5), st.integers(0, 99))
def test_many_curves_are_read_off_at_once(points: list[tuple[float, float]], costs: list[float], seed: int) -> None:
    """The result equals linear interpolation on the Pareto front of each curve."""
    measured = [cost for cost, _ in points]
    draws = np.random.default_rng(seed).integers(0, 4, (3, len(points))) / 4  # many ties
    found = read_off(measured, draws, costs)
    for accuracies, values in zip(draws.tolist(), found, strict=True):
        curve = list(zip(measured, accuracies, strict=True))
        front = [curve[index] for index in pareto_front(curve)]
        known_costs, known = zip(*front, strict=True)
        for cost, value in zip(costs, values, strict=True):
            if front[0][0] <= cost <= max(measured):
                assert value == pytest.approx(np.interp(cost, known_costs, known))
            else:
                assert np.isnan(value)


def test_the_interval_of_a_difference_is_that_of_paired_answers() -> None:
    after, before = pairs(40, 20, 940)
    resampled = dict(
        zip(
            ("policy", "a", "b"),
            resampled_qualities(np.stack([after, before, ~after]))[:, :, None].transpose(1, 0, 2),
            strict=True,
        )
    )
    series = {"policy": [(0.5, after.mean())], "a": [(0.5, before.mean())], "b": [(0.5, 1 - after.mean())]}
    (found,) = compare(series, "policy", [0.5], resampled, 1000)
    spread = 1.96 * np.sqrt((60 / 1000 - 0.02**2) / 1000)
    assert found.best == "a" and found.difference == pytest.approx(0.02)
    assert found.interval == pytest.approx((0.02 - spread, 0.02 + spread), abs=0.002)
    assert compare(series, "policy", [0.5])[0].interval is None
    assert compare(series, "policy", [0.4], resampled, 1000)[0].interval is None  # no method was measured there


def test_comparison_names_the_best_other() -> None:
    series = {"policy": [(0.4, 0.8), (0.8, 0.9)], "a": [(0.5, 0.7), (0.9, 0.9)], "b": [(0.5, 0.75), (0.7, 0.76)]}
    low, middle, high = compare(series, "policy", [0.4, 0.6, 0.9])
    assert (low.quality, low.best, low.difference) == (pytest.approx(0.8), None, None)
    assert middle.best == "b" and middle.difference == pytest.approx(0.85 - 0.755)
    assert high.best == "a" and high.quality is None and high.difference is None


def test_many_intervals_take_no_time(evaluation: Evaluation) -> None:
    generator = np.random.default_rng(0)
    points = [
        replace(
            measurement("policy" if i < 10 else f"baseline {i // 8}", 0.2 + 0.008 * i, 0.8),
            per_input=pack(generator.random(5000) < 0.8),
        )
        for i in range(100)
    ]
    found = replace(evaluation, examples=5000, points=points, gallery=[])
    began = time.process_time()
    compare(found.curves(), "policy (merge)", resampled=found.resampled(), examples=found.examples)
    assert time.process_time() - began < 10
