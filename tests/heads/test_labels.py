"""Labels other than one class: numbers and several labels, from files, tables and arrays."""

import io
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BeitConfig, BeitForImageClassification

from rltr.errors import RltrError
from rltr.tasks import DataOptions, TensorExamples, load_task
from rltr.tasks.goals import MultiLabel, Regression
from rltr.tasks.goals.heads import measure_spread
from rltr.tasks.goals.token_classes import UNLABELLED
from rltr.tasks.models import load_model
from tests.heads.conftest import VISION

pytestmark = pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")


def test_numbers_are_read_with_the_spread_of_the_models_answers(folder: Path) -> None:
    model = load_model(str(folder / "rater"))
    task = load_task(model, folder / "rated.csv", options=DataOptions((0.5, 0.25, 0.25), label_column="stars"))
    everything = torch.cat([part.labels for part in (task.train, task.validation, task.test)])
    assert sorted(everything[:, 0].tolist()) == pytest.approx([i / 7 for i in range(30)])
    goal = task.train.goal
    assert isinstance(goal, Regression)
    assert goal.deviation == pytest.approx(float((everything - everything.median()).abs().mean()))
    with torch.no_grad():
        answers = model(**task.train.batch(range(len(task.train)))).logits
    assert goal.spread == pytest.approx(float(answers.std(correction=0)), rel=1e-3)


def test_the_spread_of_a_model_in_half_precision_is_measured() -> None:
    """BEiT takes inputs of its own precision only, unlike ViT."""
    model = BeitForImageClassification(BeitConfig(**VISION, num_labels=1, initializer_range=0.5)).eval()
    names, pixels = [str(i) for i in range(40)], torch.randn(40, 3, 16, 16)
    examples = TensorExamples(torch.zeros(40, 1), names, [], {"pixel_values": pixels}, goal=Regression())
    found = [measure_spread(model.to(dtype), examples) for dtype in (torch.float32, torch.bfloat16)]
    assert isinstance(found[0], Regression) and isinstance(found[1], Regression)
    assert found[1].spread == pytest.approx(found[0].spread, rel=0.1)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["1.0", "many"], "'many' is not a number"),
        (["1.0", "nan"], "'nan' is not a number"),
        (["1.0", "2|3"], "'2|3' is not a number"),
        (["1.0", "1.0"], "nothing to predict"),
    ],
)
def test_labels_that_are_not_numbers_are_refused(folder: Path, tmp_path: Path, labels: list[str], said: str) -> None:
    (tmp_path / "x.csv").write_text("text,label\n" + "".join(f"tea,{label}\n" for label in labels * 5))
    with pytest.raises(RltrError, match=said.replace("|", r"\|")):
        load_task(load_model(str(folder / "rater")), tmp_path / "x.csv")


def test_a_regression_with_constant_answers_is_refused(folder: Path, tmp_path: Path) -> None:
    model: Any = load_model(str(folder / "rater"))
    torch.nn.init.zeros_(model.classifier.weight)
    with pytest.raises(RltrError, match="same number for"):
        load_task(model, folder / "rated.csv", options=DataOptions(label_column="stars"))


def test_several_labels_become_zeros_and_ones(folder: Path) -> None:
    task = load_task(load_model(str(folder / "topics")), folder / "topics.jsonl")
    assert task.train.classes == ["food", "travel"]
    assert {tuple(marks) for marks in task.train.labels.tolist()} == {(1.0, 0.0), (1.0, 1.0)}


def test_an_empty_list_means_no_class(folder: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"text": "tea", "label": [["food", "travel"], []][i % 2]}) for i in range(20)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    task = load_task(load_model(str(folder / "topics")), tmp_path / "x.jsonl")
    assert {tuple(marks) for marks in task.train.labels.tolist()} == {(0.0, 0.0), (1.0, 1.0)}


def test_a_model_without_the_needed_head_is_refused(folder: Path) -> None:
    with pytest.raises(RltrError, match="BertModel has no field 'logits'"):
        load_task(load_model(str(folder / "embedder"), "embedding"), folder / "topics.jsonl", kind="text")


def table(features: dict[str, Any], records: list[tuple[Any, ...]]) -> datasets.Dataset:
    columns = dict(zip(features, map(list, zip(*records, strict=True)), strict=True))
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


STRING = datasets.Value("string")


IMAGE = datasets.Image()


TABLES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "numbers": ("rater", {"label_column": "stars"}, {}),
    "several labels": ("topics", {}, {}),
    "several labels by number": ("topics", {"label_column": "codes"}, {}),
    "embeddings": ("embedder", {}, {"kind": "embedding"}),
    "zero-shot": ("clip", {"label_column": "drink", "template": "ann likes {}"}, {}),
    "image embeddings": ("seer", {}, {"kind": "embedding"}),
    "numbers of images": ("guesser", {"label_column": "stars"}, {}),
    "tokens": ("tagger", {"text_column": "words", "label_column": "tags"}, {}),
    "tokens by number": ("tagger", {"text_column": "words", "label_column": "numbers"}, {}),
}


def records() -> datasets.Dataset:
    """Twenty records with columns for every kind."""
    features = {
        "text": STRING,
        "image": IMAGE,
        "stars": datasets.Value("float32"),
        "label": datasets.List(datasets.ClassLabel(names=["Travel", "Food"])),
        "codes": datasets.List(datasets.Value("int64")),
        "drink": datasets.ClassLabel(names=["red_tea", "old_tea"]),
        "words": datasets.List(STRING),
        "tags": datasets.List(datasets.ClassLabel(names=["PLACE", "NAME", "O"])),
        "numbers": datasets.List(datasets.Value("int64")),
    }
    rows = []
    for i in range(20):
        stream = io.BytesIO()
        Image.new("RGB", (16, 16), (10 * i, 100, 255 - 10 * i)).save(stream, "PNG")
        image = {"bytes": stream.getvalue(), "path": None}
        text, labels = ["ann likes tea", "bob lives in rome"][i % 2], [[0, 1], []][i % 2]
        words = text.split()
        tags = [1] + [2] * (len(words) - 1)
        numbers = [1] + [0] * (len(words) - 2) + [-100]
        rows.append((text, image, i / 7, labels, labels, i % 2, words, tags, numbers))
    return table(features, rows)


@pytest.mark.parametrize("case", TABLES)
def test_tables_are_read_for_every_goal(folder: Path, case: str) -> None:
    name, own, kind = TABLES[case]
    model = load_model(str(folder / name), **kind)
    task = load_task(model, records(), options=DataOptions((0.5, 0.25, 0.25), **own), **kind)
    train = task.train
    assert sum(len(split) for split in (task.train, task.validation, task.test)) == 20
    assert train.goal == task.test.goal and train.fingerprint() is not None
    with torch.no_grad():
        inputs = train.batch(range(len(train)))
        answers = train.goal.read(model(**inputs), inputs)
    assert answers.shape == (len(train), *train.goal.shape(train.labels, train.classes))
    train.goal.check(answers, answers, train.labels)
    if case.startswith("several"):
        assert {tuple(marks) for marks in train.labels.tolist()} == {(1.0, 1.0), (0.0, 0.0)}
    elif case.startswith("tokens"):
        last = UNLABELLED if case.endswith("number") else 0
        wanted = {(4, 1, 0, last), (5, 1, 0, 0, last)}
        found = train.labels.tolist()
        assert {
            (len(words.split()) + 1, *row[1 : len(words.split()) + 1])
            for words, row in zip(train.names, found, strict=True)
        } == wanted
    elif case == "zero-shot":
        assert train.classes == ["old tea", "red tea"]


def test_arrays_are_read_for_every_head_with_a_label(folder: Path) -> None:
    ids = np.array([[2, 4 + i % 9, 5, 3] for i in range(20)])
    stars = np.arange(20, dtype=np.float32) / 7
    marks = np.stack([np.arange(20) % 2, np.arange(20) % 3 > 0], 1).astype(np.float32)
    for labels in (stars, stars[:, None]):
        task = load_task(load_model(str(folder / "rater")), {"input_ids": ids, "labels": labels})
        assert isinstance(task.train.goal, Regression) and task.train.labels.shape == (16, 1)
        every = torch.cat([split.labels for split in (task.train, task.validation, task.test)])
        assert sorted(every[:, 0].tolist()) == stars.tolist()
    topics = load_model(str(folder / "topics"))
    for data in ({"input_ids": ids, "labels": marks}, [{"input_ids": ids, "labels": torch.from_numpy(marks)}]):
        task = load_task(topics, data)
        assert isinstance(task.train.goal, MultiLabel)
        every = torch.cat([split.labels for split in (task.train, task.validation, task.test)])
        assert sorted(every.tolist()) == sorted(marks.tolist())
    with pytest.raises(RltrError, match="0 or 1 for each of the 2 classes"):
        load_task(topics, {"input_ids": ids, "labels": 2 * marks})
    with pytest.raises(RltrError, match=r"is not a number"):
        load_task(load_model(str(folder / "rater")), {"input_ids": ids, "labels": marks})
    with pytest.raises(RltrError, match="tokens tasks do not read arrays .*; these do: image, text, audio"):
        load_task(load_model(str(folder / "tagger")), {"input_ids": ids, "labels": ids})


def test_sentences_without_a_label_are_left_out_if_asked(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [{"text": ["ann", "lives"], "label": [["NAME", -100], [-100, -100]][i == 7]} for i in range(20)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    model = load_model(str(folder / "tagger"))
    with pytest.raises(RltrError, match=r"line 8: no labelled word is left.*data\.bad_inputs=skip"):
        load_task(model, tmp_path / "x.jsonl")
    task = load_task(model, tmp_path / "x.jsonl", options=DataOptions(bad_inputs="skip"))
    assert sum(len(split) for split in (task.train, task.validation, task.test)) == 19
    assert "line 8: no labelled word" in caplog.text
