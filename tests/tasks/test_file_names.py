"""Which files are data: copies that nobody made are left out, other suffixes are read or said, names may be odd."""

import os
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from rltr.errors import RltrError
from rltr.tasks import DataOptions, Task, load_task
from rltr.tasks.read.file_search import find_files
from rltr.tasks.read.image_files import SUFFIXES, suffixes
from tests.tasks.conftest import paint, vit

HIDDEN = [
    ".ipynb_checkpoints/0-checkpoint.png", "._0.png", ".0.png", "__MACOSX/._0.png", "__MACOSX/0.png", "@eaDir/0.png",
    "$RECYCLE.BIN/0.png", "lost+found/0.png", "__pycache__/0.png", "more/.thumbnails/0.png", "~$0.png",
]  # fmt: skip
OTHERS = ["0.png~", "#0.png#", "0.png.bak", "0.psd", "0.xcf", "0.png.part", "0", "0.heif-x", "notes.txt"]
WASTE = ["Thumbs.db", ".DS_Store", "desktop.ini", "ehthumbs.db"]


def names_of(task: Task) -> list[str]:
    return sorted(name for split in (task.train, task.validation, task.test) for name in split.names)


def copy(place: Path) -> None:
    paint(place.parent / "image.png")
    (place.parent / "image.png").rename(place)


@pytest.mark.parametrize("labels", ["read", "none"])
def test_hidden_copies_are_left_out_and_said(
    tmp_path: Path, animals: Path, labels: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A copy would be the same picture in training and in test."""
    model, options = vit(tmp_path / "model", ["cat", "dog"]), DataOptions(labels=labels)
    before = names_of(load_task(model, animals, options=options))
    for place in HIDDEN:
        copy(animals / "cat" / place)
    copy(animals / ".ipynb_checkpoints" / "1-checkpoint.png")
    (animals / "__MACOSX" / "cat").mkdir(parents=True)
    caplog.clear()
    assert names_of(load_task(model, animals, options=options)) == before
    assert f"20 images are read; left out: {len(HIDDEN) + (labels == 'none')} hidden copies of images" in caplog.text
    assert "__MACOSX 2" in caplog.text


def test_what_systems_put_beside_is_not_worth_a_word(
    tmp_path: Path, animals: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in WASTE:
        (animals / "cat" / name).write_bytes(b"x")
        (animals / name).write_bytes(b"x")
    assert len(names_of(load_task(vit(tmp_path / "model", ["cat", "dog"]), animals))) == 20
    assert "left out" not in caplog.text


@pytest.mark.parametrize("labels", ["read", "none"])
def test_other_suffixes_are_said(tmp_path: Path, animals: Path, labels: str, caplog: pytest.LogCaptureFixture) -> None:
    for place in OTHERS:
        (animals / "cat" / place).write_bytes(b"x")
    task = load_task(vit(tmp_path / "model", ["cat", "dog"]), animals, options=DataOptions(labels=labels))
    assert len(names_of(task)) == 20
    said = f"left out: {len(OTHERS)} files with other suffixes"
    assert said in caplog.text and ".psd 1" in caplog.text and "no suffix 1" in caplog.text


@pytest.mark.parametrize("suffix", sorted(suffixes()))
def test_every_suffix_is_read_in_any_case(tmp_path: Path, suffix: str) -> None:
    """Whatever a file is called, PIL looks into it."""
    copy(tmp_path / "cat" / f"0{suffix}")
    copy(tmp_path / "cat" / f"1{suffix.upper()}")
    assert len(find_files(tmp_path, suffixes()).files) == 2


def test_suffixes_of_browsers_and_phones_are_read(tmp_path: Path) -> None:
    assert {".jfif", ".jpe", ".pjpeg", ".avif", ".jpg"} <= suffixes()
    written = {own for own, kind in Image.registered_extensions().items() if kind in Image.SAVE and own in suffixes()}
    for suffix in sorted(written):
        paint(tmp_path / "data" / "cat" / f"x{suffix}")
        paint(tmp_path / "data" / "dog" / f"x{suffix}", 200)
    task = load_task(vit(tmp_path / "model", ["cat", "dog"]), tmp_path / "data", options=DataOptions((0.5, 0.3, 0.2)))
    assert len(names_of(task)) == 2 * len(written) >= 2 * len(SUFFIXES & set(Image.registered_extensions()))
    for split in (task.train, task.validation, task.test):
        split.batch(range(len(split)))


def test_images_outside_of_every_class_are_said(
    tmp_path: Path, animals: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paint(animals / "loose.png")
    assert len(names_of(load_task(vit(tmp_path / "model", ["cat", "dog"]), animals))) == 20
    assert "1 images outside of all class folders" in caplog.text and "loose.png" in caplog.text


def test_an_unpacked_archive_does_not_bring_a_class(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            for i in range(4):
                paint(tmp_path / "data" / split / name / f"{i}.png")
    copy(tmp_path / "data" / "__MACOSX" / "train" / "._0.png")
    task = load_task(vit(tmp_path / "model", ["LABEL_0", "LABEL_1"]), tmp_path / "data")
    assert task.train.classes == ["cat", "dog"] and len(task.test) == 8


def test_links_are_followed_once(tmp_path: Path, animals: Path, caplog: pytest.LogCaptureFixture) -> None:
    paint(tmp_path / "elsewhere" / "10.png")
    (animals / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (animals / "cat" / "11.png").symlink_to(tmp_path / "elsewhere" / "10.png")
    (animals / "cat" / "12.png").symlink_to(tmp_path / "nowhere.png")
    (animals / "dog" / "loop").symlink_to(animals / "dog")
    task = load_task(vit(tmp_path / "model", ["cat", "dog"]), animals)
    assert len(names_of(task)) == 22 and "cat/more/10.png" in names_of(task)
    assert "1 broken links (the first: " in caplog.text and "12.png" in caplog.text


def test_a_folder_that_cannot_be_read_is_said(tmp_path: Path, animals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (animals / "cat" / "more").mkdir()
    scan = os.scandir

    def refuse(place: Path) -> Any:
        if Path(place).name == "more":
            raise PermissionError(13, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(RltrError, match="more cannot be read: Permission denied"):
        load_task(vit(tmp_path / "model", ["cat", "dog"]), animals)


odd = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="/\0"), min_size=1, max_size=12).filter(
    lambda name: not name.startswith((".", "~$")) and len(name.encode()) < 200
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(odd, min_size=1, max_size=4))
def test_names_of_every_kind_are_found(tmp_path_factory: pytest.TempPathFactory, names: set[str]) -> None:
    """With brackets, stars, line breaks, accents in any form: a name is no pattern."""
    folder = tmp_path_factory.mktemp("odd")
    for name in names:
        copy(folder / name / f"{name}.png")
        copy(folder / name / "[a-z]*?.png")
    found = find_files(folder, {".png"})
    assert {path.relative_to(folder).as_posix() for path in found.files} == {
        f"{name}/{own}" for name in names for own in (f"{name}.png", "[a-z]*?.png")
    }
    assert found.files == sorted(found.files) and not (found.hidden or found.others or found.broken)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_folders_are_the_models_classes_in_every_unicode_form(tmp_path: Path, form: str) -> None:
    own = ["Gänse", "Ñandú"]
    for i in range(10):
        for name in own:
            paint(tmp_path / "data" / unicodedata.normalize(form, name) / f"{i}.png")
    task = load_task(vit(tmp_path / "model", own), tmp_path / "data")
    for split in (task.train, task.validation, task.test):
        assert ["and" in name for name in split.names] == split.labels.bool().tolist()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems write no such names")
def test_names_that_are_no_unicode_can_be_written_to_a_report(tmp_path: Path, animals: Path) -> None:
    (animals / "cat" / "0.png").rename(os.fsdecode(os.fsencode(animals / "cat") + b"/caf\xe9.png"))
    task = load_task(vit(tmp_path / "model", ["cat", "dog"]), animals)
    assert r"cat/caf\udce9.png" in names_of(task)
    for split in (task.train, task.validation, task.test):
        split.batch(range(len(split)))
        assert split.fingerprint() is not None and "".join(split.names).encode()
