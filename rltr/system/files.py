"""Writing files and folders so that a crash, a kill or a full disk never leaves half of one in place of the old one."""

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
"""How the names of the folders end in which something is being written."""
LOCK = "lock"
"""A file in each of them, locked as long as its writer lives."""
NEW = "new"
"""A folder beside it for what is written, which may itself be called as the lock is."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a full disk, a quota that is used up and a limit on the size of files are called."""
_UNNAMED = (*NO_ROOM, errno.EIO)
"""What the system says of a write without the name of the file; a broken disk has room, but is nobody's mistake."""
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM)
"""What systems say that cannot sync a folder."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path; it takes the place of ``path`` when the block ends, and is removed when it raises.

    The file has the permissions of any new one, and is on the disk, not only in its cache, before it takes its place.

    Args:
        path: a file's final place; missing parent folders are made. Of a link, the file that it leads to.

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
    """Yield a temporary folder; its files take the place of those of the same names in ``path`` when the block ends.

    They do so all together, after the new folder is complete and on the disk. What else ``path`` holds is somebody
    else's and stays. Between two renames the old folder is set aside; should the process be killed just then,
    :func:`recover_folder` puts it back.

    Args:
        path: a folder's final place; missing parent folders are made. Of a link, the folder that it leads to.

    Raises:
        RltrError: if ``path`` is a file; or the folder in use is ``path`` or lies in it, and would be replaced under
            its user's feet.
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
    """Finish what :func:`atomic_folder` was about when it was killed, if it was.

    If the new folder is not in its place, the old one, which was set aside, is put back. If it is, what others had put
    into the old one is moved to the new one.
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
    """Remove a file or a folder, if it is there, and what an interrupted writing of it left behind."""
    recover_folder(path)
    remove_unfinished(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_unfinished(path: Path) -> None:
    """Remove what writers of ``path`` left behind who were killed; what living ones are at work on stays."""
    _sweep(path.parent, f".{path.name}.")


def remove_all_unfinished(folder: Path) -> None:
    """Remove what writers of anything in a folder left behind: where names are never used twice, nobody else does."""
    _sweep(folder, ".")


def at_home(path: Path | str) -> Path:
    """``path`` with ``~`` expanded, which no shell does behind ``--out=``.

    ``~x`` stays as it is where there is no user x (``Path.expanduser`` raises): a folder may well be called that.
    """
    return Path(os.path.expanduser(path))


def from_here(path: Path | str) -> str:
    """A path that is not there, for an error message: as it was given, and where that was looked for."""
    place = at_home(path).absolute()
    return repr(str(path)) if str(place) == str(path) else f"{str(path)!r} (looked for {str(place)!r})"


def _sweep(folder: Path, prefix: str) -> None:
    # Not glob, for which brackets in a name are a pattern.
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
    """An empty folder to write in, beside ``path``; removed in the end, if not, then by the next writer of ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path)
    lock = None
    while lock is None:  # another writer may take the folder for one that was left behind before it is locked
        workplace = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=UNFINISHED, dir=path.parent))
        lock = _lock(workplace)
    try:
        content = workplace / NEW
        content.mkdir()
        yield content
    finally:
        _remove_held(workplace, lock)


def _remove_held(workplace: Path, lock: "BaseFileLock") -> None:
    """Remove a folder while its lock is held: once that is free, the folder may be the one that a writer just made."""
    shutil.rmtree(workplace, ignore_errors=True)
    lock.release()
    if os.name == "nt":  # where no open file can be removed, so the lock is left; nor can it be if it is held again
        with suppress(OSError):
            (workplace / LOCK).unlink(missing_ok=True)
            workplace.rmdir()


def _lock(workplace: Path) -> "BaseFileLock | None":
    """The lock of a folder that is written in, which ends with its owner.

    None if somebody else has it, or has just removed the folder.
    """
    from filelock import FileLock, Timeout  # takes a tenth of a second, and `rltr --help` writes nothing

    lock = FileLock(workplace / LOCK)
    try:
        lock.acquire(blocking=False)
    except (Timeout, FileNotFoundError):
        return None
    if not (workplace / LOCK).exists():  # the lock of a file that was removed keeps nobody out
        lock.release()
        return None
    return lock


@contextmanager
def _room_for(path: Path) -> Iterator[None]:
    """Tell by name what could not be written: neither writing nor closing a file says which one it was."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNNAMED:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _finish(file: Path, mode: int) -> None:
    """Give a file the permissions of any new one (some libraries write for the owner alone), and put it on the disk."""
    if not stat.S_ISREG(file.lstat().st_mode):
        return
    file.chmod(file.stat().st_mode | mode & 0o777)
    with file.open("rb+") as written:
        os.fsync(written.fileno())


def _sync(folder: Path) -> None:
    """Put the names in a folder on the disk, where the system can do that."""
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
    """Where a link leads; any other path as it is."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")
