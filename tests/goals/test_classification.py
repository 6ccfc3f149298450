"""Scores of a classification."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rltr.errors import RltrError
from rltr.tasks import score
from rltr.tasks.goals import (
    Classification,
)
from tests.goals.conftest import answers


def test_accuracy_is_another_name_of_quality() -> None:
    goal = Classification()
    dense, reduced, labels = answers(goal, 6, 0), answers(goal, 6, 1), torch.tensor([0, 1, 2, 0, 1, 2])
    changes = score("quality", goal, dense, reduced, labels)
    assert changes.abs().sum() > 0 and torch.equal(score("accuracy", goal, dense, reduced, labels), changes)


def test_an_unknown_score_is_refused_with_the_choices() -> None:
    with pytest.raises(RltrError, match="no score 'f1'; choose one of quality, accuracy, fidelity, both"):
        score("f1", Classification(), GOOD, GOOD, torch.tensor([0, 1]))


finite = st.floats(-50, 50, width=32)
pair = st.integers(2, 6).flatmap(lambda n: st.tuples(*[st.lists(finite, min_size=n, max_size=n)] * 2))


@given(pair, st.integers(0, 1))
def test_scores_are_in_their_ranges(logits: tuple[list[float], list[float]], label: int) -> None:
    dense, reduced = torch.tensor(logits)[:, None]
    labels = torch.tensor([label])
    values = {kind: score(kind, Classification(), dense, reduced, labels) for kind in ("quality", "fidelity", "both")}
    assert all(value.shape == (1,) for value in values.values())
    assert values["quality"].item() in (-1.0, 0.0, 1.0)
    assert -3.0 <= values["fidelity"].item() <= 0.0
    assert torch.equal(values["both"], values["quality"] + values["fidelity"])
    if (dense.softmax(-1) - reduced.softmax(-1)).abs().max() > 1e-2:  # Pinsker: KL is at least 2e-4 then
        assert values["fidelity"].item() < 0
    for kind in values:
        assert score(kind, Classification(), dense, dense, labels).item() == 0.0


def test_scores_equal_values_computed_by_hand() -> None:
    dense = torch.tensor([[0.6, 0.4], [0.6, 0.4], [0.6, 0.4]]).log()
    reduced = torch.tensor([[0.3, 0.7], [0.3, 0.7], [1 - 1e-7, 1e-7]]).log()
    labels = torch.tensor([0, 1, 0])
    assert score("quality", Classification(), dense, reduced, labels).tolist() == [-1.0, 1.0, 0.0]
    divergence = 0.6 * np.log(2) + 0.4 * np.log(4 / 7)
    expected = torch.tensor([-divergence, -divergence, -3.0], dtype=torch.float32)
    torch.testing.assert_close(score("fidelity", Classification(), dense, reduced, labels), expected)


def test_fidelity_is_computed_in_single_precision() -> None:
    dense, reduced = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.5, 2.0]])
    half = score("fidelity", Classification(), dense.half(), reduced.half(), torch.tensor([0]))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, score("fidelity", Classification(), dense, reduced, torch.tensor([0])))


GOOD = torch.tensor([[1.0, 2.0, 3.0]] * 2)


@pytest.mark.parametrize("kind", ["quality", "fidelity", "both"])
@pytest.mark.parametrize(
    ("dense", "reduced", "labels", "said"),
    [
        (GOOD * torch.nan, GOOD, [0, 1], "dense model's answers are NaN or infinite in rows"),
        (GOOD, GOOD.clone().index_fill_(0, torch.tensor(1), torch.inf), [0, 1], r"reduced model's .* rows \[1\]"),
        (GOOD, GOOD, [0, 3], r"labels \[3\] do not fit a head of 3 classes"),
        (GOOD, GOOD, [-100, 0], r"labels \[-100\] do not fit"),
        (GOOD, GOOD, [0.0, 1.0], "whole numbers"),
        (GOOD, GOOD, [0], "one label per row"),
        (GOOD, GOOD[:, :2], [0, 1], "from both models"),
        (GOOD[None], GOOD[None], [0], "shape"),
        (GOOD[:, :1], GOOD[:, :1], [0, 0], "goal Regression"),
    ],
)
def test_a_score_that_cannot_be_computed_is_an_error(
    kind: str, dense: Tensor, reduced: Tensor, labels: list, said: str
) -> None:
    with pytest.raises(RltrError, match=said):
        score(kind, Classification(), dense, reduced, torch.tensor(labels))
