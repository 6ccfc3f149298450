"""``datasets``, Parquet and Arrow: tables here and on the hub."""

import ast
import io
import os
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import PreTrainedModel

from rltr.errors import RltrError
from rltr.jobs.preparation import prepare_data
from rltr.recipe import is_hub_name, load_recipe
from rltr.tasks import DataOptions, load_task
from tests.conftest import heard
from tests.sources.conftest import HALVES, sizes, splits


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
    assert not heard(caplog)
    task = load_task(bert, reviews(20, ["neg", "pos"]), options=HALVES)
    assert [name == "a fine film" for name in task.train.names] == (task.train.labels == 1).tolist()
    assert "(neg, pos) are not the model's: the class indices 0 to 1 are used instead" in caplog.text


def test_hidden_labels_are_explained(bert: PreTrainedModel) -> None:
    hidden = datasets.Dataset.from_dict({"text": ["a film"], "label": [-1]}, features=reviews().features)
    data = datasets.DatasetDict(train=reviews(), validation=reviews(4), test=hidden)
    with pytest.raises(RltrError, match=r"-1 marks examples without a label: .*data\.test_split=validation"):
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
    with pytest.raises(RltrError, match=r"\[1\]: 'label' must be a string or a number, or a list of them, not null"):
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


def test_datasets_is_imported_only_where_it_is_used() -> None:
    """It takes a second, and most data need it not."""
    files = list((Path(__file__).parents[2] / "rltr").rglob("*.py"))
    assert len(files) > 100
    for path in files:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.partition(".")[0] in ("datasets", "pyarrow")], path


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "dictionary", "large dictionary"])
@pytest.mark.parametrize("form", ["parquet", "arrow", "object"])
def test_texts_of_every_arrow_type(bert: PreTrainedModel, tmp_path: Path, kind: str, form: str) -> None:
    """As pandas, polars and DuckDB write them; labels, too."""
    wide = pa.large_string() if kind.startswith("large") else pa.string()
    own = {"string_view": pa.string_view(), "dictionary": pa.dictionary(pa.int32(), pa.string())}.get(kind, wide)

    def column(values: list[str]) -> Any:
        made = pa.array(values, wide)
        return made.dictionary_encode() if kind.endswith("dictionary") else made.cast(own)

    texts, labels = (
        [f"a {('poor', 'fine')[i % 2]} film" for i in range(20)],
        [("bad", "good")[i % 2] for i in range(20)],
    )
    table = pa.table({"text": column(texts), "label": column(labels)})
    data: Any = tmp_path / f"x.{form}"
    if form == "parquet":
        pq.write_table(table, data)
    elif form == "arrow":
        with pa.OSFile(str(data), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    else:
        data = datasets.Dataset(table)
    task = load_task(bert, data, options=HALVES)
    assert sum(sizes(task)) == 20
    for split in splits(task):
        assert [name == "a fine film" for name in split.names] == split.labels.bool().tolist()


@pytest.mark.parametrize(
    "name", ["photos [2024]", "r*x", "r?", "r[!a]", "{a,b}", "a [b] [[c]", "~x", "a b", "ünï", "-x"]
)
@pytest.mark.parametrize("layout", ["file", "whole", "splits", "data", "folders", "saved", "csv"])
def test_a_path_is_no_pattern(bert: PreTrainedModel, tmp_path: Path, name: str, layout: str) -> None:
    """``datasets`` takes paths for patterns: it finds nothing, or the data of a neighbour that the pattern fits."""
    for place, word in ((name, "fine"), ("rAx", "poor"), ("rA", "poor"), ("rb", "poor"), ("a", "poor")):
        folder = tmp_path / layout / place
        folder.mkdir(parents=True)
        own = datasets.Dataset.from_dict({"text": [f"a {word} film"] * 20, "label": [0, 1] * 10})
        if layout in ("file", "whole"):
            own.to_parquet(folder / "x.parquet")
        elif layout == "saved":
            own.save_to_disk(folder)
        elif layout == "csv":
            own.to_csv(folder / "train.csv", index=False)
            own.to_csv(folder / "test.csv", index=False)
        else:
            for split in ("train", "validation", "test"):
                file = {
                    "splits": folder / f"{split}.parquet",
                    "data": folder / "data" / f"{split}-00000-of-00001.parquet",
                    "folders": folder / split / "x [1].parquet",
                }[layout]
                file.parent.mkdir(exist_ok=True)
                own.to_parquet(file)
    data = tmp_path / layout / name
    task = load_task(bert, data / "x.parquet" if layout == "file" else data, options=HALVES)
    assert {text for split in splits(task) for text in split.names} == {"a fine film"}
    assert sum(sizes(task)) == {"splits": 60, "data": 60, "folders": 60, "csv": 40}.get(layout, 20)


def test_hidden_tables_do_not_make_a_folder_of_images_a_table(vit: PreTrainedModel, tmp_path: Path) -> None:
    for i in range(10):
        for name, grey in (("dark", 10 + i), ("light", 200 + i)):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "data" / name / f"{i}.png").write_bytes(photo(grey))
    for place in (".cache/x.parquet", "._x.parquet", "__MACOSX/x.arrow"):
        (tmp_path / "data" / place).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / place).write_bytes(b"PAR1")
    assert sum(sizes(load_task(vit, tmp_path / "data"))) == 20


def test_two_columns_of_one_name_are_said(bert: PreTrainedModel, tmp_path: Path) -> None:
    column, names = pa.array(["a"] * 20), ["text", "text", "label"]
    pq.write_table(pa.table([column, column, pa.array([0, 1] * 10)], names=names), tmp_path / "x.parquet")
    with pytest.raises(RltrError, match=r"x\.parquet' cannot be read: .*text") as error:
        load_task(bert, tmp_path / "x.parquet")
    assert "\n" not in str(error.value)


def test_a_changed_table_is_read_anew_whatever_its_time(bert: PreTrainedModel, tmp_path: Path) -> None:
    """``datasets`` keeps a copy, and tells a changed file by its time of change alone, which archives restore."""
    for word in ("fine", "poor"):
        table = datasets.Dataset.from_dict({"text": [f"a {word} film"] * 20, "label": [0, 1] * 10})
        table.to_parquet(tmp_path / "x.parquet")
        os.utime(tmp_path / "x.parquet", (1e9, 1e9))
        task = load_task(bert, tmp_path / "x.parquet", options=HALVES)
        assert {name for split in splits(task) for name in split.names} == {f"a {word} film"}


def test_a_changed_table_of_images_has_another_fingerprint(vit: PreTrainedModel, tmp_path: Path) -> None:
    """The dense model's answers to them are kept under it."""
    prints = []
    for dark in ([0, 1], [1, 0]):
        photos().add_column("own", dark * 10).to_parquet(tmp_path / "x.parquet")
        os.utime(tmp_path / "x.parquet", (1e9, 1e9))
        prints.append(load_task(vit, tmp_path / "x.parquet", options=HALVES).train.fingerprint())
        prints.append(load_task(vit, tmp_path / "x.parquet", options=HALVES).train.fingerprint())
    assert prints[0] == prints[1] != prints[2] == prints[3]


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_a_cache_that_cannot_be_written_is_not_needed(
    bert: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    data = tmp_path / "x.parquet"
    if form == "parquet":
        reviews().to_parquet(data)
    else:
        reviews().save_to_disk(tmp_path / "saved")
        data = next((tmp_path / "saved").glob("*.arrow"))
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file" / "cache")
    assert sum(sizes(load_task(bert, data, options=HALVES))) == 20
