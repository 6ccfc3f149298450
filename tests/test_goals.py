"""What counts as right, for every kind of head, and the scores made of it."""

from typing import Any

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
    Consistency,
    Embedding,
    Goal,
    MultiLabel,
    Regression,
    TokenClassification,
    ZeroShot,
)
from rltr.tasks.goals.goal import ABSENT
from rltr.tasks.goals.regression import deviation_of, spread_of
from rltr.tasks.goals.token_classes import UNLABELLED

CLASSES = ["a", "b", "c"]
GOALS: dict[str, Goal] = {
    "classification": Classification(),
    "token classification": TokenClassification(longest=5),
    "regression": Regression(deviation=0.7, spread=1.3),
    "several labels": MultiLabel(),
    "embedding": Embedding(width=6),
    "zero-shot": ZeroShot(torch.eye(3, 6), scale=10.0),
    "consistency": Consistency(MultiLabel(), (3,)),
}


def answers(goal: Goal, rows: int, seed: int) -> Tensor:
    """Random answers as the goal reads them; token rows have 1 to 5 tokens."""
    generator = torch.Generator().manual_seed(seed)
    output: dict[str, Tensor]
    if isinstance(goal, TokenClassification):
        present = (
            torch.arange(5) < torch.randint(1, 6, (rows, 1), generator=torch.Generator().manual_seed(rows))
        ).long()
        present[0] = 1
        output = {"logits": torch.randn(rows, 5, 3, generator=generator)}
        return goal.read(output, {"attention_mask": present})
    if isinstance(goal, Embedding):
        return goal.read({"last_hidden_state": torch.randn(rows, 4, 6, generator=generator)}, {})
    if isinstance(goal, ZeroShot):
        return goal.read({"image_embeds": torch.randn(rows, 6, generator=generator)}, {})
    return goal.read({"logits": 2 * torch.randn(rows, 3, generator=generator)}, {})


every_goal = pytest.mark.parametrize("goal", GOALS.values(), ids=GOALS.keys())


@every_goal
@given(rows=st.integers(1, 6), seed=st.integers(0, 1000))
def test_what_holds_for_every_goal(goal: Goal, rows: int, seed: int) -> None:
    dense, reduced = answers(goal, rows, seed), answers(goal, rows, seed + 1)
    labels = goal.decide(answers(goal, rows, seed + 2))
    assert dense.shape[1:] == goal.shape(labels, CLASSES)
    for value in (goal.fidelity(dense, reduced), goal.quality(dense, reduced, labels), goal.agreement(dense, reduced)):
        assert value.shape == (rows,) and bool(value.isfinite().all())
    assert bool((goal.fidelity(dense, reduced) <= 0).all() and (goal.fidelity(dense, reduced) >= -3).all())
    assert bool((goal.quality(dense, reduced, labels) <= 1).all())
    assert bool(((goal.agreement(dense, reduced) >= 0) & (goal.agreement(dense, reduced) <= 1)).all())
    # The same answer loses nothing, and what a model itself decides is right by its own decision.
    torch.testing.assert_close(goal.fidelity(dense, dense), torch.zeros(rows), atol=1e-6, rtol=0)
    torch.testing.assert_close(goal.quality(dense, dense, goal.decide(dense)), torch.ones(rows))
    assert bool((goal.agreement(dense, dense) == 1).all())
    for kind in ("quality", "fidelity", "both"):
        torch.testing.assert_close(score(kind, goal, dense, dense, labels), torch.zeros(rows), atol=1e-6, rtol=0)
    scores = {kind: score(kind, goal, dense, reduced, labels) for kind in ("quality", "fidelity", "both")}
    assert torch.equal(scores["both"], scores["quality"] + scores["fidelity"])
    assert 0 <= goal.chance(CLASSES) < 1 and goal.quality_name


@every_goal
def test_rows_are_judged_one_by_one(goal: Goal) -> None:
    dense, reduced = answers(goal, 6, 0), answers(goal, 6, 1)
    labels = goal.decide(answers(goal, 6, 2))
    for kind in ("quality", "fidelity", "both"):
        whole = score(kind, goal, dense, reduced, labels)
        alone = torch.cat(
            [score(kind, goal, dense[i : i + 1], reduced[i : i + 1], labels[i : i + 1]) for i in range(6)]
        )
        torch.testing.assert_close(whole, alone)


@every_goal
def test_what_cannot_be_scored_is_refused(goal: Goal) -> None:
    good = answers(goal, 3, 0)
    labels = goal.decide(good)
    with pytest.raises(RltrError):
        score("both", goal, good, good[:2], labels)
    if not isinstance(goal, Consistency):  # it makes the labels first, and the types of that are checked only here
        with pytest.raises(RltrError):
            score("both", goal, good[None], good[None], labels[None])
    with pytest.raises(RltrError, match=r"reduced model's answers are NaN or infinite in rows \[1\]"):
        score("both", goal, good, good.clone().index_fill_(0, torch.tensor(1), torch.inf), labels)


def test_accuracy_is_another_name_of_quality() -> None:
    goal = Classification()
    dense, reduced, labels = answers(goal, 6, 0), answers(goal, 6, 1), torch.tensor([0, 1, 2, 0, 1, 2])
    changes = score("quality", goal, dense, reduced, labels)
    assert changes.abs().sum() > 0 and torch.equal(score("accuracy", goal, dense, reduced, labels), changes)


def test_a_goals_fingerprint_follows_what_it_reads() -> None:
    anchors = torch.eye(3, 6)
    others = [
        *(goal for goal in GOALS.values() if not isinstance(goal, Consistency)),
        TokenClassification(longest=6),
        Embedding(width=6, pooling="cls"),
        Embedding(width=6, output="text_embeds"),
        ZeroShot(anchors, scale=10.0, bias=1.0),
        ZeroShot(torch.nextafter(anchors, torch.tensor(2.0)), scale=10.0),
    ]
    assert len({goal.fingerprint() for goal in others}) == len(others)
    assert ZeroShot(anchors.clone(), scale=10.0).fingerprint() == GOALS["zero-shot"].fingerprint()
    assert GOALS["consistency"].fingerprint() == GOALS["several labels"].fingerprint()
    assert Regression(deviation=2.0, spread=3.0).fingerprint() == GOALS["regression"].fingerprint()


def test_an_unknown_score_lists_the_known() -> None:
    with pytest.raises(RltrError, match="no score 'f1'; choose one of quality, accuracy, fidelity, both"):
        score("f1", Classification(), GOOD, GOOD, torch.tensor([0, 1]))


# Classification

finite = st.floats(-50, 50, width=32)
pair = st.integers(2, 6).flatmap(lambda n: st.tuples(*[st.lists(finite, min_size=n, max_size=n)] * 2))


@given(pair, st.integers(0, 1))
def test_scores_of_any_two_answers(logits: tuple[list[float], list[float]], label: int) -> None:
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


def test_scores_against_values_worked_out_by_hand() -> None:
    dense = torch.tensor([[0.6, 0.4], [0.6, 0.4], [0.6, 0.4]]).log()
    reduced = torch.tensor([[0.3, 0.7], [0.3, 0.7], [1 - 1e-7, 1e-7]]).log()
    labels = torch.tensor([0, 1, 0])
    assert score("quality", Classification(), dense, reduced, labels).tolist() == [-1.0, 1.0, 0.0]
    divergence = 0.6 * np.log(2) + 0.4 * np.log(4 / 7)
    expected = torch.tensor([-divergence, -divergence, -3.0], dtype=torch.float32)
    torch.testing.assert_close(score("fidelity", Classification(), dense, reduced, labels), expected)


def test_fidelity_is_reckoned_in_single_precision() -> None:
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


# One class per token

MASKS = ([1, 1, 0], [0, 1, 1])
"""A text of two tokens, padded at its end and at its start."""


def test_padding_and_unlabelled_tokens_count_for_nothing() -> None:
    goal = TokenClassification(longest=4)
    present = torch.tensor([[1, 1, 1], [1, 1, 0]])
    logits = torch.eye(3)[torch.tensor([[0, 1, 2], [1, 1, 0]])]
    dense = goal.read({"logits": logits}, {"attention_mask": present})
    assert dense.shape == (2, 4, 3) and bool((dense[:, 3] == ABSENT).all() and (dense[1, 2] == ABSENT).all())
    assert goal.decide(dense).tolist() == [[0, 1, 2, UNLABELLED], [1, 1, UNLABELLED, UNLABELLED]]
    labels = torch.tensor([[UNLABELLED, 1, 0, UNLABELLED], [UNLABELLED, 1, UNLABELLED, UNLABELLED]])
    assert goal.quality(dense, dense, labels).tolist() == [0.5, 1.0]
    # Whatever stands in the padding, and however far a batch is padded.
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
    """A row that is padded at its start in one batch, and alone in another."""
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


# Regression


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
def test_units_do_not_matter(scale: float, shift: float) -> None:
    generator = torch.Generator().manual_seed(1)
    labels, dense, reduced = (torch.randn(20, 2, generator=generator, dtype=torch.float64) for _ in "abc")

    def scores(change: Any) -> Tensor:
        goal = Regression(deviation_of(change(labels)), spread_of(change(dense)))
        return score("both", goal, *(change(values).float() for values in (dense, reduced, labels)))

    torch.testing.assert_close(scores(lambda x: x), scores(lambda x: scale * x + shift), rtol=1e-2, atol=1e-2)


def test_an_outlier_is_clipped_and_nothing_to_predict_is_refused() -> None:
    far = score("both", Regression(), torch.zeros(1, 1), torch.full((1, 1), 100.0), torch.zeros(1, 1))
    assert far.tolist() == [-6.0]
    for wrong in (0.0, float("nan"), float("inf")):
        with pytest.raises(RltrError, match="nothing to predict"):
            Regression(spread=wrong)
    with pytest.raises(RltrError, match="label"):
        score("both", Regression(), torch.zeros(1, 1), torch.zeros(1, 1), torch.full((1, 1), torch.nan))


# Several labels


def test_fidelity_of_several_labels_is_a_sum_of_two_class_divergences() -> None:
    generator = torch.Generator().manual_seed(0)
    dense, reduced = (0.3 * torch.randn(5, 3, generator=generator) for _ in "ab")
    each = sum(
        Classification().fidelity(*(torch.stack([logits[:, i], torch.zeros(5)], 1) for logits in (dense, reduced)))
        for i in range(3)
    )
    torch.testing.assert_close(MultiLabel().fidelity(dense, reduced), each)
    assert (
        MultiLabel().quality(dense, torch.tensor([[1.0, -1, 2]] * 5), torch.tensor([[1.0, 1, 1]] * 5)).mean() == 2 / 3
    )
    with pytest.raises(RltrError, match="0 or 1"):
        score("both", MultiLabel(), dense, reduced, torch.full((5, 3), 2.0))


# Embeddings


def test_pooling_takes_every_place_that_is_not_padding() -> None:
    states = torch.arange(12.0).view(2, 3, 2)
    present = torch.tensor([[1, 1, 1], [1, 1, 0]])
    mean = Embedding(2).read({"last_hidden_state": states}, {"attention_mask": present})
    assert mean.tolist() == [[2.0, 3.0], [7.0, 8.0]]
    assert Embedding(2, "cls").read({"last_hidden_state": states}, {}).tolist() == [[0.0, 1.0], [6.0, 7.0]]
    for mask in (present, present.flip(1)):
        first = Embedding(2, "cls").read({"last_hidden_state": states}, {"attention_mask": mask})
        assert first.tolist() == [[0.0, 1.0], states[1, 1 - int(mask[1, 0])].tolist()]
    assert (
        Embedding(2, output="image_embeds").read({"image_embeds": states[:, 0]}, {}).tolist() == states[:, 0].tolist()
    )


def test_the_length_of_an_embedding_is_nothing_and_neighbours_are_what_a_search_finds() -> None:
    dense = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0]])
    assert score("fidelity", Embedding(2), dense, 5 * dense, torch.zeros(3, 0)).abs().max() < 1e-6
    assert Embedding(2).decide(dense).tolist() == [1, 0, 1]
    turned = torch.tensor([[1.0, 0.0], [0.1, 1.0], [0.0, 1.0]])
    assert Embedding(2).agreement(dense, turned).tolist() == [1.0, 0.0, 1.0]


# Zero-shot


def test_logits_are_scaled_cosines() -> None:
    anchors, embeddings = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0, 0.0], [5.0, 5.0]])
    logits = ZeroShot(anchors, scale=10.0, bias=-1.0).read({"image_embeds": embeddings}, {})
    torch.testing.assert_close(logits, torch.tensor([[9.0, -1.0], [10 * 0.5**0.5 - 1, 10 * 0.5**0.5 - 1]]))
    other = ZeroShot(anchors, scale=1.0, output="text_embeds")
    assert other.read({"text_embeds": embeddings}, {}).argmax(-1)[0] == 0


# Without labels


@pytest.mark.parametrize("name", [name for name in GOALS if name not in ("embedding", "zero-shot", "consistency")])
def test_without_labels_the_dense_model_is_right(name: str) -> None:
    own = GOALS[name]
    goal, dense, reduced = Consistency(own, (1,)), answers(own, 6, 0), answers(own, 6, 1)
    nothing = torch.zeros(6, 0)
    goal.check(dense, reduced, nothing)
    assert torch.equal(goal.quality(dense, reduced, nothing), own.quality(dense, reduced, own.decide(dense)))
    assert goal.quality(dense, reduced, nothing).mean() < 1
    torch.testing.assert_close(goal.quality(dense, dense, nothing), torch.ones(6))
    assert goal.say(nothing[0], CLASSES) is None
    with pytest.raises(RltrError, match="NaN"):
        goal.check(dense, torch.full_like(dense, torch.nan), nothing)
