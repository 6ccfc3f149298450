"""The folder of cached dense answers: bounded in size, safe for concurrent processes, and never fatal."""

import errno
import logging
import multiprocessing
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from rltr.dense import DenseAnswers
from rltr.dense.cache import MANY, DenseCache, cache_folder, dense_key
from rltr.runtime.backbone import Backbone
from tests.dense.conftest import KEY, cache, rows


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5, unique=True), max_size=MANY + 3))
def test_everything_written_is_read(tmp_path_factory: pytest.TempPathFactory, written: list[list[int]]) -> None:
    store = cache(tmp_path_factory.mktemp("cache"))
    for index in written:
        assert store.write(KEY, *rows(index))
    for _ in range(2):  # the first reading joins many files into one
        found = store.read(KEY, 10)
        if not written:
            assert found is None
            continue
        assert found is not None
        every = sorted({i for index in written for i in index})
        assert found[0].tolist() == every and torch.equal(found[1], rows(every)[1])
    assert len(list((store.folder / KEY).glob("*"))) == (len(written) if len(written) <= MANY else 1)


def test_the_folder_is_where_the_variables_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RLTR_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own" and DenseCache(1).folder == tmp_path / "own" / "dense"
    monkeypatch.delenv("RLTR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "rltr"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "rltr"


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    store = cache(tmp_path)
    for number, letter in enumerate("abc"):
        store.write(64 * letter, *rows(list(range(100))))
        os.utime(store.folder / (64 * letter), (number, number))
    assert store.read(64 * "a", 100) is not None  # used now
    store.most_bytes = size(store.folder) + 10
    assert store.write(64 * "d", *rows(list(range(100))))
    assert sorted(entry.name for entry in store.folder.iterdir()) == [64 * letter for letter in "acd"]
    assert size(store.folder) <= store.most_bytes


def test_what_others_keep_beside_it_is_left_alone(tmp_path: Path) -> None:
    """``RLTR_CACHE`` may be a folder of data, which has a folder ``dense`` of its own."""
    store = cache(tmp_path)
    others = ["embeddings", "a" * 63, "a" * 65, "A" * 64, "." + "a" * 64, "g" * 64]
    for name in others:
        (store.folder / name).mkdir(parents=True)
        (store.folder / name / "index.safetensors").write_bytes(bytes(5000))
        os.utime(store.folder / name, (1, 1))
    (store.folder / ("f" * 64)).write_bytes(bytes(5000))  # a file
    for letter in "bc":
        assert store.write(64 * letter, *rows([1]))
    store.most_bytes = 2 * size(store.folder / (64 * "b")) + 10
    assert store.write(64 * "b", *rows([2]))  # makes room: theirs do not count, but there are three files of its own
    kept = {entry.name for entry in store.folder.iterdir()}
    assert kept == {*others, "f" * 64, "b" * 64}
    assert all((store.folder / name / "index.safetensors").stat().st_size == 5000 for name in others)


def test_what_is_larger_than_all_is_not_stored_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = cache(tmp_path, 2**20)
    small, large = 64 * "a", 64 * "b"
    store.write(small, *rows([1]))
    for _ in range(3):
        assert not store.write(large, *rows(list(range(200_000))))
    assert len(caplog.records) == 1 and "1 MB allowed" in caplog.text
    assert cache(tmp_path).read(small, 2) is not None and cache(tmp_path).read(large, 200_000) is None


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def no_file(file: Path) -> None:
    file.write_bytes(b"")


def other_names(file: Path) -> None:
    save_file({"answers": torch.zeros(1, 2)}, file)


def other_lengths(file: Path) -> None:
    save_file({"index": torch.arange(3), "answers": torch.zeros(1, 2)}, file)


def outside(file: Path) -> None:
    save_file({"index": torch.tensor([10]), "answers": torch.zeros(1, 2)}, file)


def not_finite(file: Path) -> None:
    save_file({"index": torch.tensor([1]), "answers": torch.full((1, 2), torch.nan)}, file)


@pytest.mark.parametrize("spoil", [cut_short, no_file, other_names, other_lengths, outside, not_finite])
def test_a_damaged_file_is_removed_and_the_others_count(
    tmp_path: Path, spoil: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = cache(tmp_path)
    store.write(KEY, *rows([1]))
    (file,) = (store.folder / KEY).iterdir()
    spoil(file)
    store.write(KEY, *rows([2]))
    found = store.read(KEY, 10)
    assert found is not None and found[0].tolist() == [2]
    assert not file.exists() and "damaged" in caplog.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    store = cache(tmp_path)
    assert not store.write(KEY, *rows([1])) and not store.write(KEY, *rows([2]))
    assert len(caplog.records) == 1


def test_a_file_in_the_way_never_ends_a_training(
    tiny_vit: Any, tiny_task: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "dense").write_text("a file")
    dense = DenseAnswers(Backbone(tiny_vit), tiny_task.train, cache=cache(tmp_path))
    assert dense(torch.tensor([1])).isfinite().all() and dense(torch.tensor([2])).isfinite().all()
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


def test_a_folder_removed_while_it_is_listed_is_a_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, scandir = cache(tmp_path), os.scandir
    store.write(KEY, *rows([1]))

    def scandir_after_another_process(path: Any) -> Any:
        if (gone := tmp_path / "dense" / KEY).exists():
            gone.rename(tmp_path / "removed")
        return scandir(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", scandir_after_another_process)
        assert store.read(KEY, 10) is None
    assert store.write(KEY, *rows([2])) and store.read(KEY, 10) is not None  # and the cache goes on


def test_a_folder_removed_while_it_is_made_is_a_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, mkdir = cache(tmp_path), Path.mkdir
    store.write(KEY, *rows([1]))

    def mkdir_before_another_process(self: Path, *args: Any, **kwargs: Any) -> None:
        if self.name == KEY:
            raise FileExistsError(errno.EEXIST, "was there, and is not any more", str(self))
        mkdir(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", mkdir_before_another_process)
        assert not store.write(KEY, *rows([2]))
    assert store.write(KEY, *rows([2]))


@pytest.mark.parametrize("way", ["the folder is a link to nowhere", "a file has the name of an answer"])
def test_what_is_in_the_way_for_good_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, way: str) -> None:
    if way == "the folder is a link to nowhere":
        (tmp_path / "dense").symlink_to(tmp_path / "gone")
    else:
        (tmp_path / "dense").mkdir()
        (tmp_path / "dense" / KEY).write_text("a file")
    store = cache(tmp_path)
    assert not store.write(KEY, *rows([1])) and not store.write(KEY, *rows([2]))
    assert len(caplog.records) == 1 and "not cached any more" in caplog.text


def busy(folder: Path, seed: int, seconds: float) -> None:
    """One of several processes that read, write and make room at once; an exception is its exit code 1."""
    store, until = DenseCache(60_000, folder), time.monotonic() + seconds
    generator = torch.Generator().manual_seed(seed)
    while time.monotonic() < until:
        key = f"{int(torch.randint(4, (1,), generator=generator)):064x}"
        store.write(key, *rows(torch.randperm(200, generator=generator)[:50].tolist()))
        found = store.read(key, 200)
        if found is not None and not torch.equal(found[1], rows(found[0].tolist())[1]):
            raise AssertionError("other values than were written")
    if not store._stores:
        raise AssertionError("gave up")


def test_processes_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])  # new processes must find this file as a module
    context = multiprocessing.get_context("spawn")
    started = [context.Process(target=busy, args=(tmp_path / "dense", seed, 1.0)) for seed in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0, 0]
    files = [path for path in (tmp_path / "dense").rglob("*") if path.is_file()]
    assert files and all(load_file(path).keys() == {"index", "answers"} for path in files)  # none is left half-written


def test_answers_of_another_shape_are_removed_and_the_rest_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: such files once made the whole folder read as empty."""
    own = cache(tmp_path)
    own.write(KEY, *rows([0, 1, 2]))
    own.write(KEY, torch.tensor([3]), torch.zeros(1, 5))
    found = own.read(KEY, 10)
    assert found is not None and found[0].tolist() == [0, 1, 2] and found[1].shape == (3, 2)
    assert "another shape" in caplog.text and len(list((tmp_path / "dense" / KEY).iterdir())) == 1
    own.write(KEY, torch.tensor([3]), torch.zeros(1, 5))
    found = own.read(KEY, 10, (5,))  # a given shape wins over the most frequent one
    assert found is not None and found[0].tolist() == [3] and found[1].shape == (1, 5)
    own.write(KEY, *rows([4]))
    assert own.read(KEY, 10, (7, 2)) is None and list((tmp_path / "dense" / KEY).iterdir()) == []


def test_a_training_finds_its_answers_beside_those_of_another_shape(
    tiny_vit: Any, tiny_task: Any, tmp_path: Path, passes: list[int]
) -> None:
    own, backbone = cache(tmp_path), Backbone(tiny_vit)
    first = DenseAnswers(backbone, tiny_task.train, cache=own)(torch.arange(5))
    key = dense_key(backbone, tiny_task.train, 1)
    assert key is not None and own.write(key, torch.arange(20), torch.zeros(20, 7))
    again = DenseAnswers(backbone, tiny_task.train, cache=own)
    assert torch.equal(again(torch.arange(5)), first) and len(passes) == 5


@pytest.mark.parametrize(
    "stored",
    [
        {"index": torch.tensor([0.0, 1.0]), "answers": torch.zeros(2, 2)},
        {"index": torch.tensor([0, 1], dtype=torch.int32), "answers": torch.zeros(2, 2)},
        {"index": torch.tensor([0, 1]), "answers": torch.zeros(2, 2, dtype=torch.float64)},
        {"index": torch.tensor([0, 1]), "answers": torch.zeros(2, 2, dtype=torch.int64)},
    ],
)
def test_files_of_other_types_are_removed(tmp_path: Path, stored: dict[str, Tensor]) -> None:
    own = cache(tmp_path)
    own.write(KEY, *rows([5]))
    save_file(stored, tmp_path / "dense" / KEY / "other.safetensors")
    found = own.read(KEY, 10)
    assert found is not None and found[0].tolist() == [5]
    assert not (tmp_path / "dense" / KEY / "other.safetensors").exists()


@pytest.mark.skipif(os.name == "nt", reason="has no such files")
def test_pipes_and_devices_are_never_opened(tmp_path: Path) -> None:
    own = cache(tmp_path)
    own.write(KEY, *rows([5]))
    os.mkfifo(tmp_path / "dense" / KEY / "pipe.safetensors")
    (tmp_path / "dense" / KEY / "zero.safetensors").symlink_to("/dev/zero")
    found = own.read(KEY, 10)
    assert found is not None and found[0].tolist() == [5]
