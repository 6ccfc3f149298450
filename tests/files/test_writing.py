"""Files and folders are written whole or not at all, with the permissions of any new file."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rltr.errors import RltrError
from rltr.system.files import (
    LOCK,
    NEW,
    UNFINISHED,
    atomic_folder,
    atomic_write,
)
from rltr.system.folders import LOCK_FILE
from tests.files.conftest import Writer, both, names, read, write


@both
@pytest.mark.parametrize(
    "name", ["plain", "with [brackets] and *", ".hidden", "naïve 文", LOCK, NEW, LOCK_FILE, UNFINISHED]
)
def test_a_written_file_or_folder_replaces_the_old_one(writer: Writer, name: str, tmp_path: Path) -> None:
    for text in ("first", "second"):
        write(writer, tmp_path / "new" / name, text)
        assert names(tmp_path / "new") == [name] and read(tmp_path / "new" / name) == text


@both
def test_an_error_leaves_the_old_content(writer: Writer, tmp_path: Path) -> None:
    write(writer, tmp_path / "kept", "old")
    for error in (ZeroDivisionError, KeyboardInterrupt):
        with pytest.raises(error), writer(tmp_path / "kept") as temporary:
            (temporary if writer is atomic_write else temporary / "file").write_text("new")
            raise error
        assert names(tmp_path) == ["kept"] and read(tmp_path / "kept") == "old"


@both
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o027, 0o077])
def test_permissions_are_those_of_any_new_file(writer: Writer, umask: int, tmp_path: Path) -> None:
    """Also if a library creates its files for their owner only, as safetensors does."""
    before = os.umask(umask)
    try:
        with writer(tmp_path / "made") as temporary:
            save_file({"x": torch.ones(1)}, temporary if writer is atomic_write else temporary / "weights")
        plain = tmp_path / "plain"
        plain.touch()
    finally:
        os.umask(before)
    made = tmp_path / "made" if writer is atomic_write else tmp_path / "made" / "weights"
    assert made.stat().st_mode == plain.stat().st_mode
    if writer is atomic_folder:
        assert (tmp_path / "made").stat().st_mode & 0o777 == 0o777 & ~umask


@both
def test_the_umask_of_the_process_is_not_changed(
    writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All threads share the umask: changing it for a moment would give files of other threads wrong permissions."""

    def called(mask: int) -> int:
        raise AssertionError("os.umask was called")

    monkeypatch.setattr(os, "umask", called)
    write(writer, tmp_path / "made", "text")


@both
def test_everything_is_synced_to_disk_before_the_rename(
    writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, Path.replace

    def synced(handle: int) -> None:
        done.append(f"sync {os.readlink(f'/proc/self/fd/{handle}').rpartition('/')[2]}")
        sync(handle)

    def replaced(path: Path, target: Any) -> Path:
        done.append(f"move {path.name}")
        return replace(path, target)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("only Linux tells which file a handle is of")
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    write(writer, tmp_path / "made", "text")
    before = ["sync made"] if writer is atomic_write else ["sync file", "sync made"]
    assert done == [*before, "move made", f"sync {tmp_path.name}"]


def test_only_files_of_the_same_names_are_replaced(tmp_path: Path) -> None:
    out = tmp_path / "policy"
    write(atomic_folder, out, "old")
    (out / "notes.md").write_text("mine")
    (out / "pictures").mkdir()
    (out / "pictures" / "1.png").write_text("mine, too")
    (out / "link").symlink_to("nowhere")
    with atomic_folder(out) as temporary:
        (temporary / "file").write_text("new")
        (temporary / "pictures").mkdir()
        (temporary / "pictures" / "2.png").write_text("new")
    assert names(tmp_path) == ["policy"] and names(out) == ["file", "link", "notes.md", "pictures"]
    assert read(out) == "new" and (out / "notes.md").read_text() == "mine" and (out / "link").is_symlink()
    assert names(out / "pictures") == ["1.png", "2.png"]


@both
def test_a_link_is_followed(writer: Writer, tmp_path: Path) -> None:
    write(writer, tmp_path / "elsewhere" / "real", "old")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "real")
    write(writer, tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and read(tmp_path / "elsewhere" / "real") == "new"
    assert names(tmp_path) == ["elsewhere", "link"] and names(tmp_path / "elsewhere") == ["real"]


def test_a_folder_does_not_replace_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(RltrError, match="there is a file of that name"):
        write(atomic_folder, tmp_path / "taken", "new")
    assert (tmp_path / "taken").read_text() == "mine"


FULL = """
import resource, signal, sys
from pathlib import Path
from rltr.system import files
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
out = Path(sys.argv[2])
try:
    with getattr(files, sys.argv[1])(out) as temporary:
        place = temporary if sys.argv[1] == "atomic_write" else temporary / "file"
        place.write_bytes(bytes(10_000)) if sys.argv[3] == "bytes" else place.write_text("x" * 10_000)
except OSError as error:
    print(error.errno, error.filename)
"""


@both
@pytest.mark.parametrize("kind", ["bytes", "text"])
def test_a_full_disk_is_an_error_that_names_the_file(writer: Any, kind: str, tmp_path: Path) -> None:
    """A limit on the size of files takes the place of a full disk: the system raises the same kind of error."""
    pytest.importorskip("resource")
    out = tmp_path / "kept"
    write(writer, out, "old")
    command = [sys.executable, "-c", FULL, writer.__name__, str(out), kind]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert said.split() == [str(errno.EFBIG), str(out)]
    assert names(tmp_path) == ["kept"] and read(out) == "old"
