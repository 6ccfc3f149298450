"""Where data come from beside folders and text files: ``datasets``, Parquet and Arrow, arrays, iterables, streams."""

import ast
import io
import sys
from collections.abc import Iterator
from dataclasses import fields
from itertools import count
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from rltr.errors import RltrError
from rltr.preparation import data_options, prepare_data
from rltr.recipe import is_hub_name, load_recipe
from rltr.recipe.fields import DataGroup
from rltr.tasks import DataOptions, Task, load_task
from rltr.tasks.array_examples import ArrayExamples
from rltr.tasks.spool import Spool

SMALL: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fine", "poor", "film"]
LONGEST = 8
HALVES = DataOptions(fractions=(0.5, 0.25, 0.25))


def head(*names: str) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    folder = tmp_path_factory.mktemp("bert")
    config = BertConfig(**SMALL, **head("bad", "good"), vocab_size=len(WORDS), max_position_embeddings=LONGEST)
    BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(folder)
    return BertForSequenceClassification.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    folder = tmp_path_factory.mktemp("vit")
    ViTForImageClassification(ViTConfig(**SMALL, **head("dark", "light"), image_size=8, patch_size=4)).save_pretrained(
        folder
    )
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder)
    return ViTForImageClassification.from_pretrained(folder).eval()


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def reviews(rows: int = 20, names: list[str] | None = None) -> datasets.Dataset:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names or ["bad", "good"])}
    )
    texts = [f"a {('poor', 'fine')[i % 2]} film" for i in range(rows)]
    return datasets.Dataset.from_dict({"text": texts, "label": [i % 2 for i in range(rows)]}, features=features)


def photo(grey: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (grey, grey, grey)).save(stream, "PNG")
    return stream.getvalue()


def photos(rows: int = 20) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dark", "light"])})
    images = [{"bytes": photo((50, 200)[i % 2] + i), "path": None} for i in range(rows)]
    return datasets.Dataset.from_dict({"image": images, "label": [i % 2 for i in range(rows)]}, features=features)


def splits(task: Task) -> list[Any]:
    return [task.train, task.validation, task.test]


def sizes(task: Task) -> list[int]:
    return [len(split) for split in splits(task)]


# Tables


@pytest.mark.parametrize("form", ["object", "saved", "parquet", "folder", "arrow"])
def test_texts_of_every_kind_of_table_are_the_same(bert: PreTrainedModel, tmp_path: Path, form: str) -> None:
    whole = reviews()
    data: Any = tmp_path / "data"
    if form == "object":
        data = whole
    elif form == "saved":
        whole.save_to_disk(data)
    elif form == "folder":
        (data / "data").mkdir(parents=True)
        whole.to_parquet(data / "data" / "train-00000-of-00001.parquet")
    elif form == "parquet":
        whole.to_parquet(data := tmp_path / "reviews.parquet")
    else:
        whole.save_to_disk(tmp_path / "saved")
        data = next((tmp_path / "saved").glob("*.arrow"))
    task = load_task(bert, data, options=HALVES)
    assert sum(sizes(task)) == 20 and min(sizes(task)) >= 4
    assert task.kind == "text" and task.train.classes == ["bad", "good"]
    for split in splits(task):
        assert [name == "a fine film" for name in split.names] == split.labels.bool().tolist()
        assert bert(**split.batch(range(len(split)))).logits.shape == (len(split), 2)
    assert " ".join(task.train.words(0) or []) in ("[CLS] a fine film [SEP]", "[CLS] a poor film [SEP]")


@pytest.mark.parametrize("form", ["object", "parquet", "stream"])
def test_images_of_a_table(vit: PreTrainedModel, tmp_path: Path, form: str) -> None:
    data: Any = photos()
    if form == "parquet":
        data.to_parquet(tmp_path / "photos.parquet")
        data = tmp_path / "photos.parquet"
    elif form == "stream":
        data = data.to_iterable_dataset()
    task = load_task(vit, data, options=HALVES)
    assert task.kind == "image" and sum(sizes(task)) == 20
    for split in splits(task):
        picture = split.picture(0)
        assert picture is not None and picture.size == (8, 8)
        values = split.batch(range(len(split)))["pixel_values"]
        assert torch.equal(values.mean((1, 2, 3)) > 0, split.labels == 1)


def test_splits_by_the_names_that_were_said(bert: PreTrainedModel) -> None:
    data = datasets.DatasetDict(train=reviews(20), validation=reviews(18), unsupervised=reviews(3))
    with pytest.raises(RltrError, match=r"has train, validation, unsupervised but no test; .*data\.test_split"):
        load_task(bert, data)
    task = load_task(bert, data, options=DataOptions(test_split="validation"))
    assert sizes(task) == [18, 2, 18]  # validation is cut from train: 0.1 of 0.8 + 0.1
    assert set(task.train.names) == {"a fine film", "a poor film"}
    other = load_task(bert, data, options=DataOptions(test_split="unsupervised", train_split="validation"))
    assert sizes(other)[2] == 3
    with pytest.raises(RltrError, match="no split 'holdout' for test; it has train"):
        load_task(bert, data, options=DataOptions(test_split="holdout"))
    with pytest.raises(RltrError, match="three different splits"):
        DataOptions(train_split="train", test_split="train")


def test_class_labels_go_by_name_and_else_by_number(bert: PreTrainedModel, caplog: pytest.LogCaptureFixture) -> None:
    task = load_task(bert, reviews(20, ["Good", "BAD"]), options=HALVES)
    assert [name == "a fine film" for name in task.train.names] == (task.train.labels == 0).tolist()
    assert not caplog.records
    task = load_task(bert, reviews(20, ["neg", "pos"]), options=HALVES)
    assert [name == "a fine film" for name in task.train.names] == (task.train.labels == 1).tolist()
    assert "(neg, pos) are not called as the model's: they are taken by their numbers" in caplog.text


def test_hidden_labels_are_said(bert: PreTrainedModel) -> None:
    hidden = datasets.Dataset.from_dict({"text": ["a film"], "label": [-1]}, features=reviews().features)
    data = datasets.DatasetDict(train=reviews(), validation=reviews(4), test=hidden)
    with pytest.raises(RltrError, match=r"-1 marks a label that is not given: .*data\.test_split=validation"):
        load_task(bert, data)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"text_column": "review"}, r"no column 'review'; there are 'text', 'label'; .*data\.text_column"),
        ({"text_column": "label"}, r"'label' holds ClassLabel.*, not texts"),
        ({"label_column": "stars"}, r"no column 'stars'; .*data\.label_column"),
    ],
)
def test_wrong_columns_are_said(bert: PreTrainedModel, options: dict[str, str], said: str) -> None:
    with pytest.raises(RltrError, match=said):
        load_task(bert, reviews(), options=DataOptions(**options))


def test_a_table_without_images_is_said(vit: PreTrainedModel) -> None:
    with pytest.raises(RltrError, match="no column 'image'"):
        load_task(vit, reviews())
    with pytest.raises(RltrError, match=r"'text' holds .*, not images"):
        load_task(vit, reviews(), options=DataOptions(image_column="text"))


def test_bad_records_are_named_and_left_out_if_asked(
    bert: PreTrainedModel, vit: PreTrainedModel, caplog: pytest.LogCaptureFixture
) -> None:
    skip = DataOptions(fractions=(0.5, 0.25, 0.25), bad_inputs="skip")
    texts = [*reviews(20)["text"], None, " "]
    data = datasets.Dataset.from_dict({"text": texts, "label": [i % 2 for i in range(22)]})
    with pytest.raises(RltrError, match=r"row\[20\]: 'text' is empty; .*data\.bad_inputs=skip"):
        load_task(bert, data)
    assert sum(sizes(load_task(bert, data, options=skip))) == 20 and "row[21] is empty" in caplog.text
    images = [{"bytes": photo(9 * i), "path": None} for i in range(20)] + [{"bytes": b"none", "path": None}, None]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    data = datasets.Dataset.from_dict({"image": images, "label": [i % 2 for i in range(22)]}, features=features)
    task = load_task(vit, data, options=HALVES)
    with pytest.raises(RltrError, match=r"row\[2[01]\] cannot be read as an image"):
        for split in splits(task):
            split.batch(range(len(split)))
    task = load_task(vit, data, options=skip)
    assert sum(sizes(task)) == 20 and "row[20]" in caplog.text and "row[21]" in caplog.text
    for split in splits(task):
        split.batch(range(len(split)))


def test_tables_have_fingerprints_that_follow_their_content(
    bert: PreTrainedModel, vit: PreTrainedModel, tmp_path: Path
) -> None:
    made = [load_task(bert, reviews(rows), options=HALVES).train.fingerprint() for rows in (20, 20, 24)]
    assert made[0] == made[1] != made[2]
    first, again = (load_task(vit, photos(), options=HALVES).train.fingerprint() for _ in range(2))
    assert first == again and first is not None
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    paths = {"image": [str(tmp_path / "x.png")] * 20, "label": [0, 1] * 10}
    outside = load_task(vit, datasets.Dataset.from_dict(paths, features=features), options=HALVES).train
    assert outside.fingerprint() is None and outside.batch([0])["pixel_values"].shape == (1, 3, 8, 8)


def test_labels_that_are_none_are_said(bert: PreTrainedModel) -> None:
    data = datasets.Dataset.from_dict({"text": ["a", "fine"], "label": [0.5, 1.0]})
    with pytest.raises(RltrError, match=r"classes \(0\.5, 1\.0\) do not fit the model's 2"):
        load_task(bert, data)
    data = datasets.Dataset.from_dict({"text": ["a", "fine"], "label": ["bad", None]})
    with pytest.raises(RltrError, match=r"\[1\]: 'label' must be a string or a number, or a list of them, not None"):
        load_task(bert, data)


def test_a_damaged_table_is_one_line(bert: PreTrainedModel, tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(RltrError, match=r"x\.parquet.* cannot be read") as error:
        load_task(bert, tmp_path / "x.parquet")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["dataset_info.json"], "holds no train, validation and test file"),
        (["state.json"], "holds no train, validation and test file"),
        (["dataset_info.json", "state.json"], "cannot be read"),
        (["dataset_dict.json"], "cannot be read"),
    ],
)
def test_a_folder_without_the_table_it_describes(
    bert: PreTrainedModel, tmp_path: Path, names: list[str], said: str
) -> None:
    (tmp_path / "data").mkdir()
    for name in names:
        (tmp_path / "data" / name).write_text("{}")
    with pytest.raises(RltrError, match=f"data.* {said}") as error:
        load_task(bert, tmp_path / "data")
    assert "\n" not in str(error.value)


def test_a_hub_name_that_cannot_be_reached_is_one_line(bert: PreTrainedModel) -> None:
    with pytest.raises(
        RltrError, match=r"'nobody/nothing' \(looked for '.*nobody.nothing'\) cannot be read: .*HF_HUB_OFFLINE"
    ) as error:
        load_task(bert, "nobody/nothing")
    assert "\n" not in str(error.value)


def test_a_hub_name_is_asked_for_as_it_was_said(bert: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*arguments: Any, **options: Any) -> Any:
        asked.append((*arguments, options))
        whole = datasets.DatasetDict(train=reviews(20), test=reviews(4))
        streams = {name: split.to_iterable_dataset() for name, split in whole.items()}
        return datasets.IterableDatasetDict(streams) if options["streaming"] else whole

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    base = {"data.source": "owner/name", "data.subset": "small", "data.validation_limit": 1}
    task = prepare_data(load_recipe(None, (), base), bert)
    assert sizes(task) == [18, 1, 4]
    task = prepare_data(load_recipe(None, (), {**base, "data.stream_examples": 10}), bert)
    assert sizes(task) == [9, 1, 4]
    assert asked == [("owner/name", "small", {"streaming": False}), ("owner/name", "small", {"streaming": True})]


def test_what_is_a_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    assert is_hub_name("owner/name-1.0") and is_hub_name("nyu-mll/glue")
    for path in ("photos/cats", "photos", "./a/b", "/a/b", "~/a", "a/b/c", "../a", "a/.b", ""):
        assert not is_hub_name(path)


def test_without_the_extra_the_cure_is_said(bert: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(RltrError, match=r"pip install 'rltr\[data\]'"):
        load_task(bert, "owner/name")


def test_data_that_need_it_not_leave_the_extra_alone() -> None:
    for path in (Path(__file__).parents[1] / "rltr").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.partition(".")[0] in ("datasets", "pyarrow")], path


# Streams


class Counted:
    """An endless source that counts how far it was read."""

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
    monkeypatch.setattr("rltr.tasks.table_sources.SHUFFLED", mixed)
    read = []

    def endless() -> Iterator[dict[str, Any]]:
        for i in count():
            read.append(i)
            yield {"text": f"a {('poor', 'fine')[i % 2]} film", "label": ("bad", "good")[i % 2]}

    stream = datasets.IterableDataset.from_generator(endless)
    task = load_task(bert, stream, options=DataOptions(stream_examples=30))
    assert sum(sizes(task)) == 30 and 30 <= max(read) + 1 <= most
    assert [name == "a fine film" for name in task.train.names] == task.train.labels.bool().tolist()


def test_streams_by_split(vit: PreTrainedModel) -> None:
    sources = {"train": Counted(), "val": Counted(), "test": Counted()}
    task = load_task(vit, sources, options=DataOptions(stream_examples=7))
    assert sizes(task) == [7, 7, 7] and [source.read for source in sources.values()] == [7, 7, 7]
    assert task.validation.names[0] == "validation[0]"


def test_what_processors_give_can_be_taken_as_it_is(bert: PreTrainedModel, vit: PreTrainedModel) -> None:
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
        (7, "int is no data"),
    ],
)
def test_a_bad_iterable_is_refused(vit: PreTrainedModel, items: Any, said: str) -> None:
    with pytest.raises(RltrError, match=said):
        load_task(vit, items)


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=8))
def test_a_spool_gives_back_what_it_got(rows: list[list[int]]) -> None:
    spool = Spool("tokens", np.dtype(np.int64))
    for row in rows:
        spool.append(np.array(row, np.int64))
    found = spool.rows()
    spool.close()
    assert [row.tolist() for row in found] == rows
    assert isinstance(found, np.ndarray) == (len({len(row) for row in rows}) == 1)


# Arrays


def arrays(rows: int = 20, **changes: Any) -> dict[str, Any]:
    pixels = np.stack([np.full((3, 8, 8), i, np.float32) for i in range(rows)])
    return {"pixel_values": pixels, "label": np.arange(rows) % 2, **changes}


def test_npz_whole_and_in_splits(vit: PreTrainedModel, tmp_path: Path) -> None:
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
        ({"extra": np.zeros(20)}, "extra is no input of ViTForImageClassification; it takes .*pixel_values"),
        ({"label": np.arange(19)}, r"equally many, .*'label': 19"),
        ({"label": np.zeros(20)}, r"1 classes \(0\.0\) do not fit the model's 2 \(dark, light\)"),
        ({"label": np.zeros((20, 1, 1))}, r"'label' must be a name, a number or several .*, not float32 \(20, 1, 1\)"),
        ({"label": np.arange(20)}, r"20 classes \(0, 1, 10.* do not fit the model's 2 \(dark, light\)"),
        (
            {"pixel_values": np.zeros((20, 3, 16, 16), np.float32)},
            r"cannot take these inputs \(pixel_values \(2, 3, 16",
        ),
        ({"pixel_values": np.zeros((20, 3, 8, 8), np.uint8)}, "pixel_values are uint8, so likely no processor"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(vit: PreTrainedModel, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RltrError, match=said):
        load_task(vit, arrays(**changes))


def test_the_main_input_must_be_there(bert: PreTrainedModel) -> None:
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
def test_rows_that_are_no_tokens_are_refused(bert: PreTrainedModel, row: Any) -> None:
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


def test_arrays_are_copied_and_pictured(vit: PreTrainedModel) -> None:
    whole = ArrayExamples(torch.tensor([0]), ["x"], ["a", "b"], {"pixel_values": arrays(1)["pixel_values"]})
    whole.batch([0])["pixel_values"][:] = 7
    assert float(whole.batch([0])["pixel_values"].max()) == 0
    pixels = np.zeros((1, 1, 2, 2), np.float32)
    pixels[0, 0, 0, 1] = 3
    picture = ArrayExamples(torch.tensor([0]), ["x"], ["a"], {"pixel_values": pixels}).picture(0)
    assert picture is not None and [picture.getpixel(at) for at in ((0, 0), (1, 0))] == [0, 255]
    assert ArrayExamples(torch.tensor([0]), ["x"], ["a"], {"input_ids": np.ones((1, 2), int)}).picture(0) is None


# Settings


def test_a_recipe_says_all_that_can_be_said_about_data() -> None:
    said: dict[str, Any] = {
        "fractions": (0.5, 0.25, 0.25),
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


# Splits


def test_the_learners_seed_moves_no_split(vit: PreTrainedModel, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **arrays(40))
    base = {"data.source": str(tmp_path / "x.npz"), "data.validation_limit": 3, "data.train_limit": 9}

    def names(**changes: Any) -> list[list[str]]:
        return [split.names for split in splits(prepare_data(load_recipe(None, (), {**base, **changes}), vit))]

    whole = names()
    assert [len(part) for part in whole] == [9, 3, 4]
    assert names(**{"learner.seed": 7}) == whole != names(**{"data.split_seed": 1})
    assert names(**{"data.train_limit": None})[1:] == whole[1:]
