"""Files and folders are written whole or not at all, for everybody to read, and nobody else's are lost."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rltr.errors import RltrError
from rltr.system import files
from rltr.system.files import (
    LOCK,
    NEW,
    UNFINISHED,
    atomic_folder,
    atomic_write,
    recover_folder,
    remove,
    remove_all_unfinished,
    remove_unfinished,
)
from rltr.system.folders import LOCK_FILE

Writer = Callable[[Path], AbstractContextManager[Path]]


def write(writer: Writer, path: Path, text: str) -> None:
    """Write a file, or a folder with one file, that says ``text``."""
    with writer(path) as temporary:
        (temporary if writer is atomic_write else temporary / "file").write_text(text)


def read(path: Path) -> str:
    return (path if path.is_file() else path / "file").read_text()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


both = pytest.mark.parametrize("writer", [atomic_write, atomic_folder])


@both
@pytest.mark.parametrize(
    "name", ["plain", "with [brackets] and *", ".hidden", "naïve 文", LOCK, NEW, LOCK_FILE, UNFINISHED]
)
def test_what_is_written_takes_its_place(writer: Writer, name: str, tmp_path: Path) -> None:
    for text in ("first", "second"):
        write(writer, tmp_path / "new" / name, text)
        assert names(tmp_path / "new") == [name] and read(tmp_path / "new" / name) == text


@both
def test_an_error_leaves_the_old_one(writer: Writer, tmp_path: Path) -> None:
    write(writer, tmp_path / "kept", "old")
    for error in (ZeroDivisionError, KeyboardInterrupt):
        with pytest.raises(error), writer(tmp_path / "kept") as temporary:
            (temporary if writer is atomic_write else temporary / "file").write_text("new")
            raise error
        assert names(tmp_path) == ["kept"] and read(tmp_path / "kept") == "old"


@both
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o027, 0o077])
def test_permissions_are_those_of_any_new_file(writer: Writer, umask: int, tmp_path: Path) -> None:
    """Also where a library makes its files for their owner alone, as safetensors does."""
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
def test_the_umask_of_the_process_is_left_alone(
    writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is one for all threads: whoever sets it for a moment opens the files of others to everybody."""

    def called(mask: int) -> int:
        raise AssertionError("os.umask was called")

    monkeypatch.setattr(os, "umask", called)
    write(writer, tmp_path / "made", "text")


@both
def test_everything_is_on_the_disk_before_it_takes_its_place(
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


def test_only_the_files_of_the_same_names_are_replaced(tmp_path: Path) -> None:
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


def test_a_file_is_no_place_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(RltrError, match="there is a file of that name"):
        write(atomic_folder, tmp_path / "taken", "new")
    assert (tmp_path / "taken").read_text() == "mine"


KILLED = """
import os, signal, sys
from pathlib import Path
from rltr.system import files
writer, out, when = getattr(files, sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
replace, done = Path.replace, 0
def counted(path, target):
    global done
    if done == when:
        os.kill(os.getpid(), signal.SIGKILL)
    done += 1
    return replace(path, target)
Path.replace = counted
with writer(out) as temporary:
    (temporary if sys.argv[1] == "atomic_write" else temporary / "file").write_text("new")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no such signal on Windows")
@pytest.mark.parametrize(
    ("writer", "when", "found"),
    [(atomic_write, 0, "old"), (atomic_folder, 0, "old"), (atomic_folder, 1, "old"), (atomic_folder, 2, "new")],
)
def test_a_kill_leaves_the_old_or_the_new_one_and_nothing_for_long(
    writer: Any, when: int, found: str, tmp_path: Path
) -> None:
    """Killed before each of the renames: of a file one, of a folder two, and one for each file of somebody else's."""
    out = tmp_path / "kept"
    write(writer, out, "old")
    if writer is atomic_folder:
        (out / "notes.md").write_text("mine")
    command = [sys.executable, "-c", KILLED, writer.__name__, str(out), str(when)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert len(names(tmp_path)) > 1, "nothing was left behind, so nothing is shown"
    recover_folder(out)
    assert read(out) == found
    write(writer, out, "newest")
    assert names(tmp_path) == ["kept"] and read(out) == "newest"
    assert writer is atomic_write or (out / "notes.md").read_text() == "mine"


@both
def test_what_others_are_at_work_on_is_not_removed(writer: Writer, tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        with writer(tmp_path / "made") as temporary:
            begun.set()
            go_on.wait(60)
            (temporary if writer is atomic_write else temporary / "file").write_text("slow")

    thread = threading.Thread(target=slow)
    thread.start()
    begun.wait(60)
    try:
        write(writer, tmp_path / "made", "quick")
        remove_unfinished(tmp_path / "made")
        assert read(tmp_path / "made") == "quick"
    finally:
        go_on.set()
        thread.join()
    assert read(tmp_path / "made") == "slow" and names(tmp_path) == ["made"]


@both
def test_names_that_only_look_like_ours_stay(writer: Writer, tmp_path: Path) -> None:
    others = [".made.bak", ".made.swp", ".made.12345678", ".made2.abc.rltr-unfinished"]
    for name in others:
        (tmp_path / name).write_text("mine")
    write(writer, tmp_path / "made", "text")
    remove(tmp_path / "made")
    assert names(tmp_path) == sorted(others)
    remove(tmp_path / "was never there")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no such signal on Windows")
def test_what_is_left_behind_under_any_name_can_be_removed(tmp_path: Path) -> None:
    """As in a cache, whose files have a new name each time."""
    command = [sys.executable, "-c", KILLED, "atomic_write", str(tmp_path / "one"), "0"]
    subprocess.run(command, check=False)
    with atomic_write(tmp_path / "two") as temporary:
        assert len(names(tmp_path)) == 2
        remove_all_unfinished(tmp_path)
        assert [tmp_path / name for name in names(tmp_path)] == [temporary.parent.parent]
        temporary.write_text("x")
    assert names(tmp_path) == ["two"]
    remove_all_unfinished(tmp_path / "gone")


def in_a_thread(work: Callable[[], object]) -> None:
    """As another process would: filelock tells a thread that waits for itself from one that waits for another."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@both
def test_what_is_removed_is_held_until_it_is_gone(
    writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that has just made the folder would lock it, begin, and lose what it writes."""
    if os.name == "nt":
        pytest.skip("open files cannot be removed there, so the lock is given up before the last file goes")
    taken: list[object] = []
    rmtree = shutil.rmtree

    def meanwhile(folder: Path, **how: Any) -> None:
        in_a_thread(lambda: taken.append(files._lock(folder)))
        rmtree(folder, **how)

    left = tmp_path / f".made.12345678{UNFINISHED}"
    left.mkdir()
    monkeypatch.setattr(shutil, "rmtree", meanwhile)
    write(writer, tmp_path / "made", "text")
    assert taken == [None, None] and names(tmp_path) == ["made"]  # what was left, and the writer's own


@both
@pytest.mark.parametrize("when", ["before it is opened", "before it is locked"])
def test_a_folder_that_another_removes_before_it_is_held_is_made_anew(
    writer: Writer, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer looks like one that was killed until it has the lock."""
    fcntl = pytest.importorskip("fcntl")
    module, name = (tempfile, "mkdtemp") if when == "before it is opened" else (fcntl, "flock")
    step = getattr(module, name)
    swept: list[str] = []

    def late(*arguments: Any, **named: Any) -> Any:
        result = step(*arguments, **named) if module is tempfile else None
        if not swept:
            swept.extend(names(tmp_path))
            in_a_thread(lambda: remove_unfinished(tmp_path / "made"))
            assert names(tmp_path) == []
        return result if module is tempfile else step(*arguments, **named)

    monkeypatch.setattr(module, name, late)
    write(writer, tmp_path / "made", "text")
    assert len(swept) == 1 and names(tmp_path) == ["made"] and read(tmp_path / "made") == "text"


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
def test_no_room_is_an_error_with_a_name(writer: Any, kind: str, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: the system refuses in the same way."""
    pytest.importorskip("resource")
    out = tmp_path / "kept"
    write(writer, out, "old")
    command = [sys.executable, "-c", FULL, writer.__name__, str(out), kind]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert said.split() == [str(errno.EFBIG), str(out)]
    assert names(tmp_path) == ["kept"] and read(out) == "old"
