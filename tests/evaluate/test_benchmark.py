"""Verdicts of the learning benchmark: the mean over seeds, with its interval."""

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rltr.evaluate.resampling import pack
from rltr.evaluate.results import Evaluation
from tests.evaluate.conftest import measurement


def test_the_benchmark_judges_the_mean_over_seeds(evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    learning = importlib.import_module("benchmarks.learning")

    def judged(*more: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Compare policies with ``more`` right answers than the better baseline, at latencies 0.5 and 0.85."""
        right = {f"policy seed {seed}": 0.8 * 2000 + extra for seed, extra in enumerate(more)}
        right |= {"norm": 0.8 * 2000, "random": 0.7 * 2000}
        points = [
            replace(measurement(method, latency, count / 2000), per_input=pack(np.arange(2000) < count))
            for method, count in right.items()
            for latency in (0.4, 0.9)
        ]
        found = replace(evaluation, examples=2000, points=points, gallery=[])
        (low, high), each = learning.at_equal_latency(found, list(right)[: len(more)], [0.5, 0.85])
        assert [row["policy"] for row in each] == [name for name in right for _ in "ab" if name.startswith("policy")]
        return low, high

    low, high = judged(60, 64, 68)
    assert low["best baseline"] == "norm (merge)" and low["its accuracy"] == pytest.approx(0.8)
    assert [low[key] for key in ("lowest", "policy", "highest")] == pytest.approx([0.83, 0.832, 0.834])
    assert low["difference"] == pytest.approx(0.032) and 0 < low["95 % interval"][0] < 0.032 < low["95 % interval"][1]
    assert (low["verdict"], low["met"], high["verdict"], high["met"]) == ("above", True, "above", True)
    # Seeds vary as much as their mean advantage: not significant, though a mean above 0 still meets the goal.
    low, high = judged(0, 64, 128)
    assert (low["verdict"], low["met"]) == ("level", True) and low["95 % interval"][0] < 0
    low, high = judged(-30, 5, 20)
    assert (low["verdict"], low["met"], high["verdict"], high["met"]) == ("level", False, "level", True)
    low, high = judged(-60, -64, -68)
    assert (low["verdict"], low["met"], high["verdict"], high["met"]) == ("below", False, "below", False)
    low, _ = judged(60)
    assert low["verdict"] == "above"
