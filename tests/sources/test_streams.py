"""Iterables and streams are read no further than needed."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import BertTokenizer, PreTrainedModel, ViTImageProcessorPil

from rltr.errors import RltrError
from rltr.tasks import DataOptions, load_task
from rltr.tasks.read.disk_rows import DiskRows
from tests.sources.conftest import HALVES, sizes, splits


class Counted:
    """An endless source that counts the items read from it."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for i in count():
            self.read += 1
            yield {"pixel_values": np.full((3, 8, 8), i, np.float32), "label": i % 2}


def test_an_endless_iterable_is_read_no_further_than_asked(vit: PreTrainedModel) -> None:
    source = Counted()
    task = load_task(vit, source, options=DataOptions(stream_examples=20))
    assert source.read == 20 and sizes(task) == [16, 2, 2]
    values = [float(split.batch([i])["pixel_values"][0, 0, 0, 0]) for split in splits(task) for i in range(len(split))]
    assert sorted(values) == [float(i) for i in range(20)]
    assert all(int(values[i]) % 2 == int(task.train.labels[i]) for i in range(16))


@pytest.mark.parametrize(("mixed", "most"), [(1_000, 60), (4, 34)])
def test_a_stream_of_datasets_is_read_little_further_than_asked(
    bert: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, mixed: int, most: int
) -> None:
    monkeypatch.setattr("rltr.tasks.read.hub.SHUFFLED", mixed)
    read = []

    def endless() -> Iterator[dict[str, Any]]:
        for i in count():
            read.append(i)
            yield {"text": f"a {('poor', 'fine')[i % 2]} film", "label": ("bad", "good")[i % 2]}

    stream = datasets.IterableDataset.from_generator(endless)
    task = load_task(bert, stream, options=DataOptions(stream_examples=30))
    assert sum(sizes(task)) == 30 and 30 <= max(read) + 1 <= most
    assert [name == "a fine film" for name in task.train.names] == task.train.labels.bool().tolist()


def test_streams_are_read_by_split(vit: PreTrainedModel) -> None:
    sources = {"train": Counted(), "val": Counted(), "test": Counted()}
    task = load_task(vit, sources, options=DataOptions(stream_examples=7))
    assert sizes(task) == [7, 7, 7] and [source.read for source in sources.values()] == [7, 7, 7]
    assert task.validation.names[0] == "validation[0]"


def test_outputs_of_processors_are_accepted(bert: PreTrainedModel, vit: PreTrainedModel) -> None:
    tokenizer = BertTokenizer.from_pretrained(bert.name_or_path)
    texts = ["a film", "a fine film", "fine", "poor film"] * 5
    single = ({**tokenizer(text), "label": i % 2} for i, text in enumerate(texts))
    task = load_task(bert, single, options=HALVES)
    batches = (
        {**tokenizer(texts[i : i + 4], padding=True, return_tensors="pt"), "labels": torch.arange(4) % 2}
        for i in range(0, 20, 4)
    )
    other = load_task(bert, batches, options=HALVES)
    assert task.train.lengths() == other.train.lengths() and set(task.train.lengths() or []) == {3, 4, 5}
    for i in range(len(task.train)):
        one, two = task.train.batch([i]), other.train.batch([i])
        assert set(one) == set(two) and all(torch.equal(one[name], two[name]) for name in one)
    processor = ViTImageProcessorPil.from_pretrained(vit.name_or_path)
    images = [Image.new("RGB", (9, 9), (i, i, i)) for i in range(20)]
    made = ({**processor(images=image, return_tensors="pt"), "labels": [i % 2]} for i, image in enumerate(images))
    task = load_task(vit, made, options=HALVES)
    assert task.kind == "image" and task.train.batch([0, 1])["pixel_values"].shape == (2, 3, 8, 8)


def item(**changes: Any) -> dict[str, Any]:
    return {"pixel_values": np.zeros((3, 8, 8), np.float32), "label": 1, **changes}


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([], "has no examples"),
        ([3], "item 0: must be a mapping"),
        ([{"pixel_values": np.zeros((3, 8, 8))}], "item 0: there is no 'label'; there are 'pixel_values'"),
        ([item(), item(extra=1)], "item 1: it has pixel_values, extra, but those before it pixel_values"),
        ([item(extra=1), item()], "item 1: it has pixel_values, but those before it pixel_values, extra"),
        ([item(label=[1, 0])], r"item 0: pixel_values has shape \(3, 8, 8\) but there are 2 labels"),
        (
            [item(), item(pixel_values=np.zeros((8, 8), np.float32))],
            r"the data, pixel_values: row 1 is float32 \(8, 8\), but those before it are float32 \(3, 8, 8\)",
        ),
        ([item(), item(pixel_values=np.zeros((3, 8, 8), np.uint8))], r"pixel_values: row 1 is uint8 .* are float32"),
        ([item(), item(pixel_values=np.zeros((3, 9, 8), np.float32))], "pixel_values have different shapes"),
        (7, "cannot read data from an object of type int"),
    ],
)
def test_a_bad_iterable_is_refused(vit: PreTrainedModel, items: Any, said: str) -> None:
    with pytest.raises(RltrError, match=said):
        load_task(vit, items)


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=8))
def test_disk_rows_returns_the_rows_that_were_appended(rows: list[list[int]]) -> None:
    stored_rows = DiskRows("tokens", np.dtype(np.int64))
    for row in rows:
        stored_rows.append(np.array(row, np.int64))
    found = stored_rows.rows()
    stored_rows.close()
    assert [row.tolist() for row in found] == rows
    assert isinstance(found, np.ndarray) == (len({len(row) for row in rows}) == 1)
