"""Images in folders: how they are divided, read and shown, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessorPil

from rltr.errors import RltrError
from rltr.tasks import DataOptions, load_task
from rltr.tasks.examples.images import ImageExamples
from tests.tasks.conftest import damage, find, no_image, paint, vit, whole_of


def test_a_folder_per_class_is_divided(tmp_path: Path, animals: Path) -> None:
    model = vit(tmp_path / "model", ["Dog", "Cat"])
    task = load_task(model, animals)
    assert task.kind == "image"
    assert [len(split) for split in (task.train, task.validation, task.test)] == [16, 2, 2]
    names = [name for split in (task.train, task.validation, task.test) for name in split.names]
    assert len(set(names)) == 20
    for split in (task.train, task.validation, task.test):
        assert split.classes == ["Dog", "Cat"]
        assert [name.startswith("cat/") for name in split.names] == split.labels.bool().tolist()
        batch = split.batch(range(len(split)))
        greys = (batch["pixel_values"].mean((1, 2, 3)) * 0.25 + 0.5) * 255
        assert torch.equal(greys < 100, split.labels == 1)
        assert model(**batch).logits.shape == (len(split), 2)


def test_the_division_depends_on_its_seed_only(tmp_path: Path, animals: Path) -> None:
    model = vit(tmp_path / "model", ["cat", "dog"])
    first, again, other = (load_task(model, animals, options=DataOptions(seed=seed)).test.names for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("validation", ["validation", "val"])
def test_split_folders_are_kept_apart(tmp_path: Path, validation: str) -> None:
    data = tmp_path / "data"
    paint(data / "train" / "cat" / "more" / "1.png")
    paint(data / "train" / "dog" / "2.JPG")
    paint(data / validation / "dog" / "3.webp")
    paint(data / "test" / "cat" / "4.gif", mode="P")
    (data / "train" / "cat" / "notes.txt").write_text("no image")
    task = load_task(vit(tmp_path / "model", ["LABEL_0", "LABEL_1"]), data)
    assert task.train.names == ["train/cat/more/1.png", "train/dog/2.JPG"]
    assert task.train.labels.tolist() == [0, 1] and task.validation.labels.tolist() == [1]
    assert task.test.labels.tolist() == [0] and task.test.classes == ["cat", "dog"]
    assert task.test.batch([0])["pixel_values"].shape == (1, 3, 8, 8)


def test_a_class_may_be_called_like_a_split(tmp_path: Path, animals: Path) -> None:
    for i in range(10):
        paint(animals / "train" / f"{i}.png")
    task = load_task(vit(tmp_path / "model", ["cat", "dog", "train"]), animals)
    assert set(task.test.labels.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "1"])
def test_every_image_gets_the_channels_the_model_sees(tmp_path: Path, animals: Path, channels: int, mode: str) -> None:
    paint(animals / "cat" / "0.png", 255, mode)
    task = load_task(vit(tmp_path / "model", ["cat", "dog"], channels), animals)
    split, i = find(task, "cat/0.png")
    values = split.batch([i])["pixel_values"]
    assert values.shape == (1, channels, 8, 8)
    torch.testing.assert_close(values, torch.full_like(values, 2.0))


def test_the_picture_is_what_the_model_sees(tmp_path: Path, animals: Path) -> None:
    left_black = np.zeros((16, 16, 3), np.uint8)
    left_black[:, 8:] = [200, 100, 50]
    Image.fromarray(left_black).save(animals / "cat" / "0.png")
    split, i = find(load_task(vit(tmp_path / "model", ["cat", "dog"]), animals), "cat/0.png")
    picture = split.picture(i)
    assert picture is not None and picture.size == (8, 8)
    assert picture.getpixel((0, 0)) == (0, 0, 0) and picture.getpixel((7, 7)) == (200, 100, 50)
    assert split.words(i) is None


def test_images_are_turned_upright(tmp_path: Path, animals: Path) -> None:
    top_white = np.zeros((8, 8), np.uint8)
    top_white[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    Image.fromarray(top_white).save(animals / "cat" / "0.png", exif=exif)
    split, i = find(load_task(vit(tmp_path / "model", ["cat", "dog"], 1), animals), "cat/0.png")
    picture = split.picture(i)
    assert picture is not None and picture.getpixel((0, 0)) == 0 and picture.getpixel((0, 7)) == 255


def test_the_image_cache_is_bounded_and_changes_nothing(tmp_path: Path, animals: Path) -> None:
    model = vit(tmp_path / "model", ["cat", "dog"])
    expected = whole_of(load_task(model, animals)).batch(range(20))["pixel_values"]
    whole = whole_of(load_task(model, animals))
    assert isinstance(whole, ImageExamples)
    whole._prepared.most_bytes = 3 * 8 * 8 * 3 * 4
    for _ in range(2):
        assert torch.equal(whole.batch(range(20))["pixel_values"], expected)
        assert len(whole._prepared._known) == 3
    (animals / "dog" / "9.png").unlink()
    assert torch.equal(whole.batch([19])["pixel_values"], expected[19:])


def deep(path: Path) -> None:
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(path)


@pytest.mark.parametrize(("spoil", "said"), [(damage, "image"), (no_image, "image"), (deep, "8 bits")])
def test_a_bad_image_is_named(tmp_path: Path, animals: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(animals / "dog" / "3.png")
    split, i = find(load_task(vit(tmp_path / "model", ["cat", "dog"]), animals), "dog/3.png")
    with pytest.raises(RltrError, match=rf"dog/3\.png .*{said}"):
        split.batch([i])


def empty_class(data: Path) -> None:
    (data / "bird").mkdir()


def no_classes(data: Path) -> None:
    for path in list(data.rglob("*.png")):
        path.unlink()
    for folder in list(data.iterdir()):
        folder.rmdir()


def too_few(data: Path) -> None:
    for path in list(data.rglob("*.png")):
        if path.stem != "0":
            path.unlink()


def one_split(data: Path) -> None:
    (data / "cat").rename(data / "one")
    (data / "dog").rename(data / "train")
    for path in list((data / "one").iterdir()):
        path.unlink()
    (data / "one").rmdir()


def other_class(data: Path) -> None:
    (data / "dog").rename(data / "horse")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (empty_class, r"no images in .*bird"),
        (no_classes, r"no subfolders"),
        (too_few, r"only 2 examples, .* none for"),
        (one_split, r"has train but no test"),
        (other_class, r"2 classes \(cat, horse\) do not fit the model's 2 \(cat, dog\)"),
    ],
)
def test_a_bad_folder_is_refused(tmp_path: Path, animals: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(animals)
    with pytest.raises(RltrError, match=said):
        load_task(vit(tmp_path / "model", ["cat", "dog"]), animals)


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    for split in ("train", "val", "validation", "test"):
        paint(tmp_path / "data" / split / "cat" / "1.png")
    with pytest.raises(RltrError, match="two validation splits"):
        load_task(vit(tmp_path / "model", ["cat", "dog"]), tmp_path / "data")


def test_images_that_stay_of_different_sizes_are_refused(tmp_path: Path, animals: Path) -> None:
    model = vit(tmp_path / "model", ["cat", "dog"])
    ViTImageProcessorPil(do_resize=False).save_pretrained(tmp_path / "model")
    paint(animals / "dog" / "9.png", size=(9, 8))
    whole = whole_of(load_task(model, animals))
    with pytest.raises(RltrError, match=r"dog/9\.png is preprocessed to shape \(3, 8, 9\), but .*cat/1\.png"):
        whole.batch([1, 19])


def test_a_missing_processor_is_said_in_one_line(tmp_path: Path, animals: Path) -> None:
    model = vit(tmp_path / "model", ["cat", "dog"])
    (tmp_path / "model" / "preprocessor_config.json").unlink()
    with pytest.raises(RltrError, match="image processor could not be loaded .* preprocessor_config.json") as error:
        load_task(model, animals)
    assert "\n" not in str(error.value)


def test_an_unknown_source_is_said_in_one_line(tmp_path: Path, animals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RltrError, match="'nobody/nothing'.*HF_HUB_OFFLINE") as error:
        load_task(vit(tmp_path / "model", ["cat", "dog"]), animals, source="nobody/nothing")
    assert "\n" not in str(error.value)
