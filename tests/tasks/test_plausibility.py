"""Warnings about a dense model whose answers do not fit the labels; there are none for an intact model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification

from rltr.embedded import load_task as load_embedded_task
from rltr.errors import RltrError
from rltr.jobs.preparation import prepare
from rltr.recipe import load_recipe
from rltr.tasks import DataOptions, load_task
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
from rltr.tasks.goals.plausibility import find_implausible, guessing, no_better, other_order
from rltr.tasks.goals.token_classes import UNLABELLED
from tests.conftest import logged_warnings
from tests.tasks.conftest import SMALL, bert, head, paint, vit, write

COUNT = 256


def logits(decided: Tensor, classes: int) -> Tensor:
    """Answers with the given decisions."""
    return torch.nn.functional.one_hot(decided, classes).float() * 3


def answers(right: float, labels: Tensor, classes: int, seed: int = 0) -> Tensor:
    """Answers of which a given share is right; the others are random."""
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.randint(classes, labels.shape, generator=generator)
    return logits(torch.where(torch.rand(labels.shape, generator=generator) < right, labels, wrong), classes)


def some_labels(classes: int, count: int = COUNT, seed: int = 1) -> Tensor:
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))


def names(classes: int) -> list[str]:
    return [f"class {i}" for i in range(classes)]


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
@pytest.mark.parametrize("right", [0.5, 0.8, 1.0])
def test_an_intact_model_gives_no_warning(classes: int, right: float) -> None:
    for seed in range(20):
        labels = some_labels(classes, seed=seed)
        assert find_implausible(Classification(), answers(right, labels, classes, seed), labels, names(classes)) is None


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_a_model_that_guesses_gives_a_warning(classes: int) -> None:
    """At a significance level of 0.05, one in 20 is better by chance."""
    said = [
        find_implausible(Classification(), answers(0.0, labels, classes, seed), labels, names(classes)) or ""
        for seed in range(40)
        for labels in [some_labels(classes, seed=100 + seed)]
    ]
    found = [own for own in said if "no better than guessing" in own]
    assert len(found) >= 34
    assert all("labels in another order" in own and "id2label" in own for own in found)


@given(st.permutations(range(6)), st.floats(0.75, 1.0), st.integers(0, 99))
def test_permuted_labels_are_found(order: list[int], right: float, seed: int) -> None:
    """Even if only two of twelve classes are swapped, when the accuracy is far above chance."""
    true = some_labels(6, seed=seed)
    given_labels = torch.tensor(order)[true]
    found = other_order(answers(right, true, 6, seed).argmax(-1).numpy(), given_labels.numpy(), 6)
    assert found == {own: theirs for theirs, own in enumerate(order) if theirs != own}
    said = find_implausible(Classification(), answers(right, true, 6, seed), given_labels, names(6)) or ""
    assert ("labels are in another order" in said) == (order != sorted(order))


def test_labels_in_alphabetical_order_are_recognised() -> None:
    order = sorted(range(12), key=str)
    true = some_labels(12)
    data = torch.tensor([order.index(i) for i in range(12)])[true]
    said = find_implausible(Classification(), answers(0.9, true, 12), data, [str(i) for i in range(12)])
    assert said is not None and "'2' is what it calls '10', '3' is what it calls '11', " in said


@given(st.integers(2, 12), st.integers(0, 999))
def test_random_answers_are_not_taken_for_a_permutation(classes: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    said, true = generator.integers(classes, size=(2, 200))
    assert other_order(said, true, classes) == {}


def test_constant_answers_give_a_warning() -> None:
    labels = some_labels(3)
    same = logits(torch.zeros(COUNT, dtype=torch.long), 3)
    empty = torch.zeros(COUNT, 0)
    cases: list[tuple[Goal, Tensor, Tensor]] = [
        (Classification(), same, labels),
        (ZeroShot(torch.eye(3, 6), 1.0), same, labels),
        (Consistency(Classification(), (3,)), same + torch.rand(COUNT, 3), empty),
        (MultiLabel(), -same - 1, (torch.rand(COUNT, 3) < 0.3).float()),
        (TokenClassification(4), same[:, None].expand(-1, 4, -1), torch.randint(3, (COUNT, 4))),
        (Consistency(TokenClassification(4), (4, 3)), same[:, None].expand(-1, 4, -1), empty),
        (Embedding(6), torch.ones(COUNT, 6), empty),
    ]
    for goal, dense, true in cases:
        assert "the same answer" in (find_implausible(goal, dense, true, names(3)) or ""), goal
    one_class = torch.zeros(COUNT, dtype=torch.long)
    assert find_implausible(Classification(), same, one_class, names(3)) is None


def test_accuracy_from_a_frequent_class_is_no_better_than_guessing() -> None:
    """Four in five inputs are of one class, which the model predicts four times in five at random: 68 % right."""
    generator = np.random.default_rng(0)
    said, true = (torch.from_numpy((generator.random(2000) < 0.2).astype(np.int64)) for _ in range(2))
    assert guessing(said.numpy(), true.numpy()) == pytest.approx(0.68, abs=0.03)
    assert "no better" in (find_implausible(Classification(), logits(said, 2), true, names(2)) or "")
    assert (
        find_implausible(Classification(), logits(torch.where(torch.rand(2000) < 0.5, true, said), 2), true, names(2))
        is None
    )


def test_several_labels_numbers_and_words() -> None:
    marks = (torch.rand(COUNT, 5) < 0.1).float()
    assert find_implausible(MultiLabel(), (marks - 0.5) * torch.randn(COUNT, 5).sign().abs(), marks, names(5)) is None
    assert "no better" in (find_implausible(MultiLabel(), marks[torch.randperm(COUNT)] - 0.5, marks, names(5)) or "")
    values = torch.randn(COUNT, 1)
    goal = Regression(float((values - values.median()).abs().mean()))
    assert find_implausible(goal, values + 0.3 * torch.randn(COUNT, 1), values, []) is None
    assert "a D² of -" in (find_implausible(goal, values[torch.randperm(COUNT)] * 2, values, []) or "")
    tags = torch.randint(3, (COUNT, 4))
    tags[:, 2:] = UNLABELLED
    said = torch.where(tags == UNLABELLED, torch.zeros_like(tags), tags)
    assert find_implausible(TokenClassification(4), logits(said, 3), tags, names(3)) is None
    swapped = torch.where(tags == UNLABELLED, tags, 2 - tags)
    assert "another order" in (find_implausible(TokenClassification(4), logits(said, 3), swapped, names(3)) or "")


def test_too_few_inputs_give_no_warning() -> None:
    assert not no_better(2, 4, 0.5) and no_better(5, 10, 0.5) and not no_better(9, 10, 0.5)
    assert not no_better(10, 10, 1.0) and not no_better(2, 2, 0.5)


def of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [own.getMessage() for own in caplog.records if own.name == "rltr.tasks.goals.plausibility"]


@pytest.mark.parametrize("order", [["dark", "light"], ["light", "dark"]])
def test_labels_in_another_order_give_a_warning_on_loading(
    tmp_path: Path, order: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The names of the head's classes are swapped: the class called dark is light."""
    model: Any = vit(tmp_path / "model", order)
    for i in range(30):
        paint(tmp_path / "data" / "dark" / f"{i}.png", i)
        paint(tmp_path / "data" / "light" / f"{i}.png", 255 - i)
    with torch.no_grad():  # a head that sees how bright an image is, and says 0 for dark
        pixels = torch.stack([torch.full((3, 8, 8), level) for level in (-2.0, 2.0)])
        dark, light = model.vit(pixels).last_hidden_state[:, 0]
        model.classifier.weight.copy_(torch.stack([dark - light, light - dark]) * 50)
        middle = ((dark + light) / 2) @ model.classifier.weight.T
        model.classifier.bias.copy_(-middle)
    load_task(model, tmp_path / "data")
    said = of(caplog)
    if order == ["dark", "light"]:
        assert said == []
    else:
        assert len(said) == 1 and "'dark' is what it calls 'light'" in said[0] and "id2label" in said[0]
        assert said[0].startswith("of training inputs, the whole model is right in 0.0%, and in 100.0% if ")


def test_an_untrained_head_gives_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model: Any = bert(tmp_path / "model", ["bad", "good"])
    torch.nn.init.zeros_(model.classifier.weight)
    rows = [(f"a {['fine', 'poor', 'film'][i % 3]}", ["good", "bad"][i % 2]) for i in range(60)]
    for options in (DataOptions(), DataOptions(labels="none")):
        caplog.clear()
        load_task(model, write(tmp_path / "x.csv", rows), options=options)
        assert [own for own in of(caplog) if "gives the same answer to all 48" in own]


def test_unreadable_inputs_are_skipped_by_the_check(
    tmp_path: Path, animals: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = vit(tmp_path / "model", ["cat", "dog"])
    before = load_task(model, animals).train
    (animals / before.names[9]).write_bytes(b"none")
    caplog.clear()
    assert load_task(model, animals).train.names == before.names and not logged_warnings(caplog)


def test_the_embedded_data_for_other_models(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A model of the same shape: its names must not contradict the data's, and its answers must be more than chance."""
    own = list(load_embedded_task(8, 8, 8).train.classes)
    config: dict[str, Any] = {**SMALL, "num_hidden_layers": 2, "image_size": 56, "patch_size": 14, "num_channels": 1}
    for number, classes in enumerate(([*own[1:], own[0]], own)):
        ViTForImageClassification(ViTConfig(**config, **head(classes))).save_pretrained(tmp_path / str(number))
    values: dict[str, Any] = {"model.source": str(tmp_path / "0"), "device": "cpu"}
    with pytest.raises(RltrError, match="has the classes of the embedded data in another order"):
        prepare(load_recipe(None, (), values))
    prepare(load_recipe(None, (), {**values, "model.source": str(tmp_path / "1")}))
    assert len(of(caplog)) == 1 and "of training inputs, the whole model" in caplog.text
    prepare(load_recipe(None, (), {"device": "cpu"}))
    assert len(of(caplog)) == 1
