"""Tables that cannot be used are refused in one line that names the column, row or file."""

from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedModel

from rltr.errors import RltrError
from rltr.tasks import DataOptions, load_task
from tests.sources.conftest import HALVES, photo, reviews, sizes, splits


def test_hidden_labels_are_refused_with_an_explanation(bert: PreTrainedModel) -> None:
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
def test_wrong_columns_are_refused(bert: PreTrainedModel, options: dict[str, str], said: str) -> None:
    with pytest.raises(RltrError, match=said):
        load_task(bert, reviews(), options=DataOptions(**options))


def test_a_table_without_images_is_refused(vit: PreTrainedModel) -> None:
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


def test_invalid_labels_are_refused(bert: PreTrainedModel) -> None:
    data = datasets.Dataset.from_dict({"text": ["a", "fine"], "label": [0.5, 1.0]})
    with pytest.raises(RltrError, match=r"classes \(0\.5, 1\.0\) do not fit the model's 2"):
        load_task(bert, data)
    data = datasets.Dataset.from_dict({"text": ["a", "fine"], "label": ["bad", None]})
    with pytest.raises(RltrError, match=r"\[1\]: 'label' must be a string or a number, or a list of them, not null"):
        load_task(bert, data)


def test_a_damaged_table_is_refused_in_one_line(bert: PreTrainedModel, tmp_path: Path) -> None:
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
def test_a_folder_without_the_table_it_describes_is_refused(
    bert: PreTrainedModel, tmp_path: Path, names: list[str], said: str
) -> None:
    (tmp_path / "data").mkdir()
    for name in names:
        (tmp_path / "data" / name).write_text("{}")
    with pytest.raises(RltrError, match=f"data.* {said}") as error:
        load_task(bert, tmp_path / "data")
    assert "\n" not in str(error.value)


def test_duplicate_columns_are_refused(bert: PreTrainedModel, tmp_path: Path) -> None:
    column, names = pa.array(["a"] * 20), ["text", "text", "label"]
    pq.write_table(pa.table([column, column, pa.array([0, 1] * 10)], names=names), tmp_path / "x.parquet")
    with pytest.raises(RltrError, match=r"x\.parquet' cannot be read: .*text") as error:
        load_task(bert, tmp_path / "x.parquet")
    assert "\n" not in str(error.value)
