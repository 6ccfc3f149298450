"""The data and the model that come with rltr."""

import gzip
import hashlib
import importlib.util
import struct
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from rltr import embedded
from rltr.embedded.canvas import MEAN, PIECE, STD, draw_canvases, pixels
from rltr.errors import RltrError
from rltr.tasks import Task

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture(scope="module")
def task() -> Task:
    return embedded.load_task()


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)  # Python puts the folder of a script on the path
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def garments(count: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 255, (count, 28, 28)).astype(np.uint8)


def test_canvases_depend_on_garments_and_seed_only() -> None:
    first, corner = draw_canvases(garments(), 5)
    again, corner_again = draw_canvases(garments(), 5)
    assert (first == again).all() and (corner == corner_again).all()
    assert not (first == draw_canvases(garments(), 6)[0]).all()


def test_the_pixels_of_the_canvases_never_change() -> None:
    # Published accuracies were measured on these pixels: a change needs a new model, new results and a new card.
    canvases, corner = draw_canvases(garments(), 5)
    digest = hashlib.sha256(canvases.tobytes() + corner.astype("<i8").tobytes()).hexdigest()
    assert digest == "b21e2380e7067c7d0b894f52049e10a92a1c20a0454dc8c8896fcb94dbcdaeca"


def test_a_garment_is_complete_at_its_corner() -> None:
    whole = garments()
    canvases, corner = draw_canvases(whole, 1)
    for canvas, garment, (row, column) in zip(canvases, whole, corner, strict=True):
        assert (canvas[row : row + 28, column : column + 28] >= garment).all()
    plain, corner = draw_canvases(whole, 1, pieces=0)
    assert (plain.reshape(20, -1).sum(1) == whole.reshape(20, -1).sum(1)).all()


def test_clutter_comes_from_other_garments() -> None:
    values = np.arange(1, 21, dtype=np.uint8)
    canvases, corner = draw_canvases(np.broadcast_to(values[:, None, None], (20, 28, 28)).copy(), 2)
    for value, canvas, (row, column) in zip(values, canvases, corner, strict=True):
        canvas[row : row + 28, column : column + 28] = 0
        assert value not in canvas
        assert 0 < (canvas > 0).sum() <= 8 * PIECE**2


def test_pixels_are_normalised() -> None:
    values = pixels(np.stack([np.zeros((56, 56), np.uint8), np.full((56, 56), 255, np.uint8)]))
    torch.testing.assert_close(values[:, 0, 3, 5], torch.tensor([-MEAN / STD, (1 - MEAN) / STD]))


def test_splits_share_no_garment(task: Task) -> None:
    with np.load(embedded.GARMENTS, allow_pickle=False) as arrays:
        splits = [{garment.tobytes() for garment in arrays[f"{name}_garments"]} for name in embedded.SEEDS]
    assert [len(split) for split in splits] == [6000, 2000, 5000]
    assert len(set.union(*splits)) == 13_000
    assert [len(split) for split in (task.train, task.validation, task.test)] == [6000, 2000, 5000]


def test_the_task_fits_the_model_and_the_gallery(task: Task) -> None:
    assert task.kind == "image" and len(task.test.classes) == 10
    for split in (task.train, task.validation, task.test):
        assert set(split.labels.tolist()) == set(range(10))
    batch = task.test.batch([7, 3])
    assert batch["pixel_values"].shape == (2, 1, 56, 56)
    picture = task.test.picture(7)
    assert picture is not None
    assert torch.equal(pixels(np.array(picture)[None])[0], batch["pixel_values"][0])
    assert task.test.names[7] == "test/7" and task.test.words(7) is None


def test_a_limit_gives_the_first_canvases(task: Task) -> None:
    few = embedded.load_task(train=5, validation=4, test=3)
    assert [len(split) for split in (few.train, few.validation, few.test)] == [5, 4, 3]
    for split, whole in ((few.train, task.train), (few.validation, task.validation), (few.test, task.test)):
        index = range(len(split))
        assert torch.equal(split.batch(index)["pixel_values"], whole.batch(index)["pixel_values"])
        assert torch.equal(split.labels, whole.labels[: len(split)])
    assert len(embedded.load_task(test=9999).test) == 5000
    with pytest.raises(RltrError, match="1 example or more, not 0"):
        embedded.load_task(test=0)


def test_missing_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "GARMENTS", tmp_path / "garments.npz")
    with pytest.raises(RltrError, match="install it again"):
        embedded.load_task(test=1)


def test_the_model_is_frozen_and_mostly_right(task: Task) -> None:
    model = embedded.load_model()
    assert not model.training and not any(weight.requires_grad for weight in model.parameters())
    assert model.config.id2label == dict(enumerate(task.test.classes))
    index = range(300)
    with torch.inference_mode():
        right = model(**task.test.batch(index)).logits.argmax(-1) == task.test.labels[:300]
    assert right.float().mean() > 0.75  # at least 0.8 on all 5,000; with 300, 5 points less is chance


def test_embedded_files_stay_small() -> None:
    sizes = [path.stat().st_size for path in Path(embedded.__file__).parent.rglob("*") if path.is_file()]
    assert embedded.GARMENTS.stat().st_size < 8e6 and sum(sizes) < 20e6


def test_the_data_file_depends_on_its_input_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = script("build_embedded_data", monkeypatch)
    monkeypatch.setattr(build, "HELD_OUT", 12)
    for name, size in (("VALIDATION", 3), ("TRAIN", 5), ("TEST", 4)):
        monkeypatch.setattr(build, name, size)
    source = {"train": garments(20, 1), "t10k": garments(6, 2)}
    for part, images in source.items():
        for kind, array in (("images-idx3", images), ("labels-idx1", np.arange(len(images), dtype=np.uint8))):
            head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (tmp_path / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    written = []
    for year in (2001.0, 2002.0):
        monkeypatch.setattr("time.time", lambda year=year: (year - 1970) * 31_556_952)
        build.write_npz(tmp_path / "out.npz", build.cut(tmp_path))
        written.append((tmp_path / "out.npz").read_bytes())
    assert written[0] == written[1]
    with np.load(tmp_path / "out.npz", allow_pickle=False) as arrays:
        assert arrays["validation_labels"].tolist() == [8, 9, 10]
        assert arrays["train_labels"].tolist() == [11, 12, 13, 14, 15]
        assert arrays["test_labels"].tolist() == [0, 1, 2, 3]
        assert (arrays["train_garments"] == source["train"][11:16]).all()
        assert (arrays["test_garments"] == source["t10k"][:4]).all()
    assert sorted(path.name for path in tmp_path.glob("*.npz")) == ["out.npz"]
