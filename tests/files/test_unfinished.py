"""Unfinished files: recovered after a kill, removed later, and never removed while a writer is at work."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rltr.system import files
from rltr.system.files import (
    UNFINISHED,
    atomic_folder,
    atomic_write,
    recover_folder,
    remove,
    remove_all_unfinished,
    remove_unfinished,
)
from tests.files.conftest import Writer, both, names, read, write

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
def test_a_kill_leaves_the_old_or_the_new_content_and_removable_leftovers(
    writer: Any, when: int, found: str, tmp_path: Path
) -> None:
    """The process is killed before each rename: a file takes one, a folder two, and each file of a user one more."""
    out = tmp_path / "kept"
    write(writer, out, "old")
    if writer is atomic_folder:
        (out / "notes.md").write_text("mine")
    command = [sys.executable, "-c", KILLED, writer.__name__, str(out), str(when)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert len(names(tmp_path)) > 1, "nothing was left behind, so the test shows nothing"
    recover_folder(out)
    assert read(out) == found
    write(writer, out, "newest")
    assert names(tmp_path) == ["kept"] and read(out) == "newest"
    assert writer is atomic_write or (out / "notes.md").read_text() == "mine"


@both
def test_files_of_a_running_writer_are_not_removed(writer: Writer, tmp_path: Path) -> None:
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
def test_files_with_similar_names_are_not_removed(writer: Writer, tmp_path: Path) -> None:
    others = [".made.bak", ".made.swp", ".made.12345678", ".made2.abc.rltr-unfinished"]
    for name in others:
        (tmp_path / name).write_text("mine")
    write(writer, tmp_path / "made", "text")
    remove(tmp_path / "made")
    assert names(tmp_path) == sorted(others)
    remove(tmp_path / "was never there")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no such signal on Windows")
def test_unfinished_files_of_any_name_can_be_removed(tmp_path: Path) -> None:
    """For caches, whose files have a new name each time."""
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
    """Run ``work`` as another process would: filelock detects a thread that waits for itself."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@both
def test_an_unfinished_folder_is_locked_while_it_is_removed(
    writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a writer that has just created the folder could lock it, begin to write, and lose its files."""
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
    assert taken == [None, None] and names(tmp_path) == ["made"]  # the leftover folder, and the writer's own


@both
@pytest.mark.parametrize("when", ["before it is opened", "before it is locked"])
def test_a_folder_that_is_removed_before_it_is_locked_is_created_again(
    writer: Writer, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until a writer has its lock, its folder looks like that of a killed writer."""
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
