"""NumPy arrays, data settings of a recipe, and splits that do not depend on the learner's seed."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from rltr.errors import RltrError
from rltr.jobs.preparation import data_options, prepare_data
from rltr.recipe import load_recipe
from rltr.recipe.inputs import DataGroup
from rltr.tasks import DataOptions, load_task
from rltr.tasks.examples.arrays import ArrayExamples
from tests.sources.conftest import HALVES, LONGEST, WORDS, sizes, splits


def arrays(rows: int = 20, **changes: Any) -> dict[str, Any]:
    pixels = np.stack([np.full((3, 8, 8), i, np.float32) for i in range(rows)])
    return {"pixel_values": pixels, "label": np.arange(rows) % 2, **changes}


def test_npz_files_are_read_whole_and_by_split(vit: PreTrainedModel, tmp_path: Path) -> None:
    np.savez(tmp_path / "whole.npz", **arrays())
    task = load_task(vit, tmp_path / "whole.npz", options=HALVES)
    assert sum(sizes(task)) == 20 and task.train.classes == ["dark", "light"]
    first = task.train.batch([0])["pixel_values"]
    assert int(first[0, 0, 0, 0]) % 2 == int(task.train.labels[0])
    assert load_task(vit, arrays(), options=HALVES).train.names == task.train.names
    folder = tmp_path / "folder"
    folder.mkdir()
    np.savez(folder / "train.npz", **arrays(8))
    np.savez_compressed(folder / "test.npz", **arrays(4))
    split = load_task(vit, folder, options=HALVES)
    assert sum(sizes(split)) == 12 and sizes(split)[1] >= 2 and sizes(split)[2] == 4
    assert split.test.labels.tolist() == [0, 1, 0, 1]


def test_nothing_in_an_npz_is_unpickled(vit: PreTrainedModel, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", pixel_values=np.array([{}, {}], object), label=[0, 1])
    with pytest.raises(RltrError, match=r"x\.npz cannot be read as arrays"):
        load_task(vit, tmp_path / "x.npz")
    (tmp_path / "x.npz").write_bytes(b"PK nothing")
    with pytest.raises(RltrError, match=r"x\.npz cannot be read as arrays"):
        load_task(vit, tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"extra": np.zeros(20)}, "extra is not an input of ViTForImageClassification; it takes .*pixel_values"),
        ({"label": np.arange(19)}, r"same number of rows, .*'label': 19"),
        ({"label": np.zeros(20)}, r"1 classes \(0\.0\) do not fit the model's 2 \(dark, light\)"),
        ({"label": np.zeros((20, 1, 1))}, r"'label' must be a name, a number or several .*, not float32 \(20, 1, 1\)"),
        ({"label": np.arange(20)}, r"20 classes \(0, 1, 10.* do not fit the model's 2 \(dark, light\)"),
        (
            {"pixel_values": np.zeros((20, 3, 16, 16), np.float32)},
            r"cannot take these inputs \(pixel_values \(2, 3, 16",
        ),
        (
            {"pixel_values": np.zeros((20, 3, 8, 8), np.uint8)},
            "pixel_values are uint8, so they were likely not preprocessed",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(vit: PreTrainedModel, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RltrError, match=said):
        load_task(vit, arrays(**changes))


def test_arrays_without_the_main_input_are_refused(bert: PreTrainedModel) -> None:
    with pytest.raises(RltrError, match="no input_ids"):
        load_task(bert, {"attention_mask": np.ones((4, 3), np.int64), "label": [0, 1, 0, 1]})


def tokens(rows: list[list[int]], **more: Any) -> dict[str, Any]:
    return {"input_ids": rows, "label": np.arange(len(rows)) % 2, **more}


def test_tokens_of_different_lengths_are_padded_and_masked(bert: PreTrainedModel) -> None:
    rows = [[2, 5 + i % 3, *[8] * (i % 4), 3] for i in range(20)]
    task = load_task(bert, tokens(rows), options=HALVES)
    short, long = (next(i for i, n in enumerate(task.train.lengths() or []) if n == length) for length in (3, 6))
    batch = task.train.batch([short, long])
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0], [1] * 6]
    assert batch["input_ids"][0, 3:].tolist() == [0, 0, 0]
    assert task.train.batch([short])["input_ids"].shape == (1, 3)
    width = 7
    padded = np.array([row + [0] * (width - len(row)) for row in rows])
    same = load_task(bert, tokens(padded.tolist(), attention_mask=(padded > 0).astype(int)), options=HALVES)
    for i in range(len(task.train)):
        one, two = task.train.batch([i, 0]), same.train.batch([i, 0])
        assert all(torch.equal(one[name], two[name]) for name in ("input_ids", "attention_mask"))


def test_rows_of_different_lengths_may_be_packed_as_objects(bert: PreTrainedModel) -> None:
    rows = [[2, 5 + i % 3, *[8] * (i % 4), 3] for i in range(20)]
    packed = np.empty(20, object)
    packed[:] = rows
    for one, other in zip(*(splits(load_task(bert, tokens(form))) for form in (rows, packed)), strict=True):
        batch, same = one.batch(range(len(one))), other.batch(range(len(other)))
        assert all(torch.equal(batch[name], same[name]) for name in ("input_ids", "attention_mask"))


@pytest.mark.parametrize("row", [None, "a film", [0.5, 1.0], [[2, 3]], {"a": 1}])
def test_rows_that_are_not_tokens_are_refused(bert: PreTrainedModel, row: Any) -> None:
    packed = np.empty(10, object)
    for i in range(10):
        packed[i] = row if i else [2, 3]
    for form in (packed, packed[1:]):
        with pytest.raises(RltrError, match="input_ids must be whole numbers, one row of tokens for each example"):
            load_task(bert, {"input_ids": form, "label": np.arange(len(form)) % 2})


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([[2, 3]] * 9 + [[2] * (LONGEST + 1)], f"row 9: {LONGEST + 1} tokens are more than the {LONGEST}"),
        ([[2, len(WORDS)]] * 10, rf"row 0: token {len(WORDS)} is not in the model's vocabulary, 0 to {len(WORDS) - 1}"),
        ([[2, -1]] * 10, "row 0: token -1 is not in"),
        ([[2, 3]] * 9 + [[]], r"row\[9\] has no token"),
    ],
)
def test_tokens_that_the_model_cannot_take_are_refused(bert: PreTrainedModel, rows: list[Any], said: str) -> None:
    with pytest.raises(RltrError, match=said):
        load_task(bert, {"input_ids": [np.array(row, np.int64) for row in rows], "label": np.arange(10) % 2})


def test_batches_are_copies_and_images_have_pictures(vit: PreTrainedModel) -> None:
    whole = ArrayExamples(torch.tensor([0]), ["x"], ["a", "b"], {"pixel_values": arrays(1)["pixel_values"]})
    whole.batch([0])["pixel_values"][:] = 7
    assert float(whole.batch([0])["pixel_values"].max()) == 0
    pixels = np.zeros((1, 1, 2, 2), np.float32)
    pixels[0, 0, 0, 1] = 3
    picture = ArrayExamples(torch.tensor([0]), ["x"], ["a"], {"pixel_values": pixels}).picture(0)
    assert picture is not None and [picture.getpixel(at) for at in ((0, 0), (1, 0))] == [0, 255]
    assert ArrayExamples(torch.tensor([0]), ["x"], ["a"], {"input_ids": np.ones((1, 2), int)}).picture(0) is None


def test_every_data_setting_of_a_recipe_is_passed_on() -> None:
    said: dict[str, Any] = {
        "fractions": (0.5, 0.25, 0.25),
        "labels": "none",
        "bad_inputs": "skip",
        "stream_examples": 7,
        "max_tokens": 9,
        "pooling": "cls",
        "template": "{}, painted",
    }
    names = [field.name for field in fields(DataOptions) if field.name not in ("seed", *said)]
    said |= {name: f"own {name}" for name in names}
    assert data_options(DataGroup(**said, split_seed=3)) == DataOptions(**said, seed=3)
    assert data_options(DataGroup()) == DataOptions()


def test_splits_do_not_depend_on_the_learners_seed(vit: PreTrainedModel, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **arrays(40))
    base = {"data.source": str(tmp_path / "x.npz"), "data.validation_limit": 3, "data.train_limit": 9}

    def names(**changes: Any) -> list[list[str]]:
        return [split.names for split in splits(prepare_data(load_recipe(None, (), {**base, **changes}), vit))]

    whole = names()
    assert [len(part) for part in whole] == [9, 3, 4]
    assert names(**{"learner.seed": 7}) == whole != names(**{"data.split_seed": 1})
    assert names(**{"data.train_limit": None})[1:] == whole[1:]
