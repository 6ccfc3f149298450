"""What holds for every goal: its scores, its fingerprint, and what it refuses."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rltr.errors import RltrError
from rltr.tasks import score
from rltr.tasks.goals import (
    Consistency,
    Embedding,
    Goal,
    Regression,
    TokenClassification,
    ZeroShot,
)
from tests.goals.conftest import CLASSES, GOALS, answers, every_goal


@every_goal
@given(rows=st.integers(1, 6), seed=st.integers(0, 1000))
def test_scores_of_every_goal_are_consistent(goal: Goal, rows: int, seed: int) -> None:
    dense, reduced = answers(goal, rows, seed), answers(goal, rows, seed + 1)
    labels = goal.decide(answers(goal, rows, seed + 2))
    assert dense.shape[1:] == goal.shape(labels, CLASSES)
    for value in (goal.fidelity(dense, reduced), goal.quality(dense, reduced, labels), goal.agreement(dense, reduced)):
        assert value.shape == (rows,) and bool(value.isfinite().all())
    assert bool((goal.fidelity(dense, reduced) <= 0).all() and (goal.fidelity(dense, reduced) >= -3).all())
    assert bool((goal.quality(dense, reduced, labels) <= 1).all())
    assert bool(((goal.agreement(dense, reduced) >= 0) & (goal.agreement(dense, reduced) <= 1)).all())
    # Equal answers lose nothing, and a model is always right by its own decisions.
    torch.testing.assert_close(goal.fidelity(dense, dense), torch.zeros(rows), atol=1e-6, rtol=0)
    torch.testing.assert_close(goal.quality(dense, dense, goal.decide(dense)), torch.ones(rows))
    assert bool((goal.agreement(dense, dense) == 1).all())
    for kind in ("quality", "fidelity", "both"):
        torch.testing.assert_close(score(kind, goal, dense, dense, labels), torch.zeros(rows), atol=1e-6, rtol=0)
    scores = {kind: score(kind, goal, dense, reduced, labels) for kind in ("quality", "fidelity", "both")}
    assert torch.equal(scores["both"], scores["quality"] + scores["fidelity"])
    assert 0 <= goal.chance(CLASSES) < 1 and goal.quality_name


@every_goal
def test_scores_of_rows_are_independent(goal: Goal) -> None:
    dense, reduced = answers(goal, 6, 0), answers(goal, 6, 1)
    labels = goal.decide(answers(goal, 6, 2))
    for kind in ("quality", "fidelity", "both"):
        whole = score(kind, goal, dense, reduced, labels)
        alone = torch.cat(
            [score(kind, goal, dense[i : i + 1], reduced[i : i + 1], labels[i : i + 1]) for i in range(6)]
        )
        torch.testing.assert_close(whole, alone)


@every_goal
def test_answers_that_cannot_be_scored_are_refused(goal: Goal) -> None:
    good = answers(goal, 3, 0)
    labels = goal.decide(good)
    with pytest.raises(RltrError):
        score("both", goal, good, good[:2], labels)
    if not isinstance(
        goal, Consistency
    ):  # Consistency makes labels first, and there only the type checks of the tests raise
        with pytest.raises(RltrError):
            score("both", goal, good[None], good[None], labels[None])
    with pytest.raises(RltrError, match=r"reduced model's answers are NaN or infinite in rows \[1\]"):
        score("both", goal, good, good.clone().index_fill_(0, torch.tensor(1), torch.inf), labels)


def test_the_fingerprint_of_a_goal_depends_on_what_it_reads() -> None:
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


@pytest.mark.parametrize("name", [name for name in GOALS if name not in ("embedding", "zero-shot", "consistency")])
def test_without_labels_decisions_of_the_dense_model_count_as_right(name: str) -> None:
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
