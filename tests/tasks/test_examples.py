"""Labels, limits, subsets and fingerprints of examples of any kind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from rltr.errors import RltrError
from rltr.tasks import DataOptions, Task, TensorExamples, load_task
from rltr.tasks.goals.numbering import number_classes
from rltr.tasks.read.splits import divide
from tests.tasks.conftest import REVIEWS, SMALL, bert, head, paint, vit, whole_of, write


def test_fingerprints_follow_what_the_model_sees(tmp_path: Path, animals: Path) -> None:
    model = vit(tmp_path / "model", ["cat", "dog"])
    before, again = (whole_of(load_task(model, animals)).fingerprint() for _ in range(2))
    assert before == again
    paint(animals / "cat" / "0.png", 51, size=(9, 9))
    changed = whole_of(load_task(model, animals)).fingerprint()
    ViTImageProcessorPil(size={"height": 8, "width": 8}, do_normalize=False).save_pretrained(tmp_path / "model")
    other = whole_of(load_task(model, animals)).fingerprint()
    assert len({before, changed, other}) == 3
    first = load_task(model, animals).train.fingerprint()
    assert first != load_task(model, animals, options=DataOptions(seed=1)).train.fingerprint()
    text = bert(tmp_path / "bert", ["bad", "good"])
    data = write(tmp_path / "x.csv", REVIEWS)
    before, again = (whole_of(load_task(text, data)).fingerprint() for _ in range(2))
    write(tmp_path / "x.csv", [*REVIEWS[1:], ("a fine", "good")])
    assert before == again != whole_of(load_task(text, data)).fingerprint()


def test_what_was_asked_before_changes_no_fingerprint(tmp_path: Path) -> None:
    """A fast tokenizer keeps how it padded and cut the last time."""
    model, data = bert(tmp_path / "model", ["bad", "good"]), write(tmp_path / "x.csv", [*REVIEWS, ("film " * 9, "bad")])
    whole = whole_of(load_task(model, data))
    asked: list[Callable[[], Any]] = [lambda: whole.batch([0]), whole.lengths, lambda: whole.words(0)]
    prints = {whole.fingerprint()}
    for ask in asked:
        ask()
        prints.add(whole.fingerprint())
    assert len(prints) == 1


def test_data_and_model_must_be_of_one_kind(tmp_path: Path, animals: Path) -> None:
    model = vit(tmp_path / "model", ["cat", "dog"])
    with pytest.raises(RltrError, match="pixel_values, which is for image or zero-shot or embedding tasks, not text"):
        load_task(model, animals, kind="text")
    with pytest.raises(RltrError, match="no task kind 'sound'; choose one of image, text"):
        load_task(model, animals, kind="sound")
    with pytest.raises(RltrError, match="not a folder"):
        load_task(model, write(tmp_path / "x.csv", REVIEWS))
    with pytest.raises(RltrError, match="no train, validation and test file"):
        load_task(bert(tmp_path / "bert", ["cat", "dog"]), animals)
    with pytest.raises(RltrError, match="no data at .*nowhere"):
        load_task(model, tmp_path / "nowhere")
    nameless = ViTForImageClassification(ViTConfig(**SMALL, image_size=8, patch_size=4))
    with pytest.raises(RltrError, match="give its folder as source"):
        load_task(nameless, animals)
    assert len(load_task(nameless, animals, source=model.name_or_path).train) == 16


def test_options_are_checked() -> None:
    for fractions in ((0.5, 0.5, 0.0), (0.5, 0.4, 0.2), (0.5, 0.6, -0.1)):
        with pytest.raises(RltrError, match="sum to 1"):
            DataOptions(fractions=fractions)
    with pytest.raises(RltrError, match="0 or more"):
        DataOptions(seed=-1)


@pytest.mark.parametrize(
    ("names", "own", "numbers"),
    [
        (["dog", "cat"], ["cat", "dog"], {"dog": 1, "cat": 0}),
        (["DOG"], ["cat", "dog"], {"DOG": 1}),
        (["t_shirt_top"], ["T-shirt/top", "Trouser"], {"t_shirt_top": 0}),
        (["+", "-"], ["-", "+"], {"+": 1, "-": 0}),
        (["a", "A"], ["A", "a"], {"a": 1, "A": 0}),
        (["1", "0"], ["cat", "dog"], {"0": 0, "1": 1}),
        (["1", "0"], ["1", "0"], {"0": 1, "1": 0}),
        (["dog", "cat"], ["LABEL_0", "LABEL_1"], {"cat": 0, "dog": 1}),
        (["1", "2"], ["LABEL_0", "LABEL_1"], {"1": 0, "2": 1}),
        ([str(i) for i in range(1, 12)], [f"LABEL_{i}" for i in range(11)], {str(i + 1): i for i in range(11)}),
    ],
)
def test_class_names_become_the_heads_numbers(names: list[str], own: list[str], numbers: dict[str, int]) -> None:
    assert number_classes(names, ViTConfig(**head(own)))[0] == numbers


@pytest.mark.parametrize(
    ("names", "own"),
    [
        (["cat", "horse"], ["cat", "dog"]),
        (["cat", "dog", "horse"], ["LABEL_0", "LABEL_1"]),
        (["cat"], ["LABEL_0", "LABEL_1"]),
        (["1", "2"], ["cat", "dog"]),
        (["cat", "Cat"], ["cat", "dog"]),
    ],
)
def test_class_names_that_do_not_fit_are_both_listed(names: list[str], own: list[str]) -> None:
    with pytest.raises(RltrError, match=rf"\({', '.join(sorted(names))}\) do not fit .*\({', '.join(own)}\)"):
        number_classes(names, ViTConfig(**head(own)))


def test_heads_that_no_score_fits_are_refused() -> None:
    with pytest.raises(RltrError, match="single-label"):
        number_classes(["0"], ViTConfig(**head(["LABEL_0"])))
    with pytest.raises(RltrError, match="single-label"):
        number_classes(["0"], ViTConfig(**head(["a", "b"]), problem_type="multi_label_classification"))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 5))
def test_every_example_is_dealt_out_once(labels: list[int], seed: int) -> None:
    parts = divide(torch.tensor(labels), (0.5, 0.25, 0.25), seed)
    assert sorted(i for part in parts for i in part) == list(range(len(labels)))
    for label in set(labels):
        for part, fraction in zip(parts, (0.5, 0.25, 0.25), strict=True):
            assert abs(sum(labels[i] == label for i in part) - fraction * labels.count(label)) <= 1


@pytest.mark.parametrize("each", [2, 3, 4, 5])
def test_small_classes_leave_no_part_empty(each: int) -> None:
    labels = torch.arange(100).repeat_interleave(each)
    fractions = (0.8, 0.1, 0.1)
    parts = divide(labels, fractions, 0)
    assert sorted(i for part in parts for i in part) == list(range(len(labels)))
    for part, fraction in zip(parts, fractions, strict=True):
        assert len(part) == pytest.approx(fraction * len(labels), abs=0.05 * len(labels))


def numbers(count: int = 6) -> TensorExamples:
    rows = torch.arange(count)
    return TensorExamples(rows % 2, [f"n{i}" for i in range(count)], ["even", "odd"], {"x": rows[:, None] * 10})


def test_a_subset_of_a_subset_reads_the_right_rows() -> None:
    part = numbers().subset([5, 0, 3]).subset([2, 0])
    assert part.batch([0, 1, 1])["x"].flatten().tolist() == [30, 50, 50]
    assert part.names == ["n3", "n5"] and part.labels.tolist() == [1, 1] and len(part) == 2


@pytest.mark.parametrize(
    ("lengths", "typical", "longest"), [([4, 9, 1, 5, 2], 0, 1), ([7], 0, 0), ([3, 8, 8, 1], 1, 1)]
)
def test_the_typical_example_has_the_median_length(lengths: list[int], typical: int, longest: int) -> None:
    """Prices are shares of a pass over it: with the longest in its place, one long text would make all others cheap."""

    class Rows(TensorExamples):
        def lengths(self) -> list[int]:
            return lengths

    rows = torch.arange(len(lengths))
    examples = Rows(rows % 2, list(map(str, rows)), ["even", "odd"], {"x": rows[:, None]})
    assert lengths[examples.typical()] == lengths[typical] and lengths[examples.longest()] == lengths[longest]


def test_a_limit_takes_at_most_so_many() -> None:
    whole = numbers(100)
    some = whole.at_most(30, seed=1)
    order = some.batch(range(30))["x"].flatten().tolist()
    assert len(set(order)) == 30 and order == sorted(order) and order != [10 * i for i in range(30)]
    assert whole.at_most(30, seed=1).names == some.names != whole.at_most(30, seed=2).names
    assert whole.at_most(None) is whole and whole.at_most(100) is whole
    with pytest.raises(RltrError, match="not 0"):
        whole.at_most(0)
    task = Task(whole, whole, whole, "image").at_most(1, None, 3)
    assert [len(task.train), len(task.validation), len(task.test)] == [1, 100, 3]


def test_tensors_must_be_equally_many() -> None:
    with pytest.raises(RltrError, match="same number of rows"):
        TensorExamples(torch.zeros(2, dtype=torch.long), ["a"], ["x"], {"x": torch.zeros(2)})
    with pytest.raises(RltrError, match="at least one"):
        TensorExamples(torch.zeros(0, dtype=torch.long), [], ["x"], {"x": torch.zeros(0)})
