"""Tables as ``datasets`` objects, Parquet and Arrow files: texts, images, splits and fingerprints."""

import ast
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
from rltr.tasks import DataOptions, load_task
from tests.conftest import logged_warnings
from tests.sources.conftest import HALVES, photos, reviews, sizes, splits


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
def test_images_of_a_table_are_read(vit: PreTrainedModel, tmp_path: Path, form: str) -> None:
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


def test_splits_have_the_given_names(bert: PreTrainedModel) -> None:
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


def test_class_labels_are_matched_by_name_or_else_by_number(
    bert: PreTrainedModel, caplog: pytest.LogCaptureFixture
) -> None:
    task = load_task(bert, reviews(20, ["Good", "BAD"]), options=HALVES)
    assert [name == "a fine film" for name in task.train.names] == (task.train.labels == 0).tolist()
    assert not logged_warnings(caplog)
    task = load_task(bert, reviews(20, ["neg", "pos"]), options=HALVES)
    assert [name == "a fine film" for name in task.train.names] == (task.train.labels == 1).tolist()
    assert "(neg, pos) are not the model's: the class indices 0 to 1 are used instead" in caplog.text


def test_fingerprints_of_tables_depend_on_their_content(
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


def test_datasets_is_imported_only_where_it_is_used() -> None:
    """Importing it takes a second, and most data do not need it."""
    files = list((Path(__file__).parents[2] / "rltr").rglob("*.py"))
    assert len(files) > 100
    for path in files:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.partition(".")[0] in ("datasets", "pyarrow")], path


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "dictionary", "large dictionary"])
@pytest.mark.parametrize("form", ["parquet", "arrow", "object"])
def test_texts_of_every_arrow_type_are_read(bert: PreTrainedModel, tmp_path: Path, kind: str, form: str) -> None:
    """Texts and labels as pandas, polars and DuckDB write them."""
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
