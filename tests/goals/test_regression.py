"""Regression: the quality of predicted numbers."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rltr.errors import RltrError
from rltr.tasks import score
from rltr.tasks.goals import (
    Regression,
)
from rltr.tasks.goals.regression import deviation_of, spread_of


def test_the_quality_of_numbers_is_d2() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randn(101, 1, generator=generator).exp()
    guess = labels + 0.3 * torch.randn(101, 1, generator=generator)
    goal = Regression(deviation=deviation_of(labels), spread=spread_of(guess))
    median = labels.median().expand(101, 1)
    torch.testing.assert_close(goal.quality(guess, median, labels).mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    expected = 1 - (guess - labels).abs().mean() / (labels - labels.median()).abs().mean()
    torch.testing.assert_close(goal.quality(guess, guess, labels).mean(), expected)


@given(scale=st.floats(0.01, 1000), shift=st.floats(-10, 10))
def test_scores_do_not_depend_on_units(scale: float, shift: float) -> None:
    generator = torch.Generator().manual_seed(1)
    labels, dense, reduced = (torch.randn(20, 2, generator=generator, dtype=torch.float64) for _ in "abc")

    def scores(change: Any) -> Tensor:
        goal = Regression(deviation_of(change(labels)), spread_of(change(dense)))
        return score("both", goal, *(change(values).float() for values in (dense, reduced, labels)))

    torch.testing.assert_close(scores(lambda x: x), scores(lambda x: scale * x + shift), rtol=1e-2, atol=1e-2)


def test_outliers_are_clipped_and_invalid_spreads_and_labels_refused() -> None:
    far = score("both", Regression(), torch.zeros(1, 1), torch.full((1, 1), 100.0), torch.zeros(1, 1))
    assert far.tolist() == [-6.0]
    for wrong in (0.0, float("nan"), float("inf")):
        with pytest.raises(RltrError, match="nothing to predict"):
            Regression(spread=wrong)
    with pytest.raises(RltrError, match="label"):
        score("both", Regression(), torch.zeros(1, 1), torch.zeros(1, 1), torch.full((1, 1), torch.nan))
