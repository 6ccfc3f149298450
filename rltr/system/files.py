"""Write files and folders atomically: a crash, a kill or a full disk never leaves a partial one in place of the old."""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rltr.errors import RltrError

if TYPE_CHECKING:
    from filelock import BaseFileLock

UNFINISHED = ".rltr-unfinished"
"""Suffix of the temporary folders in which files are being written."""
LOCK = "lock"
"""A file in each temporary folder, locked as long as the writing process lives."""
NEW = "new"
"""A subfolder of each temporary folder for the new content, which may itself have a file called ``lock``."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a full disk, an exhausted quota, and a limit on the size of files."""
_UNNAMED = (*NO_ROOM, errno.EIO)
"""Error numbers of failed writes, whose errors lack the name of the file; EIO is a broken disk."""
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM)
"""Error numbers on systems that cannot sync a folder."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path, which replaces ``path`` when the block ends, and is removed if the block raises.

    The file gets the default permissions of a new file, and is synced to disk before it replaces ``path``.

    Args:
        path: the file to write; missing parent folders are created. If it is a link, its target is replaced.

    Raises:
        OSError: with ``path`` as its file name, if there is no room. ``path`` is as it was before.
    """
    path = _behind_link(path)
    with _room_for(path), _workplace(path) as workplace:
        temporary = workplace / path.name
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        _finish(temporary, mode)
        temporary.replace(path)
        _sync(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder, whose files replace those of the same names in ``path`` when the block ends.

    All are replaced together, after the new folder is complete and synced to disk. Other files in ``path`` are kept.
    The old folder is renamed for a moment between two renames; if the process is killed just then,
    :func:`recover_folder` renames it back.

    Args:
        path: the folder to write; missing parent folders are created. If it is a link, its target is replaced.

    Raises:
        RltrError: if ``path`` is a file, or the current working directory is ``path`` or inside of it.
        OSError: with ``path`` as its file name, if there is no room. ``path`` is as it was before.
    """
    here = Path.cwd()
    if path.resolve() in (here, *here.parents):
        raise RltrError(
            f"cannot replace the folder {str(path)!r} while you are in it; name a folder below, e.g. my-policy"
        )
    path = _behind_link(path)
    if path.exists() and not path.is_dir():
        raise RltrError(f"cannot write the folder {str(path)!r}: there is a file of that name; name another folder")
    recover_folder(path)
    with _room_for(path), _workplace(path) as workplace:
        temporary = workplace / path.name
        temporary.mkdir()
        mode = temporary.stat().st_mode & 0o666
        yield temporary
        for folder, _, files in os.walk(temporary, topdown=False):
            for name in files:
                _finish(Path(folder, name), mode)
            _sync(Path(folder))
        try:
            if path.exists():
                path.replace(_aside(path))
            temporary.replace(path)
            _sync(path.parent)
        finally:
            recover_folder(path)


def recover_folder(path: Path) -> None:
    """Clean up after an :func:`atomic_folder` that was killed between its renames; else do nothing.

    If the new folder is not in place, the old one is renamed back. If it is, files of the old folder that rltr did not
    write are moved to the new one.
    """
    path = _behind_link(path)
    aside = _aside(path)
    if not aside.is_dir():
        return
    if path.exists():
        _move_others(aside, path)
    else:
        aside.replace(path)


def remove(path: Path) -> None:
    """Remove a file or a folder if it exists, and temporary files of interrupted writes to it."""
    recover_folder(path)
    remove_unfinished(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_unfinished(path: Path) -> None:
    """Remove the temporary files of killed processes that wrote ``path``; those of running processes are kept."""
    _sweep(path.parent, f".{path.name}.")


def remove_all_unfinished(folder: Path) -> None:
    """Remove the temporary files of all killed writers in a folder.

    Needed for folders in which no name is written twice, such as caches: the next writer of a name normally cleans up.
    """
    _sweep(folder, ".")


def at_home(path: Path | str) -> Path:
    """``path`` with ``~`` expanded, which shells do not do in ``--out=~/x``.

    ``~x`` is kept if there is no user x, because it can be the name of a folder; ``Path.expanduser`` would raise.
    """
    return Path(os.path.expanduser(path))


def from_here(path: Path | str) -> str:
    """A missing path for an error message: as it was given, and the absolute path that was looked up."""
    place = at_home(path).absolute()
    return repr(str(path)) if str(place) == str(path) else f"{str(path)!r} (looked for {str(place)!r})"


def _sweep(folder: Path, prefix: str) -> None:
    # Not glob, because names may contain brackets.
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    for name in names:
        if name.startswith(prefix) and name.endswith(UNFINISHED):
            lock = _lock(folder / name)
            if lock is not None:
                _remove_held(folder / name, lock)


@contextmanager
def _workplace(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside ``path``; if it is not removed at the end, the next writer removes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path)
    lock = None
    while lock is None:  # before it is locked, another process may remove the folder as abandoned
        workplace = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=UNFINISHED, dir=path.parent))
        lock = _lock(workplace)
    try:
        content = workplace / NEW
        content.mkdir()
        yield content
    finally:
        _remove_held(workplace, lock)


def _remove_held(workplace: Path, lock: "BaseFileLock") -> None:
    """Remove a folder before its lock is released, so that no new writer can lock it in between."""
    shutil.rmtree(workplace, ignore_errors=True)
    lock.release()
    if (
        os.name == "nt"
    ):  # Windows cannot remove open files, so the lock file is removed after its release, unless it is held again
        with suppress(OSError):
            (workplace / LOCK).unlink(missing_ok=True)
            workplace.rmdir()


def _lock(workplace: Path) -> "BaseFileLock | None":
    """Acquire the lock of a temporary folder; the system releases it when the process ends.

    Returns None if another process holds it, or has just removed the folder.
    """
    from filelock import FileLock, Timeout  # imported here, because it takes 0.1 s, which `rltr --help` does not need

    lock = FileLock(workplace / LOCK)
    try:
        lock.acquire(blocking=False)
    except (Timeout, FileNotFoundError):
        return None
    if not (workplace / LOCK).exists():  # a lock on a file that was removed protects nothing
        lock.release()
        return None
    return lock


@contextmanager
def _room_for(path: Path) -> Iterator[None]:
    """Add ``path`` to errors of failed writes: those from ``write`` and ``close`` have no file name."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNNAMED:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _finish(file: Path, mode: int) -> None:
    """Give a file the default permissions of a new one (some libraries restrict them to the owner), and sync it."""
    if not stat.S_ISREG(file.lstat().st_mode):
        return
    file.chmod(file.stat().st_mode | mode & 0o777)
    with file.open("rb+") as written:
        os.fsync(written.fileno())


def _sync(folder: Path) -> None:
    """Sync the entries of a folder to disk, if the system supports it."""
    if not hasattr(os, "O_DIRECTORY"):
        return  # Windows
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(handle)


def _move_others(old: Path, new: Path) -> None:
    """Move what ``old`` holds and ``new`` does not, and remove the rest of ``old``."""
    for found in old.iterdir():
        target = new / found.name
        both = [place.is_dir() and not place.is_symlink() for place in (found, target)]
        if all(both):
            _move_others(found, target)
        elif not os.path.lexists(target):
            found.replace(target)
        elif both[0]:
            shutil.rmtree(found)
        else:
            found.unlink()
    old.rmdir()


def _behind_link(path: Path) -> Path:
    """The target of a link; any other path unchanged."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")
