"""Fitted prices: the true curve is recovered, noise has little effect, and more tokens are never cheaper."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rltr.cost import LatencyCost, from_dict
from rltr.cost.curve import Curve, fit
from rltr.errors import RltrError

COUNTS = [1, 29, 57, 85, 113, 141, 169, 197]
PARTS = st.floats(0, 1e-3, allow_nan=False)


def seconds(curve: Curve, counts: list[int]) -> list[float]:
    return [float(value) for value in curve(torch.tensor(counts, dtype=torch.float64))]


@given(fixed=PARTS, linear=PARTS, quadratic=st.floats(1e-9, 1e-4))
def test_a_quadratic_curve_is_recovered(fixed: float, linear: float, quadratic: float) -> None:
    true = Curve(fixed, linear, quadratic, 197, 0.0)
    found = fit(COUNTS, seconds(true, COUNTS))
    assert found.residual < 1e-6 and found.longest == 197
    assert seconds(found, COUNTS) == pytest.approx(seconds(true, COUNTS), rel=1e-5)


@given(st.lists(st.floats(1e-7, 10), min_size=2, max_size=10))
def test_a_fitted_curve_never_falls(times: list[float]) -> None:
    counts = np.unique(np.linspace(1, 400, len(times)).round().astype(int)).tolist()
    curve = fit(counts, times)
    assert curve.residual >= 0
    assert np.diff(seconds(curve, list(range(1, 500)))).min() >= 0


def test_one_slow_measurement_has_little_effect_and_raises_the_residual() -> None:
    """As in a measured table with 909 us at 197 tokens and 295 us at 169, where about 410 us was correct."""
    true = seconds(Curve(4e-6, 1.7e-6, 1.9e-9, 197, 0.0), COUNTS)
    spoiled = [*true[:4], 2.5 * true[4], *true[5:]]
    found = fit(COUNTS, spoiled)
    others = [i for i in range(2, len(COUNTS)) if i != 4]
    assert all(abs(seconds(found, COUNTS)[i] / true[i] - 1) < 0.35 for i in others)
    assert fit(COUNTS, true).residual < 1e-6 < 0.1 < found.residual


def test_falling_times_give_a_large_residual() -> None:
    """One token is slower than a hundred, as under heavy load."""
    assert fit([1, 50, 100], [9.0, 3.0, 1.0]).residual > 0.3


@pytest.mark.parametrize(
    "parts",
    [
        {"linear": -1e-9},
        {"fixed": float("nan")},
        {"quadratic": float("inf")},
        {"fixed": 0.0, "linear": 0.0, "quadratic": 0.0},
        {"longest": 0},
        {"residual": -0.1},
    ],
)
def test_an_invalid_curve_is_refused(parts: dict[str, Any]) -> None:
    with pytest.raises(RltrError, match="Measure it again"):
        Curve(**{"fixed": 1.0, "linear": 1.0, "quadratic": 1.0, "longest": 9, "residual": 0.0, **parts})


def test_latency_tables_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """Their points determine what a trained policy keeps, so no curve is fitted to them."""
    machine = {
        "device": "cpu", "processor": "A", "driver": None, "torch_version": "2.9", "dtype": "float32", "threads": 1,
    }  # fmt: skip
    points = {"counts": [1, 3, 7], "seconds": [1.0, 2.0, 10.0]}
    data = {
        "name": "latency", "machine": machine, "rows": 2, "date": "2026-01-01", "layers": ["A", "A"],
        "tables": {"A": points}, "overhead": points,
    }  # fmt: skip
    cost = from_dict(json.loads(json.dumps(data)))
    assert isinstance(cost, LatencyCost)
    assert cost.layer(0, torch.tensor([2.0, 5.0])).tolist() == [1.5, 6.0]
    assert cost.longest == 7 and cost.fit is None and cost.native_pass(3) == 4.0
    assert from_dict(json.loads(json.dumps(cost.to_dict()))) == cost
