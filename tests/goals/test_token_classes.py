"""One class per token: padding, unlabelled tokens and positions."""

import pytest
import torch

from rltr.errors import RltrError
from rltr.tasks import score
from rltr.tasks.goals import (
    Classification,
    TokenClassification,
)
from rltr.tasks.goals.goal import ABSENT
from rltr.tasks.goals.token_classes import UNLABELLED

MASKS = ([1, 1, 0], [0, 1, 1])
"""A text of two tokens, padded at its end and at its start."""


def test_padding_and_unlabelled_tokens_are_ignored() -> None:
    goal = TokenClassification(longest=4)
    present = torch.tensor([[1, 1, 1], [1, 1, 0]])
    logits = torch.eye(3)[torch.tensor([[0, 1, 2], [1, 1, 0]])]
    dense = goal.read({"logits": logits}, {"attention_mask": present})
    assert dense.shape == (2, 4, 3) and bool((dense[:, 3] == ABSENT).all() and (dense[1, 2] == ABSENT).all())
    assert goal.decide(dense).tolist() == [[0, 1, 2, UNLABELLED], [1, 1, UNLABELLED, UNLABELLED]]
    labels = torch.tensor([[UNLABELLED, 1, 0, UNLABELLED], [UNLABELLED, 1, UNLABELLED, UNLABELLED]])
    assert goal.quality(dense, dense, labels).tolist() == [0.5, 1.0]
    # Neither values of padding nor its length matter.
    logits[1, 2] = 1e4
    longer = torch.cat([logits, torch.full((2, 1, 3), torch.nan)], 1)
    again = goal.read({"logits": longer}, {"attention_mask": torch.nn.functional.pad(present, (0, 1))})
    assert torch.equal(again, dense)


def test_fidelity_of_tokens_is_the_mean_over_tokens() -> None:
    goal, generator = TokenClassification(longest=4), torch.Generator().manual_seed(0)
    present = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    dense, reduced = (torch.randn(2, 4, 3, generator=generator) for _ in "ab")
    read = [goal.read({"logits": logits}, {"attention_mask": present}) for logits in (dense, reduced)]
    for row, tokens in enumerate((4, 2)):
        each = Classification().fidelity(dense[row, :tokens], reduced[row, :tokens])
        torch.testing.assert_close(goal.fidelity(*read)[row], each.mean())
    assert goal.agreement(*read)[1] == (dense.argmax(-1) == reduced.argmax(-1))[1, :2].float().mean()


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([[0, 1, 0], [0, 1, 1]], "at a position without a token"),
        ([[0, 1, 0], [-100, -100, -100]], "no labelled token"),
        ([[0, 1, 3], [0, 1, -100]], r"labels \[3\] do not fit a head of 3"),
        ([[0, 1], [0, 1]], r"labels of shape \(rows, tokens\)"),
    ],
)
def test_wrong_token_labels_are_refused(labels: list[list[int]], said: str) -> None:
    goal, present = TokenClassification(longest=3), torch.tensor([[1, 1, 1], [1, 1, 0]])
    dense = goal.read({"logits": torch.zeros(2, 3, 3)}, {"attention_mask": present})
    with pytest.raises(RltrError, match=said):
        score("both", goal, dense, dense, torch.tensor(labels))


def test_answers_at_different_positions_are_refused() -> None:
    """The same two tokens, with padding at the end in one answer and at the start in the other."""
    goal, logits = TokenClassification(longest=3), torch.zeros(1, 3, 3)
    dense, shifted = (goal.read({"logits": logits}, {"attention_mask": torch.tensor([own])}) for own in MASKS)
    labels = torch.tensor([[UNLABELLED, 0, UNLABELLED]])
    score("both", goal, dense, dense, labels)
    for one, other in ((dense, shifted), (shifted, dense)):
        with pytest.raises(RltrError, match="at different positions of their rows; .*padding_side"):
            score("both", goal, one, other, labels)


def test_outputs_that_are_not_per_token_are_refused() -> None:
    goal, present = TokenClassification(longest=3), torch.ones(2, 3, dtype=torch.long)
    with pytest.raises(RltrError, match="token classification needs logits"):
        goal.read({"logits": torch.zeros(2, 3)}, {"attention_mask": present})
    with pytest.raises(RltrError, match="at most 3"):
        goal.read({"logits": torch.zeros(2, 4, 3)}, {})
