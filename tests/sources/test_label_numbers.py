"""Labels from every kind of source get the numbers of the model's head; guesses give a warning."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
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
from rltr.tasks import load_task
from tests.sources.conftest import HALVES, SMALL, WORDS, splits

COUNT = 12
NUMERALS = [str(i) for i in range(COUNT)]
PERMUTED = sorted(NUMERALS)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function that creates models whose head has given class names or none; each is created once."""
    made: dict[Any, PreTrainedModel] = {}

    def model(names: Sequence[str] | None, images: bool = False) -> PreTrainedModel:
        key = (tuple(names or ()), images)
        if key not in made:
            made[key] = save(tmp_path_factory.mktemp("model"), names, images)
        return made[key]

    return model


def save(folder: Path, names: Sequence[str] | None, images: bool) -> PreTrainedModel:
    head: dict[str, Any] = {"num_labels": COUNT}
    if names is not None:
        head = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    if images:
        ViTForImageClassification(ViTConfig(**SMALL, **head, image_size=8, patch_size=4)).save_pretrained(folder)
        ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder)
        return ViTForImageClassification.from_pretrained(folder).eval()
    config = BertConfig(**SMALL, **head, vocab_size=len(WORDS), max_position_embeddings=8)
    BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(folder)
    return BertForSequenceClassification.from_pretrained(folder).eval()


def table(labels: Sequence[Any], kind: Any = None) -> datasets.Dataset:
    """Texts with their row number, and labels."""
    columns = {"text": [f"a {number}" for number in range(len(labels))], "label": list(labels)}
    own = datasets.Dataset.from_dict(columns)
    return own if kind is None else own.cast_column("label", kind)


def class_labels(labels: Sequence[Any], folder: Path) -> Any:
    """Numbers with names: numerals in alphabetical order, which differ from the head's numbers."""
    return table([int(own) for own in labels], datasets.ClassLabel(names=PERMUTED))


def saved(form: str) -> Callable[[Sequence[Any], Path], Any]:
    def write(labels: Sequence[Any], folder: Path) -> Any:
        folder.mkdir()
        path = folder / f"data.{form}"
        rows = [{"text": f"a {number}", "label": label} for number, label in enumerate(labels)]
        if form == "jsonl":
            path.write_text("\n".join(map(json.dumps, rows)))
        elif form == "parquet":
            table(labels).to_parquet(path)
        elif form == "arrow":
            table(labels).save_to_disk(folder / "saved")
            path = next((folder / "saved").glob("*.arrow"))
        else:
            with path.open("w", newline="") as file:
                csv.writer(file, delimiter="\t" if form == "tsv" else ",").writerows(
                    [("text", "label"), *((row["text"], row["label"]) for row in rows)]
                )
        return path

    return write


def ids(labels: Sequence[Any]) -> dict[str, Any]:
    return {"input_ids": np.array([[2, 5 + i % 3, 3] for i in range(len(labels))]), "label": np.array(labels)}


def npz(labels: Sequence[Any], folder: Path) -> Any:
    folder.mkdir()
    np.savez(folder / "data.npz", **ids(labels))
    return folder / "data.npz"


def iterable(labels: Sequence[Any], folder: Path) -> Any:
    every = ids(labels)
    return ({"input_ids": own, "label": label} for own, label in zip(every["input_ids"], every["label"], strict=True))


def pictures(labels: Sequence[Any], folder: Path) -> Any:
    for number, label in enumerate(labels):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / str(label) / f"{number}.png")
    return folder


Make = Callable[[Sequence[Any], Path], Any]
TEXTS: dict[str, Make] = {name: saved(name) for name in ("csv", "tsv", "jsonl")}
NUMBERED: dict[str, Make] = {
    "parquet": saved("parquet"),
    "arrow": saved("arrow"),
    "object": lambda labels, folder: table(labels),
    "stream": lambda labels, folder: table(labels).to_iterable_dataset(),
    "arrays": lambda labels, folder: ids(labels),
    "npz": npz,
    "iterable": iterable,
}
SOURCES: dict[str, Make] = {**TEXTS, **NUMBERED, "folder": pictures}


def numbers(task: Any, source: str) -> list[int]:
    """Labels in the order in which the data were created; folders are sorted by file name."""
    whole = task.train.examples
    if source != "folder":
        order = np.argsort([int(text.split()[1]) for text in whole.texts]) if hasattr(whole, "texts") else slice(None)
        return whole.labels.numpy()[order].tolist()
    return whole.labels.numpy()[np.argsort([int(Path(own).stem) for own in whole.names])].tolist()


EVERY = list(range(COUNT)) * 5


@pytest.mark.parametrize("source", SOURCES)
def test_numeric_labels_keep_their_numbers(
    models: Any, source: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With and without names in the head, 2 is label 2, which comes after 10 and 11 in alphabetical order."""
    for number, names in enumerate((None, [f"class {i}" for i in range(COUNT)], NUMERALS)):
        model = models(names, source == "folder")
        data = SOURCES[source](EVERY, tmp_path / f"data{number}")
        assert numbers(load_task(model, data, options=HALVES), source) == EVERY, names


@pytest.mark.parametrize("source", SOURCES)
def test_names_get_the_numbers_of_the_head(models: Any, source: str, tmp_path: Path) -> None:
    names = ["world", "sports", "business", "tech", "arts", "café", "T-shirt/top", "no", "on", "1_000", "null", "x"]
    model = models(names, source == "folder")
    written = [name.replace("/", "_").replace("é", "e\u0301").upper() for name in names]
    data = SOURCES[source]([written[i] for i in EVERY], tmp_path / "data")
    assert numbers(load_task(model, data, options=HALVES), source) == EVERY


@pytest.mark.parametrize("source", SOURCES)
def test_guessed_numbers_give_a_warning(
    models: Any, source: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = models(None, source == "folder")
    read = numbers(load_task(model, SOURCES[source]([1 + i for i in EVERY], tmp_path / "one"), options=HALVES), source)
    expected = {str(1 + i): i for i in range(COUNT)}
    if source == "folder":  # folders are numbered in alphabetical order, as in training
        expected = {name: i for i, name in enumerate(sorted(expected))}
    assert read == [expected[str(1 + i)] for i in EVERY]
    assert caplog.text.count("the model's classes have no names; the data's are numbered") == 1
    assert "model.config.id2label" in caplog.text


@pytest.mark.parametrize("source", SOURCES)
def test_labels_that_count_from_one_are_refused_by_a_head_with_names(models: Any, source: str, tmp_path: Path) -> None:
    model = models([f"class {i}" for i in range(COUNT)], source == "folder")
    with pytest.raises(RltrError, match=r"seem to count from 1.*subtract 1 from each \(12 becomes 11\)"):
        load_task(model, SOURCES[source]([1 + i for i in EVERY], tmp_path / "data"), options=HALVES)


@pytest.mark.parametrize("form", ["object", "parquet", "saved", "stream", "splits"])
def test_class_labels_keep_their_numbers_if_the_head_has_no_names(
    models: Any, form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Even if every name is a numeral, as in GTSRB, Flowers-102 and ImageNetV2."""
    whole = class_labels(EVERY, tmp_path)
    data: Any = whole
    if form == "parquet":
        whole.to_parquet(data := tmp_path / "x.parquet")
    elif form == "saved":
        whole.save_to_disk(data := tmp_path / "saved")
    elif form == "stream":
        data = whole.to_iterable_dataset()
    elif form == "splits":
        data = datasets.DatasetDict(train=whole, validation=whole, test=whole)
    task = load_task(models(None), data, options=HALVES)
    if form == "splits":
        assert [split.labels.tolist() for split in splits(task)] == [EVERY] * 3
    else:
        assert numbers(task, form) == EVERY
    assert task.train.classes == PERMUTED and "class indices 0 to 11 are used instead" in caplog.text
    named = load_task(models(NUMERALS), data, options=HALVES)
    expected = [int(PERMUTED[i]) for i in EVERY]
    assert (named.train.labels.tolist() if form == "splits" else numbers(named, form)) == expected


def test_class_labels_that_are_not_sorted_keep_their_numbers(models: Any) -> None:
    world = ["World", "Sports", "Business", *(f"more {i}" for i in range(9))]
    data = table(EVERY, datasets.ClassLabel(names=world))
    assert numbers(load_task(models(None), data, options=HALVES), "object") == EVERY


def test_class_labels_that_contradict_the_model_or_each_other_are_refused(models: Any) -> None:
    model = models([f"class {i}" for i in range(COUNT)])
    names = [f"class {i}" for i in (1, 0, *range(2, 11))] + ["something else"]
    with pytest.raises(RltrError, match="'class 1' has index 0 in the data and 1 in the model"):
        load_task(model, table(EVERY, datasets.ClassLabel(names=names)), options=HALVES)
    one, other = ([f"{letter}{i}" for i in range(COUNT)] for letter in "ab")
    own = {
        "train": table(EVERY, datasets.ClassLabel(names=one)),
        "test": table(EVERY, datasets.ClassLabel(names=other)),
    }
    with pytest.raises(RltrError, match="the classes of test .* differ from those of the split before it"):
        load_task(model, datasets.DatasetDict(own), options=HALVES)
