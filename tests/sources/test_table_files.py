"""Files of tables: unusual paths, hidden files, changed content and the cache of ``datasets``."""

import os
from pathlib import Path

import datasets
import pytest
from transformers import PreTrainedModel

from rltr.tasks import load_task
from tests.sources.conftest import HALVES, photo, photos, reviews, sizes, splits


@pytest.mark.parametrize(
    "name", ["photos [2024]", "r*x", "r?", "r[!a]", "{a,b}", "a [b] [[c]", "~x", "a b", "ünï", "-x"]
)
@pytest.mark.parametrize("layout", ["file", "whole", "splits", "data", "folders", "saved", "csv"])
def test_special_characters_of_paths_are_not_patterns(
    bert: PreTrainedModel, tmp_path: Path, name: str, layout: str
) -> None:
    """``datasets`` takes paths as patterns: it finds nothing, or the data of another folder that matches."""
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


def test_a_changed_table_is_read_again_even_with_the_same_time(bert: PreTrainedModel, tmp_path: Path) -> None:
    """``datasets`` keeps a copy, and detects changes by the modification time alone, which archives restore."""
    for word in ("fine", "poor"):
        table = datasets.Dataset.from_dict({"text": [f"a {word} film"] * 20, "label": [0, 1] * 10})
        table.to_parquet(tmp_path / "x.parquet")
        os.utime(tmp_path / "x.parquet", (1e9, 1e9))
        task = load_task(bert, tmp_path / "x.parquet", options=HALVES)
        assert {name for split in splits(task) for name in split.names} == {f"a {word} film"}


def test_a_changed_table_of_images_has_another_fingerprint(vit: PreTrainedModel, tmp_path: Path) -> None:
    """Answers of the dense model are cached under it."""
    prints = []
    for dark in ([0, 1], [1, 0]):
        photos().add_column("own", dark * 10).to_parquet(tmp_path / "x.parquet")
        os.utime(tmp_path / "x.parquet", (1e9, 1e9))
        prints.append(load_task(vit, tmp_path / "x.parquet", options=HALVES).train.fingerprint())
        prints.append(load_task(vit, tmp_path / "x.parquet", options=HALVES).train.fingerprint())
    assert prints[0] == prints[1] != prints[2] == prints[3]


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_tables_are_read_without_a_writable_cache(
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
