"""Writing files so that a crash never leaves half of one behind."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rltr.errors import RltrError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it onto ``path`` when the block ends, remove it when it raises.

    Args:
        path: a file's final place; missing parent folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _permit(temporary, 0o666)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; it takes the place of ``path`` when the block ends without an error.

    What ``path`` held before is replaced as a whole, after the new folder is complete. Between two renames it is set
    aside; should the process be killed just then, :func:`recover_folder` puts it back.

    Raises:
        RltrError: if the folder in use is ``path`` or lies in it, and would be replaced under its user's feet.
    """
    here = Path.cwd()
    if path.resolve() in (here, *here.parents):
        raise RltrError(
            f"cannot replace the folder {str(path)!r} while you are in it; name a folder below, e.g. my-policy"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    recover_folder(path)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        _permit(temporary, 0o777)
        if path.exists():
            path.replace(_aside(path))
        temporary.replace(path)
        shutil.rmtree(_aside(path), ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def recover_folder(path: Path) -> None:
    """Put back what :func:`atomic_folder` had set aside, if it was killed before the new folder took its place."""
    if not _aside(path).exists():
        return
    if path.exists():
        shutil.rmtree(_aside(path))  # it was killed later, with the new folder in its place
    else:
        _aside(path).replace(path)


def at_home(path: Path | str) -> Path:
    """``path`` with ``~`` expanded, which no shell does behind ``--out=``.

    ``~x`` stays as it is where there is no user x (``Path.expanduser`` raises): a folder may well be called that.
    """
    return Path(os.path.expanduser(path))


def from_here(path: Path | str) -> str:
    """A path that is not there, for an error message: as it was given, and where that was looked for."""
    place = at_home(path).absolute()
    return repr(str(path)) if str(place) == str(path) else f"{str(path)!r} (looked for {str(place)!r})"


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there, and what an interrupted writing of it left behind."""
    # A name with a dot in front and a suffix of its own is only ever made by the two functions above.
    for found in (path, *path.parent.glob(f".{path.name}.*")):
        if found.is_dir() and not found.is_symlink():
            shutil.rmtree(found)
        else:
            found.unlink(missing_ok=True)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _permit(path: Path, mode: int) -> None:
    """Give a temporary file or folder, made for its owner only, the permissions that an ordinary one would have."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(mode & ~umask)
